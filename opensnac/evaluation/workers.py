"""A process pool whose processes end when the run does, even in the middle of a task."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

from opensnac.errors import OpensnacError

GRACE_SECONDS = 2.0  # for a worker to clean up before it is killed
ENDED = 143  # exit code of a terminated worker

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_in_processes(
    work: Callable[[Task], Result], tasks: Sequence[Task], jobs: int, tasks_per_process: int | None = None
) -> Iterator[Result]:
    """Results of `work` as they complete, from fresh processes of one thread each (torch does not survive a fork).

    If the iteration ends early, by a signal for example, the processes and their child programs are stopped and their
    temporary files removed. OpensnacError if a process dies.
    """
    if not tasks:
        return
    others = set(multiprocessing.active_children())
    with tempfile.TemporaryDirectory(prefix="opensnac-") as scratch:
        pool = ProcessPoolExecutor(
            min(jobs, len(tasks)),
            multiprocessing.get_context("spawn"),
            initializer=_prepare,
            initargs=(scratch,),
            max_tasks_per_child=tasks_per_process,
        )
        try:
            for future in as_completed([pool.submit(_run_task, work, task) for task in tasks]):
                yield future.result()
        except BrokenProcessPool as error:
            raise OpensnacError(
                "a worker process was killed, perhaps out of memory; run the same command again "
                "with fewer jobs: finished results are kept"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _end(set(multiprocessing.active_children()) - others)
            raise
        finally:
            pool.shutdown()


def _prepare(scratch: str) -> None:
    """Keep this worker to one core, before torch and numba are loaded, and its temporary files in `scratch`."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "TMPDIR": scratch}
    tempfile.tempdir = scratch
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the parent decides
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ENDED))


def _run_task(work: Callable[[Task], Result], task: Task) -> Result:
    try:
        return work(task)
    except SystemExit:  # cleaned up; the executor would continue with the next task
        os._exit(ENDED)


def _end(processes: set[BaseProcess]) -> None:
    """Stop the processes: terminate them, then kill those that remain."""
    for process in processes:
        process.terminate()
    left, deadline = {process.sentinel for process in processes}, time.monotonic() + GRACE_SECONDS
    while left and (ended := wait(left, deadline - time.monotonic())):
        left -= set(ended)
    for process in processes:
        process.kill()
    for process in processes:
        process.join(GRACE_SECONDS)
