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
        except (soundfile.LibsndfileError, OSError) as error:
            broken.append(f"{path}: {error}")
            continue
        if info.frames > 0:
            found.append(Recording(path, info.samplerate, info.frames))
        else:
            broken.append(f"{path}: no samples")
    return found, broken


def _paths(source: Path) -> Iterable[Path]:
    if source.suffix.lower() == ".csv" and source.is_file():
        with source.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if rows and "path" not in rows[0]:
            raise AudioError(f"{source} has columns {', '.join(rows[0])}; a column `path` was needed")
        return [source.parent / row["path"] for row in rows]
    if source.is_dir():
        return [path for path in source.rglob("*") if path.suffix.lower() in READABLE]
    if source.is_file():
        return [source]
    raise AudioError(f"no recordings at {source}: a folder, an audio file or a CSV manifest was needed")


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
        if not recordings:
            raise AudioError("no readable recordings to train on; check the paths under [data] train")
        self.recordings = list(recordings)
        self.sample_rate = sample_rate
        self.crop_samples = crop_samples
        self.gain_db = gain_db
        self._ends = np.cumsum([recording.seconds for recording in recordings])
        with ThreadPoolExecutor() as pool:
            self._decoded = list(pool.map(lambda r: _read(r, sample_rate), recordings)) if in_memory else []

    @property
    def seconds(self) -> float:
        """Duration of all recordings."""
        return float(self._ends[-1])

    def draw(self, batch_size: int, rng: np.random.Generator) -> Tensor:
        """A batch (batch, 1, crop_samples) float32."""
        return torch.from_numpy(np.stack([self._crop(rng) for _ in range(batch_size)]))[:, None]

    def _crop(self, rng: np.random.Generator) -> NDArray[np.float32]:
        index = int(np.searchsorted(self._ends, rng.uniform(0, self.seconds), side="right"))
        index = min(index, len(self.recordings) - 1)
        position, gain = rng.uniform(), 10 ** (rng.uniform(*self.gain_db) / 20)
        piece = self._stored_crop(index, position) if self._decoded else self._read_crop(index, position)
        return np.pad(piece, (0, self.crop_samples - len(piece))) * np.float32(gain)

    def _stored_crop(self, index: int, position: float) -> NDArray[np.float32]:
        samples = self._decoded[index]
        start = int(position * max(0, len(samples) - self.crop_samples + 1))
        return samples[start : start + self.crop_samples].astype(np.float32) / np.float32(32768)

    def _read_crop(self, index: int, position: float) -> NDArray[np.float32]:
        recording = self.recordings[index]
        ratio = recording.sample_rate / self.sample_rate
        needed = int(np.ceil(self.crop_samples * ratio)) + (16 if ratio != 1 else 0)
        start = int(position * max(0, recording.num_samples - needed + 1))
        with soundfile.SoundFile(recording.path) as file:
            file.seek(start)
            mono = file.read(needed, dtype="float32", always_2d=True).mean(1)
        piece = mono if ratio == 1 else soxr.resample(mono, recording.sample_rate, self.sample_rate)
        return np.asarray(piece[: self.crop_samples], np.float32)


def _read(recording: Recording, sample_rate: int) -> NDArray[np.int16]:
    samples, rate = soundfile.read(recording.path, dtype="float32", always_2d=True)
    mono = samples.mean(1) if rate == sample_rate else soxr.resample(samples.mean(1), rate, sample_rate)
    return np.round(np.clip(mono, -1, 1 - 2**-15) * 32768).astype(np.int16)


def report_broken(broken: Sequence[str]) -> None:
    """Say once which files are left out."""
    for line in broken:
        print(f"left out: {line}", file=sys.stderr)
