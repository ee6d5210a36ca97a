"""A row of layers that takes a signal in pieces and gives what the whole signal would have given.

Each windowed layer keeps the last steps of its input, so a piece goes in and as much comes out, late by the row's
look-ahead. Before a signal's start and beyond its end every layer must see zeros, not what the layer before makes of
zeros, so inputs are masked there. The same few lines do long files in flat memory, batches of clips of unequal lengths,
and many streams that each stand somewhere else.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from opensnac.errors import OpensnacError
from opensnac.files import whole_file
from opensnac.model.layers import Noise, Signal, Windowed
from opensnac.model.noise import position_noise


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


class Pipeline:
    """Layers in a row. Pieces are multiples of `multiple` steps, and the first begins at step `offset`."""

    def __init__(self, layers: Iterable[nn.Module], multiple: int, offset: int = 0) -> None:
        self.multiple, self.offset = multiple, offset
        self.stages: list[Stage] = []
        rate = Fraction(1)
        for layer in layers:
            keep, after = layer.plan(offset) if isinstance(layer, Windowed) else (0, offset)
            self.stages.append(Stage(layer, keep, offset, rate))
            offset, rate = after, rate * (layer.rate if isinstance(layer, Windowed) else 1)
        self.out_offset, self.out_rate = offset, rate

    def first_step(self, state: State) -> list[int]:
        """For each signal the output step that the next piece's output will begin with."""
        return [self.out_offset + int(pushed * self.out_rate) for pushed in state.pushed]

    def push(self, x: Signal, state: State) -> Signal:
        """Take the next piece (batch, steps, channels); what comes out begins at `first_step` from before."""
        steps = x.shape[1]
        tails: list[Tensor] = []
        for stage in self.stages:
            layer = stage.layer
            if isinstance(layer, Noise):
                x = layer(x, self._noise(x, layer, stage, state))
            elif isinstance(layer, Windowed):
                tail = state.tails[len(tails)] if state.tails else x.new_zeros(x.shape[0], stage.keep, x.shape[2])
                x = torch.cat((tail, x), dim=1)
                self._silence(x, stage, state)
                tails.append(x[:, x.shape[1] - stage.keep :].clone())
                x = layer.valid(x)
            else:
                x = layer(x)
        state.tails = tails
        state.pushed = [pushed + steps for pushed in state.pushed]
        return x

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

    def _silence(self, x: Signal, stage: Stage, state: State) -> None:
        """Zeros where x, kept steps and the next piece of a stage's input, lies outside of its signal."""
        for i, (pushed, length) in enumerate(zip(state.pushed, state.lengths, strict=True)):
            start = stage.offset + int(pushed * stage.rate) - stage.keep
            if start < 0:
                x[i, :-start] = 0
            if length is not None and length * stage.rate < start + x.shape[1]:
                x[i, max(0, int(length * stage.rate) - start) :] = 0

    def _noise(self, x: Signal, layer: Noise, stage: Stage, state: State) -> Tensor | None:
        """(batch or 1, steps), each signal's by its own position and seed."""
        if all(seed is None for seed in state.seeds):
            return None
        step = torch.arange(x.shape[1], device=x.device)
        keys = [(stage.offset + int(n * stage.rate), seed) for n, seed in zip(state.pushed, state.seeds, strict=True)]
        drawn = {
            (start, seed): x.new_zeros(x.shape[1])
            if seed is None
            else position_noise(seed, layer.layer, (start + step).clamp(min=0))
            for start, seed in set(keys)
        }
        return torch.stack([drawn[key] for key in (keys if len(drawn) > 1 else keys[:1])])


def newest_input(layers: Sequence[nn.Module], step: int) -> int:
    """The newest step of a row's input that step `step` of its output depends on."""
    for layer in reversed(layers):
        if isinstance(layer, Windowed):
            step = layer.newest(step)
    return step
