"""Layers as nodes, for whole signals: (batch, channels, steps).

A Snake computes y + sin²(y) of y = alpha x, alpha times its value; the next weights are divided by alpha to compensate.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from opensnac.config import HEAD_CHANNELS
from opensnac.errors import ModelError
from opensnac.export.graph import INT64, Graph
from opensnac.export.layers import Attention, Kernel, Layer, Noise, Pads, Tanh, Unit, Upsample
from opensnac.export.noise import gaussian, noise_key
from opensnac.export.weights import Array, Weights

MIN_ALPHA = 1e-9  # below it Snake equals x in float32, and division would lose precision
NORM_EPSILON = 1e-5
ROTARY_BASE = 10000.0


class Whole:
    """Writes layers into a graph. `noise` includes the decoder's noise, with an input for its seed."""

    def __init__(self, graph: Graph, weights: Weights, channels: int, noise: bool = False) -> None:
        self.graph, self.weights, self.channels = graph, weights, channels
        self._noisy = noise
        if noise:
            self._seed, self._gain = (graph("Unsqueeze", name, graph.integers(1)) for name in self.noise_inputs())

    def noise_inputs(self) -> tuple[str, str]:
        """The noise's seeds and scales, one for all signals or one for each."""
        seed = self.graph.input("seed", INT64, ["seeds"], np.zeros(1, np.int64))
        return seed, self.graph.constant(np.ones(1, np.float32))

    def apply(self, x: str, layers: Iterable[Layer]) -> str:
        """Apply the layers to x in order."""
        for layer in layers:
            x = self.layer(x, layer)
        return x

    def layer(self, x: str, layer: Layer) -> str:
        """Apply one layer to x."""
        match layer:
            case Unit():
                return self._unit(x, layer)
            case Kernel():
                x, pads = self.with_context(x, layer)
                if not layer.snake:
                    return self._convolve(x, layer, pads)
                alpha = self._alpha(layer.snake)
                return self._convolve(self._add_squared_sine(self._scale(x, alpha)), layer, pads, before=alpha)
            case Noise():
                return self._noise(x, layer) if self._noisy else x
            case Attention():
                return self._attend(self.groups(x), layer)
            case Tanh():
                return self.graph("Tanh", x)
        return self.groups(x)

    def with_context(self, x: str, layer: Kernel) -> tuple[str, Pads]:
        """x with a convolution's context, and the padding still to be added at its ends."""
        return x, layer.whole

    def without_context(self, x: str, reach: int) -> str:
        """The input of `with_context` without the added context."""
        return x

    def groups(self, x: str) -> str:
        """x cut to whole groups of steps."""
        return x

    def steps(self, x: str) -> str:
        """0, 1, ... for each step of x, (steps,)."""
        count = self.graph("Squeeze", self.graph("Shape", x, start=2, end=3))
        return self.graph("Range", self.graph.number(0), count, self.graph.number(1))

    def positions(self, x: str) -> str:
        """The position in the signal of each step of x, (batch or 1, steps)."""
        return self.graph("Unsqueeze", self.steps(x), self.graph.integers(0))

    def _unit(self, x: str, unit: Unit) -> str:
        x, pads = self.with_context(x, unit.conv)
        first, second = self._alpha(unit.conv.snake), self._alpha(unit.pointwise.snake)
        y = self._convolve(self._add_squared_sine(self._scale(x, first)), unit.conv, pads, before=first, after=second)
        y = self._convolve(self._add_squared_sine(y), unit.pointwise, (0, 0), before=second)
        return self.graph("Add", self.without_context(x, unit.conv.reach), y)

    def _alpha(self, name: str) -> Array:
        alpha = self.weights.get(f"{name}.alpha", (1, self.channels, 1)).reshape(-1)
        return np.where(np.abs(alpha) < MIN_ALPHA, np.float32(MIN_ALPHA), alpha)

    def _scale(self, x: str, alpha: Array) -> str:
        return self.graph("Mul", x, self.graph.constant(alpha[None, :, None]))

    def _add_squared_sine(self, x: str) -> str:
        """x + sin²(x)"""
        sine = self.graph("Sin", x)
        return self.graph("Add", x, self.graph("Mul", sine, sine))

    def _convolve(
        self, x: str, layer: Kernel, pads: Pads, before: Array | None = None, after: Array | None = None
    ) -> str:
        """A convolution whose input was multiplied by `before` and whose output is to be by `after`, per channel."""
        weight, bias = self.weights[f"{layer.name}.weight"], self.weights[f"{layer.name}.bias"]
        transposed, depthwise = isinstance(layer, Upsample), getattr(layer, "depthwise", False)
        enters = 0 if transposed or depthwise else 1  # the axis of the input channels
        if weight.ndim != 3 or weight.shape[enters] != self.channels:
            raise ModelError(f"{layer.name}.weight: expected {self.channels} input channels, got shape {weight.shape}")
        if before is not None:
            weight = weight / (before[:, None, None] if enters == 0 else before[None, :, None])
        if after is not None:
            weight, bias = weight * after[:, None, None], bias * after
        out = self.channels = len(bias)
        stored = self.graph.weight(weight, axis=1 if transposed else 0)
        return self.graph(
            "ConvTranspose" if transposed else "Conv",
            x,
            stored,
            self.graph.constant(bias),
            kernel_shape=weight.shape[2:],
            pads=pads,
            strides=[getattr(layer, "stride", 1)],
            dilations=[getattr(layer, "dilation", 1)],
            group=out if depthwise else 1,
        )

    def _noise(self, x: str, layer: Noise) -> str:
        graph = self.graph
        matrix = self.weights.get(f"{layer.name}.weight", (self.channels, self.channels, 1))
        e = gaussian(graph, noise_key(graph, self._seed, layer.number), self.positions(x))
        e = graph("Unsqueeze", graph("Mul", e, self._gain), graph.integers(1))
        projected = graph("Conv", x, graph.weight(matrix, axis=0), kernel_shape=[1])
        return graph("Add", x, graph("Mul", projected, e))

    def _attend(self, x: str, layer: Attention) -> str:
        """x + attention(norm(x)) inside windows, all of full size."""
        graph, channels, heads = self.graph, self.channels, self.channels // HEAD_CHANNELS
        name, x = layer.name, graph("Transpose", x, perm=[0, 2, 1])

        def matrix(part: str, rows: int) -> str:
            return graph.weight(np.ascontiguousarray(self.weights.get(part, (rows, channels)).T), axis=1)

        scale, bias = (self.weights.get(f"{name}.norm.{part}", (channels,)) for part in ("weight", "bias"))
        normed = graph("LayerNormalization", x, *map(graph.constant, (scale, bias)), epsilon=NORM_EPSILON)
        qkv = graph("MatMul", normed, matrix(f"{name}.to_qkv.weight", 3 * channels))
        qkv = graph("Reshape", qkv, graph.integers(-1, layer.group, 3, heads, HEAD_CHANNELS))
        qkv = graph("Transpose", qkv, perm=[2, 0, 3, 1, 4])  # (3, windows, heads, window, head)
        q, k, v = (graph("Gather", qkv, graph.number(i), axis=0) for i in range(3))
        k = graph("Transpose", self._rotate(k, layer), perm=[0, 1, 3, 2])
        likeness = graph("MatMul", self._rotate(q, layer), k)
        likeness = graph("Mul", likeness, graph.constant(np.array(HEAD_CHANNELS**-0.5, np.float32)))
        y = graph("MatMul", graph("Softmax", likeness, axis=-1), v)
        y = graph("Reshape", graph("Transpose", y, perm=[0, 2, 1, 3]), graph("Shape", x))
        y = graph("MatMul", y, matrix(f"{name}.to_out.weight", channels))
        return graph("Transpose", graph("Add", x, y), perm=[0, 2, 1])

    def _rotate(self, x: str, layer: Attention) -> str:
        """Rotary embedding of (windows, heads, window, head)."""
        frequency = ROTARY_BASE ** -(np.arange(0, HEAD_CHANNELS, 2) / HEAD_CHANNELS)
        angles = np.tile(np.arange(layer.group)[:, None] * frequency, 2)
        first, second = self.graph.several("Split", [x], 2, axis=-1, num_outputs=2)
        turned = self.graph("Concat", self.graph("Neg", second), first, axis=-1)
        parts = [
            self.graph("Mul", part, self.graph.constant(turn(angles).astype(np.float32)))
            for part, turn in ((x, np.cos), (turned, np.sin))
        ]
        return self.graph("Add", *parts)
