"""Exact reads from a file or pipe, with a byte count and a running checksum."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import BinaryIO

from opensnac.errors import BitstreamError, TruncatedStreamError

PIECE = 1 << 16  # bytes per read: memory grows with what arrives, not with what a length field declares


class ByteSource:
    """Reads a binary file forwards only, so that a pipe works too.

    `position` counts the bytes read so far and `crc32` is their running CRC-32. `in_time` is called after every read,
    and raises if that took too long.
    """

    def __init__(self, file: BinaryIO, in_time: Callable[[], None] | None = None) -> None:
        self._read = file.read if in_time is None else getattr(file, "read1", file.read)  # read1: what is available
        self._in_time = in_time
        self.position = 0
        self.crc32 = 0

    def take(self, count: int, part: str) -> bytes:
        """The next `count` bytes, a part of the stream called `part`; TruncatedStreamError if it ends before."""
        data = self.take_up_to(count)
        if len(data) < count:
            raise TruncatedStreamError(
                f"the stream ends at byte {self.position}, inside {part}: expected at least {count - len(data)} more"
            )
        return data

    def take_up_to(self, count: int) -> bytes:
        """The next `count` bytes, or fewer at the end of the file; a pipe's short reads are joined."""
        data = bytearray()
        while len(data) < count:
            piece = self._read(min(count - len(data), PIECE))
            if piece is None:
                raise BitstreamError("expected a blocking input, got a non-blocking one; open it in blocking mode")
            if not piece:
                break
            data += piece
            if self._in_time is not None:
                self._in_time()
        self.position += len(data)
        self.crc32 = zlib.crc32(data, self.crc32)
        return bytes(data)
