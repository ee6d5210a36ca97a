"""The rows of an encoded recording: one for each channel and segment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from opensnac.config import CodecConfig
from opensnac.corpus.loading import Loaded, segment_frames
from opensnac.corpus.settings import Settings
from opensnac.corpus.sources import Entry
from opensnac.streaming.tokens import TokenLayout


@dataclass(frozen=True)
class Row:
    """One channel of a recording, or of a segment of it, in a corpus."""

    id: str
    source: str  # the recording's location
    channel: int
    start: float  # seconds into the recording
    num_samples: int  # at `sampling_rate`
    sampling_rate: int  # Hz, of the recording
    peak: float
    level_db: float
    clipped: float
    columns: dict[str, Any]  # passed through
    codes: list[NDArray[np.uint16]]  # of each scale, coarse to fine

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.num_samples / self.sampling_rate


def rows_of(
    entry: Entry, loaded: Loaded, codes: Sequence[np.ndarray], settings: Settings, config: CodecConfig
) -> Iterator[Row]:
    """The rows of a recording whose codes are (channels, n_i) for each scale."""
    total = codes[0].shape[1] * config.vq_strides[0]
    frames = segment_frames(settings, config) or total
    for channel in range(loaded.channels):
        for segment, first in enumerate(range(0, total, frames)):
            stop = min(first + frames, total)
            cut = [c[channel, first // s : stop // s] for c, s in zip(codes, config.vq_strides, strict=True)]
            num_samples = _num_samples(loaded, first, stop, total, config)
            if num_samples < settings.min_seconds * loaded.rate:
                continue
            yield Row(
                id=entry.id
                + f"#{channel}" * (loaded.channels > 1)
                + f"@{segment:05d}" * (settings.segment is not None),
                source=str(entry.place),
                channel=channel,
                start=round(loaded.cut.start / loaded.rate + first * config.hop_length / config.sampling_rate, 6),
                num_samples=num_samples,
                sampling_rate=loaded.rate,
                peak=loaded.levels.peak(segment, channel),
                level_db=loaded.levels.level_db(segment, channel),
                clipped=loaded.levels.clipped(segment, channel),
                columns=entry.columns,
                codes=_without_repeats(cut, config)
                if settings.drop_repeated_frames
                else [c.astype(np.uint16) for c in cut],
            )


def _num_samples(loaded: Loaded, first: int, stop: int, total: int, config: CodecConfig) -> int:
    """The number of samples, at the recording's rate, of frames `first` to `stop` out of `total`."""
    if (first, stop) == (0, total):
        return loaded.num_samples
    coded = -(-loaded.num_samples * config.sampling_rate // loaded.rate)
    samples = min(stop * config.hop_length, coded) - first * config.hop_length
    most = (stop - first) * config.hop_length * loaded.rate // config.sampling_rate
    return min(-(-samples * loaded.rate // config.sampling_rate), most)


def _without_repeats(codes: Sequence[np.ndarray], config: CodecConfig) -> list[NDArray[np.uint16]]:
    """The codes without coarse frames whose coarsest code repeats the one before, as in Orpheus' recipe."""
    strides = config.vq_strides
    per_frame = [config.coarse_stride // stride for stride in strides]
    grids = [code.reshape(-1, count) for code, count in zip(codes, per_frame, strict=True)]
    coarsest = grids[0][:, 0]
    kept = np.concatenate([[True], coarsest[1:] != coarsest[:-1]])
    return [grid[kept].reshape(-1).astype(np.uint16) for grid in grids]


def flat_tokens(codes: Sequence[NDArray[np.uint16]], layout: TokenLayout) -> NDArray[np.int32]:
    """A row's codes as one list of tokens."""
    scales = [torch.from_numpy(code.astype(np.int64))[None] for code in codes]
    return layout.flatten(scales)[0].numpy().astype(np.int32)
