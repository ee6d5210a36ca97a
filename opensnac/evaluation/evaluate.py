"""Every clip of a folder through every codec and every metric, each result kept as soon as it is there."""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from opensnac import __version__, audio
from opensnac.errors import OpensnacError
from opensnac.evaluation import report
from opensnac.evaluation.codecs import DEFAULT_CODECS, Codec, by_name
from opensnac.evaluation.metrics import METRICS, package_version

Record = dict[str, Any]  # one clip after one codec: a line of clips.jsonl, as `measure` makes it


@dataclass(frozen=True)
class Task:
    """One clip through one codec. `key` is the same only where the result would be the same."""

    path: str
    clip: str
    codec: str
    metrics: tuple[str, ...]
    key: str


def evaluate_folder(folder: Path, codecs: Sequence[str], out: Path, jobs: int = 1) -> dict[str, Any]:
    """Measure `codecs` (names as codecs.by_name takes) on every recording in `folder`, mixed down to mono.

    No codecs named: the default ones. The original itself is always measured too, as the ceiling.
    Writes `results.json` and `report.md` into `out`, prints the table, and returns what `results.json` holds
    (report.SCHEMA). Results go to `out/clips.jsonl` as they come; those that still match are not made again.
    `jobs` processes work at once, one thread each. Codecs and metrics that are not installed are skipped,
    clips that fail with a codec are listed. OpensnacError for an unknown codec or a folder without clips.
    """
    chosen = [by_name(name) for name in dict.fromkeys(["original", *(codecs or DEFAULT_CODECS)])]
    clips = find_clips(folder)
    skipped = {codec.name: reason for codec in chosen if (reason := codec.missing()) is not None}
    running = [codec for codec in chosen if codec.name not in skipped]
    absent = {name: reason for name, metric in METRICS.items() if (reason := metric.missing()) is not None}
    metrics = [name for name in METRICS if name not in absent]
    tasks = plan(folder, clips, running, metrics)

    out.mkdir(parents=True, exist_ok=True)
    records = run(tasks, out / "clips.jsonl", jobs)
    results = report.summarise(records, running, skipped, absent, shlex.join(sys.argv))
    report.write(results, out)
    print(report.table(results))
    return results


def find_clips(folder: Path) -> list[Path]:
    """Every recording below `folder`, sorted, hidden ones left out. OpensnacError if there is none."""
    if not folder.is_dir():
        raise OpensnacError(f"{folder}: no such folder; give a folder of recordings")
    clips = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in audio.READABLE
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not clips:
        raise OpensnacError(f"{folder}: no file there ends in {', '.join(audio.READABLE)}; give recordings")
    return clips


def plan(folder: Path, clips: Sequence[Path], codecs: Sequence[Codec], metrics: Sequence[str]) -> list[Task]:
    """One task per clip and codec, all codecs of a clip in a row."""
    measured_by = {name: [package_version(package) for package in METRICS[name].packages] for name in metrics}
    versions = {codec.name: codec.version() for codec in codecs}
    tasks = []
    for path in clips:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        for codec in codecs:
            identity = json.dumps([__version__, content, codec.name, versions[codec.name], measured_by])
            key = hashlib.sha256(identity.encode()).hexdigest()[:32]
            tasks.append(Task(str(path), path.relative_to(folder).as_posix(), codec.name, tuple(metrics), key))
    return tasks


def run(tasks: Sequence[Task], store: Path, jobs: int) -> list[Record]:
    """The record of every task, in order: from `store` (JSON lines) where there, else measured and added."""
    known = {record["key"]: record for record in _read(store) if "error" not in record}
    pending = [task for task in tasks if task.key not in known]
    with store.open("a", encoding="utf-8") as file:
        file.write("\n")  # a killed run may have left half a line
        for record in _with_progress(_measure_all(pending, jobs), len(pending)):
            file.write(json.dumps(record) + "\n")
            file.flush()
            known[record["key"]] = record
    # The same recording may lie in the folder twice, or have another name than in an earlier run.
    return [known[task.key] | {"clip": task.clip} for task in tasks]


def _read(store: Path) -> Iterator[Record]:
    if not store.exists():
        return
    for line in store.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # empty, or cut by a kill
            continue
        if isinstance(record, dict) and "key" in record:
            yield record


def _measure_all(tasks: Sequence[Task], jobs: int) -> Iterator[Record]:
    """Records as they come, from `jobs` fresh processes (spawned: torch does not survive a fork)."""
    if not tasks:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(tasks)), context, initializer=_use_one_thread) as pool:
        try:
            for future in as_completed([pool.submit(measure, task) for task in tasks]):
                yield future.result()
        except BrokenProcessPool as error:
            raise OpensnacError(
                "a worker process was killed, perhaps for want of memory; run the same command again, "
                "with fewer jobs: what is measured is kept"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _use_one_thread() -> None:
    """Keep this worker to one core; set before torch and numba are loaded."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def measure(task: Task) -> Record:
    """Code, decode and score one clip; what goes wrong is in the record, so that the other clips go on."""
    record: Record = {"key": task.key, "clip": task.clip, "codec": task.codec}
    try:
        recording, sample_rate = audio.read(task.path)
        clip = recording.mean(axis=0)
        coded = _codec(task.codec)(clip, sample_rate)
        if coded.audio.shape != clip.shape or not np.isfinite(coded.audio).all():
            raise OpensnacError(f"{task.codec} returned {coded.audio.shape} or NaN for audio of {clip.shape}")
        return record | {
            "seconds": len(clip) / sample_rate,
            "num_bytes": coded.num_bytes,
            "file_bytes": coded.file_bytes,
            "encode_seconds": coded.encode_seconds,
            "decode_seconds": coded.decode_seconds,
            "scores": {name: _score(name, clip, coded.audio, sample_rate) for name in task.metrics},
            "codes": None if coded.codes is None else [scale.tolist() for scale in coded.codes],
            "codebook_size": coded.codebook_size,
        }
    except Exception as error:
        return record | {"error": f"{type(error).__name__}: {error}"}


def _score(metric: str, clip: np.ndarray, decoded: np.ndarray, sample_rate: int) -> float | None:
    score = METRICS[metric].measure(clip, decoded, sample_rate)
    if score is not None and not np.isfinite(score):
        raise OpensnacError(f"{METRICS[metric].label} gave {score}, which is no score")
    return score


@functools.cache
def _codec(name: str) -> Codec:
    """One codec object per worker and name, so that a model is loaded once."""
    return by_name(name)


def _with_progress(records: Iterable[Record], total: int) -> Iterator[Record]:
    """The same records, with a bar and the time left on a terminal; silent elsewhere."""
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    silent = not sys.stderr.isatty() or total == 0
    with Progress(*columns, console=Console(stderr=True), disable=silent) as progress:
        bar = progress.add_task("measuring", total=total)
        for record in records:
            yield record
            progress.advance(bar)
