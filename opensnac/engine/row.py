"""Layers in a row that take a signal in pieces and give what the whole signal would have given.

Each layer keeps the last steps of its input, so a piece goes in and as much comes out, late by the row's look-ahead.
The same few lines do long files in flat memory, batches of clips of unequal lengths, and many streams that each stand
somewhere else. Places are counted in samples, so that every layer's steps are whole numbers of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from opensnac.engine.layers import Grouped, Layer, Spans, Tails
from opensnac.engine.span import DeviceSpan, Span
from opensnac.engine.state import State
from opensnac.model.layers import Signal

LEAST_STEPS = 256  # of a part, so that what is kept from part to part stays a small share


@dataclass(frozen=True)
class Stage:
    """A layer, and where its input lies."""

    layer: Layer
    offset: int  # the first step of the first piece of its input
    tick: int  # samples of a step of its input
    keeps: list[int]  # steps kept from piece to piece, of each of its inputs
    tails: slice  # where in a state they are
    unit: int = 1  # parts of its input are multiples of this

    def position(self, pushed: int) -> int:
        """Of the next step of its input, after `pushed` samples."""
        return self.offset + pushed // self.tick


@dataclass(frozen=True)
class _Walk:
    """The stages that x, or one of `parts` like it, goes through: from `first` to `stop`, or where parts gather."""

    first: int
    stop: int
    span: Spans  # where x lies, in samples
    parts: int = 1
    gathers: bool = False  # whether to stop as soon as the parts fit the cache together


class Row:
    """Layers in a row. Pieces are multiples of `multiple` steps of `tick` samples, the first begins at step `offset`.

    With `cache_bytes` a piece goes through layers in parts of so many, which stay in the processor's cache.
    """

    def __init__(
        self, layers: Iterable[Layer], multiple: int, tick: int, offset: int = 0, cache_bytes: int | None = None
    ) -> None:
        self.multiple, self.tick, self.offset, self._cache_bytes = multiple, tick, offset, cache_bytes
        stages: list[Stage] = []
        kept = 0
        for layer in layers:
            keeps, after = layer.plan(offset)
            stages.append(Stage(layer, offset, tick, keeps, slice(kept, kept + len(keeps))))
            offset, kept, tick = after, kept + len(keeps), tick * layer.down // layer.up
        self.out_offset, self.out_tick = offset, tick
        self.stages = [replace(stage, unit=self._unit(stages[i:])) for i, stage in enumerate(stages)]
        grouped = [i for i, stage in enumerate(stages) if isinstance(stage.layer, Grouped)]
        borders = sorted({0, *grouped, *(i + 1 for i in grouped), len(stages)})
        self._sections = [*itertools.pairwise(borders)]  # all steps of a piece go through one before the next

    def _unit(self, stages: list[Stage]) -> int:
        """Steps of the first stage's input that are whole steps everywhere, up to a stage that needs groups."""
        until = itertools.takewhile(lambda stage: not isinstance(stage.layer, Grouped), stages)
        ticks = [*(stage.tick for stage in until), self.out_tick]
        return math.lcm(*(tick // math.gcd(tick, stages[0].tick) for tick in ticks))

    @property
    def layers(self) -> list[Layer]:
        """The layers in the order they work in."""
        return [stage.layer for stage in self.stages]

    def start(self, lengths: Sequence[int | None], seeds: Sequence[int | None], waiting: Tensor) -> State:
        """The state of signals that have not begun; `waiting` tells the type, the device and what comes first."""
        tails = [
            waiting.new_zeros(len(lengths), keep, channels)
            for stage in self.stages
            for keep, channels in zip(stage.keeps, stage.layer.channels, strict=True)
        ]
        return State([*lengths], [*seeds], tails, waiting)

    def first_step(self, state: State) -> list[int]:
        """For each signal the output step that the next piece's output will begin with."""
        return [self.out_offset + pushed // self.out_tick for pushed in state.pushed]

    def push(self, x: Signal, state: State) -> Signal:
        """Take the next piece (batch, steps, channels); what comes out begins at `first_step` from before."""
        samples, tails, pushed = x.shape[1] * self.tick, list(state.tails), list(state.pushed)
        span = Span(pushed, state.lengths, state.seeds).beside(x.device)
        for first, stop in self._sections:
            x, skipped = self._needed(x, first, pushed, state)
            pushed, span = [before + skipped for before in pushed], span.later(skipped)
            x, _ = self._through(x, _Walk(first, stop, span), tails)
        early = (pushed[0] - state.pushed[0]) // self.out_tick
        state.tails, state.pushed = tails, [before + samples for before in state.pushed]
        return F.pad(x, (0, 0, early, samples // self.out_tick - early - x.shape[1]))

    def step(self, x: Signal, tails: Tails, span: DeviceSpan) -> tuple[Signal, Tails]:
        """As push, for x at `span` in samples: (output, new tails). Nothing depends on values."""
        kept = [*tails]
        for stage in self.stages:
            x, kept[stage.tails] = stage.layer(x, tails[stage.tails], span.in_steps(stage.offset, stage.tick))
        return x, kept

    def run(self, pieces: Iterable[Signal], state: State) -> Iterator[Signal]:
        """Push whole signals of known lengths piece by piece; the outputs joined begin at step 0."""
        skip, piece = -self.out_offset, None
        for piece in pieces:
            y = self.push(piece, state)
            yield y[:, min(skip, y.shape[1]) :]
            skip -= min(skip, y.shape[1])
        if piece is not None:
            yield self.drain(piece, state)[:, skip:]

    def drain(self, like: Signal, state: State) -> Signal:
        """Push zeros, of the channels of `like`, until everything before the signals' ends has come out."""
        late, piece = self.out_offset * self.out_tick, self.multiple * self.tick
        missing = [length - late - pushed for length, pushed in zip(state.lengths, state.pushed, strict=True) if length]
        steps = max(0, -(-max(missing, default=0) // piece)) * self.multiple
        return self.push(like.new_zeros(like.shape[0], steps, like.shape[2]), state)

    def _needed(self, x: Signal, first: int, pushed: list[int], state: State) -> tuple[Signal, int]:
        """x, the input of stage `first`, without what lies before all signals or too far beyond all ends to matter.

        And how many samples the former stands for.
        """
        stage, layers = self.stages[first], self.layers[first:]
        early = max(0, -max(stage.position(before) for before in pushed)) // stage.unit * stage.unit
        if early >= x.shape[1] or any(isinstance(layer, Grouped) for layer in layers):
            early = 0  # groups would begin elsewhere
        late = x.shape[1]
        if None not in state.lengths:
            newest = [
                newest_input(layers, length // self.out_tick - 1) for length in state.lengths if length is not None
            ]
            counts = [last + 1 - stage.position(before) for last, before in zip(newest, pushed, strict=True)]
            late = min(late, max(early, *counts, 0) // -stage.unit * -stage.unit)
        return x[:, early:late], early * stage.tick

    def _through(self, x: Signal, walk: _Walk, tails: Tails) -> tuple[Signal, int]:
        """Run x through the stages from `walk.first` on: what comes out, and the stage that it comes out before."""
        i = walk.first
        while not self._ends_before(i, x, walk):
            stage = self.stages[i]
            if (size := self._steps_at_once(stage, x)) < x.shape[1]:
                x, i = self._in_parts(x, size, replace(walk, first=i), tails)
            else:
                span = walk.span.in_steps(stage.offset, stage.tick)
                x, tails[stage.tails] = stage.layer(x, tails[stage.tails], span)
                i += 1
        return x, i

    def _ends_before(self, stage: int, x: Signal, walk: _Walk) -> bool:
        """Whether a later part, or what becomes of all parts, goes on from here."""
        small = self._cache_bytes is not None and 4 * x.numel() * walk.parts <= self._cache_bytes
        return stage == walk.stop or (walk.gathers and stage > walk.first and small)

    def _steps_at_once(self, stage: Stage, x: Signal) -> int:
        """Steps of its input x to be worked on together, from here to where they are gathered."""
        if self._cache_bytes is None or 4 * x.numel() <= self._cache_bytes or isinstance(stage.layer, Grouped):
            return x.shape[1]
        steps = max(self._cache_bytes // (4 * x.shape[0] * x.shape[2]), LEAST_STEPS)
        return -(-steps // stage.unit) * stage.unit

    def _in_parts(self, x: Signal, size: int, walk: _Walk, tails: Tails) -> tuple[Signal, int]:
        """As _through, `size` steps at a time; all parts stop where the first one does."""
        outputs, stop, samples = [], walk.stop, size * self.stages[walk.first].tick
        parts = x.split(size, dim=1)
        for n, part in enumerate(parts):
            span = walk.span.later(n * samples)
            y, stop = self._through(part, _Walk(walk.first, stop, span, len(parts), gathers=n == 0), tails)
            outputs.append(y)
        return torch.cat(outputs, dim=1), stop


def newest_input(layers: Sequence[Layer], step: int) -> int:
    """The newest step of a row's input that step `step` of its output depends on."""
    for layer in reversed(layers):
        step = layer.newest(step)
    return step
