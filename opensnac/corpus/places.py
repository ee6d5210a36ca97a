"""Locations of recordings: a file, a member of a tar file or a row of a Parquet file, on a disk or behind a URL."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

import fsspec

from opensnac.recordings.views import Slice

ATTEMPTS, PAUSE = 3, 1.0  # to open a URL; seconds to wait after the first failure, doubled each time


@dataclass(frozen=True)
class Place:
    """A file, `size` bytes of it from `offset` on (a member of a tar file), or the audio `column` of a Parquet `row`.

    `path` is a file name or a URL that fsspec opens: s3://, gs://, memory://, ... A row without bytes names a
    file as its `member`, as in the hub's `{"bytes", "path"}`.
    """

    path: str
    member: str = ""
    offset: int = 0
    size: int = -1  # bytes, if known
    column: str = ""
    row: int = -1

    def __str__(self) -> str:
        if self.row >= 0:
            return f"{self.path}#{self.row}"
        return f"{self.path}/{self.member}" if self.member else self.path

    def open(self) -> str | BinaryIO:
        """A plain file's name, else a seekable stream of the bytes. OSError if they cannot be read."""
        if self.row >= 0:
            data = _reader(self.path, self.column).bytes_of(self.row)
            beside = os.path.dirname(self.path)
            return io.BytesIO(data) if data is not None else Place(join(beside, self.member)).open()
        if not self.member:
            return open_binary(self.path) if is_url(self.path) else self.path
        return io.BufferedReader(Slice(open_binary(self.path), self.offset, self.size))


def is_url(path: str) -> bool:
    """Whether a path names its own file system."""
    return "://" in path


def open_binary(path: str) -> BinaryIO:
    """A file or URL for reading. A URL is retried, as network errors may be temporary."""
    if not is_url(path):
        return open(path, "rb")
    for attempt in range(ATTEMPTS):
        try:
            file: BinaryIO = fsspec.open(path, "rb").open()
            return file
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(PAUSE * 2**attempt)
    raise AssertionError("unreachable")


def parquet_file(path: str) -> Any:
    """A Parquet file or URL for reading."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(open_binary(path) if is_url(path) else path)


def join(folder: str, name: str) -> str:
    """A name below a folder, unless the name is absolute or a URL."""
    return name if is_url(name) or os.path.isabs(name) or not folder else f"{folder.rstrip('/')}/{name}"


@lru_cache(maxsize=1)  # consecutive rows of a shard are in one file, or in two
def _reader(path: str, column: str) -> _EmbeddedAudio:
    return _EmbeddedAudio(path, column)


class _EmbeddedAudio:
    """The audio column of a Parquet file, read forwards a few rows at a time."""

    ROWS_AT_ONCE = 16

    def __init__(self, path: str, column: str) -> None:
        self._file, self._column = parquet_file(path), column
        metadata = self._file.metadata
        self._groups = [0]
        for group in range(metadata.num_row_groups):
            self._groups.append(self._groups[-1] + metadata.row_group(group).num_rows)
        self._first = -self.ROWS_AT_ONCE
        self._held: list[bytes | None] = []
        self._rest: Iterator[list[bytes | None]] = iter(())

    def bytes_of(self, row: int) -> bytes | None:
        """The bytes in a row, None if it has none. Consecutive rows are read together."""
        if not self._first <= row < self._first + len(self._held) + self.ROWS_AT_ONCE:
            group = next(g for g in range(len(self._groups) - 1) if row < self._groups[g + 1])
            self._first, self._held, self._rest = self._groups[group], [], self._batches(group)
        while row >= self._first + len(self._held):
            self._first += len(self._held)
            self._held = next(self._rest)
        return self._held[row - self._first]

    def _batches(self, first_group: int) -> Iterator[list[bytes | None]]:
        groups, columns = list(range(first_group, len(self._groups) - 1)), [f"{self._column}.bytes"]
        for batch in self._file.iter_batches(self.ROWS_AT_ONCE, row_groups=groups, columns=columns):
            yield [value and value["bytes"] for value in batch.column(0).to_pylist()]
