"""tokenize, detokenize."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from opensnac.cli.app import CORPORA, Model, command
from opensnac.cli.reporting import FAILED, needs_extra, progress_bar, reporting, shown
from opensnac.recordings.jobs import UsageError

LINE_EVERY = 60.0  # seconds between lines of progress without a terminal
SHOWN = 5  # failed recordings listed at the end


@command(CORPORA, "opensnac tokenize talks/ -o corpus/ --segment 20 --mono")
def tokenize(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="IN",
            help="Folders, files, globs, CSV, TSV, JSONL or Parquet manifests, tar shards; paths or URLs. With --check "
            "or --stats: a corpus that this command wrote.",
        ),
    ],
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="DIR", help="Folder or URL of the corpus.")] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="parquet|webdataset|bin", help="bin: one memory map of tokens.")
    ] = "parquet",
    tokens: Annotated[
        str | None,
        typer.Option(
            metavar="tree|tree:OFFSET|orpheus",
            help="Store one flat list of tokens per row in this layout, instead of one list of codes per scale.",
        ),
    ] = None,
    model: Model = None,
    mono: Annotated[bool, typer.Option("--mono", help="Mix channels down to one; else each is a row.")] = False,
    min_seconds: Annotated[float, typer.Option(min=0, help="Leave out shorter recordings and segments.")] = 0.0,
    max_seconds: Annotated[float | None, typer.Option(min=0, help="Leave out longer recordings.")] = None,
    segment: Annotated[
        float | None, typer.Option(min=0.01, metavar="SECONDS", help="Split recordings into rows of this length.")
    ] = None,
    trim_silence: Annotated[
        float | None,
        typer.Option(metavar="DB", help="Trim both ends below this level, such as -50. Default: no trimming."),
    ] = None,
    loudness: Annotated[
        float | None,
        typer.Option(metavar="LUFS", help="Normalise loudness to this level, such as -23. Default: unchanged."),
    ] = None,
    drop_repeated_frames: Annotated[
        bool,
        typer.Option(
            "--drop-repeated-frames",
            help="Drop coarse frames with the same coarsest code as the frame before, as in Orpheus' recipe.",
        ),
    ] = False,
    licence: Annotated[str | None, typer.Option(help="Licence of recordings without a column `licence`.")] = None,
    shard_megabytes: Annotated[
        float | None,
        typer.Option(min=0.001, help="Size of a shard's recordings. Default: 4 to 256 MB, by the corpus's size."),
    ] = None,
    reduced: Annotated[bool, typer.Option("--reduced", help="Multiply in bfloat16, as in `encode`.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda (all GPUs) or cuda:N.")] = "cpu",
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that encode. Default: one per core or GPU; 0: only this one.")
    ] = None,
    readers: Annotated[
        int | None, typer.Option(min=0, help="Processes per worker that read ahead. Default: 4 on a GPU, else 0.")
    ] = None,
    engine: Annotated[str, typer.Option(metavar="local|ray", help="Where workers run.")] = "local",
    address: Annotated[str | None, typer.Option(help="Address of a Ray cluster. Default: start one here.")] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Verify a corpus: files, counts, and a sample of codes against the recordings."),
    ] = False,
    sample: Annotated[int, typer.Option(min=0, help="Recordings that --check encodes again.")] = 10,
    stats: Annotated[
        bool,
        typer.Option("--stats", help="Write statistics of a corpus as a page and as JSON: stats.html, stats.json."),
    ] = False,
    by: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column that --stats groups by. Default: the first folder of the id."),
    ] = None,
) -> None:
    """Encode recordings into a data set of tokens for language models; the result is the same for any --workers.

    A killed run resumes when the same command is given again. Recordings that cannot be read are listed in
    DIR/failed.parquet, and the others are done. docs/corpus.md describes the formats, Ray, and reading tokens in
    training.
    """
    with reporting():
        needs_extra("corpus", "pyarrow")
        if check or stats:
            _inspect(inputs, check, stats, sample, by)
            return
        if out is None:
            raise UsageError("--out: expected a folder for the corpus, got none; give it with -o DIR")
        if engine not in ("local", "ray"):
            raise UsageError(f"--engine: expected local or ray, got {engine!r}")
        if engine == "ray":
            needs_extra("ray", "ray")
        if loudness is not None:
            needs_extra("corpus", "scipy")
        from opensnac.corpus.settings import Settings
        from opensnac.corpus.tokenize import tokenize as run

        settings = Settings(
            inputs=tuple(inputs),
            model=model,
            format=form,
            tokens=tokens,
            min_seconds=min_seconds,
            max_seconds=max_seconds,
            segment=segment,
            mono=mono,
            trim_silence=trim_silence,
            loudness=loudness,
            drop_repeated_frames=drop_repeated_frames,
            reduced=reduced,
            licence=licence,
            shard_megabytes=shard_megabytes,
        )
        with _ProgressReporter() as progress:
            totals = run(
                out,
                settings,
                engine=engine,
                workers=workers,
                device=device,
                readers=(4 if device.startswith("cuda") else 0) if readers is None else readers,
                address=address,
                on=progress.on,
            )
        print(
            f"{out}: {_length(totals.seconds)} in {totals.rows:,} rows of {_recordings(totals.recordings)}, "
            f"{totals.tokens:,} codes{progress.speed()}"
        )
        if totals.left_out:
            print(f"{_recordings(totals.left_out)} left out by the selection")
        if totals.failed:
            _print_failed(out, totals.failed)
            raise typer.Exit(FAILED)


def _print_failed(out: str, count: int) -> None:
    from opensnac.corpus.tokenize import failures

    for failure in failures(out, SHOWN):
        print(f"opensnac: {shown(failure['source'])}: {shown(failure['reason'])}", file=sys.stderr)
    print(f"opensnac: {_recordings(count)} failed; {out}/failed.parquet says why", file=sys.stderr)


def _recordings(count: int) -> str:
    return f"{count:,} recording" + "s" * (count != 1)


def _length(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.2f} h"


def _inspect(folders: list[str], check: bool, stats: bool, sample: int, by: str | None) -> None:
    problems = 0
    for folder in folders:
        if stats:
            from opensnac.corpus.stats import write_stats

            print(write_stats(folder, by))
        if check:
            from opensnac.corpus.check import check_corpus

            result = check_corpus(folder, sample)
            for problem in result.problems:
                print(f"opensnac: {problem}", file=sys.stderr)
            print(result)
            problems += len(result.problems)
    if problems:
        raise typer.Exit(FAILED)


class _ProgressReporter:
    """Reports a run's progress: a bar on a terminal, else a line every minute."""

    def __init__(self) -> None:
        self.seconds = self.failed = 0.0
        self._coded = 0.0  # seconds, in this run
        self._made = 0  # shards
        self._bytes = self._total = 0
        self._start = self._line = time.monotonic()

    def __enter__(self) -> _ProgressReporter:
        self._bar = progress_bar()
        self._bar.__enter__()
        self._task = self._bar.add_task("listing recordings", total=None)
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    def on(self, event: str, value: Any) -> None:
        """Handle one event of the run."""
        if event == "plan":
            self._begin(*value)
        elif event == "again":
            print(f"opensnac: {_tried_again(*value)}", file=sys.stderr)
        elif event in ("done", "failed"):
            seconds, size = value
            self.seconds += seconds
            self._coded += seconds
            self._bytes += size
            self.failed += event == "failed"
            self._show()
        elif event == "shard":
            self._made += 1
        elif event == "died":
            print(f"opensnac: {value}", file=sys.stderr)

    def speed(self) -> str:
        """The speed, if anything was done."""
        taken = time.monotonic() - self._start
        speed = f"; {self._coded / taken:,.1f} times real time" if self._coded else ""
        return speed if self._made else "; nothing left to do"

    def _begin(self, plan: Any, done: list[Any]) -> None:
        self._start = self._line = time.monotonic()
        self._total = max(1, sum(plan.sizes))
        self._bytes = sum(plan.sizes[record.shard] for record in done)
        self.seconds = sum(record.seconds for record in done)
        self.failed = sum(len(record.failed) for record in done)
        self._bar.update(self._task, total=self._total, completed=self._bytes, description=self._said())

    def _said(self) -> str:
        taken = max(1e-3, time.monotonic() - self._start)
        failed = f", {self.failed:,.0f} failed" if self.failed else ""
        return f"{_length(self.seconds)}, {self._coded / taken:,.0f} times real time{failed}"

    def _show(self) -> None:
        self._bar.update(self._task, completed=min(self._bytes, self._total), description=self._said())
        if self._bar.disable and time.monotonic() - self._line > LINE_EVERY:
            self._line = time.monotonic()
            left = (self._line - self._start) * (self._total / max(1, self._bytes) - 1) / 60
            print(
                f"opensnac: {self._bytes / self._total:.0%}: {self._said()}, about {left:,.0f} min left",
                file=sys.stderr,
            )


