"""Downmixing: the mean of the channels, or the loudest channel if they cancel each other."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from opensnac.recordings.remarks import RecordingWarning

WINDOW_SECONDS = 0.1  # of the comparison of channels
CANCELS = 0.25  # of the power that uncorrelated channels would give: with less, channels cancel
NOTICED = 0.1  # share of a recording's energy that may cancel before the mean is abandoned


@dataclass(frozen=True)
class Mix:
    """A downmix: the weight of each channel, (channels,) float32, and a remark if that is not the mean."""

    weights: np.ndarray
    remark: str | None = None

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """(channels, samples) to (1, samples)."""
        if len(self.weights) > 1 and (self.weights == self.weights[0]).all():
            return block.mean(axis=0, keepdims=True)
        return self.weights[None] @ block


def mean_of(channels: int) -> Mix:
    """The mean of the channels, even if they cancel."""
    return Mix(np.full(channels, 1 / channels, np.float32))


def channel_alone(number: int, channels: int) -> Mix:
    """A single channel, counted from 1."""
    return Mix(np.eye(channels, dtype=np.float32)[number - 1])


class Balance:
    """Measures, block by block, what the mean would lose."""

    def __init__(self, channels: int, rate: int) -> None:
        self._channels, self._window = channels, max(1, round(WINDOW_SECONDS * rate))
        self._loud = np.zeros(channels)  # energy of each channel
        self._lost = 0.0  # energy of all channels in windows where they cancel
        self._left = 0.0  # energy of the mix there

    def push(self, block: np.ndarray) -> None:
        """Take (channels, samples)."""
        starts = np.arange(0, block.shape[1], self._window)
        loud = np.add.reduceat(np.square(block, dtype=np.float64), starts, axis=1)
        mixed = np.add.reduceat(np.square(block.mean(axis=0), dtype=np.float64), starts)
        together = loud.sum(axis=0)
        cancels = mixed * self._channels**2 < CANCELS * together
        self._loud += loud.sum(axis=1)
        self._lost += float(together[cancels].sum())
        self._left += float(mixed[cancels].sum())

    @property
    def loss(self) -> str | None:
        """A description of what the mean would lose; None if that is negligible."""
        total = float(self._loud.sum())
        if not total or self._lost < NOTICED * total:
            return None
        fainter = 10 * np.log10(self._lost / self._channels / max(self._left, 1e-12 * self._lost))
        return f"mixed down, {self._lost / total:.0%} of its energy would be {fainter:.0f} dB lower"

    def mix(self) -> Mix:
        """The mean, or the loudest channel."""
        if (loss := self.loss) is None:
            return mean_of(self._channels)
        loudest = int(self._loud.argmax())
        remark = f"its channels cancel each other: {loss}, so only channel {loudest + 1} was used"
        return Mix(np.eye(self._channels, dtype=np.float32)[loudest], remark)


def mix_down(samples: np.ndarray, rate: int, name: object) -> np.ndarray:
    """A recording in memory, (channels, samples), as one channel (samples,). RecordingWarning where channels cancel."""
    if len(samples) == 1:
        return samples[0]
    balance = Balance(len(samples), rate)
    balance.push(samples)
    mix = balance.mix()
    if mix.remark:
        warnings.warn(f"{name}: {mix.remark}", RecordingWarning, stacklevel=2)
    return mix(samples)[0]
