"""Batched stepping of many streams of one model: streams with a complete group of frames share a model call.

The asyncio event loop schedules, threads compute. A free worker takes its fair share of the ready streams, oldest
first, and steps each by one group; a stream with more groups goes to the end of the queue. So batches grow with load,
which lowers the cost per stream. Every stream's output equals its output when run alone.
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
    """Limits of a pool.

    streams   open at the same time
    buffered  seconds of one stream's sound that may be queued as input, and again as unread output
    idle      seconds without a push or a read after which a stream is ended
    """

    streams: int = 64
    buffered: float = 10.0
    idle: float = 60.0


@dataclass
class Counters:
    """Totals of a pool since its start."""

    opened: int = 0
    refused: int = 0
    finished: int = 0
    cancelled: int = 0
    idle: int = 0
    failed: int = 0
    ticks: int = 0
    steps: int = 0  # groups of frames, over all streams
    sound: float = 0.0  # seconds of sound in these groups
    busy: float = 0.0  # seconds of worker time


@dataclass(frozen=True)
class Tick:
    """One model call: the number of streams in it, its duration, and how long each stream had waited (seconds)."""

    streams: int
    seconds: float
    waits: tuple[float, ...]


@dataclass(frozen=True)
class _Job(Generic[Piece]):
    """Work for one model call: a group from each stream, or the end of one stream."""

    streams: list[Stream[Piece]]
    states: list[State]
    parts: list[Parts]
    end: bool


class Pool(ABC, Generic[Piece]):
    """Base of both pools; use `async with`, or `close` it.

    `gather`: seconds that a free worker waits for more streams to join a batch. `batch`: the most streams in a call.
    `workers`: number of threads, each using one core. `watch` is called with each tick.
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
        self._sizes = tuple(sizes)  # of a group, per part of a stream
        self._group_steps = group_steps  # of a group, in the unit of `State.waiting`
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
        """Number of open streams."""
        return len(self._streams)

    @property
    def queued(self) -> int:
        """Number of streams with a complete group that wait for a worker."""
        return len(self._ready)

    async def close(self) -> None:
        """Cancel all streams and stop the threads."""
        for stream in [*self._streams]:
            stream.cancel()
        for timer in (self._timer, self._sweeper):
            if timer is not None:
                timer.cancel()
        self._timer = self._sweeper = None
        await asyncio.to_thread(self._threads.shutdown)

    @abstractmethod
    def _checked(self, parts: Any) -> Parts:
        """Validate pushed input."""

    @abstractmethod
    def _stepped(self, parts: Parts, state: State) -> list[Piece]:
        """Push to all streams of a state."""

    @abstractmethod
    def _ended(self, parts: Parts, state: State, num_samples: int | None) -> list[Piece]:
        """Push an incomplete group and end the stream."""

    @abstractmethod
    def _seconds(self, piece: Piece) -> float:
        """Duration of a piece of output."""

    def _add(self, state: State) -> Stream[Piece]:
        if len(self._streams) >= self.limits.streams:
            self.counters.refused += 1
            raise LimitError(f"expected at most {self.limits.streams} open streams; try again when one has ended")
        stream = Stream(self, state)
        self._streams.add(stream)
        self.counters.opened += 1
        if self._sweeper is None:
            self._sweep()
        return stream

    def _wake(self, stream: Stream[Piece]) -> None:
        """Queue a stream if it has work to do and is not queued yet."""
        if stream._has_work and not stream._busy and stream._since is None:
            stream._since = time.monotonic()
            self._ready.append(stream)
            self._dispatch()

    def _leave(self, stream: Stream[Piece]) -> None:
        self._streams.discard(stream)
        if stream._since is not None:
            self._ready.remove(stream)
            stream._since = None

    def _dispatch(self) -> None:
        """Start free workers, unless `gather` says to wait for more streams."""
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
        """The streams of the next call. A stream's end, or a first group of odd size, is computed on its own."""
        share = min(self._batch, -(-len(self._ready) // (self._workers - self._working)))
        taken = [self._ready.popleft()]
        while len(taken) < share and taken[0]._batchable and self._ready[0]._batchable:
            taken.append(self._ready.popleft())
        return taken

    def _start(self, streams: list[Stream[Piece]]) -> None:
        now = time.monotonic()
        waits = tuple(now - stream._since for stream in streams if stream._since is not None)
        end = not streams[0]._has_group
        job = _Job(streams, [stream._state for stream in streams], [stream._take() for stream in streams], end)
        for stream in streams:
            stream._busy, stream._since = True, None
        self._working += 1
        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._threads, self._work, job).add_done_callback(
            lambda future: self._done(job, waits, future)
        )

    def _work(self, job: _Job[Piece]) -> tuple[list[Piece], list[State], float]:
        """Runs in a thread: new pieces and states, and the seconds it took."""
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
        """End idle streams."""
        now = time.monotonic()
        for stream in [*self._streams]:
            if not stream._busy and stream._since is None and now - stream._touched > self.limits.idle:
                self.counters.idle += 1
                stream._end(
                    LimitError(f"expected a push or a read within {self.limits.idle:g} s; the stream was ended")
                )
        self._sweeper = None
        if self._streams:
            self._sweeper = asyncio.get_running_loop().call_later(min(1.0, self.limits.idle / 4), self._sweep)
