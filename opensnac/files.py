"""Atomic output files and folders: they appear complete or not at all."""

from __future__ import annotations

import io
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STEM_BYTES = 64  # of the target's name in the temporary file's: a file name has at most 255 bytes


@contextmanager
def atomic_file(target: Path, force: bool = False) -> Iterator[Path]:
    """A temporary path beside `target` to write to; renamed to `target` if the block succeeds, else removed.

    Missing folders are created. FileExistsError where `target` exists without `force`, or is not a regular file. An
    OSError about the temporary file (disk full, read-only folder) names `target`.
    """
    refuse_existing(target, force)
    place = Path(os.path.realpath(target))  # follows a link rather than replacing it
    unfinished = place.with_name(_unfinished_name(place.name))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        refuse_existing(target, force)
        os.replace(unfinished, place)
    except OSError as error:
        if error.filename is not None and os.fspath(error.filename) == os.fspath(unfinished):
            error.filename, error.filename2 = str(target), None
        raise
    finally:
        if unfinished.parent.is_dir():
            unfinished.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` to write into; renamed to `target` if the block succeeds, else removed.

    FileExistsError where `target` exists and is not an empty folder. An OSError about its content names `target`.
    """
    refuse_full_folder(target)
    unfinished = target.with_name(_unfinished_name(target.name))
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if target.exists():
            target.rmdir()
        unfinished.replace(target)
    except OSError as error:
        if error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(unfinished):
            error.filename, error.filename2 = str(target), None
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _unfinished_name(name: str) -> str:
    start = os.fsencode(name)[:STEM_BYTES].decode(errors="ignore")
    return f".{start}.{secrets.token_hex(4)}.part"


class OutputFile(io.FileIO):
    """An unbuffered file for writing, whose errors name `shown` and are kept in `error` for callers that lose them."""

    def __init__(self, path: Path, shown: str | Path) -> None:
        super().__init__(path, "w+")
        self.error: OSError | None = None
        self._shown = str(shown)

    def write(self, data: Any) -> int:
        """Write all of `data`."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            error.filename = self._shown
            self.error = self.error or error
            raise
        return size


def refuse_existing(target: Path, force: bool = False) -> None:
    """FileExistsError where `target` exists and may not be replaced."""
    if target.exists() and not target.is_file():
        raise FileExistsError(f"{target}: exists and is not a regular file; choose another name, or '-' for a pipe")
    if target.exists() and not force:
        raise FileExistsError(f"{target}: exists; --force replaces it")


def refuse_full_folder(target: Path) -> None:
    """FileExistsError where `target` exists and is not an empty folder."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target}: exists and is not empty; give a new folder with --out")
