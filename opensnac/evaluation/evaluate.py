"""Runs every clip of a folder through every codec and metric; each result is stored as soon as it is measured."""

from __future__ import annotations

import collections
import functools
import hashlib
import inspect
import json
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from opensnac import __version__
from opensnac.errors import OpensnacError
from opensnac.evaluation import matching, metrics, page, recognition, report, spectral, summary
from opensnac.evaluation.code import code_of
from opensnac.evaluation.codecs import DEFAULT_CODECS, Codec, by_name
from opensnac.evaluation.codecs.base import peak_memory
from opensnac.evaluation.metrics import METRICS, Metric, package_version, require
from opensnac.evaluation.workers import map_in_processes
from opensnac.recordings import audio
from opensnac.recordings.jobs import LeftOut, Search
from opensnac.recordings.mixing import mix_down
from opensnac.spectra import mel

DEFAULT_PLAYERS = 6  # clips with players and spectrograms on the page
WARM_UP_RATE = 24_000  # Hz; one second
KEPT_SECONDS = 12.0  # of each kept clip: the longest that ITU-R BS.1534-3 recommends
Record = dict[str, Any]  # one clip through one codec: a line of clips.jsonl, made by `measure`


@dataclass(frozen=True)
class Task:
    """One clip through one codec. Equal `key`s mean equal results.

    `keep` is the file to save the decoded audio to, if any. `memory` measures only the peak memory.
    """

    path: str
    clip: str
    codec: str
    metrics: tuple[str, ...]
    key: str
    keep: str | None = None
    memory: bool = False
    models: recognition.Names = recognition.NO_MODELS
    transcript: str | None = None

    @property
    def all_metrics(self) -> dict[str, Metric]:
        """The metrics that `metrics` may name."""
        return METRICS | recognition.metrics(self.models, self.transcript)


def evaluate_folder(
    folder: Path,
    codecs: Sequence[str],
    out: Path,
    jobs: int = 1,
    baseline: str | None = None,
    players: int = DEFAULT_PLAYERS,
    asr: str | None = None,
    speaker: str | None = None,
) -> dict[str, Any]:
    """Measure `codecs` (names as codecs.by_name takes) on every recording in `folder`, mixed down to mono.

    Without codecs: the default ones. The original is always measured too, as the ceiling. A recording's label is the
    first sub-folder it is in. `baseline` is the codec to compare the others with, clip by clip.
    Writes `results.json`, `report.md` and `report.html` into `out`, prints the table, and returns the contents of
    `results.json` (summary.SCHEMA). The page plays the first seconds of `players` clips, stored in `out/audio`.
    `asr` names a speech recogniser, for word error rates, and `speaker` a speaker model, for voice similarity (see
    recognition.py); the transcript of `a.wav` is read from `a.txt`, if it exists.
    Results are appended to `out/clips.jsonl`; those that still match are reused. `jobs` processes work in parallel, one
    thread each. Codecs and metrics that are not installed are skipped, clips that fail with a codec are listed. Raises
    OpensnacError for an unknown codec or baseline, a folder without clips, or if pyloudnorm is missing.
    """
    require("pyloudnorm")
    if out.exists() and not out.is_dir():
        raise OpensnacError(f"{out}: expected a folder for the report, got a file; choose another with --out")
    names = list(dict.fromkeys(["original", *(codecs or DEFAULT_CODECS)]))
    if baseline is not None and baseline not in names:
        raise OpensnacError(f"baseline: expected one of {', '.join(names)}, got {baseline!r}; add it with --codec")
    chosen = [by_name(name) for name in names]
    clips = find_clips(folder)
    skipped = {codec.name: reason for codec in chosen if (reason := codec.missing()) is not None}
    running = [codec for codec in chosen if codec.name not in skipped]
    models = recognition.Names(asr, speaker)
    metrics = METRICS | recognition.metrics(models)
    absent = {name: reason for name, metric in metrics.items() if (reason := metric.missing()) is not None}
    measured = [name for name in metrics if name not in absent]
    tasks = make_tasks(folder, clips, running, measured, choose(folder, clips, players), out / "audio", models)

    out.mkdir(parents=True, exist_ok=True)
    records = run(tasks, out / "clips.jsonl", jobs)
    results = summary.summarise(records, running, metrics, skipped, absent, baseline, _command())
    report.write(results, out)
    page.write(results, out)
    print(report.table(results))
    return results


