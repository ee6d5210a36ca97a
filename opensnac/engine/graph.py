"""A row's step on signals of one shape as one graph of operators: CUDA's, or what torch.compile makes of it.

All that a step needs and changes lies in tensors that stay where they are: the input, each signal's place, what every
layer keeps. So a GPU repeats the step by one launch, and any number of streams stand beside each other without copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from opensnac.engine.row import Row
from opensnac.engine.span import DeviceSpan, Span, counted, sent
from opensnac.model.layers import Signal

WARM_UPS = 3  # calls before CUDA records one, in which libraries choose and allocate
COMPILED_SHAPES = 256  # of steps in a process; more raise

Enter = Callable[[Sequence[Tensor]], Signal]
Leave = Callable[[Signal], list[Tensor]]


class Step:
    """`batch` signals side by side, each taking `steps` steps of a row's input at a time, or none.

    Write what comes into `inputs`, tell in `active` for which signals it counts, and call `advance`, which gives, for
    each signal, what begins at the row's `first_step` from before. `enter` makes the row's input of the inputs, as
    dequantising does of codes, and `leave` the step's outputs of the row's.

    `compiler` is given to torch.compile (fullgraph, static shapes) as its backend. On a GPU the step, compiled or not,
    is recorded as a CUDA graph, whose memory is `pool`'s if it is given. On other devices it just runs.
    """

    def __init__(
        self,
        row: Row,
        inputs: Sequence[Tensor],
        steps: int,
        like: Signal,
        enter: Enter = lambda inputs: inputs[0],
        leave: Leave = lambda y: [y],
        compiler: str | None = None,
        pool: Any = None,
    ) -> None:
        batch, device = inputs[0].shape[0], like.device
        self.row, self.inputs, self.samples = row, [*inputs], steps * row.tick
        self._enter, self._leave = enter, leave
        self.tails = row.start([None] * batch, [None] * batch, like).tails
        self.counts = torch.zeros(4, batch, dtype=torch.int64, device=device)  # rows of a DeviceSpan
        self.active = torch.ones(batch, dtype=torch.bool, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._call = self._advance
        if compiler is not None:
            self._call = torch.compile(self._advance, backend=compiler, fullgraph=True, dynamic=False)
        if device.type == "cuda":
            self._record(pool)

    @torch.no_grad()
    def advance(self) -> list[Tensor]:
        """Take a step; the outputs (batch, steps out, channels), which the next step on a GPU overwrites."""
        if self._graph is not None:
            self._graph.replay()
        else:
            with torch._dynamo.config.patch(recompile_limit=COMPILED_SHAPES):
                self._outputs = self._call()
        return self._outputs

    def begin(self, places: slice, span: Span) -> None:
        """Let new signals take places; what those before them left there is silenced, as it lies before the start."""
        self.counts[:, places].copy_(sent(counted(span), self.counts.device))

    def end(self, place: int, length: int) -> None:
        """Tell the length, in samples, of a signal that went on until now."""
        self.counts[1, place] = length

    def _advance(self) -> list[Tensor]:
        y, kept = self.row.step(self._enter(self.inputs), self.tails, DeviceSpan(*self.counts.unbind()))
        for tail, new in zip(self.tails, kept, strict=True):
            tail.copy_(torch.where(self.active[:, None, None], new, tail))
        self.counts[0].add_(self.active * self.samples)
        return self._leave(y)

    def _record(self, pool: Any) -> None:
        """As CUDA's own documentation has it: some calls on a stream beside, then one that is recorded."""
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                self.advance()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(graph, pool=pool):
            self._outputs = self._call()
        self._graph = graph
