"""Many streams of one model, stepped together: whichever have a group of frames ready take one call of the model.

The event loop of asyncio schedules, threads compute. A worker that is free takes the streams that have waited longest,
its fair share of those that are ready, and steps each by one group; a stream that has more goes to the end of the row.
So the busier the process is, the larger the batches, which cost less for each stream. Every stream gives what it gives
alone.
"""

from __future__ import annotations

import asyncio
import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic

import torch

from opensnac.errors import LimitError, OpensnacError
from opensnac.serving.stream import Parts, Piece, Stream
from opensnac.streaming.streams import State, StreamDecoder, StreamEncoder


@dataclass(frozen=True)
class PoolLimits:
    """What a pool bounds.

    streams   open at once
    buffered  seconds of sound of one stream that wait to be worked on, and as many that wait to be read
    idle      seconds in which a stream may be neither pushed to nor read from
    """

    streams: int = 64
    buffered: float = 10.0
    idle: float = 60.0


@dataclass
class Counters:
    """What a pool has done since it began."""

    opened: int = 0
    refused: int = 0
    finished: int = 0
    cancelled: int = 0
    idle: int = 0
    failed: int = 0
    ticks: int = 0
    steps: int = 0  # groups of frames of all streams
    sound: float = 0.0  # seconds that these stand for
    busy: float = 0.0  # seconds that workers worked


@dataclass(frozen=True)
class Tick:
    """One call of the model: how many streams it stepped, the seconds it took, and those each had waited before."""

    streams: int
    seconds: float
    waits: tuple[float, ...]


@dataclass(frozen=True)
class _Job(Generic[Piece]):
    """What a worker does next: a group of each stream, or the end of one."""

    streams: list[Stream[Piece]]
    states: list[State]
    parts: list[Parts]
    end: bool


