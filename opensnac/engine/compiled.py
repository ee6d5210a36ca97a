"""Layers and scales of an engine on the C kernels: the arithmetic of `layers.py` and `scales.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, cast

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


def to_c(plain: Sequence[Layer], bfloat16: bool) -> list[Layer]:
    """The layers, on kernels wherever there is one; `bfloat16` products if asked for."""
    known: list[Layer] = []
    waiting: layers.Units | None = None  # units whose next layer is not known yet
    for layer in [*plain, None]:
        made = None if layer is None else _to_c(layer, bfloat16)
        if waiting is not None:
            joined = made if isinstance(made, Windowed) and not isinstance(made, layers.Grouped) else None
            known.append(Units.of(waiting, bfloat16, joined))
            waiting, made = None, None if joined else made
        if isinstance(made, layers.Units) and _fits(made):
            waiting = made
        elif made is not None:
            known.append(made)
    return known


def _fits(units: layers.Units) -> bool:
    """Whether there is a kernel for such units."""
    depthwise = all(isinstance(unit.conv, layers.Depthwise) for unit in units.units)
    return depthwise and all(channels % kernels.WIDTH == 0 for channels in units.channels)


def _to_c(layer: Layer, bfloat16: bool) -> Layer:
    match layer:
        case layers.Snake():
            return Snake(layer.alpha)
        case layers.Depthwise():
            return Depthwise(layer.taps, layer.bias, layer.dilation)
        case layers.Pointwise():
            return Pointwise.of(layer, kernels.packed(layer.matrix, bfloat16))
        case layers.Convolution() if layer.dilation == 1:
            matrix = layer.weight.transpose(1, 2).flatten(1)
            one = len(matrix) == 1  # output channel: a dot product per step
            return Convolution.of(layer, matrix[0].contiguous() if one else kernels.packed(matrix, bfloat16))
        case layers.Downsample():
            return Downsample.of(layer, kernels.packed(layer.matrix, bfloat16))
        case layers.Upsample():
            return Upsample.of(layer, kernels.packed(layer.matrix, bfloat16))
        case layers.Attention():
            packed_in, packed_out = (kernels.packed(matrix, bfloat16) for matrix in (layer.to_qkv, layer.to_out))
            return Attention.of(layer, (packed_in, packed_out))
    return layer


class Packed:
    """A layer whose matrices are in the kernels' layout."""

    @classmethod
    def of(cls, layer: Any, packed: Any) -> Self:
        """The layer with `packed` weights; its own matrices keep their shapes but not their values."""
        values: dict[str, Any] = {f.name: _shape_of(getattr(layer, f.name)) for f in fields(layer)}
        return cast(Any, cls)(**values, packed=packed)


def _shape_of(value: Any) -> Any:
    """A matrix on the meta device; anything else unchanged."""
    return value.to("meta") if isinstance(value, Tensor) and value.ndim > 1 else value


class Snake(layers.Snake):
    """The operator that training uses."""

    def apply(self, x: Signal) -> Signal:
        return snake(x, self.alpha)


class Depthwise(layers.Depthwise):
    """The operator that training uses, cropped to the steps that its own zero padding does not reach."""

    def apply(self, x: Signal) -> Signal:
        return depthwise(x, self.taps, self.bias, self.dilation)[:, self.reach : x.shape[1] - self.reach]


@dataclass(frozen=True)
class Pointwise(layers.Pointwise, Packed):
    """One matrix product."""

    packed: Tensor

    def apply(self, x: Signal) -> Signal:
        return kernels.linear(x, self.packed, self.matrix.shape[0], self.bias)


@dataclass(frozen=True, kw_only=True)
class Convolution(layers.Convolution, Packed):
    """One matrix product on overlapping rows."""

    packed: Tensor

    def apply(self, x: Signal) -> Signal:
        if self.packed.ndim == 1:
            return kernels.single(x, self.packed, self.bias)
        return kernels.linear(x, self.packed, len(self.bias), self.bias, rows=x.shape[1] - 2 * self.reach)


@dataclass(frozen=True)
class Downsample(layers.Downsample, Packed):
    """One matrix product on overlapping rows, `stride` steps apart."""

    packed: Tensor

    def apply(self, x: Signal) -> Signal:
        rows = x.shape[1] // self.stride - 1
        return kernels.linear(x, self.packed, len(self.bias), self.bias, rows=rows, step=self.stride)


@dataclass(frozen=True)
class Upsample(layers.Upsample, Packed):
    """One matrix product on pairs of neighbouring frames."""

    packed: Tensor

    def apply(self, x: Signal) -> Signal:
        steps = kernels.linear(x, self.packed, len(self.bias), self.bias, rows=x.shape[1] - 1)
        return steps.unflatten(2, (self.stride, -1)).flatten(1, 2)


