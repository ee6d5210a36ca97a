"""Random crops of recordings, read by seeking; broken files are listed once and left out."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from opensnac.audio import READABLE
from opensnac.errors import AudioError

MAX_DRAWS = 100  # recordings tried for one crop before giving up
UNKNOWN_LENGTH = 1 << 62  # samples; libsndfile says about this for a stream without an end


class BrokenRecordingError(Exception):
    """A recording that cannot be used, and why."""


@dataclass(frozen=True)
class Recording:
    """A readable file: where it is, its rate in Hz and its length in samples at that rate."""

    path: Path
    sample_rate: int
    num_samples: int

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.num_samples / self.sample_rate


def find_recordings(sources: Iterable[str | Path]) -> tuple[list[Recording], list[str]]:
    """Recordings in folders, files and CSV manifests (column `path`), and a line for each file that is broken."""
    found, broken = [], []
    for path in sorted({path for source in sources for path in _paths(Path(source))}):
        try:
            info = soundfile.info(path)
        except (soundfile.SoundFileError, OSError) as error:
            broken.append(f"{path}: {error}")
            continue
        if 0 < info.frames < UNKNOWN_LENGTH:
            found.append(Recording(path, info.samplerate, info.frames))
        else:
            broken.append(f"{path}: {'no samples' if info.frames <= 0 else 'its length is not known'}")
    return found, broken


def _paths(source: Path) -> Iterable[Path]:
    if source.suffix.lower() == ".csv" and source.is_file():
        return [source.parent / path for path in _manifest(source)]
    if source.is_dir():
        return [path for path in source.rglob("*") if path.suffix.lower() in READABLE]
    if source.is_file():
        return [source]
    raise AudioError(f"no recordings at {source}: a folder, an audio file or a CSV manifest was needed")


def _manifest(source: Path) -> list[str]:
    try:
        with source.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise AudioError(f"{source} is no CSV text in UTF-8: {error}") from error
    if rows and "path" not in rows[0]:
        raise AudioError(f"{source} has columns {', '.join(rows[0])}; a column `path` was needed")
    for line, row in enumerate(rows, start=2):
        if not row["path"]:
            raise AudioError(f"{source}, line {line}, has no path; give one or remove the line")
    return [row["path"] for row in rows]


class Crops:
    """An endless supply of random crops, each moment of each recording equally likely.

    `draw` depends on the generator passed in alone, so a run can be repeated and resumed.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        sample_rate: int,
        crop_samples: int,
        gain_db: tuple[float, float] = (0.0, 0.0),
        in_memory: bool = False,
    ) -> None:
        self.sample_rate = sample_rate
        self.crop_samples = crop_samples
        self.gain_db = gain_db
        self._reported: set[Path] = set()
        self._decoded: list[NDArray[np.int16]] = []
        self.recordings = self._decode_all(recordings) if in_memory else list(recordings)
        if not self.recordings:
            raise AudioError("no readable recordings to train on; check the paths under [data] train")
        self._ends = np.cumsum([recording.seconds for recording in self.recordings])

    @property
    def seconds(self) -> float:
        """Duration of all recordings."""
        return float(self._ends[-1])

    def draw(self, batch_size: int, rng: np.random.Generator) -> Tensor:
        """A batch (batch, 1, crop_samples) float32."""
        return torch.from_numpy(np.stack([self._crop(rng) for _ in range(batch_size)]))[:, None]

    def _decode_all(self, recordings: Sequence[Recording]) -> list[Recording]:
        """Keep all samples; the recordings that could be read."""

        def attempt(recording: Recording) -> NDArray[np.int16] | None:
            try:
                return _decode(recording, self.sample_rate)
            except BrokenRecordingError as error:
                self._report(recording, error)
                return None

        with ThreadPoolExecutor() as pool:
            decoded = list(pool.map(attempt, recordings))
        self._decoded = [samples for samples in decoded if samples is not None]
        return [recording for recording, samples in zip(recordings, decoded, strict=True) if samples is not None]

    def _crop(self, rng: np.random.Generator) -> NDArray[np.float32]:
        for _ in range(MAX_DRAWS):
            index = int(np.searchsorted(self._ends, rng.uniform(0, self.seconds), side="right"))
            index = min(index, len(self.recordings) - 1)
            position, gain = rng.uniform(), 10 ** (rng.uniform(*self.gain_db) / 20)
            try:
                piece = self._stored_crop(index, position) if self._decoded else self._read_crop(index, position)
            except BrokenRecordingError as error:
                self._report(self.recordings[index], error)
                continue
            gain = min(gain, 1 / max(float(np.abs(piece).max(initial=0)), 1e-9))  # not beyond full scale
            return np.pad(piece, (0, self.crop_samples - len(piece))) * np.float32(gain)
        raise AudioError(f"{MAX_DRAWS} recordings in a row could not be read; check the files under [data] train")

    def _stored_crop(self, index: int, position: float) -> NDArray[np.float32]:
        samples = self._decoded[index]
        start = int(position * max(0, len(samples) - self.crop_samples + 1))
        return samples[start : start + self.crop_samples].astype(np.float32) / np.float32(32768)

    def _read_crop(self, index: int, position: float) -> NDArray[np.float32]:
        recording = self.recordings[index]
        ratio = recording.sample_rate / self.sample_rate
        needed = int(np.ceil(self.crop_samples * ratio)) + (16 if ratio != 1 else 0)
        start = int(position * max(0, recording.num_samples - needed + 1))
        return read_mono(recording, self.sample_rate, start, needed)[: self.crop_samples]

    def _report(self, recording: Recording, error: BrokenRecordingError) -> None:
        if recording.path not in self._reported:
            self._reported.add(recording.path)
            report_broken([f"{recording.path}: {error}"])


def read_mono(recording: Recording, sample_rate: int, start: int = 0, length: int = -1) -> NDArray[np.float32]:
    """Samples from `start`, `length` at the recording's rate, mixed down, at `sample_rate`.

    BrokenRecordingError where there is nothing, or nothing finite, to read.
    """
    try:
        with soundfile.SoundFile(recording.path) as file:
            file.seek(start)
            mono = file.read(length, dtype="float32", always_2d=True).mean(1)
    except (soundfile.SoundFileError, OSError) as error:
        raise BrokenRecordingError(error) from error
    if not len(mono) or not np.isfinite(mono).all():
        raise BrokenRecordingError(f"{'NaN or infinity' if len(mono) else 'no samples'} from sample {start} on")
    if recording.sample_rate != sample_rate:
        mono = soxr.resample(mono, recording.sample_rate, sample_rate)
    return np.asarray(mono, np.float32)


def _decode(recording: Recording, sample_rate: int) -> NDArray[np.int16]:
    return np.round(np.clip(read_mono(recording, sample_rate), -1, 1 - 2**-15) * 32768).astype(np.int16)


def report_broken(broken: Sequence[str]) -> None:
    """Say once which files are left out."""
    for line in broken:
        print(f"left out: {line}", file=sys.stderr)
