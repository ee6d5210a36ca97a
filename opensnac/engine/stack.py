"""A stack of layers that takes a signal in pieces and gives exactly what the whole signal would give.

Each layer keeps the last steps of its input as context, so n steps go in and n come out, delayed by the stack's
look-ahead. The same code serves long files in constant memory, batches of clips of unequal lengths, and many streams at
different positions. Positions are counted in samples, a whole number of which make a step of any layer.
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

MIN_STEPS = 256  # of a part, so that context stays a small share of it


@dataclass(frozen=True)
class Stage:
    """A layer, and the position of its input."""

    layer: Layer
    offset: int  # first step of the first piece of its input
    tick: int  # samples per step of its input
    context: list[int]  # steps of context of each of its inputs
    tails: slice  # where a state holds them
    unit: int = 1  # parts of its input are multiples of this

    def position(self, pushed: int) -> int:
        """The next step of its input after `pushed` samples."""
        return self.offset + pushed // self.tick


@dataclass(frozen=True)
class _Walk:
    """The stages that x, or one of `parts` like it, goes through: from `first` up to `stop`, or to the join."""

    first: int
    stop: int
    span: Spans  # where x lies, in samples
    parts: int = 1
    joins: bool = False  # whether to stop as soon as all parts together fit the cache


class LayerStack:
    """Layers in order. Pieces are multiples of `multiple` steps of `tick` samples; the first is at step `offset`.

    With `cache_bytes` a piece goes through the layers in parts of that size, which stay in the CPU's cache.
    """

    def __init__(
        self, layers: Iterable[Layer], multiple: int, tick: int, offset: int = 0, cache_bytes: int | None = None
    ) -> None:
        self.multiple, self.tick, self.offset, self._cache_bytes = multiple, tick, offset, cache_bytes
        stages: list[Stage] = []
        count = 0  # of tails
        for layer in layers:
            context, after = layer.context(offset)
            stages.append(Stage(layer, offset, tick, context, slice(count, count + len(context))))
            offset, count, tick = after, count + len(context), tick * layer.down // layer.up
        self.out_offset, self.out_tick = offset, tick
        self.stages = [replace(stage, unit=self._unit(stages[i:])) for i, stage in enumerate(stages)]
        grouped = [i for i, stage in enumerate(stages) if isinstance(stage.layer, Grouped)]
        borders = sorted({0, *grouped, *(i + 1 for i in grouped), len(stages)})
        self._sections = [*itertools.pairwise(borders)]  # a whole piece goes through one before the next

    def _unit(self, stages: list[Stage]) -> int:
        """Fewest steps of the first stage's input that are whole steps of every stage up to one that needs groups."""
        until = itertools.takewhile(lambda stage: not isinstance(stage.layer, Grouped), stages)
        ticks = [*(stage.tick for stage in until), self.out_tick]
        return math.lcm(*(tick // math.gcd(tick, stages[0].tick) for tick in ticks))

    @property
    def layers(self) -> list[Layer]:
        """The layers, in order."""
        return [stage.layer for stage in self.stages]

    def start(self, lengths: Sequence[int | None], seeds: Sequence[int | None], waiting: Tensor) -> State:
        """The state of signals that have not begun; `waiting` sets type and device, and holds the first steps."""
        tails = [
            waiting.new_zeros(len(lengths), keep, channels)
            for stage in self.stages
            for keep, channels in zip(stage.context, stage.layer.channels, strict=True)
        ]
        return State([*lengths], [*seeds], tails, waiting)

    def first_step(self, state: State) -> list[int]:
        """The output step that each signal's next piece of output begins with."""
        return [self.out_offset + pushed // self.out_tick for pushed in state.pushed]

    def push(self, x: Signal, state: State) -> Signal:
        """Take the next piece (batch, steps, channels); its output begins at `first_step` before the call."""
        samples, tails, pushed = x.shape[1] * self.tick, list(state.tails), list(state.pushed)
        span = Span(pushed, state.lengths, state.seeds).on_device(x.device)
        for first, stop in self._sections:
            x, skipped = self._needed(x, first, pushed, state)
            pushed, span = [before + skipped for before in pushed], span.shifted(skipped)
            x, _ = self._apply_stages(x, _Walk(first, stop, span), tails)
        early = (pushed[0] - state.pushed[0]) // self.out_tick
        state.tails, state.pushed = tails, [before + samples for before in state.pushed]
        return F.pad(x, (0, 0, early, samples // self.out_tick - early - x.shape[1]))

    def step(self, x: Signal, tails: Tails, span: DeviceSpan) -> tuple[Signal, Tails]:
        """As push, for x at `span` in samples: (output, new tails). No control flow depends on values."""
        new_tails = [*tails]
        for stage in self.stages:
            x, new_tails[stage.tails] = stage.layer(x, tails[stage.tails], span.in_steps(stage.offset, stage.tick))
        return x, new_tails

    def run(self, pieces: Iterable[Signal], state: State) -> Iterator[Signal]:
        """Push whole signals of known lengths piece by piece; the concatenated outputs begin at step 0."""
        skip, piece = -self.out_offset, None
        for piece in pieces:
            y = self.push(piece, state)
            yield y[:, min(skip, y.shape[1]) :]
            skip -= min(skip, y.shape[1])
        if piece is not None:
            yield self.drain(piece, state)[:, skip:]

    def drain(self, like: Signal, state: State) -> Signal:
        """Push zeros, with the channels of `like`, until all output up to the signals' ends is out."""
        late, piece = self.out_offset * self.out_tick, self.multiple * self.tick
        missing = [length - late - pushed for length, pushed in zip(state.lengths, state.pushed, strict=True) if length]
        steps = max(0, -(-max(missing, default=0) // piece)) * self.multiple
        return self.push(like.new_zeros(like.shape[0], steps, like.shape[2]), state)

    def _needed(self, x: Signal, first: int, pushed: list[int], state: State) -> tuple[Signal, int]:
        """x, the input of stage `first`, cropped to what any output depends on; and the samples cropped from its start.

        Cropped are steps before the start of every signal, and steps too far beyond the end of every signal.
        """
        stage, layers = self.stages[first], self.layers[first:]
        early = max(0, -max(stage.position(before) for before in pushed)) // stage.unit * stage.unit
        if early >= x.shape[1] or any(isinstance(layer, Grouped) for layer in layers):
            early = 0  # cropping would shift the groups
        late = x.shape[1]
        if None not in state.lengths:
            newest = [last_input(layers, length // self.out_tick - 1) for length in state.lengths if length is not None]
            counts = [last + 1 - stage.position(before) for last, before in zip(newest, pushed, strict=True)]
            late = min(late, max(early, *counts, 0) // -stage.unit * -stage.unit)
        return x[:, early:late], early * stage.tick

    def _apply_stages(self, x: Signal, walk: _Walk, tails: Tails) -> tuple[Signal, int]:
        """Run x through the stages from `walk.first` on: the output, and the index of the stage that takes it next."""
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
        """Whether this part ends before `stage`: at the walk's end, or where the parts are joined."""
        small = self._cache_bytes is not None and 4 * x.numel() * walk.parts <= self._cache_bytes
        return stage == walk.stop or (walk.joins and stage > walk.first and small)

    def _steps_at_once(self, stage: Stage, x: Signal) -> int:
        """Steps of its input x in one part, from here to where the parts are joined."""
        if self._cache_bytes is None or 4 * x.numel() <= self._cache_bytes or isinstance(stage.layer, Grouped):
            return x.shape[1]
        steps = max(self._cache_bytes // (4 * x.shape[0] * x.shape[2]), MIN_STEPS)
        return -(-steps // stage.unit) * stage.unit

    def _in_parts(self, x: Signal, size: int, walk: _Walk, tails: Tails) -> tuple[Signal, int]:
        """As _apply_stages, `size` steps at a time; all parts stop at the stage where the first one does."""
        outputs, stop, samples = [], walk.stop, size * self.stages[walk.first].tick
        parts = x.split(size, dim=1)
        for n, part in enumerate(parts):
            span = walk.span.shifted(n * samples)
            y, stop = self._apply_stages(part, _Walk(walk.first, stop, span, len(parts), joins=n == 0), tails)
            outputs.append(y)
        return torch.cat(outputs, dim=1), stop


def last_input(layers: Sequence[Layer], step: int) -> int:
    """The last step of the input of `layers` that step `step` of their output depends on."""
    for layer in reversed(layers):
        step = layer.last_input(step)
    return step
