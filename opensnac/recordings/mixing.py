"""Many channels to one: their mean, unless they cancel each other in it; then the loudest channel alone."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from opensnac.recordings.remarks import RecordingWarning

WINDOW_SECONDS = 0.1  # channels are compared over so much at a time
CANCELS = 0.25  # a mix with less of the power than this share of what unrelated channels would give
NOTICED = 0.1  # the share of a recording's sound, by energy, that may cancel before the mix is given up


@dataclass(frozen=True)
class Mix:
    """How channels become one: the weight of each, (channels,) float32, and a remark where that is not their mean."""

    weights: np.ndarray
    remark: str | None = None

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """(channels, samples) to (1, samples)."""
        if len(self.weights) > 1 and (self.weights == self.weights[0]).all():
            return block.mean(axis=0, keepdims=True)
        return self.weights[None] @ block


def mean_of(channels: int) -> Mix:
    """The mean, whatever becomes of it."""
    return Mix(np.full(channels, 1 / channels, np.float32))


def channel_alone(number: int, channels: int) -> Mix:
    """One of them, counted from 1."""
    return Mix(np.eye(channels, dtype=np.float32)[number - 1])


class Balance:
    """What mixing down does to a recording that comes block by block."""

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
        """What the mean would lose, in words; None where it is nothing to speak of."""
        total = float(self._loud.sum())
        if not total or self._lost < NOTICED * total:
            return None
        fainter = 10 * np.log10(self._lost / self._channels / max(self._left, 1e-12 * self._lost))
        return f"mixed down, {self._lost / total:.0%} of its sound would be {fainter:.0f} dB fainter"

    def mix(self) -> Mix:
        """The mean, or the loudest channel."""
        if (loss := self.loss) is None:
            return mean_of(self._channels)
        loudest = int(self._loud.argmax())
        remark = f"its channels cancel each other: {loss}, so channel {loudest + 1} alone was taken"
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
