# mypy: disable-error-code="no-untyped-def"
"""Each residual unit as one Triton kernel, one pass over GPU memory, in place of a dozen PyTorch kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from opensnac.engine import layers
from opensnac.engine.layers import Layer, Spans, Tails, snake
from opensnac.engine.span import DeviceSpan, Span
from opensnac.model.layers import Signal
from opensnac.model.triton import bend

STEPS, DEPTH = 64, 16  # output steps per program, input channels per step of its matrix product
MAX_COLUMNS = 128  # output channels per program
WARPS, STAGES = 4, 3


def to_triton(plain: Sequence[Layer]) -> list[Layer]:
    """The layers, depthwise residual units on the kernel."""
    return [Units(x.units, x.noise, x.alpha) if isinstance(x, layers.Units) and _fits(x) else x for x in plain]


def _fits(units: layers.Units) -> bool:
    return all(isinstance(unit.conv, layers.Depthwise) for unit in units.units)


class Units(layers.Units):
    """Each unit reads its input once and writes its output: mask, both Snakes, convolution, product and sum."""

    def __call__(self, x: Signal, tails: Tails, span: Spans) -> tuple[Signal, Tails]:
        x = self.with_noise(x, span).contiguous()
        places = DeviceSpan.of(span, x.device) if isinstance(span, Span) else span
        new_tails: Tails = []
        for unit, tail in zip(self.units, tails, strict=True):
            context = tail.shape[1]
            new_tails.append(torch.cat((tail, x[:, max(0, x.shape[1] - context) :]), dim=1)[:, -context:])
            x, places = unit_of(unit, x, tail.contiguous(), places), places.shifted(-unit.conv.reach)
        return x if self.alpha is None else snake(x, self.alpha), new_tails


def unit_of(unit: layers.Unit, x: Signal, tail: Signal, span: DeviceSpan) -> Signal:
    """A unit's output for x, which follows `tail`."""
    assert isinstance(unit.conv, layers.Depthwise)
    (batch, time, channels), y = x.shape, torch.empty_like(x)
    columns = min(MAX_COLUMNS, max(16, triton.next_power_of_2(channels)))
    programs = triton.cdiv(time, STEPS), triton.cdiv(channels, columns), batch
    weights = unit.alpha, unit.conv.taps, unit.conv.bias, unit.beta, unit.matrix, unit.bias
    alike = int(len(span.starts) == 1)
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    if y.numel():
        numbers = time, channels, tail.shape[1], unit.conv.dilation, alike
        tile = STEPS, columns, DEPTH, precision
        _unit[programs](
            x, tail, y, *weights, span.starts, span.lengths, *numbers, *tile, num_warps=WARPS, num_stages=STAGES
        )
    return y


@triton.jit
def _load_masked(x, tail, clip, j, c, start, length, time, channels, keep):
    """Steps j of a tail followed by x, zero outside the signal: (steps, channels)."""
    position = start - keep + j
    inside = (position >= 0) & (position < length) & (j < keep + time)
    old = tl.load(
        tail + (clip * keep + j)[:, None] * channels + c[None, :],
        mask=(inside & (j < keep))[:, None] & (c < channels)[None, :],
        other=0.0,
    )
    new = tl.load(
        x + (clip * time + j - keep)[:, None] * channels + c[None, :],
        mask=(inside & (j >= keep))[:, None] & (c < channels)[None, :],
        other=0.0,
    )
    return old.to(tl.float32) + new.to(tl.float32)


@triton.jit
def _unit(
    x,
    tail,
    y,
    alpha,
    taps,
    taps_bias,
    beta,
    matrix,
    bias,
    starts,
    lengths,
    time,
    channels,
    keep,
    dilation,
    alike,
    STEPS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    DEPTH: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
):
    """STEPS steps of COLUMNS output channels of one clip, from all input channels, DEPTH at a time."""
    t = tl.program_id(0) * STEPS + tl.arange(0, STEPS)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    clip = tl.program_id(2).to(tl.int64)
    start = tl.load(starts + clip * (1 - alike))
    length = tl.load(lengths + clip * (1 - alike))
    total = tl.zeros((STEPS, COLUMNS), tl.float32)
    for first in range(0, channels, DEPTH):
        c = first + tl.arange(0, DEPTH)
        known = c < channels
        a = tl.load(alpha + c, mask=known, other=1.0).to(tl.float32)[None, :]
        b = tl.load(beta + c, mask=known, other=1.0).to(tl.float32)[None, :]
        shift = tl.load(taps_bias + c, mask=known, other=0.0).to(tl.float32)
        mixed = tl.zeros((STEPS, DEPTH), tl.float32) + shift[None, :]
        for k in tl.static_range(7):
            v = _load_masked(x, tail, clip, t + k * dilation, c, start, length, time, channels, keep)
            tap = tl.load(taps + k * channels + c, mask=known, other=0.0).to(tl.float32)
            mixed += bend(v, a) * tap[None, :]
        w = tl.load(
            matrix + n[None, :] * channels + c[:, None], mask=(n < channels)[None, :] & known[:, None], other=0.0
        )
        total = tl.dot(bend(mixed, b).to(w.dtype), w, total, input_precision=PRECISION)
    centre = _load_masked(x, tail, clip, t + keep // 2, n, start, length, time, channels, keep)
    shift = tl.load(bias + n, mask=n < channels, other=0.0).to(tl.float32)
    at = y + (clip * time + t)[:, None] * channels + n[None, :]
    tl.store(at, centre + total + shift[None, :], mask=(t < time)[:, None] & (n < channels)[None, :])
