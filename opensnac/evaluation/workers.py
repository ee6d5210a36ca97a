"""Work shared among processes of this machine, all of which end when the run does, whatever they are at."""

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

GRACE_SECONDS = 2.0  # for a worker to put away what it has begun; then it is killed
ENDED = 143  # exit code of one that was told to end

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_in_processes(
    work: Callable[[Task], Result], tasks: Sequence[Task], jobs: int, tasks_per_process: int | None = None
) -> Iterator[Result]:
    """What `work` makes of each task, as it comes, from fresh processes of one thread each (torch survives no fork).

    Where the iteration ends early, by a signal say, the processes and the programs that they run end at once, and
    their temporary files go. OpensnacError where a process dies by itself.
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
                "a worker process was killed, perhaps for want of memory; run the same command again, "
                "with fewer jobs: what is measured is kept"
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the run says what is to be done
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ENDED))


def _run_task(work: Callable[[Task], Result], task: Task) -> Result:
    try:
        return work(task)
    except SystemExit:  # unwound; the executor would go on with the next task
        os._exit(ENDED)


def _end(processes: set[BaseProcess]) -> None:
    """End the processes: told first, then killed."""
    for process in processes:
        process.terminate()
    left, deadline = {process.sentinel for process in processes}, time.monotonic() + GRACE_SECONDS
    while left and (ended := wait(left, deadline - time.monotonic())):
        left -= set(ended)
    for process in processes:
        process.kill()
    for process in processes:
        process.join(GRACE_SECONDS)
