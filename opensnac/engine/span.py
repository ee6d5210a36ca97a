"""Where a piece of each signal of a batch lies, and what follows from it: silence outside of the signal, and noise.

Before a signal's start and beyond its end every layer must see zeros, not what the layer before makes of zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from opensnac.model.layers import Signal
from opensnac.model.noise import position_noise

Draw = Callable[[list[tuple[int, int]]], Tensor]


@dataclass(frozen=True)
class Span:
    """Counted by the processor: the piece's first step and the signal's length of each signal, in a layer's steps."""

    starts: list[int]
    lengths: list[int | None]  # None while the end is not known
    seeds: list[int | None]  # of the noise; None leaves it out

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
    """The same as tensors (batch,) that lie beside the signals, so that a graph of operators can be made of a step."""

    starts: Tensor
    lengths: Tensor  # endless is beyond any position
    seeds: Tensor
    noisy: Tensor  # bool

    def later(self, steps: int) -> DeviceSpan:
        """The same signals `steps` steps on."""
        return replace(self, starts=self.starts + steps)

    def silence(self, x: Signal, early: int) -> Signal:
        """x, which begins `early` steps before the piece, with zeros outside of its signals."""
        position = self.starts[:, None] - early + torch.arange(x.shape[1], device=x.device)
        inside = (position >= 0) & (position < self.lengths[:, None])
        return torch.where(inside[..., None], x, 0)

    def noise(self, layer: int, x: Signal) -> Tensor:
        """(batch, steps) beside x, as Span draws it."""
        position = self.starts[:, None] + torch.arange(x.shape[1], device=x.device)
        return position_noise(self.seeds, layer, position.clamp(min=0)) * self.noisy[:, None]
