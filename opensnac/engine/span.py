"""Where a piece of each signal of a batch lies, and what follows from it: silence outside of the signal, and noise.

Before a signal's start and beyond its end every layer must see zeros, not what the layer before makes of zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from opensnac.model.layers import Signal
from opensnac.model.noise import position_noise

Draw = Callable[[list[tuple[int, int]]], Tensor]
ENDLESS = 2**62  # the length of a signal whose end is not known


@dataclass(frozen=True)
class Span:
    """Counted by the processor: the piece's first step and the signal's length of each signal."""

    starts: list[int]
    lengths: list[int | None]  # None while the end is not known
    seeds: list[int | None]  # of the noise; None leaves it out

    def beside(self, device: torch.device) -> Span | DeviceSpan:
        """The same, counted where no layer has to go through the signals one by one."""
        return self if device.type == "cpu" else DeviceSpan.of(self, device)

    def in_steps(self, offset: int, tick: int) -> Span:
        """Samples counted in steps of `tick` samples, for a layer whose first piece begins at step `offset`."""
        lengths = [None if length is None else length // tick for length in self.lengths]
        return Span([offset + start // tick for start in self.starts], lengths, self.seeds)

    def later(self, steps: int) -> Span:
        """The same signals `steps` steps on."""
        return replace(self, starts=[start + steps for start in self.starts])

    def silence(self, x: Signal, early: int) -> Signal:
        """x, which begins `early` steps before the piece, with zeros outside of its signals, written in place."""
        for i, (start, length) in enumerate(zip(self.starts, self.lengths, strict=True)):
            first = start - early
            if first < 0:
                x[i, :-first] = 0
            if length is not None and length < first + x.shape[1]:
                x[i, max(0, length - first) :] = 0
        return x

    def noise(self, layer: int, x: Signal, draw: Draw | None = None) -> Tensor | None:
        """(batch or 1, steps) beside x, each signal's by its own position and seed; before step 0 it is as at 0.

        `draw` gives the rows for pairs of seed and start in place of PyTorch.
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
    """The same as tensors beside the signals, (batch,) or (1,) for all: nothing depends on a value or waits for one."""

    starts: Tensor
    lengths: Tensor  # endless is beyond any position
    seeds: Tensor
    noisy: Tensor | None  # 1 with noise, 0 without; None where no signal has any

    @classmethod
    def of(cls, span: Span, device: torch.device) -> DeviceSpan:
        """One row for all signals where they are alike."""
        counts = counted(span)
        if (counts == counts[:, :1]).all():
            counts = counts[:, :1]
        starts, lengths, seeds, noisy = sent(counts, device)
        return cls(starts, lengths, seeds, noisy if counts[3].any() else None)

    def in_steps(self, offset: int, tick: int) -> DeviceSpan:
        """As Span has it."""
        return replace(self, starts=offset + self.starts // tick, lengths=self.lengths // tick)

    def later(self, steps: int) -> DeviceSpan:
        """The same signals `steps` steps on."""
        return replace(self, starts=self.starts + steps)

    def silence(self, x: Signal, early: int) -> Signal:
        """x, which begins `early` steps before the piece, with zeros outside of its signals."""
        position = self.starts[:, None] - early + torch.arange(x.shape[1], device=x.device)
        inside = (position >= 0) & (position < self.lengths[:, None])
        return torch.where(inside[..., None], x, 0)

    def noise(self, layer: int, x: Signal) -> Tensor | None:
        """(batch or 1, steps) beside x, as Span draws it."""
        if self.noisy is None:
            return None
        position = self.starts[:, None] + torch.arange(x.shape[1], device=x.device)
        return position_noise(self.seeds, layer, position.clamp(min=0)) * self.noisy[:, None]


def counted(span: Span) -> Tensor:
    """The rows of a DeviceSpan, int64 (4, batch), on the processor."""
    columns = [
        (start, ENDLESS if length is None else length, seed or 0, seed is not None)
        for start, length, seed in zip(span.starts, span.lengths, span.seeds, strict=True)
    ]
    return torch.tensor(columns, dtype=torch.int64).view(-1, 4).T


def sent(counts: Tensor, device: torch.device) -> Tensor:
    """Numbers of the processor on a device, which nobody waits for."""
    counts = counts.contiguous()
    return (counts.pin_memory() if device.type == "cuda" else counts).to(device, non_blocking=True)


def silent_from(x: Tensor, ends: Sequence[int]) -> Tensor:
    """x (batch, steps, ...) with zeros from each signal's end on."""
    beyond = torch.arange(x.shape[1], device=x.device) >= sent(torch.tensor(ends), x.device)[:, None]
    return x.masked_fill(beyond.view(*beyond.shape, *[1] * (x.ndim - 2)), 0)
