"""A row of layers that takes a signal in pieces and gives what the whole signal would have given.

Each windowed layer keeps the last steps of its input, so a piece goes in and as much comes out, late by the row's
look-ahead. Before a signal's start and beyond its end every layer must see zeros, not what the layer before makes of
zeros, so inputs are masked there. The same few lines do long files in flat memory, batches of clips of unequal lengths,
and many streams that each stand somewhere else.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from opensnac import kernels
from opensnac.errors import OpensnacError
from opensnac.files import whole_file
from opensnac.model.layers import (
    Convolution,
    Downsample,
    Grouped,
    Kernel,
    Noise,
    ResidualUnit,
    Signal,
    Snake,
    Upsample,
    Windowed,
    infers,
)
from opensnac.model.noise import noise_from

CACHE_BYTES = 16 << 20  # of activations that the C kernels pass over layer by layer
LEAST_STEPS = 256  # of these, so that what is kept from part to part stays a small share


@dataclass
class State:
    """Where a batch of signals stands between two pieces. Counts are in steps of the pipeline's input."""

    lengths: list[int | None]  # None while a signal's end is not known
    seeds: list[int | None]  # of the noise; None leaves it out
    pushed: list[int] = field(default_factory=list)
    given: list[int] = field(default_factory=list)  # steps of output that a stream has handed out
    waiting: Tensor | None = None  # (batch, steps, channels) that do not fill a piece yet
    tails: list[Tensor] = field(default_factory=list)  # what each windowed stage keeps of its input

    def __post_init__(self) -> None:
        self.pushed = self.pushed or [0] * len(self.lengths)
        self.given = self.given or [0] * len(self.lengths)

    def fork(self) -> State:
        """A copy that goes its own way."""
        copies: dict[str, Any] = {name: list(getattr(self, name)) for name in (*_LISTS, "tails")}
        return dataclasses.replace(self, **copies)

    def to(self, device: torch.device | str) -> State:
        """The state on another device."""
        waiting = None if self.waiting is None else self.waiting.to(device)
        return dataclasses.replace(self.fork(), waiting=waiting, tails=[tail.to(device) for tail in self.tails])

    def split(self) -> list[State]:
        """Each signal's own state."""
        states = []
        for i in range(len(self.lengths)):
            waiting = None if self.waiting is None else self.waiting[i : i + 1]
            lists = {name: [getattr(self, name)[i]] for name in _LISTS}
            states.append(State(**lists, waiting=waiting, tails=[tail[i : i + 1] for tail in self.tails]))
        return states

    @staticmethod
    def join(states: Sequence[State]) -> State:
        """One batch of signals that may stand at different places; OpensnacError if they cannot go together."""
        layouts = {(state._waiting_steps(), len(state.tails)) for state in states}
        if len(layouts) != 1:
            raise OpensnacError(
                "streams to join differ in how much waits to fill a piece, or some have not begun; "
                "push whole groups of frames, and one piece to each stream before it is joined to others"
            )
        lists = {name: [value for state in states for value in getattr(state, name)] for name in _LISTS}
        waiting = [state.waiting for state in states if state.waiting is not None]
        tails = [torch.cat(parts) for parts in zip(*(state.tails for state in states), strict=True)]
        return State(**lists, waiting=torch.cat(waiting) if waiting else None, tails=tails)

    def save(self, path: str | Path) -> None:
        """Write a file that `load` reads: tensors and counts, nothing to unpickle."""
        tensors = {str(i): tail.contiguous() for i, tail in enumerate(self.tails)}
        if self.waiting is not None:
            tensors["waiting"] = self.waiting.contiguous()
        counts = {name: json.dumps(getattr(self, name)) for name in _LISTS}
        with whole_file(Path(path), force=True) as part:
            save_file(tensors, part, metadata=counts)

    @staticmethod
    def load(path: str | Path) -> State:
        """Read what `save` wrote."""
        with safe_open(path, "pt") as file:
            lists = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
            if sorted(lists) != sorted(_LISTS):
                raise OpensnacError(f"{path}: holds no stream's state; give a file that State.save wrote")
            names = set(file.keys())
            waiting = file.get_tensor("waiting") if "waiting" in names else None
            tails = [file.get_tensor(str(i)) for i in range(len(names - {"waiting"}))]
        return State(**lists, waiting=waiting, tails=tails)

    def _waiting_steps(self) -> int:
        return 0 if self.waiting is None else self.waiting.shape[1]


