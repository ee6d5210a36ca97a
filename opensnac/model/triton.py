# mypy: disable-error-code="no-untyped-def"
"""Snake and depthwise convolution on a GPU: Triton kernels that go through memory once, forward and backward.

PyTorch's operators take five kernels for a Snake and ten for its gradient, and its depthwise convolutions are slow on
time-major signals. Sums are float32; signals (batch, time, channels) may have any floating-point type up to it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

TAPS = 7
STEPS, MAX_COLUMNS = 32, 64  # of a program: steps and channels


class Snake(torch.autograd.Function):
    """x + sin^2(alpha x) / alpha"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, alpha)
        return snake(x, alpha)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, alpha = ctx.saved_tensors
        dx, partial = torch.empty_like(x), _partial(x, 1)
        if x.numel():
            with torch.cuda.device_of(x):
                _snake_backward[grid(x)](x, alpha, dy.contiguous(), dx, partial, *sizes(x))
        return dx, partial.sum(0)[0].to(alpha.dtype)


class Depthwise(torch.autograd.Function):
    """Each channel convolved with its own seven taps (7, channels), `dilation` steps apart, centred, zeros outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, bias: Tensor, dilation: int) -> Tensor:
        x, taps = x.contiguous(), taps.contiguous()
        ctx.save_for_backward(x, taps, bias)
        ctx.dilation = dilation
        return depthwise(x, taps, bias, dilation, lead=TAPS // 2 * dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, taps, bias = ctx.saved_tensors
        dx, partial = torch.empty_like(x), _partial(x, TAPS + 1)
        if x.numel():
            with torch.cuda.device_of(x):
                _depthwise_backward[grid(x)](x, taps, dy.contiguous(), dx, partial, ctx.dilation, *sizes(x))
        sums = partial.sum(0)
        return dx, sums[:TAPS].to(taps.dtype), sums[TAPS].to(bias.dtype), None


def snake(x: Tensor, alpha: Tensor) -> Tensor:
    """x + sin^2(alpha x) / alpha for contiguous x, without gradients."""
    y = torch.empty_like(x)
    if x.numel():
        with torch.cuda.device_of(x):  # Triton launches on the current one
            _snake_forward[grid(x)](x, alpha, y, *sizes(x))
    return y


def depthwise(
    x: Tensor, taps: Tensor, bias: Tensor, dilation: int, lead: int = 0, alpha: Tensor | None = None
) -> Tensor:
    """The convolution of contiguous x and contiguous taps, without gradients; `lead` zeros are added on both sides.

    With `alpha`, Snake of it.
    """
    batch, time, channels = x.shape
    y = x.new_empty(batch, max(0, time + 2 * lead - (TAPS - 1) * dilation), channels)
    if y.numel():
        with torch.cuda.device_of(x):  # Triton launches on the current one
            _depthwise_forward[grid(y)](x, taps, bias, alpha, y, dilation, lead, time, *sizes(y))
    return y


def grid(x: Tensor) -> tuple[int, int, int]:
    """Programs along time, channels and batch."""
    return triton.cdiv(x.shape[1], STEPS), triton.cdiv(x.shape[2], _columns(x)), x.shape[0]


def sizes(x: Tensor) -> tuple[int, ...]:
    """The kernels' last arguments: steps and channels of the signal, and of one program."""
    return x.shape[1], x.shape[2], STEPS, _columns(x)


def _columns(x: Tensor) -> int:
    return min(MAX_COLUMNS, max(16, triton.next_power_of_2(x.shape[2])))


def _partial(x: Tensor, rows: int) -> Tensor:
    """Room for sums over each program's steps: (programs, rows, channels)."""
    along_time, _, batch = grid(x)
    return x.new_empty(along_time * batch, rows, x.shape[2], dtype=torch.float32)


