"""The codec's layers for inference: folded, constant weights, and how much context each one needs.

A layer takes a piece of a signal, (batch, time, channels), and its context, the last input steps of the piece before.
It returns as many steps of what the whole signal would give, delayed by its look-ahead. This is the arithmetic in
PyTorch, for any device and type; `compiled.py` has the same on the C kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from opensnac.engine.span import DeviceSpan, Span
from opensnac.model.attention import attend
from opensnac.model.layers import TAPS, Signal, convolve
from opensnac.model.operators import triton_applies

Spans = Span | DeviceSpan
Tails = list[Tensor]


class Layer:
    """Works on each step independently unless a subclass says otherwise. Immutable: context goes in and comes out."""

    up, down = 1, 1  # steps out for steps in

    def context(self, offset: int) -> tuple[list[int], int]:
        """(context of each of its inputs, in steps; offset of the output) when pieces begin at step `offset`."""
        return [], offset

    def last_input(self, step: int) -> int:
        """The last step of the input that step `step` of the output depends on."""
        return step

    @property
    def channels(self) -> list[int]:
        """Channels of each input that it needs context of."""
        return []

    def __call__(self, x: Signal, tails: Tails, span: Spans) -> tuple[Signal, Tails]:
        """The output for the piece x, which lies at `span`, and the context for the next one."""
        return self.apply(x), []

    def apply(self, x: Signal) -> Signal:
        """The arithmetic alone."""
        raise NotImplementedError


class Windowed(Layer):
    """Sees neighbouring steps, and zeros beyond a signal's ends; `apply` takes context and piece joined."""

    def __call__(self, x: Signal, tails: Tails, span: Spans) -> tuple[Signal, Tails]:
        joined, tail = span.join(tails[0], x)
        return self.apply(joined), [tail]


@dataclass(frozen=True)
class Snake(Layer):
    """x + sin^2(alpha x) / alpha"""

    alpha: Tensor

    def apply(self, x: Signal) -> Signal:
        return snake(x, self.alpha)


def snake(x: Signal, alpha: Tensor) -> Signal:
    """x + sin^2(alpha x) / alpha, alpha of shape (channels,)."""
    if triton_applies(x):
        from opensnac.model import triton

        return triton.snake(x.contiguous(), alpha)
    return torch.addcmul(x, torch.sin(x * alpha).square_(), 1 / (alpha + 1e-9))


class Tanh(Layer):
    """The decoder's last layer."""

    def apply(self, x: Signal) -> Signal:
        return torch.tanh(x)


@dataclass(frozen=True)
class Pointwise(Layer):
    """Matrix product over the channels: matrix (out, in)."""

    matrix: Tensor
    bias: Tensor | None

    def apply(self, x: Signal) -> Signal:
        return F.linear(x, self.matrix, self.bias)


