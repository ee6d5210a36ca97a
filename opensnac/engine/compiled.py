"""Layers and scales of an engine in C: the arithmetic of `layers.py` and `scales.py` by the kernels of a processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

from opensnac import kernels
from opensnac.engine import layers
from opensnac.engine.layers import Layer, Tails, Windowed
from opensnac.engine.scales import Scale
from opensnac.engine.span import Span
from opensnac.model.layers import Signal
from opensnac.model.noise import noise_key
from opensnac.model.operators import depthwise, snake
from opensnac.model.quantizer import Codes, Vectors


def in_c(plain: Sequence[Layer], bfloat16: bool) -> list[Layer]:
    """Layers by the kernels wherever these know them; `bfloat16` is what products are computed in."""
    known: list[Layer] = []
    for layer in plain:
        before = known[-1] if known else None
        made = _in_c(layer, bfloat16)
        if isinstance(before, Units) and before.last is None and isinstance(made, Windowed) and len(made.channels) == 1:
            known[-1] = before.followed_by(made)
        else:
            known.append(made)
    return known


def _in_c(layer: Layer, bfloat16: bool) -> Layer:
    match layer:
        case layers.Units() if all(isinstance(unit.mix, layers.Depthwise) for unit in layer.units) and (
            all(channels % kernels.WIDTH == 0 for channels in layer.channels)
        ):
            return Units.of(layer, bfloat16)
        case layers.Snake():
            return Snake(layer.alpha)
        case layers.Depthwise():
            return Depthwise(layer.taps, layer.bias, layer.dilation)
        case layers.Pointwise():
            return Pointwise.of(layer, kernels.packed(layer.matrix, bfloat16))
        case layers.Convolution() if layer.dilation == 1:
            matrix = layer.weight.transpose(1, 2).flatten(1)
            # one column is a sum of products along the signal
            return Convolution.of(
                layer, matrix[0].contiguous() if len(matrix) == 1 else kernels.packed(matrix, bfloat16)
            )
        case layers.Downsample():
            return Downsample.of(layer, kernels.packed(torch.cat((layer.first, layer.second), dim=1), bfloat16))
        case layers.Upsample():
            return Upsample.of(layer, kernels.packed(torch.cat((layer.second, layer.first), dim=1), bfloat16))
        case layers.Attention():
            packed = {id(m): kernels.packed(m, bfloat16) for m in (layer.to_qkv, layer.to_out)}
            return Attention.of(layer, packed)
    return layer


class Packed:
    """A layer, with its weights in the order that the kernels read."""

    @classmethod
    def of(cls, layer: Any, packed: Any) -> Self:
        """The layer as it was, and `packed`."""
        values: dict[str, Any] = {f.name: getattr(layer, f.name) for f in fields(layer)} | {"packed": packed}
        return cls(**values)


class Snake(layers.Snake):
    """By the operator that training uses."""

    def apply(self, x: Signal) -> Signal:
        return snake(x, self.alpha)


class Depthwise(layers.Depthwise):
    """By the operator that training uses, without what it makes of the zeros around a piece."""

    def apply(self, x: Signal) -> Signal:
        return depthwise(x, self.taps, self.bias, self.dilation)[:, self.reach : x.shape[1] - self.reach]


@dataclass(frozen=True)
class Pointwise(layers.Pointwise, Packed):
    packed: Tensor

    def apply(self, x: Signal) -> Signal:
        return kernels.linear(x, self.packed, self.matrix.shape[0], self.bias)


@dataclass(frozen=True, kw_only=True)
class Convolution(layers.Convolution, Packed):
    packed: Tensor

    def apply(self, x: Signal) -> Signal:
        if self.packed.ndim == 1:
            return kernels.single(x, self.packed, self.bias)
        return kernels.linear(x, self.packed, len(self.bias), self.bias, rows=x.shape[1] - 2 * self.reach)


@dataclass(frozen=True)
class Downsample(layers.Downsample, Packed):
    packed: Tensor

    def apply(self, x: Signal) -> Signal:
        rows = x.shape[1] // self.stride - 1
        return kernels.linear(x, self.packed, len(self.bias), self.bias, rows=rows, step=self.stride)


@dataclass(frozen=True)
class Upsample(layers.Upsample, Packed):
    packed: Tensor

    def apply(self, x: Signal) -> Signal:
        bias = self.bias.repeat(self.stride)
        steps = kernels.linear(x, self.packed, len(bias), bias, rows=x.shape[1] - 1)
        return steps.unflatten(2, (self.stride, -1)).flatten(1, 2)


@dataclass(frozen=True, kw_only=True)
class Attention(layers.Attention, Packed):
    packed: dict[int, Tensor]

    def product(self, x: Signal, matrix: Tensor) -> Signal:
        return kernels.linear(x, self.packed[id(matrix)], matrix.shape[0])


@dataclass(frozen=True)
class Units(layers.Units):
    """Units in one walk along the signal, and the layer after them, for whose kept steps the walk leaves room."""

    row: kernels.UnitRow | None = None
    bfloat16: bool = False
    last: Windowed | None = None

    @classmethod
    def of(cls, plain: layers.Units, bfloat16: bool, last: Windowed | None = None) -> Units:
        """The row of a plain one."""
        units = [
            kernels.Unit(
                unit.alpha,
                unit.mix.taps,
                unit.mix.bias,
                unit.beta,
                kernels.packed(unit.matrix, bfloat16),
                unit.bias,
                unit.mix.dilation,
            )
            for unit in plain.units
            if isinstance(unit.mix, layers.Depthwise)
        ]
        noise = None if plain.noise is None else kernels.packed(plain.noise.matrix, bfloat16)
        narrow = bfloat16 and isinstance(last, layers.Downsample | layers.Upsample)
        row = kernels.UnitRow(units, noise, plain.alpha, bfloat16=narrow)
        return cls(plain.units, plain.noise, plain.alpha, row, bfloat16, last)

    def followed_by(self, last: Windowed) -> Units:
        """The row with the layer that comes next."""
        return Units.of(self, self.bfloat16, last)

    @property
    def up(self) -> int:  # type: ignore[override]
        return 1 if self.last is None else self.last.up

    @property
    def down(self) -> int:  # type: ignore[override]
        return 1 if self.last is None else self.last.down

    @property
    def channels(self) -> list[int]:
        return super().channels + ([] if self.last is None else self.last.channels)

    def plan(self, offset: int) -> tuple[list[int], int]:
        keeps, offset = super().plan(offset)
        more, offset = ([], offset) if self.last is None else self.last.plan(offset)
        return keeps + more, offset

    def newest(self, step: int) -> int:
        return super().newest(step if self.last is None else self.last.newest(step))

    def __call__(self, x: Signal, tails: Tails, span: Span) -> tuple[Signal, Tails]:  # type: ignore[override]
        assert self.row is not None
        inner, outer = tails[: len(self.units)], tails[len(self.units) :]
        starts, reach = [], 0
        for unit in self.units:
            starts.append([start - reach for start in span.starts])
            reach += unit.mix.reach
        e = None if self.noise is None else noise_beside(span, self.noise.layer, x)
        room = outer[0].shape[1] if outer else 0
        y, kept = self.row(x, inner, starts, span.lengths, e, room)
        if self.last is None:
            return y, kept
        y[:, :room] = outer[0]
        y, new = self.last.joined(y, room, span.later(-reach))
        return y, [*kept, *new]


def noise_beside(span: Span, layer: int, x: Signal) -> Tensor | None:
    """As Span.noise, drawn by the kernel."""
    return span.noise(layer, x, lambda draws: kernels.noise(*_keys(layer, draws), x.shape[1]))


def _keys(layer: int, draws: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [noise_key(seed, layer) for seed, _ in draws], [start for _, start in draws]


def scale_in_c(scale: Scale) -> Scale:
    """A scale of the quantiser by the kernels."""
    values = {f.name: getattr(scale, f.name) for f in fields(scale)}
    matrices = kernels.packed(scale.in_matrix), kernels.packed(scale.out_matrix)
    return CompiledScale(**values, packed=(*matrices, kernels.packed_entries(scale.directions)))


@dataclass(frozen=True)
class CompiledScale(Scale):
    """Projections and the search for the nearest entry in C."""

    packed: tuple[Tensor, Tensor, Tensor]

    def inward(self, latent: Signal) -> Vectors:
        return kernels.linear(latent, self.packed[0], len(self.in_bias), self.in_bias)

    def outward(self, vectors: Vectors) -> Signal:
        return kernels.linear(vectors, self.packed[1], len(self.out_bias), self.out_bias)

    def nearest(self, vectors: Vectors) -> Codes:
        return kernels.nearest(vectors, self.packed[2], len(self.directions))
