"""Part of a file as a file, with some bytes replaced: what libsndfile reads of a corrected recording."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

CHUNK = 1 << 16  # bytes per read while a file is scanned


class Bytes:
    """Random access to the bytes of a seekable file, shared by several readers and threads."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.size = file.seek(0, io.SEEK_END)
        self._start, self._chunk = 0, b""

    def at(self, position: int, count: int) -> bytes:
        """`count` bytes from `position` on, fewer at the end, none before the start."""
        if position < 0:
            return b""
        with self._lock:
            self._file.seek(position)
            return self._file.read(count)

    def near(self, position: int, count: int) -> bytes:
        """As `at`, buffered, for many short reads forwards through a file; `count` is at most CHUNK."""
        offset = position - self._start
        if offset < 0 or offset + count > len(self._chunk):
            self._start, self._chunk, offset = position, self.at(position, 2 * CHUNK), 0
        return self._chunk[offset : offset + count]

    def find(self, pattern: bytes, start: int) -> int:
        """The next position of `pattern`, from `start` on; -1 if there is none."""
        while start < self.size:
            found = self.at(start, 16 * CHUNK).find(pattern)
            if found >= 0:
                return start + found
            start += 16 * CHUNK - len(pattern) + 1
        return -1


class Slice(io.RawIOBase):
    """`size` bytes of a seekable file from `offset` on, as a file; closing it closes the original."""

    def __init__(self, file: Any, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._position = file, offset, size, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """As for any file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + position)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as possible."""
        wanted = max(0, min(len(buffer), self._size - self._position))
        self._file.seek(self._offset + self._position)
        count = int(self._file.readinto(memoryview(buffer)[:wanted]))
        self._position += count
        return count

    def close(self) -> None:
        """Close the original file too."""
        self._file.close()
        super().close()


@dataclass(frozen=True)
class ViewSpec:
    """The parameters of a View, without the file."""

    start: int
    stop: int
    prefix: bytes = b""
    patches: tuple[tuple[int, bytes], ...] = ()


class View(io.RawIOBase):
    """`prefix`, then the file's bytes from `start` to `stop`, with `patches` applied at their positions in the file.

    libsndfile's C callbacks lose exceptions: an error is kept in `error`, and reads as the end of the file.
    """

    def __init__(
        self,
        content: Bytes,
        start: int = 0,
        stop: int | None = None,
        prefix: bytes = b"",
        patches: Mapping[int, bytes] | None = None,
    ) -> None:
        self.start, self.stop = start, content.size if stop is None else min(stop, content.size)
        self.error: OSError | None = None
        self._content, self._prefix, self._patches = content, prefix, dict(patches or {})
        self._position = 0

    @classmethod
    def of(cls, content: Bytes, spec: ViewSpec) -> View:
        """The view with these parameters."""
        return cls(content, spec.start, spec.stop, spec.prefix, dict(spec.patches))

    @property
    def spec(self) -> ViewSpec:
        """The view's parameters."""
        return ViewSpec(self.start, self.stop, self._prefix, tuple(self._patches.items()))

    @property
    def size(self) -> int:
        """Bytes in all."""
        return len(self._prefix) + self.stop - self.start

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._position

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """As for any file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, base + position)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as possible."""
        try:
            data = self._next(len(buffer))
        except OSError as error:
            self.error = error
            return 0
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _next(self, count: int) -> bytes:
        head = self._prefix[self._position : self._position + count]
        first = self.start + max(0, self._position - len(self._prefix))
        count = 0 if self._position + len(head) < len(self._prefix) else count - len(head)
        data = bytearray(self._content.at(first, min(count, max(0, self.stop - first))))
        for position, new in self._patches.items():
            low, high = max(position, first), min(position + len(new), first + len(data))
            if low < high:
                data[low - first : high - first] = new[low - position : high - position]
        return head + bytes(data)
