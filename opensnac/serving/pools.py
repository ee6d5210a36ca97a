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
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from opensnac.engine.codec import Coder, frozen
from opensnac.errors import LimitError, OpensnacError
from opensnac.model.checks import checked_audio, checked_codes
from opensnac.streaming.streams import State, StreamDecoder, StreamEncoder

Parts = list[Tensor]  # what a stream takes, (1, n) each: the codes of each scale, or samples
Piece = TypeVar("Piece")  # what it gives: samples (n,), or the codes of each scale (n,)


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


class Stream(Generic[Piece]):
    """One stream of a pool: push to it, `finish` it, and read it with `async for`, from any tasks of one event loop.

    `push` waits while as many seconds wait as the pool's limits allow, and so does the work while as many are unread.
    One that is left before its end is to be cancelled; `async with` does that.
    """

    def __init__(self, pool: Pool[Piece], state: State) -> None:
        self._pool, self._state = pool, state
        self._pending = [torch.zeros(1, 0, dtype=torch.int64) for _ in pool._sizes]
        self._heard: deque[Piece] = deque()
        self._finishing = self._ended = self._busy = False
        self._num_samples: int | None = None
        self._error: Exception | None = None
        self._since: float | None = None  # when it came to stand in the row of those that are ready
        self._touched = time.monotonic()
        self._unread = 0.0  # seconds of sound
        self._bell = asyncio.Event()  # rings when anything changes

    async def __aenter__(self) -> Stream[Piece]:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def __aiter__(self) -> Stream[Piece]:
        return self

    async def __anext__(self) -> Piece:
        await self._until(lambda: bool(self._heard) or self._ended)
        if not self._heard:
            if self._error is not None:
                raise self._error
            raise StopAsyncIteration
        piece = self._heard.popleft()
        self._unread -= self._pool._seconds(piece)
        self._touch()
        return piece

    @property
    def ended(self) -> bool:
        """Whether nothing will come that is not there to be read."""
        return self._ended

    async def push(self, parts: Any) -> None:
        """Take input, any amount that the pool's docstring tells; return when it is within the limits to go on.

        CodesError or AudioError for what is none, which leaves the stream as it was.
        """
        checked = self._pool._checked(parts)
        limit = max(1, int(self._pool.limits.buffered / self._pool.group_seconds))
        sizes = [limit * size for size in self._pool._sizes]
        pieces = [part.split(size, dim=1) for part, size in zip(checked, sizes, strict=True)]
        for piece in zip(*pieces, strict=True):
            await self._until(lambda: self._ended or self._groups < limit)
            self._refuse_ended()
            self._pending = [
                torch.cat((old, new), dim=1) if old.numel() else new
                for old, new in zip(self._pending, piece, strict=True)
            ]
            self._touch()
        await self._until(lambda: self._ended or self._groups < limit)

    async def finish(self, num_samples: int | None = None) -> None:
        """Nothing more comes: the rest will be given out. A decoder's stream is cut to `num_samples` in all."""
        self._refuse_ended()
        self._finishing, self._num_samples = True, num_samples
        self._touch()

    async def save(self) -> State:
        """Where the stream stands once all that was pushed is worked on and read; `open` goes on from there."""
        self._refuse_ended()
        await self._until(lambda: self._ended or not (self._has_group or self._busy or self._heard))
        self._refuse_ended()
        state = self._state.fork()
        if self._pending[0].numel():
            self._pool._stepped(self._pending, state)
        return state

    def cancel(self) -> None:
        """End the stream at once; what is unread is lost. Nothing for one that has ended."""
        self._heard.clear()
        if not self._ended:
            self._pool.counters.cancelled += 1
            self._end(OpensnacError("the stream was cancelled"))

    @property
    def _groups(self) -> int:
        """Whole groups that wait."""
        return self._pending[0].shape[1] // self._pool._sizes[0]

    @property
    def _needed(self) -> list[int]:
        """Of each part, what the next group lacks: some may wait in the state already."""
        size, waiting = self._pool._group_steps, self._state.waiting.shape[1]
        return [count * (size - waiting) // size for count in self._pool._sizes]

    @property
    def _has_group(self) -> bool:
        return self._pending[0].shape[1] >= self._needed[0]

    @property
    def _due(self) -> bool:
        """Whether there is something to do, and room for what comes of it."""
        room = self._unread < self._pool.limits.buffered
        return not self._ended and ((self._has_group and room) or (self._finishing and not self._has_group))

    @property
    def _joins(self) -> bool:
        """Whether it can be stepped together with others."""
        return self._has_group and not self._state.waiting.shape[1]

    def _taken(self) -> Parts:
        """Take a group out of what waits, or the rest of it."""
        sizes = self._needed if self._has_group else [part.shape[1] for part in self._pending]
        taken = [part[:, :size] for part, size in zip(self._pending, sizes, strict=True)]
        self._pending = [part[:, size:] for part, size in zip(self._pending, sizes, strict=True)]
        return taken

    def _receive(self, piece: Piece, state: State, end: bool) -> None:
        """Take what a worker made of the stream; one that was ended meanwhile hears nothing of it."""
        self._busy = False
        if self._ended:
            return
        self._state = state
        if seconds := self._pool._seconds(piece):
            self._heard.append(piece)
            self._unread += seconds
            self._pool.counters.sound += seconds
        if end:
            self._pool.counters.finished += 1
            self._end(None)
        self._touch()

    def _fail(self, error: BaseException) -> None:
        self._busy = False
        if not self._ended:
            self._pool.counters.failed += 1
            self._end(error if isinstance(error, Exception) else OpensnacError(str(error)))

    def _end(self, error: Exception | None) -> None:
        self._ended, self._error = True, error
        self._pool._leave(self)
        self._bell.set()

    def _touch(self) -> None:
        self._touched = time.monotonic()
        self._bell.set()
        self._pool._wake(self)

    def _refuse_ended(self) -> None:
        if self._error is not None:
            raise self._error
        if self._ended or self._finishing:
            raise OpensnacError("the stream has ended; open another one")

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._bell.clear()
            await self._bell.wait()


class DecoderPool(Pool[Tensor]):
    """Streams of codes to samples; each gives what StreamDecoder gives it alone.

    async with DecoderPool(model, PoolLimits(streams=100)) as pool:
        stream = pool.open(seed=7)
        await stream.push(codes)  # (1, n / stride) of each scale, whole coarse frames
        await stream.finish()
        async for samples in stream:  # (n,)
            play(samples)
    """

    def __init__(
        self, model: Coder, limits: PoolLimits = PoolLimits(), *, look_ahead: int | None = None, **options: Any
    ) -> None:
        engine = frozen(model)
        self._decoder = StreamDecoder(engine, look_ahead)
        frames = engine.config.frame_multiple
        sizes = [frames // stride for stride in engine.config.vq_strides]
        super().__init__(self._decoder, frames, sizes, limits, **options)

    def open(self, *, seed: int = 0, noise: bool = True, state: State | None = None) -> Stream[Tensor]:
        """A new stream, or one that goes on from a state. LimitError where there is no place, OpensnacError for a state
        that is none of a stream of this model."""
        start = self._decoder.start(seed=seed, noise=noise) if state is None else self._decoder.resume(state)
        return self._add(start)

    def _checked(self, parts: Any) -> Parts:
        config = self.engine.config
        codes, _ = checked_codes(parts, config, self.engine.device, config.coarse_stride)
        return codes

    def _stepped(self, parts: Parts, state: State) -> list[Tensor]:
        return [audio[0].clone() for audio in self._decoder.push(parts, state, check=False)]  # not the batch's memory

    def _ended(self, parts: Parts, state: State, num_samples: int | None) -> list[Tensor]:
        if parts[0].numel():
            self._decoder.push(parts, state, check=False)
        return [audio[0] for audio in self._decoder.flush(state, num_samples)]

    def _seconds(self, piece: Tensor) -> float:
        return len(piece) / self.engine.config.sampling_rate


class EncoderPool(Pool[list[Tensor]]):
    """Streams of samples to codes; each gives what StreamEncoder gives it alone.

    async with EncoderPool(model) as pool:
        stream = pool.open()
        await stream.push(audio)  # (1, 1, samples), any number of them, at the model's rate
        await stream.finish()
        async for codes in stream:  # (n / stride,) of each scale
            ...
    """

    def __init__(
        self, model: Coder, limits: PoolLimits = PoolLimits(), *, look_ahead: int | None = None, **options: Any
    ) -> None:
        engine = frozen(model)
        self._encoder = StreamEncoder(engine, look_ahead)
        samples = engine.config.frame_multiple * engine.hop_length
        super().__init__(self._encoder, samples, [samples], limits, **options)

    def open(self, *, state: State | None = None) -> Stream[list[Tensor]]:
        """A new stream, or one that goes on from a state; errors as in DecoderPool."""
        return self._add(self._encoder.start() if state is None else self._encoder.resume(state))

    def _checked(self, parts: Any) -> Parts:
        return [checked_audio(parts, torch.float32, self.engine.device)[:, 0]]

    def _stepped(self, parts: Parts, state: State) -> list[list[Tensor]]:
        return [[code[0] for code in codes] for codes in self._encoder.push(parts[0][:, None], state, check=False)]

    def _ended(self, parts: Parts, state: State, num_samples: int | None) -> list[list[Tensor]]:
        if parts[0].numel():
            self._encoder.push(parts[0][:, None], state, check=False)
        return [[code[0] for code in codes] for codes in self._encoder.flush(state)]

    def _seconds(self, piece: list[Tensor]) -> float:
        frames = len(piece[0]) * self.engine.config.vq_strides[0]
        return frames * self.engine.hop_length / self.engine.config.sampling_rate
