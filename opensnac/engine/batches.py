"""Clips of unequal lengths, grouped for throughput: little padding, bounded memory, each coded as if alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from opensnac.engine.codec import Coder, frozen
from opensnac.errors import AudioError
from opensnac.model.codec import Audio, Codes

BATCH_SECONDS = 60.0  # of audio in a batch, padding included
PADDING = 0.1  # at most this share of a batch is padding


def group_by_length(lengths: Sequence[int], at_most: int, padding: float = PADDING) -> list[list[int]]:
    """Which of the clips go together: each group's longest times its number is at most `at_most`, unless it is one.

    A group wastes at most the share `padding`. Every clip is in one group; shorter ones come first.
    """
    groups: list[list[int]] = []
    filled = 0  # samples of the last group, padding left out
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
    """Code clips (1, 1, samples) in batches of similar length: (number of the clip, its codes), in any order.

    Each gets the codes that `SNAC.encode` gives it alone. `batch_seconds` bounds the memory. AudioError names the clip
    that is not what `SNAC.encode` needs.
    """
    engine = frozen(model)
    for i, clip in enumerate(clips):
        if not isinstance(clip, Tensor) or clip.ndim != 3 or clip.shape[:2] != (1, 1):
            came = tuple(clip.shape) if isinstance(clip, Tensor) else type(clip).__name__
            raise AudioError(f"clip {i} came as {came}, expected a tensor (1, 1, samples)")
    lengths = [clip.shape[2] for clip in clips]
    for group in group_by_length(lengths, round(batch_seconds * engine.config.sampling_rate)):
        batch = clips[group[0]].new_zeros(len(group), 1, max(lengths[i] for i in group))
        for row, i in zip(batch, group, strict=True):
            row[:, : lengths[i]] = clips[i][0]
        codes = engine.encode(batch, [lengths[i] for i in group])
        for n, i in enumerate(group):
            frames = engine.config.num_frames(lengths[i])
            yield i, [c[n : n + 1, : frames // s] for c, s in zip(codes, engine.config.vq_strides, strict=True)]