def _command() -> str:
    """The command line, without the program's folder."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def find_clips(folder: Path) -> list[Path]:
    """Every recording below `folder`, sorted; reports other files. OpensnacError if there is no recording."""
    if not folder.is_dir():
        raise OpensnacError(f"{folder}: expected a folder of recordings, got nothing of that name")
    left_out = LeftOut()
    search = Search.for_recordings([".txt"])
    clips = search(folder, left_out)
    if not clips:
        raise OpensnacError(f"{folder}: expected files that end in {', '.join(search.endings)}, got none")
    for line in left_out.lines():
        print(f"opensnac: {line}", file=sys.stderr)
    return clips


def choose(folder: Path, clips: Sequence[Path], count: int) -> set[Path]:
    """Choose `count` clips for the page: one of each label in turn, spread evenly over the label's clips."""
    labels: dict[str, list[Path]] = {}
    for path in clips:
        labels.setdefault(summary.label_of(path.relative_to(folder).as_posix()), []).append(path)
    turns = [label for turn in range(len(clips)) for label, own in labels.items() if turn < len(own)]
    shares = collections.Counter(turns[:count])
    return {labels[label][i * len(labels[label]) // n] for label, n in shares.items() for i in range(n)}


def make_tasks(
    folder: Path,
    clips: Sequence[Path],
    codecs: Sequence[Codec],
    metrics: Sequence[str],
    kept: Collection[Path] = (),
    audio_folder: Path = Path(),
    models: recognition.Names = recognition.NO_MODELS,
) -> list[Task]:
    """One task per clip and codec, in order of clips; then a memory task per codec that runs in-process."""
    matched_by = [package_version("pyloudnorm"), _scoring_code()]
    versions = {codec.name: codec.version() for codec in codecs}
    contents = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in clips}
    known = METRICS | recognition.metrics(models)
    transcripts = {path: transcript_of(path) for path in clips} if models.asr else {}

    def task(path: Path, codec: Codec, memory: bool = False) -> Task:
        clip = path.relative_to(folder).as_posix()
        applying = [name for name in metrics if known[name].applies_to(summary.label_of(clip))]
        measured_by = {name: _measured_by(known[name], transcripts.get(path)) for name in applying}
        if memory:
            identity: list[Any] = [__version__, contents[path], codec.name, versions[codec.name], "memory"]
        else:
            identity = [__version__, contents[path], codec.name, versions[codec.name], measured_by, matched_by]
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
        keep = str(audio_folder / f"{key}.flac") if path in kept and not memory else None
        return Task(str(path), clip, codec.name, tuple(applying), key, keep, memory, models, transcripts.get(path))

    tasks = [task(path, codec) for path in clips for codec in codecs]
    largest = max(clips, key=lambda path: path.stat().st_size)
    return tasks + [task(largest, codec, memory=True) for codec in codecs if codec.in_process]


def transcript_of(clip: Path) -> str | None:
    """The transcript of a recording: the file of the same name with .txt. None if there is none."""
    text = clip.with_suffix(".txt")
    if not text.is_file():
        return None
    try:
        return text.read_text(encoding="utf-8-sig").strip() or None
    except UnicodeDecodeError as error:
        raise OpensnacError(f"{text}: expected a transcript in UTF-8, got {error.reason}") from error


def _measured_by(metric: Metric, transcript: str | None) -> list[str | None]:
    """Identifies what a score depends on: packages, and the model and transcript of model-based metrics."""
    by = [package_version(package) for package in metric.packages]
    if isinstance(metric, recognition.ModelMetric):
        by += [metric.load(metric.model).version, code_of([Path(inspect.getfile(recognition))])]
    return by + ([transcript] if metric.name == recognition.WORD_ERRORS else [])


@functools.cache
def _scoring_code() -> str:
    """Digest of the code that turns decoded audio into scores."""
    return code_of(Path(inspect.getfile(module)) for module in (matching, mel, metrics, spectral))


def run(tasks: Sequence[Task], store: Path, jobs: int) -> list[Record]:
    """The record of every task, in order: from `store` (JSON lines) if there, else measured and added."""
    known = {record["key"]: record for record in _read(store) if "error" not in record}
    pending = [task for task in tasks if task.key not in known or (task.keep and not Path(task.keep).exists())]
    with store.open("a", encoding="utf-8") as file:
        file.write("\n")  # a killed run may have left a partial line
        for record in _with_progress(_measure_all(pending, jobs), len(pending)):
            file.write(json.dumps(record) + "\n")
            file.flush()
            known[record["key"]] = record
    # A recording may be in the folder twice, or have had another name in an earlier run.
    return [known[task.key] | {"clip": task.clip, "kept": task.keep and Path(task.keep).name} for task in tasks]


def _read(store: Path) -> Iterator[Record]:
    if not store.exists():
        return
    for line in store.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # empty, or truncated by a kill
            continue
        if isinstance(record, dict) and "key" in record:
            yield record


def _measure_all(tasks: Sequence[Task], jobs: int) -> Iterator[Record]:
    """Records in order of completion: memory first, in a fresh process each, then the rest in `jobs` processes."""
    memory = [task for task in tasks if task.memory]
    rest = [task for task in tasks if not task.memory]
    yield from map_in_processes(measure, memory, 1, tasks_per_process=1)
    yield from map_in_processes(measure, rest, jobs)


def measure(task: Task) -> Record:
    """Encode, decode, align and score one clip; an error goes into the record, so that other clips continue."""
    record: Record = {"key": task.key, "clip": task.clip, "codec": task.codec}
    record |= {"memory_of": task.codec} if task.memory else {}
    try:
        recording, sample_rate = audio.read(task.path)
        clip = mix_down(recording, sample_rate, task.clip)
        coded = _codec(task.codec)(clip, sample_rate)
        if task.memory:
            return record | {"peak_bytes": peak_memory()}
        if coded.audio.shape != clip.shape or not np.isfinite(coded.audio).all():
            raise OpensnacError(f"{task.codec}: expected finite audio of {clip.shape}, got {coded.audio.shape} or NaN")
        matched = matching.match(clip, coded.audio, sample_rate)
        metrics = task.all_metrics
        if task.keep:
            start = matched.audio[None, : int(KEPT_SECONDS * sample_rate)]
            audio.write(Path(task.keep), start, sample_rate, force=True)
        return record | {
            "seconds": len(clip) / sample_rate,
            "num_bytes": coded.num_bytes,
            "file_bytes": coded.file_bytes,
            "encode_seconds": coded.encode_seconds,
            "decode_seconds": coded.decode_seconds,
            "peak_bytes": coded.peak_bytes,
            "shift_samples": matched.shift,
            "gain_db": matched.gain_db,
            "scores": {name: _score(metrics[name], clip, matched.audio, sample_rate) for name in task.metrics},
            **_words(task, clip, sample_rate),
            "codes": None if coded.codes is None else [scale.tolist() for scale in coded.codes],
            "codebook_size": coded.codebook_size,
        }
    except Exception as error:
        return record | {"error": f"{type(error).__name__}: {error}"}


def _score(metric: Metric, clip: np.ndarray, decoded: np.ndarray, sample_rate: int) -> float | None:
    score = metric.measure(clip, decoded, sample_rate)
    if score is not None and not np.isfinite(score):
        raise OpensnacError(f"{metric.label}: expected a finite score, got {score}")
    return score


def _words(task: Task, clip: np.ndarray, sample_rate: int) -> Record:
    """The number of words in a clip, and whether a transcript has them; empty if no metric needs words."""
    if task.models.asr is None or recognition.WORD_ERRORS not in task.metrics:
        return {}
    count = len(recognition.words(task.models.asr, task.transcript, clip, sample_rate))
    return {"words": count, "transcript": task.transcript is not None}


@functools.cache
def _codec(name: str) -> Codec:
    """One codec object per worker and name: a model is loaded and warmed up once, outside the timing of clips."""
    codec = by_name(name)
    if codec.in_process:
        codec(np.zeros(WARM_UP_RATE, np.float32), WARM_UP_RATE)
    return codec


def _with_progress(records: Iterable[Record], total: int) -> Iterator[Record]:
    """The same records, with a progress bar on a terminal."""
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    silent = not sys.stderr.isatty() or total == 0
    with Progress(*columns, console=Console(stderr=True), disable=silent) as progress:
        bar = progress.add_task("measuring", total=total)
        for record in records:
            yield record
            progress.advance(bar)