def _tried_again(failed: int, mended: int, lost: int) -> str:
    """A line on a finished corpus that is resumed: failed recordings, shards they are in, and shards lost."""
    found = [f"{lost:,} of its shards are missing or changed"] if lost else []
    if failed:
        found.append(f"{_recordings(failed)} had failed, of which {'some' if mended else 'none'} can be encoded now")
    return "; ".join(found) + (f"; making {lost + mended:,} shards again" if lost or mended else "")


@command(CORPORA, "opensnac detokenize corpus/ --rows 1,5 -o heard/")
def detokenize(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A folder or URL that `tokenize` wrote.")],
    rows: Annotated[str, typer.Option(metavar="1,5,7-9", help="Rows by number, from 0; or --rows all.")] = "0",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the audio files.")] = Path("detokenized"),
    form: Annotated[str, typer.Option("--format", metavar="wav|flac|ogg", help="Format of the audio files.")] = "wav",
    model: Annotated[
        str | None,
        typer.Option(
            help="speech, music, another model's name or hub id, or a folder. Default: the model that the corpus names."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing outputs.")] = False,
) -> None:
    """Decode rows of a corpus to audio files."""
    with reporting():
        needs_extra("corpus", "pyarrow")
        from opensnac.corpus.detokenize import detokenize as make

        for path in make(folder, rows, out, form, model, force):
            print(path)
