"""Processes that read recordings ahead of the encoder; they end when their parent does."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from opensnac.config import CodecConfig
from opensnac.corpus.loading import Excluded, Loaded, load
from opensnac.corpus.settings import Settings
from opensnac.corpus.sources import Entry
from opensnac.errors import OpensnacError

AHEAD = 2  # recordings that each process reads ahead
POLL_SECONDS = 1.0  # between checks that the readers are alive

Found = Loaded | Excluded | str  # as read, excluded by the selection, or why it cannot be read


class ReaderDied(Exception):  # noqa: N818
    """A reader process died; the recordings in progress in all of them are lost."""


@dataclass(frozen=True)
class Loader:
    """Reads one recording, in any process."""

    settings: Settings
    config: CodecConfig

    def __call__(self, entry: Entry) -> Found:
        if entry.problem:
            return entry.problem
        try:
            return load(entry.place, self.settings, self.config)
        except Excluded as out:
            return out
        except Exception as error:  # a broken recording must not stop the others
            return reason(error, entry)


class Readers:
    """A pool of processes that read recordings in order, started at first use."""

    def __init__(self, loader: Loader, count: int) -> None:
        self._loader, self._count = loader, count
        self._pool: ProcessPoolExecutor | None = None

    def read(self, entries: Iterable[Entry]) -> Iterator[Found]:
        """Each recording, in order. After a ReaderDied the next call starts new processes."""
        context = multiprocessing.get_context("spawn")
        pool = self._pool = self._pool or ProcessPoolExecutor(self._count, context, _end_with_parent)
        waiting: deque[Future[Found]] = deque()
        try:
            for entry in entries:
                waiting.append(pool.submit(self._loader, entry))
                if len(waiting) > AHEAD * self._count:
                    yield _result(waiting.popleft(), pool)
            while waiting:
                yield _result(waiting.popleft(), pool)
        except BrokenProcessPool as error:
            self.stop()
            raise ReaderDied from error
        finally:
            for future in waiting:
                future.cancel()

    def stop(self) -> None:
        """Stop the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None


def _result(future: Future[Found], pool: ProcessPoolExecutor) -> Found:
    """What a reader found; BrokenProcessPool if one died."""
    while True:
        try:
            return future.result(POLL_SECONDS)
        except TimeoutError:
            _unblock(pool)


def _unblock(pool: ProcessPoolExecutor) -> None:
    """End a pool whose reader was killed while it sent a result.

    The pool's thread would wait forever for the rest of the message, since this process holds the pipe's other end too.
    """
    inner: Any = pool
    processes = [*(inner._processes or {}).values()]
    if all(process.is_alive() for process in processes):
        return
    for process in processes:
        process.kill()
    inner._result_queue._writer.close()


def reason(error: Exception, entry: Entry) -> str:
    """Why a recording failed, without its name, which is recorded separately."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    if isinstance(error, OpensnacError):
        return str(error).removeprefix(f"{entry.place}: ")
    return f"{type(error).__name__}: {error}"


def _end_with_parent() -> None:
    """In a reader's process: end when the parent does, however it dies."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this process was spawned

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
