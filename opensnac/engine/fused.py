# mypy: disable-error-code="no-untyped-def"
"""Layers on a GPU: what lies between matrix products in one Triton kernel each, instead of PyTorch's ten.

One kernel puts a piece behind its context, adds a product to it (a residual unit's, or one weighted by noise), zeroes
what lies outside the signals, and takes Snake of it; another is the depthwise convolution with the Snake after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from opensnac.model.layers import Signal
from opensnac.model.triton import bend, depthwise, grid, load, places, sizes, store, vector

if TYPE_CHECKING:
    from opensnac.engine.layers import Depthwise, Tails, Units
    from opensnac.engine.span import DeviceSpan


def units(layer: Units, x: Signal, tails: Tails, span: DeviceSpan) -> tuple[Signal, Tails]:
    """Units.__call__ for depthwise units."""
    added, noise = None, None
    if layer.noise is not None and span.noisy is not None:
        added, noise = F.linear(x, layer.noise.matrix), layer.noise.layer
    new_tails: Tails = []
    for unit, tail in zip(layer.units, tails, strict=True):
        conv = cast("Depthwise", unit.conv)
        x, bent, new = join(tail, x, span, unit.alpha, added, noise)
        y = depthwise(bent, conv.taps, conv.bias, conv.dilation, alpha=unit.beta)
        added, noise = F.linear(y, unit.matrix, unit.bias), None
        x, span = x[:, conv.reach : x.shape[1] - conv.reach], span.shifted(-conv.reach)
        new_tails.append(new)
    x, bent, _ = join(x[:, :0], x, span, layer.alpha, added)
    return x if layer.alpha is None else bent, new_tails


def join(
    context: Signal,
    x: Signal,
    span: DeviceSpan,
    alpha: Tensor | None = None,
    added: Signal | None = None,
    noise: int | None = None,
) -> tuple[Signal, Signal, Signal]:
    """The piece x behind its context, zero outside the signals; its Snake, if there is an `alpha`; the next context.

    `added` is added to x, times the noise of layer `noise` if that is given. With a Snake and no context there is only
    the Snake: the first result is empty memory.
    """
    batch, keep, channels = context.shape
    x = x if x.stride()[1:] == (channels, 1) else x.contiguous()
    joined, kept = x.new_empty(batch, keep + x.shape[1], channels), context.new_empty(context.shape)
    bent = joined if alpha is None else torch.empty_like(joined)
    if joined.numel():
        signals = context.contiguous(), x, added, alpha, None if alpha is not None and not keep else joined, bent, kept
        counts = span.samples, span.ends, span.seeds, None if noise is None else span.noisy
        place = int(len(span.samples) > 1), span.early, span.tick, span.offset, noise or 0
        with torch.cuda.device_of(x):  # Triton launches on the current one
            _join[grid(joined)](*signals, *counts, *place, keep, x.stride(0), *sizes(joined))
    return joined, bent, kept


@triton.jit(do_not_specialize=["each", "early", "tick", "offset", "layer", "keep"])
def _join(
    context,
    x,
    added,
    alpha,
    joined,
    bent,
    kept,
    samples,
    ends,
    seeds,
    noisy,
    each,
    early,
    tick,
    offset,
    layer,
    keep,
    stride,
    time,
    channels,
    STEPS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
):
    """`keep` steps of context, then x, whose clips are `stride` values apart; `each` is 1 for counts per clip, or 0."""
    clip, t, c, known = places(channels, STEPS, COLUMNS)
    position = (tl.load(samples + clip * each) + early) // tick + offset - keep + t
    later = t - keep
    value = load(context, clip, t, c, known, keep, channels)
    value += load(x + clip * (stride - (time - keep) * channels), clip, later, c, known, time - keep, channels)
    if added is not None:
        more = load(added, clip, later, c, known, time - keep, channels)
        if noisy is not None:
            more *= (_noise(tl.load(seeds + clip * each), layer, position) * tl.load(noisy + clip * each))[:, None]
        value += more
    inside = (position >= 0) & (position < tl.load(ends + clip * each) // tick)
    value = tl.where(inside[:, None], value, 0.0)
    if alpha is not None:
        store(bent, bend(value, vector(alpha, c, known)), clip, t, c, known, time, channels)
    if joined is not None:
        store(joined, value, clip, t, c, known, time, channels)
    recent = t - (time - keep)
    store(kept, value, clip, recent, c, known, keep, channels)


@triton.jit
def _noise(seed, layer, position):
    """model/noise.py's position_noise."""
    position = tl.maximum(position, 0)
    key = _mix(_mix(seed.to(tl.uint32)) ^ (seed >> 32).to(tl.uint32) ^ _mix((layer + 1).to(tl.uint32)))
    first = _mix(_mix(position.to(tl.uint32)) ^ (position >> 32).to(tl.uint32) ^ key)
    second = _mix(first ^ 0x9E3779B9)
    radius = tl.sqrt(-2.0 * tl.log(((first >> 8).to(tl.float32) + 1.0) / 16777216.0))
    return radius * tl.cos((second >> 8).to(tl.float32) * 3.7450704e-07)  # 2 pi / 2^24


@triton.jit
def _mix(x):
    """A hash of 32-bit values."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)
