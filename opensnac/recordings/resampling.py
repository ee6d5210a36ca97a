"""Resampling."""

from __future__ import annotations

import numpy as np
import soxr


class Resampler:
    """Resamples a signal in blocks, with soxr's very high quality; float32 (channels, samples).

    N samples become `resampled_length(N, from_rate, to_rate)`, or as many as `finish` is given. That length is rounded
    up, so that resampling to any rate and back keeps all N samples.
    """

    def __init__(self, from_rate: int, to_rate: int, channels: int) -> None:
        self._rates, self._channels = (from_rate, to_rate), channels
        self._came = self._given = 0
        self._stream = None
        if from_rate != to_rate:
            self._stream = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality="VHQ")

    def push(self, block: np.ndarray) -> np.ndarray:
        """Take the next samples; returns the output that is final."""
        self._came += block.shape[1]
        if self._stream is not None:
            block = self._stream.resample_chunk(np.ascontiguousarray(block.T, np.float32)).T
        self._given += block.shape[1]
        return block

    def finish(self, num_samples: int | None = None) -> np.ndarray:
        """The rest of the output, for `num_samples` in total; silence beyond the signal's end."""
        from_rate, to_rate = self._rates
        length = resampled_length(self._came, from_rate, to_rate) if num_samples is None else num_samples
        rest = np.zeros((self._channels, max(0, length - self._given)), np.float32)
        if self._stream is not None:
            silence = np.zeros((from_rate // to_rate + 2, self._channels), np.float32)  # soxr rounds down: one more
            last = self._stream.resample_chunk(silence, last=True).T[:, : rest.shape[1]]
            rest[:, : last.shape[1]] = last
        return rest


def resampled_length(num_samples: int, from_rate: int, to_rate: int) -> int:
    """The number of samples at `to_rate` for `num_samples` at `from_rate`, rounded up."""
    return -(-num_samples * to_rate // from_rate)
