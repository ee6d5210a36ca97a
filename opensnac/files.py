"""Output files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(target: Path, force: bool = False) -> Iterator[Path]:
    """A path beside `target` to write to; it becomes `target` when the block ends well, else it is removed.

    Missing folders are made. FileExistsError where `target` exists without `force`, or is no plain file.
    """
    refuse_existing(target, force)
    target = Path(os.path.realpath(target))  # through a link, rather than in its place
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name[:64]}.{secrets.token_hex(4)}.part")
    try:
        yield unfinished
        refuse_existing(target, force)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def refuse_existing(target: Path, force: bool = False) -> None:
    """Raise FileExistsError where `target` exists and may not be replaced."""
    if target.exists() and not target.is_file():
        raise FileExistsError(f"{target}: exists and is no plain file; choose another name, or '-' for a pipe")
    if target.exists() and not force:
        raise FileExistsError(f"{target}: exists; --force replaces it")
