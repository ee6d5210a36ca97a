"""Batches of files: the output of each input, and running the jobs with failures collected."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

STANDARD = "-"  # standard input or output
SIGNAL_SECONDS = 0.05  # latency of a signal that another thread received
NAMES_LISTED = 10  # per reason for leaving files out


class UsageError(Exception):
    """Wrong usage: inputs, outputs or options that cannot be meant. Raised before any work is done."""


@dataclass(frozen=True, eq=False)
class Job:
    """One input file and its output. `source` or `target` is None for standard input or output."""

    source: Path | None
    target: Path | None

    @property
    def name(self) -> str:
        """The source's name."""
        return "standard input" if self.source is None else str(self.source)

    @cached_property
    def bytes(self) -> int:
        """Size of the input, as a measure of the work; 1 if unknown."""
        return self.source.stat().st_size or 1 if self.source is not None and self.source.is_file() else 1


class LeftOut:
    """Files in searched folders that have no job, by reason, in the order found."""

    def __init__(self) -> None:
        self.paths: dict[str, list[Path]] = {}

    def add(self, reason: str, path: Path) -> None:
        """Add a file, link or folder."""
        self.paths.setdefault(reason, []).append(path)

    def lines(self) -> list[str]:
        """One line per reason, with the first names and the number of others."""
        return [f"left out, {reason}: {_listed(paths)}" for reason, paths in self.paths.items()]


def _listed(paths: Sequence[Path]) -> str:
    names = ", ".join(map(str, paths[:NAMES_LISTED]))
    more = len(paths) - NAMES_LISTED
    return f"{names} and {more} more" if more > 0 else names


@dataclass(frozen=True)
class Search:
    """A recursive search of folders for file names that end in one of `endings`.

    Names that end in one of `expected`, such as outputs beside their inputs, are ignored silently; for others
    `explained` may hold the reason for leaving them out. With `follow`, links to folders are followed, each only once.
    """

    endings: Sequence[str]
    expected: Sequence[str] = ()
    explained: Mapping[str, str] = field(default_factory=dict)
    follow: bool = True

    @classmethod
    def for_recordings(cls, expected: Sequence[str] = (), follow: bool = True, besides: Sequence[str] = ()) -> Search:
        """A search for audio files that can be read here, and for `besides`; names the extra that others need."""
        from opensnac.recordings import media
        from opensnac.recordings.source import READABLE

        endings = (*READABLE, *besides)
        if media.available():
            return cls((*endings, *media.ENDINGS), expected, follow=follow)
        reason = f"readable after: pip install '{media.EXTRA}'"
        return cls(endings, expected, dict.fromkeys(media.ENDINGS, reason), follow)

    def __call__(self, folder: Path, left_out: LeftOut) -> list[Path]:
        """The files, sorted."""
        found: list[Path] = []
        seen: set[tuple[int, int]] = set()
        links = deque([folder])
        while links:  # folders before links to them, so that files get the names of their real folders
            folders = [links.popleft()]
            while folders:
                self._walk_folder(folders.pop(), seen, found, folders, links, left_out)
        return sorted(found)

    def _walk_folder(
        self,
        folder: Path,
        seen: set[tuple[int, int]],
        found: list[Path],
        folders: list[Path],
        links: deque[Path],
        left_out: LeftOut,
    ) -> None:
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                return
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            left_out.add(f"cannot be read ({error.strerror})", folder)
            return
        for entry in listed:
            path = folder / entry.name
            if entry.name.startswith("."):
                left_out.add("hidden", path)
            elif entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.is_symlink() and entry.is_dir():
                if self.follow:
                    links.append(path)
                else:
                    left_out.add("links that are not followed", path)
            elif reason := self._refused(entry):
                left_out.add(reason, path)
            elif path.suffix.lower() in self.endings:
                found.append(path)

    def _refused(self, entry: os.DirEntry[str]) -> str | None:
        """Why a file is left out; None if it is taken or expected."""
        ending = os.path.splitext(entry.name)[1].lower()
        if ending in self.expected and ending not in self.endings:
            return None
        if ending not in self.endings:
            return self.explained.get(ending, "another extension")
        if entry.is_file():
            return None
        return "not a regular file" if os.path.exists(entry) else "a broken link"


def find_jobs(
    inputs: Sequence[str],
    out: str | None,
    read: Sequence[str] | Search,
    write: Sequence[str],
    ending: str | None = None,
    *,
    keep_ending: bool = False,
    left_out: LeftOut | None = None,
) -> list[Job]:
    """The jobs for `inputs`: names of files and folders, or "-" alone for standard input.

    Folders are searched for names that end in one of `read`, except hidden ones, and keep their tree under `out`.
    Without `out` each output is beside its input (standard input goes to standard output). The extension becomes
    `ending`, default write[0]; `keep_ending` appends it to the old one. For a single input file, `out` may be a file
    name that ends in one of `write`. `left_out` collects the other files in folders.
    UsageError for inputs that are missing or empty, and for outputs that are ambiguous or coincide.
    """
    search = read if isinstance(read, Search) else Search(read)
    left_out = LeftOut() if left_out is None else left_out
    missing = [name for name in inputs if name != STANDARD and not Path(name).exists()]
    if missing:
        raise UsageError(f"{', '.join(missing)}: no such file or folder")
    if STANDARD in inputs or out == STANDARD:
        return [_standard_job(inputs, out, write, ending)]
    if len(inputs) == 1 and not Path(inputs[0]).is_dir() and out and _names_a_file(out, write):
        jobs = [Job(Path(inputs[0]), _with_ending(Path(out), ending))]
    else:
        if out and _names_a_file(out, write):
            raise UsageError(f"{out}: expected a folder for the outputs of several inputs, got a file name")
        naming = _Naming(None if out is None else Path(out), ending or write[0], keep_ending)
        jobs = [job for name in inputs for job in _jobs_of(Path(name), naming, search, left_out)]
    if not jobs:
        besides = "".join(f"; {line}" for line in left_out.lines())
        raise UsageError(
            f"{', '.join(inputs)}: expected files that end in {', '.join(search.endings)}, got none{besides}"
        )
    _refuse_shared_targets(jobs, keep_ending)
    return jobs


