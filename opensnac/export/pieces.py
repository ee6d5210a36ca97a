"""Layers as nodes, for signals in chunks: each keeps the last steps of its input as context, in a state.

As in opensnac/engine/stack.py, n steps go in and n come out, delayed; every layer sees zeros before a signal's
start and beyond its end.
"""

from __future__ import annotations

import math

import numpy as np

from opensnac.config import CodecConfig
from opensnac.export.graph import END, FLOAT, INT64, Graph
from opensnac.export.layers import Kernel, Layer, Pads, encoder_layers
from opensnac.export.weights import Weights
from opensnac.export.whole import Whole


class Pieces(Whole):
    """Writes layers for chunks, the first of which begins at step `offset`; a step is `tick` samples."""

    def __init__(
        self, graph: Graph, weights: Weights, channels: int, *, offset: int, tick: int, noise: bool = False
    ) -> None:
        super().__init__(graph, weights, channels, noise)
        self.offset, self.tick, self._first = offset, tick, offset * tick
        self.state_parts: list[tuple[int, int]] = []  # channels and steps of each part of the state
        self._state = graph.input("state", FLOAT, ["batch", "state_size"])
        self._position = graph.input("position", INT64, ["batch"])
        self._length = graph.input("length", INT64, ["batch"])
        self._tails: list[str] = []
        self._keep = 0  # context of the layer being written, in steps

    @property
    def state_size(self) -> int:
        """Values in the state so far."""
        return sum(math.prod(part) for part in self.state_parts)

    def noise_inputs(self) -> tuple[str, str]:
        return self.graph.input("seed", INT64, ["batch"]), self.graph.input("noise_gain", FLOAT, ["batch"])

    def layer(self, x: str, layer: Layer) -> str:
        self._keep, after = layer.context(self.offset)
        y = super().layer(x, layer)
        self.offset, self.tick = after, self.tick * layer.down // layer.up
        return y

    def next_state(self) -> str:
        """The new context of all layers, flattened."""
        return self.graph("Concat", *self._tails, axis=1)

    def with_context(self, x: str, layer: Kernel) -> tuple[str, Pads]:
        return (self._masked(self._prepend_context(x)) if self._keep else x), layer.piece

    def without_context(self, x: str, reach: int) -> str:
        return self._slice(x, reach, -reach)

    def groups(self, x: str) -> str:
        x = self._masked(self._prepend_context(x))
        return self._slice(x, 0, -self._keep) if self._keep else x

    def positions(self, x: str) -> str:
        return self.graph("Max", self._steps_from(x, 0), self.graph.number(0))

    def _prepend_context(self, x: str) -> str:
        """x with its context in front; the last steps of both are the next chunk's context."""
        graph, keep = self.graph, self._keep
        if not keep:
            return x
        begin = self.state_size
        self.state_parts.append((self.channels, keep))
        tail = self._slice(self._state, begin, self.state_size, axis=1)
        tail = graph("Reshape", tail, graph.integers(0, self.channels, keep))
        x = graph("Concat", tail, x, axis=2)
        self._tails.append(graph("Flatten", self._slice(x, -keep, END)))
        return x

    def _masked(self, x: str) -> str:
        """x, with context, zeroed outside its signals."""
        graph = self.graph
        step = self._steps_from(x, -self._keep)
        length = graph("Div", graph("Unsqueeze", self._length, graph.integers(1)), graph.number(self.tick))
        inside = graph("And", graph("GreaterOrEqual", step, graph.number(0)), graph("Less", step, length))
        inside = graph("Unsqueeze", inside, graph.integers(1))
        return graph("Where", inside, x, graph.constant(np.array(0, np.float32)))

    def _steps_from(self, x: str, early: int) -> str:
        """The positions of x's steps in the signal, (batch, steps), if x begins `early` steps after the chunk."""
        graph = self.graph
        pushed = graph("Sub", graph("Unsqueeze", self._position, graph.integers(1)), graph.number(self._first))
        start = graph("Add", graph("Div", pushed, graph.number(self.tick)), graph.number(self.offset + early))
        return graph("Add", start, self.steps(x))

    def _slice(self, x: str, start: int, end: int, axis: int = 2) -> str:
        return self.graph("Slice", x, *map(self.graph.integers, (start, end, axis)))


def encoder_look_ahead(config: CodecConfig) -> int:
    """Samples after a group of frames that its codes depend on."""
    newest = 0
    for layer in reversed(encoder_layers(config)):
        newest = layer.last_input(newest)
    return newest + 1 - config.frame_multiple * config.hop_length