@triton.jit
def places(channels, STEPS: tl.constexpr, COLUMNS: tl.constexpr):  # noqa: N803
    """This program's clip, steps, channels, and which of the channels exist."""
    t = tl.program_id(0) * STEPS + tl.arange(0, STEPS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    return tl.program_id(2).to(tl.int64), t, c, c < channels


@triton.jit
def load(signal, clip, t, c, known, time, channels):
    """A signal's values in float32, zero outside it."""
    inside = (t >= 0) & (t < time)
    place = (clip * time + t)[:, None] * channels + c[None, :]
    return tl.load(signal + place, mask=inside[:, None] & known[None, :], other=0.0).to(tl.float32)


@triton.jit
def store(signal, value, clip, t, c, known, time, channels):
    """Store the values that lie inside the signal."""
    place = (clip * time + t)[:, None] * channels + c[None, :]
    tl.store(signal + place, value, mask=((t >= 0) & (t < time))[:, None] & known[None, :])


@triton.jit
def _store_sum(partial, value, row: tl.constexpr, rows: tl.constexpr, clip, c, known, channels):
    """The sum over steps into one of this program's rows."""
    program = clip * tl.num_programs(0) + tl.program_id(0)
    tl.store(partial + (program * rows + row) * channels + c, tl.sum(value, 0), mask=known)


@triton.jit
def vector(values, c, known):
    """One value for each channel `c`, as a row in float32; 1 where `known` is false."""
    return tl.load(values + c, mask=known, other=1.0).to(tl.float32)[None, :]


@triton.jit
def _within_half_turn(angle):
    """The angle less a multiple of pi, which sin^2 and sin x cos do not see, in -pi / 2 to pi / 2."""
    turns = tl.floor(angle * 0.318309886 + 0.5)
    return angle - turns * 3.14159274 + turns * 8.74227801e-8  # pi in two floats


@triton.jit
def _sine(r):
    """sin r for |r| <= pi / 2, exact to 2e-7: interpolated at Chebyshev's points in r^2."""
    z = r * r
    series = -2.38891031e-8 * z + 2.75252634e-6
    series = (((series * z - 1.98408611e-4) * z + 8.33333097e-3) * z - 0.166666666) * z
    return series * r + r


@triton.jit
def _cosine(r):
    """cos r in the same way."""
    z = r * r
    series = -2.60505105e-7 * z + 2.47601015e-5
    return (((series * z - 1.38883601e-3) * z + 4.16666361e-2) * z - 0.499999994) * z + 1


@triton.jit
def bend(v, alpha):
    """Snake: v + sin^2(alpha v) / alpha"""
    s = _sine(_within_half_turn(v * alpha))
    return v + s * s * (1 / (alpha + 1e-9))


@triton.jit
def _snake_forward(x, alpha, y, time, channels, STEPS: tl.constexpr, COLUMNS: tl.constexpr):  # noqa: N803
    clip, t, c, known = places(channels, STEPS, COLUMNS)
    v = load(x, clip, t, c, known, time, channels)
    store(y, bend(v, vector(alpha, c, known)), clip, t, c, known, time, channels)


@triton.jit
def _snake_backward(x, alpha, dy, dx, partial, time, channels, STEPS: tl.constexpr, COLUMNS: tl.constexpr):  # noqa: N803
    clip, t, c, known = places(channels, STEPS, COLUMNS)
    v, d = load(x, clip, t, c, known, time, channels), load(dy, clip, t, c, known, time, channels)
    a = vector(alpha, c, known)
    r, scale = _within_half_turn(v * a), 1 / (a + 1e-9)
    s = _sine(r)
    double = 2 * s * _cosine(r)  # sin(2 a v)
    store(dx, d * (1 + double * (a * scale)), clip, t, c, known, time, channels)
    _store_sum(partial, d * (double * v - s * s * scale) * scale, 0, 1, clip, c, known, channels)


@triton.jit
def _depthwise_forward(
    x,
    taps,
    bias,
    alpha,
    y,
    dilation,
    lead,
    length,
    time,
    channels,
    STEPS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
):
    """`time` steps of y from `length` steps of x; Snake of them, if there is an `alpha`."""
    clip, t, c, known = places(channels, STEPS, COLUMNS)
    total = tl.zeros((STEPS, COLUMNS), tl.float32) + vector(bias, c, known)
    for k in tl.static_range(7):
        v = load(x, clip, t + (k * dilation - lead), c, known, length, channels)
        total += v * vector(taps + k * channels, c, known)
    if alpha is not None:
        total = bend(total, vector(alpha, c, known))
    store(y, total, clip, t, c, known, time, channels)


@triton.jit
def _depthwise_backward(
    x,
    taps,
    dy,
    dx,
    partial,
    dilation,
    time,
    channels,
    STEPS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
):
    """The gradient of x, and each program's share of those of the taps and, last, the bias."""
    clip, t, c, known = places(channels, STEPS, COLUMNS)
    v = load(x, clip, t, c, known, time, channels)
    total = tl.zeros((STEPS, COLUMNS), tl.float32)
    for k in tl.static_range(7):
        d = load(dy, clip, t - (k - 3) * dilation, c, known, time, channels)
        total += d * vector(taps + k * channels, c, known)
        _store_sum(partial, v * d, k, 8, clip, c, known, channels)
        if k == 3:
            _store_sum(partial, d, 7, 8, clip, c, known, channels)
    store(dx, total, clip, t, c, known, time, channels)
