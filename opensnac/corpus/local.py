"""Local engine: worker processes that each hold a model on one core or one GPU and make shards.

Workers are spawned with a pipe each, so that either side notices the other's death: a worker that dies is replaced
and its shard made again; workers whose parent dies stop at their next message.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from opensnac.corpus.work import Job, Worker
from opensnac.errors import OpensnacError

MAX_DEATHS = 3  # of workers over one shard
MAX_BLAMED = 2  # deaths while one recording was read before it is skipped
KILLS = "kills the process that reads it"

On = Callable[[str, Any], None]  # as `work.Report`, and ("shard", Record), ("died", message)


@dataclass
class _WorkerHandle:
    """The parent's side of a worker process."""

    process: Any
    pipe: Connection
    shard: int | None = None
    reads: int | None = None  # the recording it started reading last


@dataclass
class _Deaths:
    """How often workers died at one shard, and at which of its recordings."""

    count: int = 0
    blamed: dict[int, int] = field(default_factory=dict)

    def skip(self) -> dict[int, str]:
        """Recordings to skip from now on, with the reason."""
        reason = f"{KILLS} ({MAX_BLAMED} times)"
        return {number: reason for number, count in self.blamed.items() if count >= MAX_BLAMED}


def run(job: Job, shards: Sequence[int], workers: int, on: On) -> None:
    """Make the shards. With 0 workers this process makes them, one after another, and errors are raised."""
    if not workers:
        _in_this_process(job, shards, on)
        return
    pool = _Pool(job, shards, min(workers, len(shards)), on)
    try:
        pool.run()
    finally:
        pool.stop()


def devices(device: str, workers: int) -> list[str]:
    """The device of each worker: GPUs in turn if `device` is cuda."""
    count = torch.cuda.device_count() if device == "cuda" else 0
    return [f"cuda:{n % count}" if count else device for n in range(workers)]


def default_workers(device: str) -> int:
    """One per core available to this process, or one per GPU."""
    return torch.cuda.device_count() if device.startswith("cuda") else len(os.sched_getaffinity(0))


def _in_this_process(job: Job, shards: Sequence[int], on: On) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Worker(job) as worker:
            for shard in shards:
                on("shard", worker.make(shard, on))
    finally:
        torch.set_num_threads(threads)


class _Pool:
    """The workers and the queue of shards."""

    def __init__(self, job: Job, shards: Sequence[int], workers: int, on: On) -> None:
        self._on = on
        self._waiting = list(reversed(shards))
        self._deaths: dict[int, _Deaths] = {}
        self._jobs = [replace(job, device=device) for device in devices(job.device, workers)]
        self._handles = [_start(own) for own in self._jobs]

    def run(self) -> None:
        for handle in self._handles:
            self._give(handle)
        while busy := [handle for handle in self._handles if handle.shard is not None]:
            for pipe in wait([handle.pipe for handle in busy]):
                handle = next(handle for handle in busy if handle.pipe is pipe)
                try:
                    event, value = handle.pipe.recv()
                except (EOFError, ConnectionResetError):
                    self._replace(handle)
                    continue
                self._on_event(handle, event, value)

    def stop(self) -> None:
        for handle in self._handles:
            handle.pipe.close()
        for handle in self._handles:
            handle.process.terminate()
            handle.process.join()

    def _give(self, handle: _WorkerHandle) -> None:
        handle.shard, handle.reads = (self._waiting.pop() if self._waiting else None), None
        if handle.shard is not None:
            with suppress(BrokenPipeError, ConnectionResetError):  # noticed when its answer is awaited
                handle.pipe.send((handle.shard, self._deaths.get(handle.shard, _Deaths()).skip()))

    def _on_event(self, handle: _WorkerHandle, event: str, value: Any) -> None:
        if event == "error":
            raise value
        if event in ("reads", "codes"):
            handle.reads = value
            return
        if event == "shard":
            self._give(handle)
        self._on(event, value)

    def _replace(self, handle: _WorkerHandle) -> None:
        handle.process.join()
        shard = handle.shard
        assert shard is not None  # only busy workers are polled
        deaths = self._deaths.setdefault(shard, _Deaths())
        deaths.count += 1
        if handle.reads is not None:
            deaths.blamed[handle.reads] = deaths.blamed.get(handle.reads, 0) + 1
        end = f"a worker died at shard {shard} ({_exit(handle.process.exitcode)})"
        if deaths.count > MAX_DEATHS and not deaths.skip():
            raise OpensnacError(
                f"{end} {deaths.count} times; is there enough memory? Try fewer --workers. "
                "Finished shards are kept; run the same command to continue"
            )
        self._on("died", f"{end}; the shard is made again")
        self._waiting.append(shard)
        at = self._handles.index(handle)
        self._handles[at] = _start(self._jobs[at])
        self._give(self._handles[at])


def _exit(code: int | None) -> str:
    try:
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code if code else code}"


def _start(job: Job) -> _WorkerHandle:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(job, theirs), name="opensnac-tokenize")
    process.start()
    theirs.close()
    return _WorkerHandle(process, ours)


def _work(job: Job, pipe: Connection) -> None:
    """A worker process: makes the shards it receives until its pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    torch.set_num_threads(1)
    try:
        with Worker(job) as worker:
            while True:
                shard, skip = pipe.recv()
                pipe.send(("shard", worker.make(shard, lambda event, value: pipe.send((event, value)), skip)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        pipe.send(("error", _picklable(error)))


def _picklable(error: Exception) -> Exception:
    """An error that can be pickled: OpensnacError and OSError as they are, others as their text."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror or str(error), error.filename)
    return error if isinstance(error, OpensnacError) else OpensnacError(f"{type(error).__name__}: {error}")