@dataclass(frozen=True, kw_only=True)
class Attention(layers.Attention, Packed):
    """Projections on the kernels."""

    packed: tuple[Tensor, Tensor]

    def project_in(self, x: Signal) -> Signal:
        return kernels.linear(x, self.packed[0], self.to_qkv.shape[0])

    def project_out(self, x: Signal) -> Signal:
        return kernels.linear(x, self.packed[1], self.to_out.shape[0])


@dataclass(frozen=True)
class Units(layers.Units):
    """Units in one pass along the signal, then the layer after them, whose context the pass leaves room for."""

    stack: kernels.UnitStack | None = None
    last: Windowed | None = None

    @classmethod
    def of(cls, plain: layers.Units, bfloat16: bool, last: Windowed | None) -> Units:
        """The units on kernels; `last` is the layer after them if it needs context of one input."""
        units = [
            kernels.Unit(
                unit.alpha,
                unit.conv.taps,
                unit.conv.bias,
                unit.beta,
                kernels.packed(unit.matrix, bfloat16),
                unit.bias,
                unit.conv.dilation,
            )
            for unit in plain.units
            if isinstance(unit.conv, layers.Depthwise)
        ]
        noise = None if plain.noise is None else kernels.packed(plain.noise.matrix, bfloat16)
        narrow = bfloat16 and isinstance(last, layers.Downsample | layers.Upsample)
        stack = kernels.UnitStack(units, noise, plain.alpha, bfloat16=narrow)
        shapes = [replace(unit, matrix=_shape_of(unit.matrix)) for unit in plain.units]
        drawn = None if plain.noise is None else replace(plain.noise, matrix=_shape_of(plain.noise.matrix))
        return cls(shapes, drawn, plain.alpha, stack, last)

    @property
    def up(self) -> int:  # type: ignore[override]
        return 1 if self.last is None else self.last.up

    @property
    def down(self) -> int:  # type: ignore[override]
        return 1 if self.last is None else self.last.down

    @property
    def channels(self) -> list[int]:
        return super().channels + ([] if self.last is None else self.last.channels)

    def context(self, offset: int) -> tuple[list[int], int]:
        context, offset = super().context(offset)
        more, offset = ([], offset) if self.last is None else self.last.context(offset)
        return context + more, offset

    def last_input(self, step: int) -> int:
        return super().last_input(step if self.last is None else self.last.last_input(step))

    def __call__(self, x: Signal, tails: Tails, span: Span) -> tuple[Signal, Tails]:  # type: ignore[override]
        assert self.stack is not None
        inner, outer = tails[: len(self.units)], tails[len(self.units) :]
        starts, reach = [], 0
        for unit in self.units:
            starts.append([start - reach for start in span.starts])
            reach += unit.conv.reach
        e = None if self.noise is None else draw_noise(span, self.noise.layer, x)
        room = outer[0].shape[1] if outer else 0
        y, new_tails = self.stack(x, inner, starts, span.lengths, e, room)
        if self.last is None:
            return y, new_tails
        y[:, :room] = outer[0]
        y, tail = span.shifted(-reach).masked(y, room)
        return self.last.apply(y), [*new_tails, tail]


def draw_noise(span: Span, layer: int, x: Signal) -> Tensor | None:
    """Span.noise, drawn by the kernel."""
    return span.noise(layer, x, lambda draws: kernels.noise(*_keys(layer, draws), x.shape[1]))


def _keys(layer: int, draws: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [noise_key(seed, layer) for seed, _ in draws], [start for _, start in draws]


def scale_to_c(scale: Scale) -> Scale:
    """A scale of the quantiser on the kernels."""
    values = {f.name: getattr(scale, f.name) for f in fields(scale)}
    matrices = kernels.packed(scale.in_matrix), kernels.packed(scale.out_matrix)
    return CompiledScale(**values, packed=(*matrices, kernels.packed_entries(scale.directions)))


@dataclass(frozen=True)
class CompiledScale(Scale):
    """Projections and the search for the nearest entry in C."""

    packed: tuple[Tensor, Tensor, Tensor]

    def project_in(self, latent: Signal) -> Vectors:
        return kernels.linear(latent, self.packed[0], len(self.in_bias), self.in_bias)

    def project_out(self, vectors: Vectors) -> Signal:
        return kernels.linear(vectors, self.packed[1], len(self.out_bias), self.out_bias)

    def nearest(self, vectors: Vectors) -> Codes:
        return kernels.nearest(vectors, self.packed[2], len(self.directions))