@dataclass(frozen=True)
class _Naming:
    """The folder and the extension of outputs."""

    out: Path | None
    ending: str
    keep: bool

    def target(self, folder: Path, inside: Path) -> Path:
        """The output of the file at `inside` below `folder`."""
        name = inside.name + self.ending if self.keep else inside.with_suffix(self.ending).name
        return (folder if self.out is None else self.out) / inside.parent / name


def _standard_job(inputs: Sequence[str], out: str | None, write: Sequence[str], ending: str | None) -> Job:
    if len(inputs) > 1:
        raise UsageError(f"'-' (standard input or output): expected exactly one input, got {len(inputs)}")
    source = None if inputs[0] == STANDARD else Path(inputs[0])
    if source is not None and source.is_dir():
        raise UsageError(f"{source}: expected a file for standard output, got a folder; give a folder with -o")
    if out is None or out == STANDARD:
        return Job(source, None)
    if not _names_a_file(out, write):
        raise UsageError(f"{out}: expected a file name for standard input, ending in {' or '.join(write)}")
    return Job(source, _with_ending(Path(out), ending))


def _names_a_file(out: str, write: Sequence[str]) -> bool:
    """Whether `out` is a file rather than a folder. UsageError if neither is plausible."""
    path = Path(out)
    if path.is_dir() or out.endswith(os.sep):
        return False
    if path.suffix.lower() in write:
        return True
    if path.exists() or path.suffix:
        raise UsageError(
            f"{out}: expected a folder, or a file name that ends in {' or '.join(write)}; "
            f"end a folder's name with {os.sep}"
        )
    return False


def _with_ending(target: Path, ending: str | None) -> Path:
    if ending and target.suffix.lower() != ending:
        raise UsageError(f"{target}: expected a name that ends in {ending}, the format given, got {target.suffix}")
    return target


def _jobs_of(source: Path, naming: _Naming, search: Search, left_out: LeftOut) -> Iterator[Job]:
    """The jobs of one input; a folder's files keep their relative paths."""
    if not source.is_dir():
        yield Job(source, naming.target(source.parent, Path(source.name)))
        return
    for path in search(source, left_out):
        yield Job(path, naming.target(source, path.relative_to(source)))


def _refuse_shared_targets(jobs: Sequence[Job], keep_ending: bool) -> None:
    """UsageError that lists every output that several inputs share, or that is also an input."""
    real = _RealPaths()
    sources = {real(job.source) for job in jobs if job.source}
    sharing: dict[str, list[Job]] = {}
    for job in jobs:
        assert job.target is not None
        sharing.setdefault(real(job.target), []).append(job)
    overwritten = [sharers[0].target for target, sharers in sharing.items() if target in sources]
    if overwritten:
        named = ", ".join(map(str, overwritten))
        raise UsageError(f"{named}: is both input and output; choose another output with -o")
    shared = [
        f"{' and '.join(job.name for job in sharers)} would {'both' if len(sharers) == 2 else 'all'} "
        f"become {sharers[0].target}"
        for sharers in sharing.values()
        if len(sharers) > 1
    ]
    if shared:
        way_out = "rename one" if keep_ending else "rename one, or keep their extensions with --keep-ending"
        raise UsageError(f"{'; '.join(shared)}; {way_out}")


class _RealPaths:
    """`os.path.realpath` with the folders cached, for many paths in few folders."""

    def __init__(self) -> None:
        self._folders: dict[Path, str] = {}

    def __call__(self, path: Path) -> str:
        if path.is_symlink():
            return os.path.realpath(path)
        folder = path.parent
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return os.path.join(self._folders[folder], path.name)


class Interrupted(BaseException):
    """Raised inside a job whose batch was stopped; like KeyboardInterrupt, not a failure of the job."""


Report = Callable[[float], None]  # receives the share of a job that is done, 0 to 1


def no_report(share: float) -> None:
    """The default: progress is not reported."""


def run(
    jobs: Sequence[Job],
    work: Callable[[Job, Report], None],
    workers: int = 1,
    on_progress: Callable[[Job, float], None] = lambda job, share: None,
    on_failure: Callable[[Job, Exception], None] = lambda job, error: None,
) -> int:
    """Run `work` on every job, in `workers` threads; returns the number of jobs that failed.

    A failure does not stop other jobs. An interrupt (Ctrl-C) or a broken pipe stops every job at its next progress
    report, so that none leaves partial output, and is then raised to the caller.
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
        except Exception as error:  # one file's failure must not stop the others
            on_failure(job, error)
            return False
        return True

    if workers == 1:
        return sum(not attempt(job) for job in jobs)
    waiting, lock = iter(jobs), threading.Lock()

    def work_on() -> int:
        failures = 0
        while not stopped.is_set():
            with lock:
                job = next(waiting, None)
            if job is None:
                break
            failures += not attempt(job)
        return failures

    with ThreadPoolExecutor(workers) as pool:
        working = [pool.submit(work_on) for _ in range(workers)]
        try:
            done: set[Future[int]] = set()
            while len(done) < workers and not any(future.exception() for future in done):
                done, _ = wait(working, SIGNAL_SECONDS, FIRST_EXCEPTION)
            return sum(future.result() for future in done)  # raises the first exception, if any
        finally:
            stopped.set()
