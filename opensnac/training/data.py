"""Random crops of recordings, read by seeking. The n-th crop of a run is a function of n alone.

So a run can be repeated, interrupted and resumed, or distributed over processes: its position in the data is its step.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from opensnac.errors import AudioError
from opensnac.training.augment import at_speed, augment, draw_speed
from opensnac.training.config import AugmentConfig
from opensnac.training.sources import BrokenRecordingError, Place, Recording, read_mono

MAX_DRAWS = 100  # recordings tried for one crop before giving up
TRAINING, CODEBOOKS = 0, 1  # independent sequences of crops
PREFETCHED = 4  # batches read ahead per worker


class Crops:
    """An infinite sequence of random crops: all moments of all recordings equally likely, times the weights."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        sample_rate: int,
        crop_samples: int,
        seed: int = 0,
        gain_db: tuple[float, float] = (0.0, 0.0),
        augmentation: AugmentConfig | None = None,
        in_memory: bool = False,
    ) -> None:
        self.sample_rate = sample_rate
        self.crop_samples = crop_samples
        self.seed = seed
        self.gain_db = gain_db
        self.augmentation = augmentation or AugmentConfig()
        self._broken: dict[Place, str] = {}
        self._reported = 0
        self._decoded: list[NDArray[np.int16]] = []
        self.recordings = self._decode_all(recordings) if in_memory else list(recordings)
        if not self.recordings:
            raise AudioError("[data] train: expected readable recordings, got none; check the paths")
        self._ends = np.cumsum([recording.seconds * recording.weight for recording in self.recordings])

    @property
    def seconds(self) -> float:
        """Duration of all recordings."""
        return sum(recording.seconds for recording in self.recordings)

    def draw(self, numbers: Iterable[int], sequence: int = TRAINING) -> Tensor:
        """The crops with these numbers, (crops, 1, crop_samples) float32."""
        crops = [self._crop(np.random.default_rng((self.seed, sequence, number))) for number in numbers]
        # Copied to aligned memory: elsewhere transforms may round the last bit differently.
        return torch.stack([torch.from_numpy(crop) for crop in crops])[:, None]

    def new_broken(self) -> list[str]:
        """A line for each recording found broken since the previous call."""
        lines = list(self._broken.values())[self._reported :]
        self._reported += len(lines)
        return lines

    def _decode_all(self, recordings: Sequence[Recording]) -> list[Recording]:
        """Decode all recordings into memory; returns those that could be read."""
        decoded = _decode_all(tuple(recordings), self.sample_rate)
        for recording, samples in zip(recordings, decoded, strict=True):
            if isinstance(samples, BrokenRecordingError):
                self._report(recording, samples)
        kept = [(r, s) for r, s in zip(recordings, decoded, strict=True) if not isinstance(s, BrokenRecordingError)]
        self._decoded = [samples for _, samples in kept]
        return [recording for recording, _ in kept]

    def _crop(self, rng: np.random.Generator) -> NDArray[np.float32]:
        clip = self._voiced(rng)
        gain = 10 ** (rng.uniform(*self.gain_db) / 20)
        clip = augment(clip, lambda: self._voiced(rng), self.sample_rate, self.augmentation, rng)
        return clip * np.float32(min(gain, 1 / max(float(np.abs(clip).max()), 1e-9)))  # no clipping

    def _voiced(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """A random excerpt, possibly at another speed."""
        speed = draw_speed(self.augmentation, rng)
        if speed == 1:
            return self._piece(rng, self.crop_samples)
        return at_speed(self._piece(rng, math.ceil(self.crop_samples * speed)), speed, self.crop_samples)

    def _piece(self, rng: np.random.Generator, num_samples: int) -> NDArray[np.float32]:
        for _ in range(MAX_DRAWS):
            index = int(np.searchsorted(self._ends, rng.uniform(0, self._ends[-1]), side="right"))
            index, position = min(index, len(self.recordings) - 1), rng.uniform()
            try:
                read = self._stored_piece if self._decoded else self._read_piece
                piece = read(index, position, num_samples)
            except BrokenRecordingError as error:
                self._report(self.recordings[index], error)
                continue
            return np.pad(piece, (0, num_samples - len(piece)))
        raise AudioError(f"[data] train: expected readable recordings, got {MAX_DRAWS} broken ones in a row")

    def _stored_piece(self, index: int, position: float, num_samples: int) -> NDArray[np.float32]:
        samples = self._decoded[index]
        start = int(position * max(0, len(samples) - num_samples + 1))
        return samples[start : start + num_samples].astype(np.float32) / np.float32(32768)

    def _read_piece(self, index: int, position: float, num_samples: int) -> NDArray[np.float32]:
        recording = self.recordings[index]
        ratio = recording.sample_rate / self.sample_rate
        needed = int(np.ceil(num_samples * ratio)) + (16 if ratio != 1 else 0)
        start = int(position * max(0, recording.num_samples - needed + 1))
        return read_mono(recording, self.sample_rate, start, needed)[:num_samples]

    def _report(self, recording: Recording, error: BrokenRecordingError) -> None:
        self._broken.setdefault(recording.place, f"{recording.place}: {error}")


@lru_cache(maxsize=1)  # consecutive runs on the same recordings, such as ablations, decode them once
def _decode_all(recordings: tuple[Recording, ...], sample_rate: int) -> list[NDArray[np.int16] | BrokenRecordingError]:
    def attempt(recording: Recording) -> NDArray[np.int16] | BrokenRecordingError:
        try:
            samples = read_mono(recording, sample_rate)
        except BrokenRecordingError as error:
            return error
        return np.round(np.clip(samples, -1, 1 - 2**-15) * 32768).astype(np.int16)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(attempt, recordings))


class _Batches(Dataset[tuple[Tensor, list[str]]]):
    """One process's share of each step's batch, and lines about broken recordings."""

    def __init__(self, crops: Crops, batch_size: int, share: range) -> None:
        self.crops, self.batch_size, self.share = crops, batch_size, share

    def __getitem__(self, step: int) -> tuple[Tensor, list[str]]:
        first = step * self.batch_size
        batch = self.crops.draw(range(first + self.share.start, first + self.share.stop))
        return batch, self.crops.new_broken()


def read_ahead(
    crops: Crops, batch_size: int, share: range, steps: range, workers: int, pin_memory: bool
) -> Iterator[tuple[Tensor, list[str]]]:
    """The batches of `steps`, in order: the clips `share` of each `batch_size`, and lines about broken recordings.

    With `workers` > 0 that many processes read ahead; the batches are the same.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # more workers than cores
        loader = DataLoader(
            _Batches(crops, batch_size, share),
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            prefetch_factor=PREFETCHED if workers else None,
            collate_fn=_identity,
            pin_memory=pin_memory,
        )
        return iter(loader)


def _identity(item: Any) -> Any:
    return item
