"""Whole signals through a stack of layers: piece by piece in constant memory, or in captured steps of few shapes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from opensnac.engine.graph import Postprocess, Preprocess, Step
from opensnac.engine.span import Span
from opensnac.engine.stack import LayerStack
from opensnac.model.layers import Signal

Progress = Callable[[float], None]  # receives the share done, 0 to 1

CPU_PIECE_SECONDS = 2.0  # of a piece: memory stays constant, caches stay warm
MEMORY_SHARE = 64  # elsewhere a piece's widest activation takes at most 1 / 64 of the device's memory
UNKNOWN_MEMORY = 8 << 30  # bytes assumed of a device that does not report its memory
MAX_RECORDED = 16  # captured steps per engine, the least recently used evicted


@dataclass(frozen=True)
class Pipeline:
    """The encoder or decoder end to end: inputs to the stack's input, and the stack's output to outputs."""

    stack: LayerStack
    preprocess: Preprocess
    postprocess: Postprocess
    like: Signal  # empty, (0, 0, channels), with the type of the stack's input
    inputs: Sequence[Tensor]  # the same for each input
    in_strides: Sequence[int]  # steps of the stack's input per step of each input
    out_strides: Sequence[int]  # steps of the stack's output per step of each output

    def steps_at_once(self, clips: int, sampling_rate: int) -> int:
        """Steps of the stack's input per piece, a multiple of its `multiple`: 2 s on a CPU, else what memory allows."""
        device, stack = self.like.device, self.stack
        values = max(width / stage.tick for stage in stack.stages for width in stage.layer.channels)  # per sample
        samples = memory_of(device) / MEMORY_SHARE / (self.like.element_size() * values * max(1, clips))
        if device.type == "cpu":
            samples = CPU_PIECE_SECONDS * sampling_rate
        return max(1, round(samples / (stack.tick * stack.multiple))) * stack.multiple

    def cut(self, inputs: Sequence[Tensor], start: int, stop: int) -> list[Tensor]:
        """The part of each input for steps [start, stop) of the stack's input, zero-padded."""
        cut = []
        for x, stride in zip(inputs, self.in_strides, strict=True):
            part, count = x[:, start // stride : stop // stride], (stop - start) // stride
            cut.append(F.pad(part, (*[0] * (2 * x.ndim - 4), 0, count - part.shape[1])))
        return cut


def in_pieces(
    pipeline: Pipeline, inputs: Sequence[Tensor], span: Span, steps: int, size: int, progress: Progress
) -> list[Tensor]:
    """Outputs for `steps` steps of the stack's input, `size` at a time; `span` has the signals' lengths."""
    stack = pipeline.stack

    def pieces() -> Iterator[Signal]:
        for start in range(0, steps, size):
            stop = min(start + size, steps)
            yield pipeline.preprocess(pipeline.cut(inputs, start, stop))
            progress(stop / steps)

    state = stack.start(span.lengths, span.seeds, pipeline.like)
    outputs = map(pipeline.postprocess, stack.run(pieces(), state))
    return [torch.cat(parts, dim=1) for parts in zip(*outputs, strict=True)]


class GraphRunner:
    """Whole signals in captured steps of few shapes: batch sizes and lengths are padded to the next bucket.

    Padding is masked like anything beyond a clip's end, so results equal those of `in_pieces` up to rounding of sums.
    A step is captured when its shape first occurs; calls are serialised.
    """

    def __init__(self, compiler: str | None) -> None:
        self._compiler = compiler
        self._steps: OrderedDict[tuple[int, int, int], Step] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None
        self._lock = threading.Lock()

    def run(
        self, pipeline: Pipeline, inputs: Sequence[Tensor], span: Span, steps: int, size: int, progress: Progress
    ) -> list[Tensor]:
        """As `in_pieces`."""
        stack, clips = pipeline.stack, inputs[0].shape[0]
        late = -(stack.out_offset * stack.out_tick) // stack.tick  # input steps before output step 0
        batch, groups = bucket_size(clips), -(-(steps + late) // stack.multiple)
        turns = -(-groups * stack.multiple // size)
        size = min(size, bucket_size(-(-groups // turns)) * stack.multiple)
        filled = Span([0] * batch, [*span.lengths, *[0] * (batch - clips)], [*span.seeds, *[None] * (batch - clips)])
        pieces: list[list[Tensor]] = []
        with self._lock:
            step = self._step(pipeline, batch, size)
            step.begin(slice(None), filled)
            for start in range(0, turns * size, size):
                for held, x in zip(step.inputs, pipeline.cut(inputs, start, start + size), strict=True):
                    held[:clips].copy_(x)
                pieces.append([y[:clips].clone() for y in step.advance()])
                progress(min(1.0, (start + size) / (turns * size)))
        first, last = -stack.out_offset, steps * stack.tick // stack.out_tick - stack.out_offset
        outputs = [torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True)]
        return [y[:, first // stride : last // stride] for y, stride in zip(outputs, pipeline.out_strides, strict=True)]

    @torch.inference_mode(False)
    def _step(self, pipeline: Pipeline, batch: int, size: int) -> Step:
        key = (id(pipeline), batch, size)
        if key not in self._steps:
            shaped = zip(pipeline.inputs, pipeline.in_strides, strict=True)
            inputs = [x.new_zeros(batch, size // stride, *x.shape[2:]) for x, stride in shaped]
            whole = (pipeline.stack, inputs, size, pipeline.like, pipeline.preprocess, pipeline.postprocess)
            self._steps[key] = Step(*whole, self._compiler, self._pool)
            if len(self._steps) > MAX_RECORDED:
                self._steps.popitem(last=False)
        self._steps.move_to_end(key)
        return self._steps[key]


def bucket_size(count: int) -> int:
    """`count` rounded up to one of 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: few sizes, at most half as much again."""
    power = 1 << (count - 1).bit_length()
    return 3 * power // 4 if count <= 3 * power // 4 else power


def memory_of(device: torch.device) -> int:
    """A device's memory in bytes."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else UNKNOWN_MEMORY