class Pool(ABC, Generic[Piece]):
    """What both pools do; `async with` it, or `close` it.

    `gather` is how many seconds a free worker lets a group wait for those of other streams, `batch` how many streams a
    call takes at most, `workers` how many threads there are, each on a core of its own. `watch` is told of each tick.
    """

    def __init__(
        self,
        coder: StreamDecoder | StreamEncoder,
        group_steps: int,
        sizes: Sequence[int],
        limits: PoolLimits,
        *,
        gather: float = 0.004,
        batch: int = 32,
        workers: int | None = None,
        watch: Callable[[Tick], None] | None = None,
    ) -> None:
        config = coder.engine.config
        self.engine, self.limits, self.counters = coder.engine, limits, Counters()
        self.group_seconds = config.frame_multiple * coder.engine.hop_length / config.sampling_rate
        self.look_ahead_seconds = coder.look_ahead / config.sampling_rate
        self._sizes = tuple(sizes)  # of a group, of each of a stream's parts
        self._group_steps = group_steps  # of a group, as states count what waits
        self._gather, self._batch, self._watch = gather, batch, watch
        self._workers = workers or os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(self._workers, "opensnac", torch.set_num_threads, (1,))
        self._streams: set[Stream[Piece]] = set()
        self._ready: deque[Stream[Piece]] = deque()
        self._working = 0
        self._timer: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def open_streams(self) -> int:
        """Streams that are open."""
        return len(self._streams)

    @property
    def queued(self) -> int:
        """Streams that have a group ready and wait for a worker."""
        return len(self._ready)

    async def close(self) -> None:
        """Cancel all streams and end the threads."""
        for stream in [*self._streams]:
            stream.cancel()
        for timer in (self._timer, self._sweeper):
            if timer is not None:
                timer.cancel()
        self._timer = self._sweeper = None
        await asyncio.to_thread(self._threads.shutdown)

    @abstractmethod
    def _checked(self, parts: Any) -> Parts:
        """What was pushed, if it is right."""

    @abstractmethod
    def _stepped(self, parts: Parts, state: State) -> list[Piece]:
        """Push to the streams of a state."""

    @abstractmethod
    def _ended(self, parts: Parts, state: State, num_samples: int | None) -> list[Piece]:
        """Push what fills no group, and end the stream."""

    @abstractmethod
    def _seconds(self, piece: Piece) -> float:
        """Of sound that a piece stands for."""

    def _add(self, state: State) -> Stream[Piece]:
        if len(self._streams) >= self.limits.streams:
            self.counters.refused += 1
            raise LimitError(f"all {self.limits.streams} streams are taken; come back when one has ended")
        stream = Stream(self, state)
        self._streams.add(stream)
        self.counters.opened += 1
        if self._sweeper is None:
            self._sweep()
        return stream

    def _wake(self, stream: Stream[Piece]) -> None:
        """Let a stream stand in the row if it has something to do and does not stand there."""
        if stream._due and not stream._busy and stream._since is None:
            stream._since = time.monotonic()
            self._ready.append(stream)
            self._dispatch()

    def _leave(self, stream: Stream[Piece]) -> None:
        self._streams.discard(stream)
        if stream._since is not None:
            self._ready.remove(stream)
            stream._since = None

    def _dispatch(self) -> None:
        """Give work to the workers that are free, unless it is too soon."""
        while self._ready and self._working < self._workers:
            waited = time.monotonic() - (self._ready[0]._since or 0.0)
            if waited < self._gather and len(self._ready) < min(self._batch, len(self._streams)):
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(self._gather - waited, self._gathered)
                return
            self._start(self._take())

    def _gathered(self) -> None:
        self._timer = None
        self._dispatch()

    def _take(self) -> list[Stream[Piece]]:
        """The streams that a worker steps next. The end of one, and a first group that is odd, go alone."""
        share = min(self._batch, -(-len(self._ready) // (self._workers - self._working)))
        taken = [self._ready.popleft()]
        while len(taken) < share and taken[0]._joins and self._ready[0]._joins:
            taken.append(self._ready.popleft())
        return taken

    def _start(self, streams: list[Stream[Piece]]) -> None:
        now = time.monotonic()
        waits = tuple(now - stream._since for stream in streams if stream._since is not None)
        end = not streams[0]._has_group
        job = _Job(streams, [stream._state for stream in streams], [stream._taken() for stream in streams], end)
        for stream in streams:
            stream._busy, stream._since = True, None
        self._working += 1
        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._threads, self._work, job).add_done_callback(
            lambda future: self._done(job, waits, future)
        )

    def _work(self, job: _Job[Piece]) -> tuple[list[Piece], list[State], float]:
        """In a thread: the new pieces and states, and the seconds that took."""
        began = time.perf_counter()
        states = job.states
        if job.end:
            pieces = self._ended(job.parts[0], states[0], job.streams[0]._num_samples)
        elif len(states) == 1:
            pieces = self._stepped(job.parts[0], states[0])
        else:
            together = State.join(states)
            pieces = self._stepped([torch.cat(parts) for parts in zip(*job.parts, strict=True)], together)
            states = together.split()
        return pieces, states, time.perf_counter() - began

    def _done(self, job: _Job[Piece], waits: tuple[float, ...], future: asyncio.Future[Any]) -> None:
        self._working -= 1
        if future.cancelled() or (error := future.exception()) is not None:
            for stream in job.streams:
                stream._fail(error if not future.cancelled() and error else OpensnacError("the pool was closed"))
        else:
            pieces, states, seconds = future.result()
            self.counters.ticks += 1
            self.counters.steps += len(job.streams)
            self.counters.busy += seconds
            for stream, piece, state in zip(job.streams, pieces, states, strict=True):
                stream._receive(piece, state, job.end)
            if self._watch is not None:
                self._watch(Tick(len(job.streams), seconds, waits))
        self._dispatch()

    def _sweep(self) -> None:
        """End the streams that nobody has touched for too long."""
        now = time.monotonic()
        for stream in [*self._streams]:
            if not stream._busy and stream._since is None and now - stream._touched > self.limits.idle:
                self.counters.idle += 1
                stream._end(
                    LimitError(f"the stream was idle for {self.limits.idle:g} s and was ended; open another one")
                )
        self._sweeper = None
        if self._streams:
            self._sweeper = asyncio.get_running_loop().call_later(min(1.0, self.limits.idle / 4), self._sweep)
