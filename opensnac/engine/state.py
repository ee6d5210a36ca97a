"""The state of streams between two pieces: an object that can be saved, moved, joined and split."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from opensnac.errors import OpensnacError
from opensnac.files import atomic_file


@dataclass
class State:
    """The state of a batch of signals between two pieces. Counts are in samples."""

    lengths: list[int | None]  # None while a signal's end is not known
    seeds: list[int | None]  # of the noise; None leaves it out
    tails: list[Tensor]  # each layer's context, (batch, steps, channels)
    waiting: Tensor  # buffered input (batch, steps, channels) that does not fill a piece yet
    pushed: list[int] = field(default_factory=list)
    given: list[int] = field(default_factory=list)  # samples whose output a stream has returned

    def __post_init__(self) -> None:
        self.pushed = self.pushed or [0] * len(self.lengths)
        self.given = self.given or [0] * len(self.lengths)

    def fork(self) -> State:
        """An independent copy."""
        copies: dict[str, Any] = {name: list(getattr(self, name)) for name in (*_LISTS, "tails")}
        return dataclasses.replace(self, **copies)

    def to(self, device: torch.device | str) -> State:
        """The state on another device."""
        tails = [tail.to(device) for tail in self.tails]
        return dataclasses.replace(self.fork(), waiting=self.waiting.to(device), tails=tails)

    def split(self) -> list[State]:
        """The state of each signal, each in its own memory."""
        return [
            State(
                **{name: [getattr(self, name)[i]] for name in _LISTS},
                tails=[tail[i : i + 1].clone() for tail in self.tails],
                waiting=self.waiting[i : i + 1].clone(),
            )
            for i in range(len(self.lengths))
        ]

    @staticmethod
    def join(states: Sequence[State]) -> State:
        """One batch of signals, possibly at different positions. OpensnacError if they cannot be joined."""
        shapes = {(state.waiting.shape[1:], *(tail.shape[1:] for tail in state.tails)) for state in states}
        if len(shapes) != 1:
            raise OpensnacError(
                "join: expected streams of one model with equally much buffered input, got different ones; "
                "push whole groups of frames to each stream before joining it"
            )
        return State(
            **{name: [value for state in states for value in getattr(state, name)] for name in _LISTS},
            tails=[torch.cat(parts) for parts in zip(*(state.tails for state in states), strict=True)],
            waiting=torch.cat([state.waiting for state in states]),
        )

    def to_bytes(self) -> bytes:
        """Serialise to safetensors, for `from_bytes`: tensors and counts, nothing to unpickle."""
        tensors = {str(i): tail.contiguous() for i, tail in enumerate(self.tails)}
        counts = {name: json.dumps(getattr(self, name)) for name in _LISTS}
        return safetensors.torch.save(tensors | {"waiting": self.waiting.contiguous()}, metadata=counts)

    @staticmethod
    def from_bytes(data: bytes) -> State:
        """Read what `to_bytes` wrote. OpensnacError for anything else; not checked against a model."""
        try:
            tensors = safetensors.torch.load(data)
            header = json.loads(
                data[8 : 8 + int.from_bytes(data[:8], "little")]
            )  # safetensors: 8 bytes of header length, then the header
            counts = {name: _counts(value) for name, value in header.get("__metadata__", {}).items()}
        except (SafetensorError, ValueError, RecursionError) as error:
            raise OpensnacError(f"expected a stream's state from State.save, got something else ({error})") from error
        streams = {*map(len, counts.values()), *(len(tensor) if tensor.ndim else 0 for tensor in tensors.values())}
        names = {"waiting", *map(str, range(len(tensors) - 1))}
        if sorted(counts) != sorted(_LISTS) or set(tensors) != names or len(streams) != 1:
            raise OpensnacError(f"expected a stream's state from State.save, got tensors {', '.join(sorted(tensors))}")
        waiting = tensors.pop("waiting")
        return State(**cast(Any, counts), tails=[tensors[str(i)] for i in range(len(tensors))], waiting=waiting)

    def save(self, path: str | Path) -> None:
        """Write a file that `load` reads."""
        with atomic_file(Path(path), force=True) as part:
            part.write_bytes(self.to_bytes())

    @staticmethod
    def load(path: str | Path, device: torch.device | str = "cpu") -> State:
        """Read what `save` wrote, onto `device`. OpensnacError for anything else."""
        try:
            return State.from_bytes(Path(path).read_bytes()).to(device)
        except OpensnacError as error:
            raise OpensnacError(f"{path}: {error}") from error


_LISTS = ("lengths", "seeds", "pushed", "given")


def _counts(text: str) -> list[int | None]:
    values = json.loads(text)
    if not isinstance(values, list) or not all(value is None or type(value) is int for value in values):
        raise ValueError(f"expected a list of integers, got {text[:40]!r}")
    return values