_LISTS = ("lengths", "seeds", "pushed", "given")


@dataclass(frozen=True)
class Stage:
    """A layer, where its input begins, and how much of it is kept."""

    layer: nn.Module
    keep: int  # steps of its input carried from piece to piece
    offset: int  # the first step of the first piece of its input
    rate: Fraction  # steps of its input for each of the pipeline's
    tail: int  # which of a state's tails it keeps them in
    unit: int = 1  # parts of its input are multiples of this

    def position(self, pushed: Fraction) -> int:
        """Of the next step of its input in the signal, after `pushed` steps of the pipeline's."""
        return self.offset + int(pushed * self.rate)

    def steps_at_once(self, x: Signal) -> int:
        """Steps of its input x to be worked on together, from here to where they are gathered."""
        if 4 * x.numel() <= CACHE_BYTES or isinstance(self.layer, Grouped) or not infers(x):
            return x.shape[1]
        steps = max(CACHE_BYTES // (4 * x.shape[0] * x.shape[2]), LEAST_STEPS)
        return -(-steps // self.unit) * self.unit


@dataclass(frozen=True)
class _Walk:
    """The stages that x, or one of `parts` like it, goes through: from `first` to `stop`, or where parts gather."""

    first: int
    stop: int
    pushed: list[Fraction]  # steps of the pipeline's input before x
    parts: int = 1
    gathers: bool = False  # whether to stop as soon as the parts fit the cache together

    def ends_before(self, stage: int, x: Signal) -> bool:
        """Whether a later part, or what becomes of all parts, goes on from here."""
        small = 4 * x.numel() * self.parts <= CACHE_BYTES
        return stage == self.stop or (self.gathers and stage > self.first and small)


class Pipeline:
    """Layers in a row. Pieces are multiples of `multiple` steps, and the first begins at step `offset`.

    With the C kernels a piece goes through layers in parts that stay in the processor's cache.
    """

    def __init__(self, layers: Iterable[nn.Module], multiple: int, offset: int = 0) -> None:
        self.multiple, self.offset = multiple, offset
        stages: list[Stage] = []
        rate, windowed = Fraction(1), 0
        for layer in layers:
            keep, after = layer.plan(offset) if isinstance(layer, Windowed) else (0, offset)
            stages.append(Stage(layer, keep, offset, rate, windowed))
            if isinstance(layer, Windowed):
                offset, rate, windowed = after, rate * layer.rate, windowed + 1
        self.out_offset, self.out_rate = offset, rate
        self.stages = [dataclasses.replace(stage, unit=self._unit(stages[i:])) for i, stage in enumerate(stages)]
        self.rows = _rows_of_units([stage.layer for stage in stages])
        grouped = [i for i, stage in enumerate(stages) if isinstance(stage.layer, Grouped)]
        borders = sorted({0, *grouped, *(i + 1 for i in grouped), len(stages)})
        self.sections = [*itertools.pairwise(borders)]  # all steps of a piece go through one before the next

    def _unit(self, stages: list[Stage]) -> int:
        """Steps of the first stage's input that are whole steps everywhere, up to a stage that needs groups."""
        until = itertools.takewhile(lambda stage: not isinstance(stage.layer, Grouped), stages)
        rates = [*(stage.rate for stage in until), self.out_rate]
        return math.lcm(*((rate / stages[0].rate).denominator for rate in rates))

    def first_step(self, state: State) -> list[int]:
        """For each signal the output step that the next piece's output will begin with."""
        return [self.out_offset + int(pushed * self.out_rate) for pushed in state.pushed]

    def push(self, x: Signal, state: State) -> Signal:
        """Take the next piece (batch, steps, channels); what comes out begins at `first_step` from before."""
        steps, tails, pushed = x.shape[1], dict(enumerate(state.tails)), [Fraction(n) for n in state.pushed]
        for first, stop in self.sections:
            x, skipped = self._needed(x, first, pushed, state)
            pushed = [before + skipped for before in pushed]
            x, _ = self._through(x, _Walk(first, stop, pushed), state, tails)
        state.tails = [tails[i] for i in range(len(tails))]
        early = int((pushed[0] - state.pushed[0]) * self.out_rate)
        state.pushed = [before + steps for before in state.pushed]
        return F.pad(x, (0, 0, early, int(steps * self.out_rate) - early - x.shape[1]))

    def _needed(self, x: Signal, first: int, pushed: list[Fraction], state: State) -> tuple[Signal, Fraction]:
        """x, the input of stage `first`, without what lies before all signals or too far beyond all ends to matter.

        And how many steps of the pipeline's input the former stands for.
        """
        stage, layers = self.stages[first], [stage.layer for stage in self.stages[first:]]
        early = max(0, -max(stage.position(before) for before in pushed)) // stage.unit * stage.unit
        if early >= x.shape[1] or any(isinstance(layer, Grouped) for layer in layers):
            early = 0  # groups would begin elsewhere
        late = x.shape[1]
        if None not in state.lengths:
            lengths = [length for length in state.lengths if length is not None]
            newest = [newest_input(layers, int(length * self.out_rate) - 1) for length in lengths]
            counts = [last + 1 - stage.position(before) for last, before in zip(newest, pushed, strict=True)]
            late = min(late, max(early, *counts, 0) // -stage.unit * -stage.unit)
        return x[:, early:late], early / stage.rate

    def _through(self, x: Signal, walk: _Walk, state: State, tails: dict[int, Tensor]) -> tuple[Signal, int]:
        """Run x through the stages from `walk.first` on: what comes out, and the stage that it comes out before."""
        i = walk.first
        while not walk.ends_before(i, x):
            stage, steps = self.stages[i], x.shape[1]
            if (size := stage.steps_at_once(x)) < steps:
                x, i = self._in_parts(x, size, dataclasses.replace(walk, first=i), state, tails)
            elif (stop := self.rows.get(i)) is not None and infers(x):
                x, i = self._pass_row(x, self.stages[i:stop], walk.pushed, state, tails), stop
            else:
                x, i = self._pass(x, stage, walk.pushed, state, tails), i + 1
        return x, i

    def _in_parts(
        self, x: Signal, size: int, walk: _Walk, state: State, tails: dict[int, Tensor]
    ) -> tuple[Signal, int]:
        """As _through, `size` steps at a time; all parts stop where the first one does."""
        outputs, rate, stop = [], self.stages[walk.first].rate, walk.stop
        parts = x.split(size, dim=1)
        for n, part in enumerate(parts):
            pushed = [before + n * size / rate for before in walk.pushed]
            y, stop = self._through(part, _Walk(walk.first, stop, pushed, len(parts), gathers=n == 0), state, tails)
            outputs.append(y)
        return torch.cat(outputs, dim=1), stop

    def _pass(self, x: Signal, stage: Stage, pushed: list[Fraction], state: State, tails: dict[int, Tensor]) -> Signal:
        """One stage's output for x, which begins after `pushed` steps of the pipeline's input."""
        layer = stage.layer
        if isinstance(layer, Noise):
            return layer(x, self._noise(x, layer, stage, pushed, state))
        if not isinstance(layer, Windowed):
            return layer(x)
        x = torch.cat((x.new_empty(x.shape[0], stage.keep, x.shape[2]), x), dim=1)
        return self._pass_joined(x, stage, pushed, state, tails)

    def _pass_joined(
        self, x: Signal, stage: Stage, pushed: list[Fraction], state: State, tails: dict[int, Tensor]
    ) -> Signal:
        """As _pass, for x that has room in front for what the stage keeps."""
        x[:, : stage.keep] = tails.get(stage.tail, 0)
        self._silence(x, stage, pushed, state)
        tails[stage.tail] = x[:, x.shape[1] - stage.keep :].clone()
        return cast(Windowed, stage.layer).valid(x)

    def _pass_row(
        self, x: Signal, row: Sequence[Stage], pushed: list[Fraction], state: State, tails: dict[int, Tensor]
    ) -> Signal:
        """What a row of residual units makes of x, with noise before it, Snake and a convolution after it."""
        noise, e, alpha, units, starts, last = None, None, None, [], [], None
        for stage in row:
            if isinstance(layer := stage.layer, Noise):
                e = self._noise(x, layer, stage, pushed, state)
                noise = layer.linear.matrix()
            elif isinstance(layer, ResidualUnit):
                units.append(layer.unit())
                starts.append([stage.position(n) for n in pushed])
            elif isinstance(layer, Snake):
                alpha = layer.vector()
            else:
                last = stage
        lengths = [None if n is None else int(n * row[0].rate) for n in state.lengths]
        room = 0 if last is None else last.keep
        reduced = alpha is not None and last is not None and cast(Kernel, last.layer).narrow
        first = next(stage.tail for stage in row if isinstance(stage.layer, ResidualUnit))
        silence = [x.new_zeros(x.shape[0], unit.keep, x.shape[2]) for unit in units]
        before = [tails.get(first + i, zeros) for i, zeros in enumerate(silence)]
        y, new_tails = kernels.UnitRow(units, noise, alpha, reduced)(x, before, starts, lengths, e, room)
        tails.update(enumerate(new_tails, first))
        return y if last is None else self._pass_joined(y, last, pushed, state, tails)

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
        ends = [length - self.out_offset / self.out_rate for length in state.lengths if length is not None]
        missing = max(math.ceil(end) - pushed for end, pushed in zip(ends, state.pushed, strict=True))
        steps = max(0, -(-missing // self.multiple)) * self.multiple
        return self.push(like.new_zeros(like.shape[0], steps, like.shape[2]), state)

    def _silence(self, x: Signal, stage: Stage, pushed: list[Fraction], state: State) -> None:
        """Zeros where x, kept steps and the next piece of a stage's input, lies outside of its signal."""
        for i, (before, length) in enumerate(zip(pushed, state.lengths, strict=True)):
            start = stage.position(before) - stage.keep
            if start < 0:
                x[i, :-start] = 0
            if length is not None and length * stage.rate < start + x.shape[1]:
                x[i, max(0, int(length * stage.rate) - start) :] = 0

    def _noise(self, x: Signal, layer: Noise, stage: Stage, pushed: list[Fraction], state: State) -> Tensor | None:
        """(batch or 1, steps), each signal's by its own position and seed."""
        if all(seed is None for seed in state.seeds):
            return None
        keys = [(stage.position(n), seed) for n, seed in zip(pushed, state.seeds, strict=True)]
        drawn = {
            (start, seed): x.new_zeros(x.shape[1]) if seed is None else noise_from(seed, layer.layer, start, x)
            for start, seed in set(keys)
        }
        return torch.stack([drawn[key] for key in (keys if len(drawn) > 1 else keys[:1])])


def _rows_of_units(layers: Sequence[nn.Module]) -> dict[int, int]:
    """Where layers lie that are passed together: first to stop. Noise, residual units, Snake, a convolution."""
    rows, i = {}, 0
    while i < len(layers):
        units = i + isinstance(layers[i], Noise)
        stop = units
        while stop < len(layers) and isinstance(unit := layers[stop], ResidualUnit) and unit.in_c:
            stop += 1
        if stop > units:
            stop += stop < len(layers) and isinstance(layers[stop], Snake)
            stop += stop < len(layers) and isinstance(layers[stop], Downsample | Upsample | Convolution)
            rows[i] = stop
        i = max(stop, i + 1)
    return rows


def newest_input(layers: Sequence[nn.Module], step: int) -> int:
    """The newest step of a row's input that step `step` of its output depends on."""
    for layer in reversed(layers):
        if isinstance(layer, Windowed):
            step = layer.newest(step)
    return step
