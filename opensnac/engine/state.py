"""Where streams stand between two pieces: an object that can be kept, moved, joined and split."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from opensnac.errors import OpensnacError
from opensnac.files import whole_file


@dataclass
class State:
    """Where a batch of signals stands between two pieces. Counts are in samples."""

    lengths: list[int | None]  # None while a signal's end is not known
    seeds: list[int | None]  # of the noise; None leaves it out
    tails: list[Tensor]  # what each layer keeps of its inputs, (batch, steps, channels)
    waiting: Tensor  # (batch, steps, channels) that do not fill a piece yet
    pushed: list[int] = field(default_factory=list)
    given: list[int] = field(default_factory=list)  # samples whose output a stream has handed out

    def __post_init__(self) -> None:
        self.pushed = self.pushed or [0] * len(self.lengths)
        self.given = self.given or [0] * len(self.lengths)

    def fork(self) -> State:
        """A copy that goes its own way."""
        copies: dict[str, Any] = {name: list(getattr(self, name)) for name in (*_LISTS, "tails")}
        return dataclasses.replace(self, **copies)

    def to(self, device: torch.device | str) -> State:
        """The state on another device."""
        tails = [tail.to(device) for tail in self.tails]
        return dataclasses.replace(self.fork(), waiting=self.waiting.to(device), tails=tails)

    def split(self) -> list[State]:
        """Each signal's own state."""
        return [
            State(
                **{name: [getattr(self, name)[i]] for name in _LISTS},
                tails=[tail[i : i + 1] for tail in self.tails],
                waiting=self.waiting[i : i + 1],
            )
            for i in range(len(self.lengths))
        ]

    @staticmethod
    def join(states: Sequence[State]) -> State:
        """One batch of signals that may stand at different places; OpensnacError if they cannot go together."""
        shapes = {(state.waiting.shape[1:], *(tail.shape[1:] for tail in state.tails)) for state in states}
        if len(shapes) != 1:
            raise OpensnacError(
                "streams to join differ in how much waits to fill a piece, or are of different models; "
                "push whole groups of frames to each stream before it is joined to others"
            )
        return State(
            **{name: [value for state in states for value in getattr(state, name)] for name in _LISTS},
            tails=[torch.cat(parts) for parts in zip(*(state.tails for state in states), strict=True)],
            waiting=torch.cat([state.waiting for state in states]),
        )

    def save(self, path: str | Path) -> None:
        """Write a file that `load` reads: tensors and counts, nothing to unpickle."""
        tensors = {str(i): tail.contiguous() for i, tail in enumerate(self.tails)}
        counts = {name: json.dumps(getattr(self, name)) for name in _LISTS}
        with whole_file(Path(path), force=True) as part:
            save_file(tensors | {"waiting": self.waiting.contiguous()}, part, metadata=counts)

    @staticmethod
    def load(path: str | Path, device: torch.device | str = "cpu") -> State:
        """Read what `save` wrote, onto `device`. OpensnacError for anything else."""
        try:
            with safe_open(path, "pt", str(device)) as file:
                counts = {name: _counts(value) for name, value in (file.metadata() or {}).items()}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, ValueError) as error:
            raise OpensnacError(f"{path}: is no file that State.save wrote ({error})") from error
        streams = {*map(len, counts.values()), *(tensor.shape[0] for tensor in tensors.values())}
        names = {"waiting", *map(str, range(len(tensors) - 1))}
        if sorted(counts) != sorted(_LISTS) or set(tensors) != names or len(streams) != 1:
            raise OpensnacError(f"{path}: holds no stream's state, expected a file that State.save wrote")
        waiting = tensors.pop("waiting")
        return State(**cast(Any, counts), tails=[tensors[str(i)] for i in range(len(tensors))], waiting=waiting)


_LISTS = ("lengths", "seeds", "pushed", "given")


def _counts(text: str) -> list[int | None]:
    values = json.loads(text)
    if not isinstance(values, list) or not all(value is None or type(value) is int for value in values):
        raise ValueError(f"{text[:40]!r} is no list of whole numbers")
    return values
