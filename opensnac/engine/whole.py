"""Whole signals through a row of layers: piece by piece in flat memory, or by recorded steps of few shapes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from opensnac.engine.graph import Enter, Leave, Step
from opensnac.engine.row import Row
from opensnac.engine.span import Span
from opensnac.model.layers import Signal

Progress = Callable[[float], None]  # takes the share that is done, 0 to 1

CPU_PIECE_SECONDS = 2.0  # what is worked on at once: memory stays flat, caches stay warm
MEMORY_SHARE = 64  # elsewhere the widest activation of a piece takes so small a part of the device's memory
UNKNOWN_MEMORY = 8 << 30  # bytes of a device that does not tell
KEPT_STEPS = 16  # recorded ones of an engine; the one that was not used for longest makes room


@dataclass(frozen=True)
class Course:
    """The encoder or the decoder from end to end: how inputs become a row's input, and what its output becomes."""

    row: Row
    enter: Enter
    leave: Leave
    like: Signal  # (0, 0, channels) of the row's input
    inputs: Sequence[Tensor]  # as `like`, of each input
    every: Sequence[int]  # steps of the row's input that an entry of each input stands for
    out_every: Sequence[int]  # steps of the row's output that an entry of each output stands for

    def steps_at_once(self, clips: int, sampling_rate: int) -> int:
        """Steps of the row's input in a piece: 2 s on a processor, elsewhere what memory allows. Whole multiples."""
        device, row = self.like.device, self.row
        values = max(width / stage.tick for stage in row.stages for width in stage.layer.channels)  # a sample
        samples = memory_of(device) / MEMORY_SHARE / (self.like.element_size() * values * max(1, clips))
        if device.type == "cpu":
            samples = CPU_PIECE_SECONDS * sampling_rate
        return max(1, round(samples / (row.tick * row.multiple))) * row.multiple

    def cut(self, inputs: Sequence[Tensor], start: int, stop: int) -> list[Tensor]:
        """What steps [start, stop) of the row's input are made of, filled up with zeros."""
        cut = []
        for x, every in zip(inputs, self.every, strict=True):
            part, count = x[:, start // every : stop // every], (stop - start) // every
            cut.append(F.pad(part, (*[0] * (2 * x.ndim - 4), 0, count - part.shape[1])))
        return cut


def in_pieces(
    course: Course, inputs: Sequence[Tensor], span: Span, steps: int, size: int, progress: Progress
) -> list[Tensor]:
    """Outputs for `steps` steps of the row's input, `size` at a time, of signals that end as `span` tells."""
    row = course.row

    def pieces() -> Iterator[Signal]:
        for start in range(0, steps, size):
            stop = min(start + size, steps)
            yield course.enter(course.cut(inputs, start, stop))
            progress(stop / steps)

    state = row.start(span.lengths, span.seeds, course.like)
    outputs = map(course.leave, row.run(pieces(), state))
    return [torch.cat(parts, dim=1) for parts in zip(*outputs, strict=True)]


class Recorder:
    """Whole signals by steps of few shapes: batches and lengths are filled up to the next one that there is a step for.

    What fills them up is silenced as what lies beyond a clip's end is, so results are those of `in_pieces`, to the
    rounding of sums. A step is recorded when its shape first comes; calls go one at a time.
    """

    def __init__(self, compiler: str | None) -> None:
        self._compiler = compiler
        self._steps: OrderedDict[tuple[int, int, int], Step] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None
        self._lock = threading.Lock()

    def run(
        self, course: Course, inputs: Sequence[Tensor], span: Span, steps: int, size: int, progress: Progress
    ) -> list[Tensor]:
        """As `in_pieces`."""
        row, clips = course.row, inputs[0].shape[0]
        late = -(row.out_offset * row.out_tick) // row.tick  # steps that come in before step 0 comes out
        batch, groups = roomy(clips), -(-(steps + late) // row.multiple)
        turns = -(-groups * row.multiple // size)
        size = min(size, roomy(-(-groups // turns)) * row.multiple)
        filled = Span([0] * batch, [*span.lengths, *[0] * (batch - clips)], [*span.seeds, *[None] * (batch - clips)])
        pieces: list[list[Tensor]] = []
        with self._lock:
            step = self._step(course, batch, size)
            step.begin(slice(None), filled)
            for start in range(0, turns * size, size):
                for held, x in zip(step.inputs, course.cut(inputs, start, start + size), strict=True):
                    held[:clips].copy_(x)
                pieces.append([y[:clips].clone() for y in step.advance()])
                progress(min(1.0, (start + size) / (turns * size)))
        first, last = -row.out_offset, steps * row.tick // row.out_tick - row.out_offset
        outputs = [torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True)]
        return [y[:, first // every : last // every] for y, every in zip(outputs, course.out_every, strict=True)]

    def _step(self, course: Course, batch: int, size: int) -> Step:
        key = (id(course), batch, size)
        if key not in self._steps:
            shaped = zip(course.inputs, course.every, strict=True)
            inputs = [x.new_zeros(batch, size // every, *x.shape[2:]) for x, every in shaped]
            whole = (course.row, inputs, size, course.like, course.enter, course.leave)
            self._steps[key] = Step(*whole, self._compiler, self._pool)
            if len(self._steps) > KEPT_STEPS:
                self._steps.popitem(last=False)
        self._steps.move_to_end(key)
        return self._steps[key]


def roomy(count: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: few, and at most half as much again."""
    power = 1 << (count - 1).bit_length()
    return 3 * power // 4 if count <= 3 * power // 4 else power


def memory_of(device: torch.device) -> int:
    """Bytes of a device's memory."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else UNKNOWN_MEMORY
