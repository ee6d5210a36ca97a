"""Recordings over HTTP, both ways piece by piece: a thread reads the request and writes the answer as it comes."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, cast

import torch

from opensnac.errors import LimitError
from opensnac.serving.logs import event

PIECES = 8  # that may wait to be sent
PIECE_BYTES = 1 << 16


class Inlet(io.RawIOBase):
    """A request's body as a file that a thread reads; LimitError for more than `most` bytes, or a body that stalls."""

    def __init__(self, body: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop, most: int, idle: float) -> None:
        self._body, self._loop, self._most, self._idle = body, loop, most, idle
        self._rest, self._taken = b"", 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """What has come, or what comes next."""
        while not self._rest:
            future = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
            piece = future.result()
            if piece is None:
                return 0
            self._rest = piece
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    async def _next(self) -> bytes | None:
        try:
            async with asyncio.timeout(self._idle):
                piece = await anext(self._body, None)
        except TimeoutError:
            raise LimitError(f"expected more of the request within {self._idle:g} s") from None
        self._taken += len(piece or b"")
        if self._taken > self._most:
            raise LimitError(f"expected at most {self._most} bytes, got more")
        return piece


class Outlet(io.RawIOBase):
    """An answer as a file that a thread writes, and as pieces that the event loop sends."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(PIECES)
        self._waiting = bytearray()
        self.gone = False  # whether nobody wants the rest

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Hand on; waits while enough pieces wait to be sent. BrokenPipeError once the client is gone."""
        self._waiting += data
        if len(self._waiting) >= PIECE_BYTES:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Hand on what is gathered."""
        if self._waiting:
            self.put(bytes(self._waiting))
            self._waiting.clear()

    def put(self, piece: bytes | Exception | None) -> None:
        """From the thread: a piece, what went wrong, or the end."""
        if self.gone:
            raise BrokenPipeError("the client is gone")
        asyncio.run_coroutine_threadsafe(self._pieces.put(piece), self._loop).result()

    async def get(self) -> bytes | None:
        """The next piece, None at the end; raises what went wrong."""
        piece = await self._pieces.get()
        if isinstance(piece, Exception):
            raise piece
        return piece

    def abandon(self) -> None:
        """Nobody wants the rest: let the thread end."""
        self.gone = True
        while not self._pieces.empty():
            self._pieces.get_nowait()


class Transfers:
    """So many recordings at once, each worked on by a thread of its own; ask whether they are `full` before."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.running = 0
        self._threads = ThreadPoolExecutor(most, "opensnac-files", torch.set_num_threads, (1,))

    @property
    def full(self) -> bool:
        """Whether there is no thread for one more."""
        return self.running >= self._most

    async def run(
        self, body: AsyncIterator[bytes], work: Callable[[BinaryIO, BinaryIO], None], most: int, idle: float
    ) -> AsyncIterator[bytes]:
        """Let `work` read the body and write the answer, whose first piece has come when this returns."""
        loop = asyncio.get_running_loop()
        inlet, outlet = Inlet(body, loop, most, idle), Outlet(loop)
        self.running += 1

        def job() -> None:
            try:
                work(cast(BinaryIO, io.BufferedReader(inlet)), cast(BinaryIO, outlet))
                outlet.flush()
                outlet.put(None)
            except BrokenPipeError:
                return
            except Exception as error:  # handed to whoever waits for the answer
                if not outlet.gone:
                    outlet.put(error)

        future = loop.run_in_executor(self._threads, job)
        future.add_done_callback(self._ended)
        try:
            first = await outlet.get()
        except BaseException:
            outlet.abandon()
            raise
        return self._pieces(first, outlet)

    def _ended(self, _: asyncio.Future[None]) -> None:
        self.running -= 1

    async def _pieces(self, first: bytes | None, outlet: Outlet) -> AsyncIterator[bytes]:
        piece = first
        try:
            while piece is not None:
                yield piece
                piece = await outlet.get()
        except Exception as error:
            event("cut off", {"error": str(error)}, logging.WARNING)
            raise ConnectionAbortedError("the answer cannot be finished") from error  # the client sees that it is cut
        finally:
            outlet.abandon()

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
