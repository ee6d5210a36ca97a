"""One stream of a pool, with its queue of input and its queue of output."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor

from opensnac.errors import OpensnacError
from opensnac.streaming.streams import State

if TYPE_CHECKING:
    from opensnac.serving.pool import Pool

Parts = list[Tensor]  # input, (1, n) each: codes per scale, or samples
Piece = TypeVar("Piece")  # output: samples (n,), or codes per scale (n,)


class Stream(Generic[Piece]):
    """One stream of a pool: push to it, `finish` it, and read it with `async for`, from any tasks of one event loop.

    `push` waits while the input queue is full, and the stream is not processed while the output queue is
    (PoolLimits.buffered). Cancel a stream that you leave before its end; `async with` does.
    """

    def __init__(self, pool: Pool[Piece], state: State) -> None:
        self._pool, self._state = pool, state
        self._pending = [torch.zeros(1, 0, dtype=torch.int64) for _ in pool._sizes]
        self._output: deque[Piece] = deque()
        self._finishing = self._ended = self._busy = False
        self._num_samples: int | None = None
        self._error: Exception | None = None
        self._since: float | None = None  # when it was queued
        self._touched = time.monotonic()
        self._unread = 0.0  # seconds of sound
        self._changed = asyncio.Event()  # set on every change

    async def __aenter__(self) -> Stream[Piece]:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def __aiter__(self) -> Stream[Piece]:
        return self

    async def __anext__(self) -> Piece:
        await self._until(lambda: bool(self._output) or self._ended)
        if not self._output:
            if self._error is not None:
                raise self._error
            raise StopAsyncIteration
        piece = self._output.popleft()
        self._unread -= self._pool._seconds(piece)
        self._touch()
        return piece

    @property
    def ended(self) -> bool:
        """Whether all output there will be is in the queue."""
        return self._ended

    async def push(self, parts: Any, *, check: bool = True) -> None:
        """Push any amount of input, as in the pool's docstring; returns when there is room for more.

        Raises CodesError or AudioError for invalid input, which leaves the stream unchanged. With `check=False` the
        caller guarantees codes per scale, int64 and in range, or [samples (1, n)], float32 and finite.
        """
        checked = self._pool._checked(parts) if check else parts
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
        """End the input; the rest of the output follows. A decoder's output is cut to `num_samples` in total."""
        self._refuse_ended()
        self._finishing, self._num_samples = True, num_samples
        self._touch()

    async def save(self) -> State:
        """The state once all input is processed and all output read; pass it to `open` to continue."""
        self._refuse_ended()
        await self._until(lambda: self._ended or not (self._has_group or self._busy or self._output))
        self._refuse_ended()
        state = self._state.fork()
        if self._pending[0].numel():
            self._pool._stepped(self._pending, state)
        return state

    def cancel(self) -> None:
        """End the stream immediately and drop unread output. No effect on an ended stream."""
        self._output.clear()
        if not self._ended:
            self._pool.counters.cancelled += 1
            self._end(OpensnacError("the stream was cancelled"))

    @property
    def _groups(self) -> int:
        """Complete groups in the input queue."""
        return self._pending[0].shape[1] // self._pool._sizes[0]

    @property
    def _needed(self) -> list[int]:
        """Input per part that completes the next group, less what the state already holds."""
        size, waiting = self._pool._group_steps, self._state.waiting.shape[1]
        return [count * (size - waiting) // size for count in self._pool._sizes]

    @property
    def _has_group(self) -> bool:
        return self._pending[0].shape[1] >= self._needed[0]

    @property
    def _has_work(self) -> bool:
        """Whether there is work to do, and room for its output."""
        room = self._unread < self._pool.limits.buffered
        return not self._ended and ((self._has_group and room) or (self._finishing and not self._has_group))

    @property
    def _batchable(self) -> bool:
        """Whether it can share a call with other streams."""
        return self._has_group and not self._state.waiting.shape[1]

    def _take(self) -> Parts:
        """Remove a group from the input queue, or the rest of it."""
        sizes = self._needed if self._has_group else [part.shape[1] for part in self._pending]
        taken = [part[:, :size] for part, size in zip(self._pending, sizes, strict=True)]
        self._pending = [part[:, size:] for part, size in zip(self._pending, sizes, strict=True)]
        return taken

    def _receive(self, piece: Piece, state: State, end: bool) -> None:
        """Accept a worker's result, unless the stream was ended in the meantime."""
        self._busy = False
        if self._ended:
            return
        self._state = state
        if seconds := self._pool._seconds(piece):
            self._output.append(piece)
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
        self._changed.set()

    def _touch(self) -> None:
        self._touched = time.monotonic()
        self._changed.set()
        self._pool._wake(self)

    def _refuse_ended(self) -> None:
        if self._error is not None:
            raise self._error
        if self._ended or self._finishing:
            raise OpensnacError("the stream has ended; open another one")

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()
