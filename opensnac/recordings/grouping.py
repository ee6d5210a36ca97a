"""Short recordings coded together: which go into a batch, and their codes when their turn comes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from opensnac.engine.batches import BATCH_SECONDS, encode_clips, group_by_length
from opensnac.engine.codec import Coder, frozen
from opensnac.errors import OpensnacError
from opensnac.recordings import audio

__all__ = ["BATCH_SECONDS", "Coded", "Together"]

LONGEST_SECONDS = 30.0  # longer recordings are coded by themselves, in pieces


@dataclass(frozen=True)
class Coded:
    """A recording's codes, int64 (channels, n_i) of each scale, coarse to fine, and its own length and rate."""

    codes: list[np.ndarray]
    num_samples: int
    channels: int
    rate: int


class Together:
    """Codes of many short files, a batch of similar lengths whenever one of its files is asked for.

    `batch_seconds` of audio, padding included, bound the memory. A file that cannot be read is left out of its batch:
    whoever codes it alone will learn why.
    """

    def __init__(self, model: Coder, files: Sequence[Path], batch_seconds: float, mono: bool = False) -> None:
        self._model, self._mono = model, mono
        self._seconds = batch_seconds
        short = [(file, seconds) for file in files if 0 < (seconds := _seconds(file, mono)) <= LONGEST_SECONDS]
        milliseconds = [round(1000 * seconds) for _, seconds in short]
        groups = group_by_length(milliseconds, round(1000 * batch_seconds))
        self._group = {short[i][0]: [short[i][0] for i in group] for group in groups for i in group}
        self._coded: dict[Path, Coded] = {}
        self._lock = threading.Lock()

    def take(self, file: Path) -> Coded | None:
        """A file's codes, once; None if it is to be coded by itself."""
        with self._lock:
            if file not in self._coded:
                self._code(self._group.pop(file, []))
            return self._coded.pop(file, None)

    def _code(self, group: list[Path]) -> None:
        found = {file: heard for file in group if (heard := self._heard(file)) is not None}
        for file in found:
            self._group.pop(file, None)
        device = frozen(self._model).device
        channels_of = [channel for samples, _, _ in found.values() for channel in samples]
        clips = [torch.from_numpy(channel).to(device)[None, None] for channel in channels_of]
        try:
            codes = dict(encode_clips(self._model, clips, self._seconds))
        except (OpensnacError, RuntimeError, MemoryError):  # not enough memory, say: one by one, then
            return
        first = 0
        for file, (samples, num_samples, rate) in found.items():
            channels = [codes[first + n] for n in range(len(samples))]
            first += len(samples)
            scales = [torch.cat(scale).cpu().numpy() for scale in zip(*channels, strict=True)]
            self._coded[file] = Coded(scales, num_samples, len(samples), rate)

    def _heard(self, file: Path) -> tuple[np.ndarray, int, int] | None:
        """Samples (channels, n) at the model's rate, the file's own number and rate; None if it cannot be read."""
        try:
            samples, rate = audio.read(file)
        except (OpensnacError, OSError):
            return None
        samples = samples.mean(axis=0, keepdims=True) if self._mono else samples
        resampled = audio.resample(samples, rate, self._model.config.sampling_rate)
        return np.ascontiguousarray(np.clip(resampled, -1, 1)), samples.shape[1], rate


def _seconds(file: Path, mono: bool) -> float:
    """Of all channels together, as the header has it; 0 where it does not tell."""
    try:
        with audio.Source(file) as recording:
            return (recording.num_samples or 0) * (1 if mono else recording.channels) / recording.rate
    except (OpensnacError, OSError):
        return 0.0
