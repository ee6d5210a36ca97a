"""One stream of a pool: what was pushed and waits to be worked on, and what came of it and waits to be read."""

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

Parts = list[Tensor]  # what a stream takes, (1, n) each: the codes of each scale, or samples
Piece = TypeVar("Piece")  # what it gives: samples (n,), or the codes of each scale (n,)


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

    async def push(self, parts: Any, *, check: bool = True) -> None:
        """Take input, any amount of what the pool's docstring shows; return when it is within the limits to go on.

        CodesError or AudioError for anything else, which leaves the stream as it was. Without `check`, parts are taken
        as they are: the codes of each scale, int64 and in range, or [samples (1, n)], float32 and finite.
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
