"""Measurements taken block by block: peak, level and clipped share of each segment; integrated loudness."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

CLIPPED = 32766 / 32768  # of full scale: 16-bit samples at or above this count as clipped
SILENT_DB = -120.0  # the level reported for digital silence
BLOCK_SECONDS, HOPS = 0.4, 4  # gating blocks of ITU-R BS.1770, and hops per block
ABSOLUTE_GATE, RELATIVE_GATE = -70.0, -10.0  # LUFS, LU
OFFSET = -0.691


class Levels:
    """The peak, mean square and share of clipped samples of each segment and channel.

    `border(n)` is the sample where segment n ends, None for the recording's end.
    """

    def __init__(self, channels: int, border: Callable[[int], int | None]) -> None:
        self.num_samples = 0
        self._channels, self._border = channels, border
        self._segment = -1
        self._end: int | None = 0
        self._peak: list[np.ndarray] = []
        self._square: list[np.ndarray] = []
        self._clipped: list[np.ndarray] = []
        self._count: list[int] = []

    def __getstate__(self) -> dict[str, object]:
        """Without `border`, which cannot be pickled: the measurements can be read elsewhere, not continued."""
        return self.__dict__ | {"_border": None}

    def add(self, block: np.ndarray) -> None:
        """Take (channels, samples)."""
        while block.shape[1]:
            if self._end is not None and self.num_samples >= self._end:
                self._begin_segment()
            size = block.shape[1] if self._end is None else min(block.shape[1], self._end - self.num_samples)
            self._measure(block[:, :size])
            self.num_samples += size
            block = block[:, size:]

    def peak(self, segment: int, channel: int) -> float:
        """The largest sample, 1 at full scale."""
        return round(float(self._peak[segment][channel]), 4)

    def level_db(self, segment: int, channel: int) -> float:
        """The mean square in dB below that of full scale."""
        square = float(self._square[segment][channel]) / max(1, self._count[segment])
        return round(max(SILENT_DB, 10 * np.log10(max(square, 1e-12))), 2)

    def clipped(self, segment: int, channel: int) -> float:
        """The share of samples at or beyond full scale."""
        return round(int(self._clipped[segment][channel]) / max(1, self._count[segment]), 6)

    def _begin_segment(self) -> None:
        self._segment += 1
        self._end = self._border(self._segment)
        self._peak.append(np.zeros(self._channels))
        self._square.append(np.zeros(self._channels))
        self._clipped.append(np.zeros(self._channels, np.int64))
        self._count.append(0)

    def _measure(self, block: np.ndarray) -> None:
        size = np.abs(block)
        self._peak[-1] = np.maximum(self._peak[-1], size.max(axis=1))
        self._square[-1] += np.square(block, dtype=np.float64).sum(axis=1)
        self._clipped[-1] += (size >= CLIPPED).sum(axis=1)
        self._count[-1] += block.shape[1]


class Loudness:
    """Integrated loudness after ITU-R BS.1770-4 of a recording in blocks; all channels weigh the same."""

    def __init__(self, rate: int, channels: int) -> None:
        self._filter, self._rate = _k_weighting(rate), rate
        self._state = np.zeros((len(self._filter), channels, 2))
        self._hop = max(1, round(BLOCK_SECONDS / HOPS * rate))
        self._rest = np.zeros(0)
        self._powers: list[float] = []  # of each hop, summed over channels: ten values per second

    def add(self, block: np.ndarray) -> None:
        """Take (channels, samples)."""
        from scipy.signal import sosfilt

        heard, self._state = sosfilt(self._filter, block.astype(np.float64), axis=1, zi=self._state)
        power = np.concatenate([self._rest, np.square(heard).sum(axis=0)])
        whole = len(power) // self._hop
        self._powers += power[: whole * self._hop].reshape(whole, self._hop).mean(axis=1).tolist()
        self._rest = power[whole * self._hop :]

    def lufs(self) -> float | None:
        """The integrated loudness in LUFS; None if no block passes the gates."""
        powers = np.array(self._powers or ([self._rest.mean()] if len(self._rest) else []))
        hops = min(HOPS, len(powers))
        blocks = np.convolve(powers, np.full(hops, 1 / hops), "valid") if hops else powers
        blocks = blocks[blocks > 10 ** ((ABSOLUTE_GATE - OFFSET) / 10)]
        if not len(blocks):
            return None
        loud = blocks[blocks > blocks.mean() * 10 ** (RELATIVE_GATE / 10)]
        return float(OFFSET + 10 * np.log10(loud.mean()))

    def gain_to(self, target: float) -> float:
        """The factor that brings samples to `target` LUFS; 1 if no block passes the gates."""
        found = self.lufs()
        return 1.0 if found is None else round(10 ** ((target - found) / 20), 6)


def _k_weighting(rate: int) -> np.ndarray:
    """The K-weighting filter of BS.1770, a high shelf and a high pass, for any rate: (2, 6) second-order sections.

    The analogue constants reproduce the standard's coefficients at 48 kHz (Mansbridge, Finn and Reiss 2012).
    """
    sections = []
    for gain_db, q, hertz in (
        (3.999843853973347, 0.7071752369554196, 1681.974450955533),
        (0.0, 0.5003270373238773, 38.13547087602444),
    ):
        k = np.tan(np.pi * hertz / rate)
        down = [1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k]
        if gain_db:
            high = 10 ** (gain_db / 20)
            band = high**0.4996667741545416
            up = [high + band * k / q + k * k, 2 * (k * k - high), high - band * k / q + k * k]
        else:
            up = [down[0], -2 * down[0], down[0]]  # the standard's high pass is not normalised
        sections.append(np.array([*up, *down]) / down[0])
    return np.stack(sections)
