"""Recordings over HTTP, streamed both ways: a thread reads the request and writes the response piece by piece."""

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

PIECES = 8  # that may be queued for sending
PIECE_BYTES = 1 << 16


class RequestFile(io.RawIOBase):
    """A request's body as a file for a thread. Raises LimitError beyond `most` bytes, or if the body stalls."""

    def __init__(self, body: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop, most: int, idle: float) -> None:
        self._body, self._loop, self._most, self._idle = body, loop, most, idle
        self._rest, self._taken = b"", 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what has arrived, or wait for more."""
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


class ResponseFile(io.RawIOBase):
    """A response as a file that a thread writes, and as pieces that the event loop sends."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(PIECES)
        self._waiting = bytearray()
        self.gone = False  # whether the client has left

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: Any) -> int:
        """Queue data; waits while the queue is full. Raises BrokenPipeError once the client is gone."""
        self._waiting += data
        if len(self._waiting) >= PIECE_BYTES:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Queue what is buffered."""
        if self._waiting:
            self.put(bytes(self._waiting))
            self._waiting.clear()

    def put(self, piece: bytes | Exception | None) -> None:
        """Called by the thread: queue a piece, an error, or None for the end."""
        if self.gone:
            raise BrokenPipeError("the client is gone")
        asyncio.run_coroutine_threadsafe(self._pieces.put(piece), self._loop).result()

    async def get(self) -> bytes | None:
        """The next piece, None at the end; raises the thread's error."""
        piece = await self._pieces.get()
        if isinstance(piece, Exception):
            raise piece
        return piece

    def abandon(self) -> None:
        """The client has left: let the thread end."""
        self.gone = True
        while not self._pieces.empty():
            self._pieces.get_nowait()


class Transfers:
    """Codes up to `most` recordings in parallel, one thread each; check `full` first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.running = 0
        self._threads = ThreadPoolExecutor(most, "opensnac-files", torch.set_num_threads, (1,))

    @property
    def full(self) -> bool:
        """Whether all threads are in use."""
        return self.running >= self._most

    async def run(
        self, body: AsyncIterator[bytes], work: Callable[[BinaryIO, BinaryIO], None], most: int, idle: float
    ) -> AsyncIterator[bytes]:
        """Let `work` read the body and write the response; returns once its first piece is there."""
        loop = asyncio.get_running_loop()
        source, target = RequestFile(body, loop, most, idle), ResponseFile(loop)
        self.running += 1

        def job() -> None:
            try:
                work(cast(BinaryIO, io.BufferedReader(source)), cast(BinaryIO, target))
                target.flush()
                target.put(None)
            except BrokenPipeError:
                return
            except Exception as error:  # raised where the response is awaited
                if not target.gone:
                    target.put(error)

        future = loop.run_in_executor(self._threads, job)
        future.add_done_callback(self._ended)
        try:
            first = await target.get()
        except BaseException:
            target.abandon()
            raise
        return self._pieces(first, target)

    def _ended(self, _: asyncio.Future[None]) -> None:
        self.running -= 1

    async def _pieces(self, first: bytes | None, target: ResponseFile) -> AsyncIterator[bytes]:
        piece = first
        try:
            while piece is not None:
                yield piece
                piece = await target.get()
        except Exception as error:
            event("cut off", {"error": str(error)}, logging.WARNING)
            raise ConnectionAbortedError("the response cannot be completed") from error  # so that the client notices
        finally:
            target.abandon()

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
