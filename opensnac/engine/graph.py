"""A row's step on signals of one shape as one graph of operators: CUDA's, or what torch.compile makes of it.

All that a step needs and changes lies in tensors that stay where they are: the input, each signal's place, what every
layer keeps. So a GPU repeats the step by one launch, and any number of streams stand beside each other without copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from opensnac.engine.row import Row
from opensnac.model.layers import Signal

ENDLESS = 2**62  # the length of a signal whose end is not known, in samples
WARM_UPS = 3  # calls before CUDA records one, in which libraries choose and allocate


class Step:
    """`batch` signals side by side, each taking `steps` steps of a row's input at a time, or none.

    Write what comes into `inputs`, tell in `active` for which signals it counts, call `advance`, and read `output`,
    which holds, for each signal, what begins at the row's `first_step` from before. `enter` makes the row's input of
    the inputs, as dequantising does of codes; without it there is one input, the row's.

    `compiler` is given to torch.compile (fullgraph, static shapes) as its backend; on a GPU without one the step is
    recorded as a CUDA graph. Nothing is compiled on other devices unless asked for.
    """

    def __init__(
        self,
        row: Row,
        inputs: Sequence[Tensor],
        steps: int,
        like: Signal,
        enter: Callable[[Sequence[Tensor]], Signal] | None = None,
        compiler: str | None = None,
    ) -> None:
        batch, device = inputs[0].shape[0], like.device
        self.row, self.inputs, self.samples = row, [*inputs], steps * row.tick
        self._enter = enter or (lambda tensors: tensors[0])
        self.tails = row.start([None] * batch, [None] * batch, like).tails
        self.pushed = torch.zeros(batch, dtype=torch.int64, device=device)
        self.lengths = torch.full_like(self.pushed, ENDLESS)
        self.seeds = torch.zeros_like(self.pushed)
        self.noisy = torch.zeros(batch, dtype=torch.bool, device=device)
        self.active = torch.ones_like(self.noisy)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._call = self._advance
        if compiler is not None:
            self._call = torch.compile(self._advance, backend=compiler, fullgraph=True, dynamic=False)
        elif device.type == "cuda":
            self._record()

    @torch.no_grad()
    def advance(self) -> Signal:
        """Take a step; the output (batch, steps out, channels), which the next step on a GPU overwrites."""
        if self._graph is None:
            self.output = self._call()
        else:
            self._graph.replay()
        return self.output

    def begin(self, signal: int, seed: int | None = None, length: int | None = None) -> None:
        """Let a new signal take a place: `seed` of its noise, and its samples if they are known."""
        self.pushed[signal] = 0
        self.lengths[signal] = ENDLESS if length is None else length
        self.seeds[signal], self.noisy[signal] = seed or 0, seed is not None
        for tail in self.tails:
            tail[signal] = 0

    def _advance(self) -> Signal:
        x = self._enter(self.inputs)
        y, kept = self.row.step(x, self.tails, self.pushed, self.lengths, self.seeds, self.noisy)
        for tail, new in zip(self.tails, kept, strict=True):
            tail.copy_(torch.where(self.active[:, None, None], new, tail))
        self.pushed.add_(self.active * self.samples)
        return y

    def _record(self) -> None:
        """As CUDA's own documentation has it: some calls on a stream beside, then one that is recorded."""
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                self._advance()
        torch.cuda.current_stream().wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self._graph):
            self.output = self._advance()
        for signal in range(len(self.pushed)):
            self.begin(signal)