class Centred(Windowed):
    """Seven taps, `dilation` steps apart."""

    dilation: int

    @property
    def reach(self) -> int:
        """The receptive field on each side, in steps."""
        return self.dilation * (TAPS // 2)

    def context(self, offset: int) -> tuple[list[int], int]:
        return [2 * self.reach], offset - self.reach

    def last_input(self, step: int) -> int:
        return step + self.reach


@dataclass(frozen=True)
class Depthwise(Centred):
    """Each channel convolved with its own taps (7, channels), `dilation` steps apart."""

    taps: Tensor
    bias: Tensor
    dilation: int = 1

    @property
    def channels(self) -> list[int]:
        return [len(self.bias)]

    def apply(self, x: Signal) -> Signal:
        if triton_applies(x):
            from opensnac.model import triton

            return triton.depthwise(x.contiguous(), self.taps, self.bias, self.dilation)
        # Libraries are slower than these sums: on a CPU, and on an H200 by far, as the signal is time-major.
        time, wide = x.shape[1] - 2 * self.reach, torch.promote_types(x.dtype, torch.float32)
        taps = self.taps.to(wide)
        y = torch.addcmul(self.bias.to(wide), x[:, :time], taps[0])
        for k in range(1, TAPS):
            y.addcmul_(x[:, k * self.dilation : k * self.dilation + time], taps[k])
        return y.to(x.dtype)


@dataclass(frozen=True)
class Convolution(Centred):
    """Mixes channels: weight (out, in, 7), `dilation` steps apart."""

    weight: Tensor
    bias: Tensor
    dilation: int = 1

    @property
    def channels(self) -> list[int]:
        return [self.weight.shape[1]]

    def apply(self, x: Signal) -> Signal:
        return convolve(x, self.weight, self.bias, self.dilation)


@dataclass(frozen=True)
class Downsample(Windowed):
    """One frame from two neighbouring blocks of `stride` steps: matrix (out, 2 x stride x in)."""

    matrix: Tensor
    bias: Tensor
    stride: int

    @property
    def down(self) -> int:  # type: ignore[override]
        return self.stride

    @property
    def channels(self) -> list[int]:
        return [self.matrix.shape[1] // (2 * self.stride)]

    @property
    def _lead(self) -> int:
        """Steps by which an output frame begins before its own block."""
        return math.ceil(self.stride / 2)

    def context(self, offset: int) -> tuple[list[int], int]:
        keep = self.stride + (offset + self._lead) % self.stride
        return [keep], (offset - keep + self._lead) // self.stride

    def last_input(self, step: int) -> int:
        return (step + 2) * self.stride - 1 - self._lead

    def apply(self, x: Signal) -> Signal:
        blocks = x[:, : x.shape[1] // self.stride * self.stride].unflatten(1, (-1, self.stride)).flatten(2)
        return F.linear(pairs(blocks), self.matrix, self.bias)


@dataclass(frozen=True)
class Upsample(Windowed):
    """`stride` steps from two neighbouring frames: matrix (stride x out, 2 x in), bias (stride x out)."""

    matrix: Tensor
    bias: Tensor
    stride: int

    @property
    def up(self) -> int:  # type: ignore[override]
        return self.stride

    @property
    def channels(self) -> list[int]:
        return [self.matrix.shape[1] // 2]

    @property
    def _lead(self) -> int:
        """Steps by which a frame's output begins before its own block."""
        return math.ceil(self.stride / 2)

    def context(self, offset: int) -> tuple[list[int], int]:
        return [1], offset * self.stride - self._lead

    def last_input(self, step: int) -> int:
        return (step + self._lead) // self.stride

    def apply(self, x: Signal) -> Signal:
        return F.linear(pairs(x), self.matrix, self.bias).unflatten(2, (self.stride, -1)).flatten(1, 2)


def pairs(x: Signal) -> Signal:
    """Each step together with the next one: one product with both, instead of two whose sum is a third pass."""
    return torch.cat((x[:, :-1], x[:, 1:]), dim=2)


@dataclass(frozen=True)
class Unit:
    """x + pointwise(snake(convolution(snake(x))))"""

    alpha: Tensor
    conv: Depthwise | Convolution
    beta: Tensor
    matrix: Tensor
    bias: Tensor

    def apply(self, x: Signal) -> Signal:
        """The output for x, which includes the steps that the convolution's receptive field adds on both sides."""
        reach = self.conv.reach
        y = snake(self.conv.apply(snake(x, self.alpha)), self.beta)
        return x[:, reach : x.shape[1] - reach] + F.linear(y, self.matrix, self.bias)


@dataclass(frozen=True)
class Noise:
    """Adds (matrix x) * e, with e drawn per step; `layer` is the noise layer's number."""

    matrix: Tensor
    layer: int


@dataclass(frozen=True)
class Units(Layer):
    """Consecutive residual units, with the noise before and the Snake after them, if any."""

    units: Sequence[Unit]
    noise: Noise | None = None
    alpha: Tensor | None = None

    def context(self, offset: int) -> tuple[list[int], int]:
        return [2 * unit.conv.reach for unit in self.units], offset - self.reach

    def last_input(self, step: int) -> int:
        return step + self.reach

    @property
    def reach(self) -> int:
        """Steps of the receptive field on both sides."""
        return sum(unit.conv.reach for unit in self.units)

    @property
    def channels(self) -> list[int]:
        return [channels for unit in self.units for channels in unit.conv.channels]

    def __call__(self, x: Signal, tails: Tails, span: Spans) -> tuple[Signal, Tails]:
        if isinstance(span, DeviceSpan) and self._are_fused(x):
            from opensnac.engine import fused

            return fused.units(self, x, tails, span)
        x = self.with_noise(x, span)
        new_tails: Tails = []
        for unit, tail in zip(self.units, tails, strict=True):
            x, new = span.join(tail, x)
            new_tails.append(new)
            x, span = unit.apply(x), span.shifted(-unit.conv.reach)
        return x if self.alpha is None else snake(x, self.alpha), new_tails

    def _are_fused(self, x: Signal) -> bool:
        return triton_applies(x) and all(isinstance(unit.conv, Depthwise) for unit in self.units)

    def with_noise(self, x: Signal, span: Spans) -> Signal:
        """x with its noise added, if there is any."""
        e = None if self.noise is None else span.noise(self.noise.layer, x)
        if self.noise is None or e is None:
            return x
        return x + e.to(x.dtype)[:, :, None] * F.linear(x, self.noise.matrix)


class Grouped(Windowed):
    """Works on whole groups of `group` steps, each independently."""

    group: int

    def context(self, offset: int) -> tuple[list[int], int]:
        keep = offset % self.group
        return [keep], offset - keep

    def last_input(self, step: int) -> int:
        return step // self.group * self.group + self.group - 1

    def apply(self, x: Signal) -> Signal:
        return self.apply_groups(x[:, : x.shape[1] // self.group * self.group])

    def apply_groups(self, x: Signal) -> Signal:
        """The arithmetic for whole groups."""
        return x


@dataclass(frozen=True)
class Groups(Grouped):
    """Passes steps on, but only whole groups of them."""

    group: int
    width: int

    @property
    def channels(self) -> list[int]:
        return [self.width]


@dataclass(frozen=True)
class Attention(Grouped):
    """LayerNorm, self-attention inside windows of `group` steps, residual."""

    group: int
    norm: tuple[Tensor, Tensor, float]  # weight, bias, epsilon
    to_qkv: Tensor
    to_out: Tensor
    inv_freq: Tensor = field(repr=False)

    @property
    def channels(self) -> list[int]:
        return [self.to_out.shape[0]]

    def apply_groups(self, x: Signal) -> Signal:
        weight, bias, epsilon = self.norm
        qkv = self.project_in(F.layer_norm(x, weight.shape, weight, bias, epsilon))
        return x + self.project_out(attend(qkv, self.group, self.inv_freq))

    def project_in(self, x: Signal) -> Signal:
        """To queries, keys and values."""
        return F.linear(x, self.to_qkv)

    def project_out(self, x: Signal) -> Signal:
        """From attention's output."""
        return F.linear(x, self.to_out)
