"""Storage of a corpus, on a disk or behind a URL; every file in it is complete."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from opensnac.errors import OpensnacError
from opensnac.files import atomic_file
from opensnac.recordings.jobs import UsageError


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path there. OpensnacError if its package is missing."""
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise OpensnacError(f"{url}: expected an installed file system, got none: {error}") from error
    except ValueError as error:
        raise UsageError(f"{url}: expected a path or a URL that fsspec opens, got {error}") from error
    return fs, str(path)


class Store:
    """Files below `root`, each written atomically."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._fs, path = file_system(root)
        self._path = path.rstrip("/")
        self.is_local = isinstance(self._fs, LocalFileSystem)

    def __str__(self) -> str:
        return self.root

    def path(self, name: str) -> str:
        """The name of a file as its file system has it."""
        return f"{self._path}/{name}"

    def url(self, name: str) -> str:
        """The name of a file for other programs."""
        return f"{self.root.rstrip('/')}/{name}"

    def exists(self, name: str) -> bool:
        """Whether a file exists; files that do are complete."""
        return bool(self._fs.exists(self.path(name)))

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return int(self._fs.size(self.path(name)))

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; none where there is no folder."""
        if not self._fs.isdir(self.path(folder)):
            return []
        names = (entry.rpartition("/")[2] for entry in self._fs.ls(self.path(folder), detail=False))
        return sorted(name for name in names if not name.startswith("."))

    def open(self, name: str) -> BinaryIO:
        """A file for reading."""
        file: BinaryIO = self._fs.open(self.path(name), "rb")
        return file

    def parquet(self, name: str) -> pq.ParquetFile:
        """A Parquet file for reading."""
        return pq.ParquetFile(self.path(name) if self.is_local else self.open(name))

    def read(self, name: str) -> bytes:
        """All of a file."""
        with self.open(name) as file:
            return file.read()

    def digest(self, name: str) -> dict[str, int | str]:
        """A file's size and SHA-256."""
        with self.open(name) as file:
            found = hashlib.sha256()
            size = 0
            while data := file.read(1 << 20):
                found.update(data)
                size += len(data)
        return {"bytes": size, "sha256": found.hexdigest()}

    @contextmanager
    def atomic(self, name: str) -> Iterator[Path]:
        """A local path to write to; the file appears as `name` if the block ends without an error.

        An existing file is replaced. On a local disk the file also survives a power loss once the block has ended.
        """
        try:
            with self._atomic(name) as part:
                yield part
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            said = f"{os.strerror(errno.ENOSPC)}; finished shards are kept; run the same command to continue"
            raise OSError(errno.ENOSPC, said, self.url(name)) from error

    @contextmanager
    def _atomic(self, name: str) -> Iterator[Path]:
        if self.is_local:
            target = Path(self.path(name))
            with atomic_file(target, force=True) as part:
                yield part
                _fsync(part)
            _fsync(target.parent)
            return
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "part"
            yield part
            self._fs.makedirs(self.path(name).rpartition("/")[0], exist_ok=True)
            self._fs.put_file(str(part), self.path(name))

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically."""
        with self.atomic(name) as part:
            part.write_bytes(data)

    def remove(self, name: str) -> None:
        """Remove a file, or an empty folder, if it is there."""
        if self._fs.isdir(self.path(name)):
            if not self._fs.ls(self.path(name), detail=False):
                self._fs.rmdir(self.path(name))
        elif self.exists(name):
            self._fs.rm_file(self.path(name))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for one run and remove unfinished files of a killed one; UsageError if another run holds it.

        Local folders only: behind a URL no unfinished files appear, and two runs write the same files.
        """
        if not self.is_local:
            yield
            return
        if os.path.exists(self._path) and not os.path.isdir(self._path):
            raise UsageError(f"{self.root}: expected a folder for the corpus, got a file; choose another name")
        os.makedirs(self._path, exist_ok=True)
        folder = os.open(self._path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    f"{self.root}: expected no other run to write here, got one; wait for its end or stop it"
                ) from error
            self._remove_unfinished()
            yield
            self._remove_unfinished()  # from workers that died
        finally:
            os.close(folder)

    def _remove_unfinished(self) -> None:
        for part in Path(self._path).rglob(".*.part"):
            part.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
