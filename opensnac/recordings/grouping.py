"""Short recordings encoded in batches: which go together, and their codes when needed."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from opensnac.engine.batches import BATCH_SECONDS, group_by_length
from opensnac.engine.codec import Coder, frozen
from opensnac.errors import OpensnacError
from opensnac.recordings.preprocessing import Preprocessing, Preprocessor
from opensnac.recordings.source import Source

__all__ = ["BATCH_SECONDS", "Batcher", "Coded"]

LONGEST_SECONDS = 30.0  # longer recordings are encoded individually, in pieces


@dataclass(frozen=True)
class Coded:
    """All codes of a recording: int64 (channels, n_i) of each scale, coarse to fine; with its own length and rate."""

    codes: list[np.ndarray]
    num_samples: int
    channels: int
    rate: int
    remarks: Sequence[str] = ()

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return iter([self.codes])


@dataclass
class _Group:
    """Files of one batch, and their codes once encoded."""

    files: list[Path]
    lock: threading.Lock = field(default_factory=threading.Lock)
    coded: dict[Path, Coded] | None = None


class Batcher:
    """Encodes many short files in batches of similar length, each when the first of its files is requested.

    `batch_seconds` of audio per batch, padding included, bounds the memory. Files that cannot be read are left out of
    their batch; encoding them individually reports the error. Threads read batches in parallel; the model encodes one
    at a time.
    """

    def __init__(
        self, model: Coder, files: Sequence[Path], batch_seconds: float, preprocessing: Preprocessing | None = None
    ) -> None:
        self._model, self._seconds = frozen(model), batch_seconds
        self._preprocessing = preprocessing or Preprocessing()
        self._coding = threading.Lock()
        clips = [clip for file in files for clip in _clips(file, self._preprocessing)]  # one per channel
        groups = group_by_length([length for _, length in clips], round(1000 * batch_seconds))
        self._group: dict[Path, _Group] = {}
        for members in groups:
            group = _Group([file for file in dict.fromkeys(clips[i][0] for i in members) if file not in self._group])
            self._group |= dict.fromkeys(group.files, group)

    def pop(self, file: Path) -> Coded | None:
        """Remove and return a file's codes; None if it must be encoded individually."""
        if (group := self._group.get(file)) is None:
            return None
        with group.lock:
            if group.coded is None:
                group.coded = self._code(group.files)
            return group.coded.pop(file, None)

    def _code(self, files: list[Path]) -> dict[Path, Coded]:
        found = {file: read_clip for file in files if (read_clip := self._read(file)) is not None}
        channels = [channel for samples, _ in found.values() for channel in samples]
        try:
            with self._coding:
                codes = iter(self._encode(channels))
        except (OpensnacError, RuntimeError, MemoryError):  # such as out of memory: encode one by one
            return {}
        coded = {}
        for file, (samples, preprocessor) in found.items():
            scales = zip(*itertools.islice(codes, len(samples)), strict=True)
            whole = [torch.cat(scale).cpu().numpy() for scale in scales]
            coded[file] = Coded(
                whole, preprocessor.num_samples, preprocessor.channels, preprocessor.rate, tuple(preprocessor.remarks)
            )
        return coded

    def _encode(self, channels: list[np.ndarray]) -> list[list[torch.Tensor]]:
        """The codes of each channel, (1, n_i) of each scale."""
        if not channels:
            return []
        lengths = [len(channel) for channel in channels]
        batch = torch.zeros(len(channels), 1, max(lengths))
        for row, channel in zip(batch, channels, strict=True):
            row[0, : len(channel)] = torch.from_numpy(channel)
        codes = self._model.encode(batch.to(self._model.device), lengths)
        frames, strides = [self._model.config.num_frames(n) for n in lengths], self._model.config.vq_strides
        return [
            [scale[row : row + 1, : count // stride] for scale, stride in zip(codes, strides, strict=True)]
            for row, count in enumerate(frames)
        ]

    def _read(self, file: Path) -> tuple[np.ndarray, Preprocessor] | None:
        """Samples (channels, n) at the model's rate, and their preprocessor; None if the file cannot be read."""
        try:
            with Source(file, strict=self._preprocessing.strict) as recording:
                preprocessor = Preprocessor(recording, self._model.config.sampling_rate, self._preprocessing)
                return np.ascontiguousarray(np.concatenate(list(preprocessor.blocks()), axis=1)), preprocessor
        except (OpensnacError, OSError):
            return None


def _clips(file: Path, preprocessing: Preprocessing) -> list[tuple[Path, int]]:
    """(file, milliseconds according to its header) once per channel; empty if it is not short."""
    try:
        with Source(file) as recording:
            seconds = (recording.num_samples or 0) / recording.rate
            channels = preprocessing.channels_of(recording.channels)
    except (OpensnacError, OSError):
        return []
    return [(file, round(1000 * seconds))] * channels if 0 < seconds * channels <= LONGEST_SECONDS else []
