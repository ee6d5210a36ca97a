"""One step of a layer stack on signals of one shape, as a CUDA graph or compiled by torch.compile.

Everything that a step reads and writes is in tensors at fixed addresses: the input, each signal's position, each
layer's context. So a GPU replays the step with one launch, for any number of streams side by side, without copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from opensnac.engine.span import DeviceSpan, Span, as_counts, to_device
from opensnac.engine.stack import LayerStack
from opensnac.model.layers import Signal

WARM_UPS = 3  # calls before the capture, in which libraries choose algorithms and allocate
COMPILED_SHAPES = 256  # step shapes compiled in one process; more raise

Preprocess = Callable[[Sequence[Tensor]], Signal]
Postprocess = Callable[[Signal], list[Tensor]]


class Step:
    """`batch` signals side by side, each of which takes `steps` steps of a stack's input at a time, or none.

    Write new input to `inputs`, mark in `active` the signals it is for, and call `advance`. Each signal's output begins
    at the stack's `first_step` before the call. `preprocess` turns `inputs` into the stack's input, as dequantising
    does with codes; `postprocess` turns the stack's output into the step's outputs.

    `compiler` is the backend of torch.compile (fullgraph, static shapes). On a GPU the step, compiled or not, is
    captured as a CUDA graph, in the memory `pool` if given. On other devices it just runs.
    """

    @torch.inference_mode(False)  # later calls update its tensors, in whatever mode they are made
    def __init__(
        self,
        stack: LayerStack,
        inputs: Sequence[Tensor],
        steps: int,
        like: Signal,
        preprocess: Preprocess = lambda inputs: inputs[0],
        postprocess: Postprocess = lambda y: [y],
        compiler: str | None = None,
        pool: Any = None,
    ) -> None:
        batch, device = inputs[0].shape[0], like.device
        self.stack, self.inputs, self.samples = stack, [*inputs], steps * stack.tick
        self._preprocess, self._postprocess = preprocess, postprocess
        self.tails = stack.start([None] * batch, [None] * batch, like).tails
        self.counts = torch.zeros(4, batch, dtype=torch.int64, device=device)  # rows of a DeviceSpan
        self.active = torch.ones(batch, dtype=torch.bool, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._call = self._advance
        if compiler is not None:
            self._call = torch.compile(self._advance, backend=compiler, fullgraph=True, dynamic=False)
        if device.type == "cuda":
            with torch.cuda.device(device):
                self._record(pool)

    @torch.no_grad()
    def advance(self) -> list[Tensor]:
        """Take a step; returns the outputs (batch, steps out, channels), which the next step on a GPU overwrites."""
        if self._graph is not None:
            self._graph.replay()
        else:
            with torch._dynamo.config.patch(recompile_limit=COMPILED_SHAPES):
                self._outputs = self._call()
        return self._outputs

    def begin(self, places: slice, span: Span) -> None:
        """Start new signals in `places`; context left by earlier ones is masked, as it lies before their start."""
        self.counts[:, places].copy_(to_device(as_counts(span), self.counts.device))

    def end(self, place: int, length: int) -> None:
        """Set the length, in samples, of a signal that was open-ended so far."""
        self.counts[1, place] = length

    def _advance(self) -> list[Tensor]:
        samples, ends, seeds, noisy = self.counts
        span = DeviceSpan(samples, ends, seeds, noisy)
        y, new_tails = self.stack.step(self._preprocess(self.inputs), self.tails, span)
        active = self.active[:, None, None]
        kept = [torch.where(active, new, tail) for new, tail in zip(new_tails, self.tails, strict=True)]
        torch._foreach_copy_(self.tails, kept)
        self.counts[0].add_(self.active * self.samples)
        return self._postprocess(y)

    def _record(self, pool: Any) -> None:
        """As in CUDA's documentation: warm-up calls on a side stream, then the capture."""
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                self.advance()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile, as those do that pin batches in training.
        with torch.no_grad(), torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            self._outputs = self._call()
        self._graph = graph
