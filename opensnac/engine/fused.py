# mypy: disable-error-code="no-untyped-def"
"""Residual units in one pass through a GPU's memory each: a kernel of Triton in place of a dozen of PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from opensnac.engine import layers
from opensnac.engine.layers import Layer, Spans, Tails, snake
from opensnac.engine.span import DeviceSpan, Span
from opensnac.model.layers import Signal

STEPS, DEPTH = 64, 16  # steps of a program's output, channels of its product that are summed at a time
MOST_COLUMNS = 128  # channels of its output


def in_triton(plain: Sequence[Layer]) -> list[Layer]:
    """Layers, rows of depthwise units by the kernel."""
    return [Units(x.units, x.noise, x.alpha) if isinstance(x, layers.Units) and _fits(x) else x for x in plain]


def _fits(row: layers.Units) -> bool:
    return all(isinstance(unit.mix, layers.Depthwise) for unit in row.units)


class Units(layers.Units):
    """Each unit reads its input once and writes its output: silence, both Snakes, convolution, product and sum."""

    def __call__(self, x: Signal, tails: Tails, span: Spans) -> tuple[Signal, Tails]:
        x = self.with_noise(x, span).contiguous()
        places = DeviceSpan.of(span, x.device) if isinstance(span, Span) else span
        kept: Tails = []
        for unit, tail in zip(self.units, tails, strict=True):
            kept.append(torch.cat((tail, x[:, max(0, x.shape[1] - tail.shape[1]) :]), dim=1)[:, -tail.shape[1] :])
            x, places = unit_of(unit, x, tail.contiguous(), places), places.later(-unit.mix.reach)
        return x if self.alpha is None else snake(x, self.alpha), kept


def unit_of(unit: layers.Unit, x: Signal, tail: Signal, span: DeviceSpan) -> Signal:
    """What a unit makes of x, which comes after `tail`."""
    assert isinstance(unit.mix, layers.Depthwise)
    (batch, time, channels), y = x.shape, torch.empty_like(x)
    columns = min(MOST_COLUMNS, max(16, triton.next_power_of_2(channels)))
    programs = triton.cdiv(time, STEPS), triton.cdiv(channels, columns), batch
    weights = unit.alpha, unit.mix.taps, unit.mix.bias, unit.beta, unit.matrix, unit.bias
    alike = int(len(span.starts) == 1)
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    if y.numel():
        numbers = time, channels, tail.shape[1], unit.mix.dilation, alike
        _unit[programs](x, tail, y, *weights, span.starts, span.lengths, *numbers, STEPS, columns, DEPTH, precision)
    return y


@triton.jit
def _heard(x, tail, clip, j, c, start, length, time, channels, keep):
    """Steps j of a tail and what comes after it, zero outside of the signal: (steps, channels)."""
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
def _snake(v, alpha):
    s = tl.sin(v * alpha)
    return v + s * s / (alpha + 1e-9)


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
    """STEPS steps of COLUMNS channels of one clip's output, from all channels of the input, DEPTH at a time."""
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
            v = _heard(x, tail, clip, t + k * dilation, c, start, length, time, channels, keep)
            tap = tl.load(taps + k * channels + c, mask=known, other=0.0).to(tl.float32)
            mixed += _snake(v, a) * tap[None, :]
        w = tl.load(
            matrix + n[None, :] * channels + c[:, None], mask=(n < channels)[None, :] & known[:, None], other=0.0
        )
        total = tl.dot(_snake(mixed, b).to(w.dtype), w, total, input_precision=PRECISION)
    centre = _heard(x, tail, clip, t + keep // 2, n, start, length, time, channels, keep)
    shift = tl.load(bias + n, mask=n < channels, other=0.0).to(tl.float32)
    at = y + (clip * time + t)[:, None] * channels + n[None, :]
    tl.store(at, centre + total + shift[None, :], mask=(t < time)[:, None] & (n < channels)[None, :])
