"""The position of a piece in each signal of a batch, and what depends on it: masking and noise.

Before a signal's start and beyond its end every layer must see zeros, not the output of the layer before for zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from opensnac.model.layers import Signal
from opensnac.model.noise import position_noise
from opensnac.model.operators import triton_applies

Draw = Callable[[list[tuple[int, int]]], Tensor]
ENDLESS = 2**62  # length of a signal whose end is not known yet


@dataclass(frozen=True)
class Span:
    """On the CPU: for each signal the piece's first step, the signal's length and its seed."""

    starts: list[int]
    lengths: list[int | None]  # None while the end is not known
    seeds: list[int | None]  # of the noise; None leaves it out

    def on_device(self, device: torch.device) -> Span | DeviceSpan:
        """The same span, as tensors on `device` unless that is the CPU."""
        return self if device.type == "cpu" else DeviceSpan.of(self, device)

    def in_steps(self, offset: int, tick: int) -> Span:
        """The span in steps of `tick` samples, for a layer whose first piece begins at step `offset`."""
        lengths = [None if length is None else length // tick for length in self.lengths]
        return Span([offset + start // tick for start in self.starts], lengths, self.seeds)

    def shifted(self, steps: int) -> Span:
        """The span `steps` steps later in each signal."""
        return replace(self, starts=[start + steps for start in self.starts])

    def join(self, context: Signal, x: Signal) -> tuple[Signal, Signal]:
        """As `masked`, for the piece x and the context in front of it."""
        return self.masked(torch.cat((context, x), dim=1), context.shape[1])

    def masked(self, x: Signal, early: int) -> tuple[Signal, Signal]:
        """x, which begins `early` steps before the piece, zeroed outside its signals, in place; and the next context,
        its last `early` steps.
        """
        for i, (start, length) in enumerate(zip(self.starts, self.lengths, strict=True)):
            first = start - early
            if first < 0:
                x[i, :-first] = 0
            if length is not None and length < first + x.shape[1]:
                x[i, max(0, length - first) :] = 0
        return x, x[:, x.shape[1] - early :].clone()

    def noise(self, layer: int, x: Signal, draw: Draw | None = None) -> Tensor | None:
        """Noise (batch or 1, steps) for x, by each signal's position and seed; steps before 0 get the value at 0.

        `draw` replaces PyTorch: it returns one row for each pair of seed and start.
        """
        draws = list(zip(self.seeds, self.starts, strict=True))
        if all(seed is None for seed in self.seeds):
            return None
        if len(set(draws)) == 1:
            draws = draws[:1]
        wanted = [(seed or 0, start) for seed, start in draws]
        e = self._draw(layer, wanted, x) if draw is None else draw(wanted)
        for i, (seed, _) in enumerate(draws):
            if seed is None:
                e[i] = 0
        return e

    def _draw(self, layer: int, draws: list[tuple[int, int]], x: Signal) -> Tensor:
        seeds, starts = torch.tensor(draws, device=x.device).unbind(1)
        position = starts[:, None] + torch.arange(x.shape[1], device=x.device)
        return position_noise(seeds, layer, position.clamp(min=0))


@dataclass(frozen=True)
class DeviceSpan:
    """A Span as tensors on the signals' device, (batch,) or (1,) for all: no control flow depends on their values."""

    samples: Tensor  # the first step of each signal's piece, before `in_steps`
    ends: Tensor  # the signals' lengths, likewise; ENDLESS where unknown, beyond any position
    seeds: Tensor
    noisy: Tensor | None  # 1 with noise, 0 without; None where no signal has any
    early: int = 0  # added to `samples`
    tick: int = 1  # samples per step
    offset: int = 0  # added to the first step

    @classmethod
    def of(cls, span: Span, device: torch.device) -> DeviceSpan:
        """The span as tensors, of one value where all signals are alike."""
        counts = as_counts(span)
        if (counts == counts[:, :1]).all():
            counts = counts[:, :1]
        starts, lengths, seeds, noisy = to_device(counts, device)
        return cls(starts, lengths, seeds, noisy if counts[3].any() else None)

    @property
    def starts(self) -> Tensor:
        """The first step of each signal's piece."""
        return (self.samples + self.early) // self.tick + self.offset

    @property
    def lengths(self) -> Tensor:
        """The signals' lengths."""
        return self.ends // self.tick

    def in_steps(self, offset: int, tick: int) -> DeviceSpan:
        """As Span.in_steps."""
        return replace(self, early=self.offset, tick=tick, offset=offset)

    def shifted(self, steps: int) -> DeviceSpan:
        """The span `steps` steps later in each signal."""
        return replace(self, offset=self.offset + steps)

    def join(self, context: Signal, x: Signal) -> tuple[Signal, Signal]:
        """As Span.join."""
        if triton_applies(x):
            from opensnac.engine import fused

            joined, _, context = fused.join(context, x, self)
            return joined, context
        return self.masked(torch.cat((context, x), dim=1), context.shape[1])

    def masked(self, x: Signal, early: int) -> tuple[Signal, Signal]:
        """As Span.masked."""
        position = self.starts[:, None] - early + torch.arange(x.shape[1], device=x.device)
        inside = (position >= 0) & (position < self.lengths[:, None])
        x = torch.where(inside[..., None], x, 0)
        return x, x[:, x.shape[1] - early :].clone()

    def noise(self, layer: int, x: Signal) -> Tensor | None:
        """Noise (batch or 1, steps) for x, as Span.noise."""
        if self.noisy is None:
            return None
        position = self.starts[:, None] + torch.arange(x.shape[1], device=x.device)
        return position_noise(self.seeds, layer, position.clamp(min=0)) * self.noisy[:, None]


def as_counts(span: Span) -> Tensor:
    """The rows of a DeviceSpan, int64 (4, batch), on the CPU."""
    columns = [
        (start, ENDLESS if length is None else length, seed or 0, seed is not None)
        for start, length, seed in zip(span.starts, span.lengths, span.seeds, strict=True)
    ]
    return torch.tensor(columns, dtype=torch.int64).view(-1, 4).T


def to_device(counts: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on a device, copied asynchronously."""
    counts = counts.contiguous()
    return (counts.pin_memory() if device.type == "cuda" else counts).to(device, non_blocking=True)


def mask_from(x: Tensor, ends: Sequence[int]) -> Tensor:
    """x (batch, steps, ...) zeroed from each signal's end on."""
    beyond = torch.arange(x.shape[1], device=x.device) >= to_device(torch.tensor(ends), x.device)[:, None]
    return x.masked_fill(beyond.view(*beyond.shape, *[1] * (x.ndim - 2)), 0)
