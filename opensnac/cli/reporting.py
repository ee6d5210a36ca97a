"""What a user is told: progress, failures in one line, exit codes."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from opensnac.errors import OpensnacError
from opensnac.recordings.jobs import Job, PlanError, Report, run

if TYPE_CHECKING:
    from rich.progress import Progress

    from opensnac.recordings.transcode import Result

FAILED, MISUSED, INTERRUPTED, TERMINATED = 1, 2, 130, 143  # exit codes


def run_jobs(batch: list[Job], work: Callable[[Job, Report], Result | None], workers: int = 1) -> None:
    """Do the work with a progress bar on a terminal; list failures, and exit with 1 if there are any."""
    with _progress_bar() as bar:
        task = bar.add_task("", total=sum(job.bytes for job in batch))
        done = dict.fromkeys(batch, 0.0)

        def advance(job: Job, share: float) -> None:
            done[job] = share * job.bytes
            bar.update(task, description=job.name, completed=sum(done.values()))

        def fail(job: Job, error: Exception) -> None:
            _say(_message(error, job))
            advance(job, 1)

        def work_and_warn(job: Job, report: Report) -> None:
            result = work(job, report)
            if result is not None and result.damage:
                _say(f"{job.name}: only the first {result.seconds:.1f} s could be kept: {result.damage}")

        failures = run(batch, work_and_warn, workers, advance, fail)
    if failures:
        if len(batch) > 1:
            _say(f"{failures} of {len(batch)} files failed")
        raise typer.Exit(FAILED)


def _progress_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        redirect_stdout=sys.stdout.isatty(),  # else it carries bytes
        transient=True,
    )


@contextmanager
def reporting() -> Iterator[None]:
    """Turn what a command raises into one line on stderr and an exit code."""
    try:
        yield
        sys.stdout.flush()
    except typer.Exit:
        raise
    except PlanError as error:
        _say(str(error))
        raise typer.Exit(MISUSED) from error
    except KeyboardInterrupt as error:
        _say("interrupted; what was finished stays, nothing is half-written")
        raise typer.Exit(INTERRUPTED) from error
    except BrokenPipeError as error:  # whoever read our output has gone: no complaint, nor at shutdown
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from error
    except Exception as error:
        _say(_message(error))
        raise typer.Exit(FAILED) from error


def _message(error: Exception, job: Job | None = None) -> str:
    """One line about an error, which names the file."""
    if os.environ.get("OPENSNAC_DEBUG"):
        traceback.print_exception(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, OpensnacError | FileExistsError):
        text = str(error)
    elif isinstance(error, MemoryError):
        text = "there is not enough memory for this file"
    else:
        text = f"unexpected {type(error).__name__}: {error} (OPENSNAC_DEBUG=1 shows where)"
    named = job is None or any(str(path) in text for path in (job.source, job.target) if path)
    return " ".join((text if named or job is None else f"{job.name}: {text}").split())


def _say(text: str) -> None:
    print(f"opensnac: {text}", file=sys.stderr)


def needs_extra(extra: str, *packages: str) -> None:
    """OpensnacError that says what to install where one of an extra's packages is missing."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise OpensnacError(f"{', '.join(missing)} is not installed; run: pip install 'opensnac[{extra}]'")
