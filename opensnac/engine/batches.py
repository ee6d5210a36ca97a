"""Clips of unequal lengths in batches: little padding, bounded memory, and the same codes as one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from opensnac.engine.codec import Coder, frozen
from opensnac.errors import AudioError
from opensnac.model.codec import Audio, Codes

BATCH_SECONDS = 60.0  # of audio in a batch, padding included
PADDING = 0.1  # largest share of a batch that may be padding


def group_by_length(lengths: Sequence[int], at_most: int, padding: float = PADDING) -> list[list[int]]:
    """Indices of the clips of each batch, shortest clips first; every clip is in exactly one batch.

    A batch holds at most `at_most` samples, padding included, unless it is a single clip; at most the share `padding`
    of it is padding.
    """
    groups: list[list[int]] = []
    filled = 0  # samples of the last group, without padding
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        taken = lengths[i] * (len(groups[-1]) + 1) if groups else 0
        if groups and taken <= at_most and taken - filled - lengths[i] <= padding * taken:
            groups[-1].append(i)
            filled += lengths[i]
        else:
            groups.append([i])
            filled = lengths[i]
    return groups


@torch.no_grad()
def encode_clips(
    model: Coder, clips: Sequence[Audio], batch_seconds: float = BATCH_SECONDS
) -> Iterator[tuple[int, list[Codes]]]:
    """Encode clips (1, 1, samples) in batches of similar length: yields (index of the clip, its codes), in any order.

    The codes are those of `SNAC.encode` on the clip alone. `batch_seconds` bounds the memory. AudioError names a clip
    that `SNAC.encode` would refuse.
    """
    engine = frozen(model)
    for i, clip in enumerate(clips):
        if not isinstance(clip, Tensor) or clip.ndim != 3 or clip.shape[:2] != (1, 1):
            came = tuple(clip.shape) if isinstance(clip, Tensor) else type(clip).__name__
            raise AudioError(f"clip {i}: expected a tensor (1, 1, samples), got {came}")
    lengths = [clip.shape[2] for clip in clips]
    for group in group_by_length(lengths, round(batch_seconds * engine.config.sampling_rate)):
        batch = clips[group[0]].new_zeros(len(group), 1, max(lengths[i] for i in group))
        for row, i in zip(batch, group, strict=True):
            row[:, : lengths[i]] = clips[i][0]
        codes = engine.encode(batch, [lengths[i] for i in group])
        for n, i in enumerate(group):
            frames = engine.config.num_frames(lengths[i])
            yield i, [c[n : n + 1, : frames // s] for c, s in zip(codes, engine.config.vq_strides, strict=True)]
