"""Many files at once: which output each input gets, and the work on all of them, failures collected."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

STANDARD = "-"  # standard input or output, in place of a name


class PlanError(Exception):
    """Inputs and outputs that cannot be what the caller meant: found before any work is done."""


@dataclass(frozen=True)
class Job:
    """One file to turn into another. `source` or `target` is None where it is standard input or output."""

    source: Path | None
    target: Path | None

    @property
    def name(self) -> str:
        return "standard input" if self.source is None else str(self.source)

    @property
    def bytes(self) -> int:
        """Size of the input, as a measure of the work; 1 where it is not known."""
        return self.source.stat().st_size or 1 if self.source is not None and self.source.is_file() else 1


def plan(
    inputs: Sequence[str],
    out: str | None,
    read: Sequence[str],
    write: Sequence[str],
    ending: str | None = None,
) -> list[Job]:
    """The jobs for `inputs`: names of files and folders, or "-" alone for standard input.

    Folders are searched for names that end in one of `read`, hidden ones left out, and keep their tree under
    `out`. Without `out` an output lies beside its input (standard input goes to standard output). The ending
    becomes `ending`, or write[0]. One input file may name its output: `out` then ends in one of `write`.
    Raises PlanError for what is missing or empty, and for outputs that are unclear or fall together.
    """
    missing = [name for name in inputs if name != STANDARD and not Path(name).exists()]
    if missing:
        raise PlanError(f"{', '.join(missing)}: no such file or folder")
    if STANDARD in inputs or out == STANDARD:
        return [_standard_job(inputs, out, write, ending)]
    if len(inputs) == 1 and not Path(inputs[0]).is_dir() and out and _names_a_file(out, write):
        jobs = [Job(Path(inputs[0]), _with_ending(Path(out), ending))]
    else:
        if out and _names_a_file(out, write):
            raise PlanError(f"{out}: names one file, but the outputs of several inputs need a folder")
        jobs = [job for name in inputs for job in _jobs_of(Path(name), out, read, ending or write[0])]
    if not jobs:
        raise PlanError(f"{', '.join(inputs)}: nothing to do, no file there ends in {', '.join(read)}")
    _refuse_shared_targets(jobs)
    return jobs


def _standard_job(inputs: Sequence[str], out: str | None, write: Sequence[str], ending: str | None) -> Job:
    if len(inputs) > 1:
        raise PlanError("'-' (standard input or output) takes exactly one input")
    source = None if inputs[0] == STANDARD else Path(inputs[0])
    if source is not None and source.is_dir():
        raise PlanError(f"{source}: a folder cannot go to standard output; give a folder with -o")
    if out is None or out == STANDARD:
        return Job(source, None)
    if not _names_a_file(out, write):
        raise PlanError(f"{out}: standard input needs a file name to go to, ending in {' or '.join(write)}")
    return Job(source, _with_ending(Path(out), ending))


def _names_a_file(out: str, write: Sequence[str]) -> bool:
    """Whether `out` means one file rather than a folder. PlanError where neither is plausible."""
    path = Path(out)
    if path.is_dir() or out.endswith(os.sep):
        return False
    if path.suffix.lower() in write:
        return True
    if path.exists() or path.suffix:
        raise PlanError(
            f"{out}: is no folder and does not end in {' or '.join(write)}; "
            f"name a file so, or a folder with a closing {os.sep}"
        )
    return False


def _with_ending(target: Path, ending: str | None) -> Path:
    if ending and target.suffix.lower() != ending:
        raise PlanError(f"{target}: ends in {target.suffix}, but the format asked for is {ending[1:]}")
    return target


def _jobs_of(source: Path, out: str | None, read: Sequence[str], ending: str) -> Iterator[Job]:
    """The jobs of one input; a folder's files keep their place below it."""
    if not source.is_dir():
        folder = source.parent if out is None else Path(out)
        yield Job(source, folder / source.with_suffix(ending).name)
        return
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.suffix.lower() in read and path.is_file() and not hidden:
            yield Job(path, (source if out is None else Path(out)) / inside.with_suffix(ending))


def _refuse_shared_targets(jobs: Sequence[Job]) -> None:
    sources = {os.path.realpath(job.source): job for job in jobs if job.source}
    first: dict[str, Job] = {}
    for job in jobs:
        assert job.target is not None
        real = os.path.realpath(job.target)
        if real in first:
            raise PlanError(f"{first[real].name} and {job.name} would both become {job.target}; rename one")
        if real in sources:
            raise PlanError(f"{job.target}: is an input and would be an output; choose another with -o")
        first[real] = job


class Interrupted(BaseException):
    """Raised inside a job whose batch was stopped; like KeyboardInterrupt, no failure of the job."""


Report = Callable[[float], None]  # takes the share of a job that is done, 0 to 1


def run(
    jobs: Sequence[Job],
    work: Callable[[Job, Report], None],
    workers: int = 1,
    on_progress: Callable[[Job, float], None] = lambda job, share: None,
    on_failure: Callable[[Job, Exception], None] = lambda job, error: None,
) -> int:
    """Do `work` on every job, `workers` at a time in threads; the number of jobs that failed.

    One job's failure stops no other. An interrupt (Ctrl-C) stops every job at its next report of progress, so
    that each leaves nothing half-written, and then goes on to the caller; so does a broken pipe.
    """
    stopped = threading.Event()

    def attempt(job: Job) -> bool:
        def report(share: float) -> None:
            if stopped.is_set():
                raise Interrupted
            on_progress(job, share)

        try:
            report(0)
            work(job, report)
            report(1)
        except BrokenPipeError:
            raise
        except Exception as error:  # whatever one file holds, the others are still done
            on_failure(job, error)
            return False
        return True

    if workers == 1:
        return sum(not attempt(job) for job in jobs)
    with ThreadPoolExecutor(workers) as pool:
        try:
            return sum(not done for done in pool.map(attempt, jobs))
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
