"""Output to the user: progress, one line per failure, exit codes."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from opensnac.errors import OpensnacError
from opensnac.recordings.jobs import Job, LeftOut, Report, UsageError, run

if TYPE_CHECKING:
    from rich.progress import Progress

    from opensnac.recordings.transcode import Result

EXTRAS = {  # what to install for an optional module
    "torch": "opensnac",
    "onnx": "'opensnac[export]'",
    "onnxruntime": "'opensnac[onnx]'",
    "huggingface_hub": "huggingface_hub",
}
FAILED, MISUSED, INTERRUPTED, TERMINATED = 1, 2, 130, 143  # exit codes


def run_jobs(
    batch: Sequence[Job],
    work: Callable[[Job, Report], Result | None],
    workers: int = 1,
    left_out: LeftOut | None = None,
    finished: int = 0,
) -> None:
    """Run the jobs, with a progress bar on a terminal; print warnings, failures and what was left out.

    `finished` is the number of jobs that were already done. Exits with 1 if any job fails.
    """
    with progress_bar() as bar:
        progress = _Progress(bar, batch)

        def fail(job: Job, error: Exception) -> None:
            _say(_message(error, job))
            progress.advance(job, 1)

        def work_and_warn(job: Job, report: Report) -> None:
            result = work(job, report)
            if result is not None and result.damage:
                _say(f"{job.name}: only the first {result.seconds:.1f} s were recovered: {result.damage}")
            for warning in result.warnings if result is not None else ():
                _say(f"{job.name}: {warning}")

        failures = run(batch, work_and_warn, workers, progress.advance, fail)
    for line in left_out.lines() if left_out is not None else ():
        _say(line)
    if finished:
        _say(f"{finished} of {len(batch) + finished} files were already done")
    if failures:
        if len(batch) > 1:
            _say(f"{failures} of {len(batch)} files failed")
        raise typer.Exit(FAILED)


class _Progress:
    """A batch's progress bar, updated in constant time however many jobs there are."""

    def __init__(self, bar: Progress, batch: Sequence[Job]) -> None:
        self._bar, self._lock = bar, threading.Lock()
        self._shares: dict[Job, float] = {}  # of running jobs
        self._done = 0.0  # bytes
        self._task = None if bar.disable else bar.add_task("", total=sum(job.bytes for job in batch))

    def advance(self, job: Job, share: float) -> None:
        """Set the share of a job that is done."""
        if self._task is None:
            return
        with self._lock:
            self._done += (share - self._shares.pop(job, 0.0)) * job.bytes
            if share < 1:
                self._shares[job] = share
            self._bar.update(self._task, description=shown(job.name), completed=self._done)


def progress_bar() -> Progress:
    """A bar on stderr that disappears at the end; nothing without a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        redirect_stdout=sys.stdout.isatty(),  # otherwise it may carry binary output
        transient=True,
    )


@contextmanager
def reporting() -> Iterator[None]:
    """Turn exceptions into one line on stderr and an exit code."""
    try:
        yield
        sys.stdout.flush()
    except typer.Exit:
        raise
    except UsageError as error:
        _say(str(error))
        raise typer.Exit(MISUSED) from error
    except KeyboardInterrupt as error:
        _say("interrupted; finished outputs are kept, no partial ones")
        raise typer.Exit(INTERRUPTED) from error
    except BrokenPipeError as error:  # the reader of our output is gone: no message, also at shutdown
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from error
    except Exception as error:
        _say(_message(error))
        raise typer.Exit(FAILED) from error


def _message(error: Exception, job: Job | None = None) -> str:
    """One line about an error, including the file's name."""
    if os.environ.get("OPENSNAC_DEBUG"):
        traceback.print_exception(error)
    if isinstance(error, OSError) and error.strerror:
        name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else None
        text = f"{name}: {error.strerror}" if name else error.strerror
    elif isinstance(error, OpensnacError | FileExistsError):
        text = str(error)
    elif isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        text = f"{error.name} is not installed; run: pip install {EXTRAS[error.name]}"
    elif isinstance(error, MemoryError):
        text = "not enough memory for this file"
    else:
        text = f"unexpected {type(error).__name__}: {error} (OPENSNAC_DEBUG=1 shows where)"
    named = job is None or any(str(path) in text for path in (job.source, job.target) if path)
    return " ".join((text if named or job is None else f"{job.name}: {text}").split())


def _say(text: str) -> None:
    print(f"opensnac: {shown(text)}", file=sys.stderr)


def shown(text: str) -> str:
    """Printable text: bytes of file names that are not UTF-8 appear as \\xNN."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def needs_extra(extra: str, *packages: str) -> None:
    """OpensnacError with the pip command if one of an extra's packages is missing."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise OpensnacError(f"{', '.join(missing)} is not installed; run: pip install 'opensnac[{extra}]'")
