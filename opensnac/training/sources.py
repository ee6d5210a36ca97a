"""Sources of recordings: folders, globs, manifests and tar shards; broken files are listed and left out."""

from __future__ import annotations

import csv
import glob
import io
import json
import sys
import tarfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soxr
from numpy.typing import NDArray

from opensnac.errors import AudioError
from opensnac.recordings.excerpts import Layout, read_excerpt, scan
from opensnac.recordings.jobs import LeftOut, Search
from opensnac.recordings.mixing import mix_down
from opensnac.recordings.remarks import RecordingWarning
from opensnac.recordings.source import READABLE
from opensnac.recordings.views import Slice
from opensnac.training.config import Source

MANIFESTS = (".csv", ".jsonl")
SHARD = ".tar"
EXPECTED = (".txt", ".json", ".lab", ".textgrid", *MANIFESTS)  # usual beside recordings, ignored silently
KINDS = "a folder, an audio file, a glob, a CSV or JSONL manifest or a tar shard"


class BrokenRecordingError(Exception):
    """Why a recording cannot be used."""


@dataclass(frozen=True)
class Place:
    """A file, or a member of an uncompressed tar file: `size` bytes from `offset` on."""

    path: Path
    member: str = ""
    offset: int = 0
    size: int = -1

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    def open(self) -> BinaryIO:
        """Open it as a seekable file, unbuffered."""
        file = self.path.open("rb", buffering=0)
        return io.BufferedReader(Slice(file, self.offset, self.size) if self.member else file)


@dataclass(frozen=True)
class Recording:
    """A readable file: its place, rate (Hz), length in samples at that rate, and weight.

    `label` is the first folder below its source; empty if there is none. Without a `layout` the file is scanned
    whenever it is read.
    """

    place: Place
    sample_rate: int
    num_samples: int
    weight: float = 1.0
    label: str = ""
    layout: Layout | None = None

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.num_samples / self.sample_rate


def find_recordings(sources: Iterable[Source | str | Path]) -> tuple[list[Recording], list[str]]:
    """The recordings of all sources, sorted by name, and a line for each broken file.

    A recording that several sources contain is used once, with the first one's weight and label.
    """
    known: dict[Place, tuple[float, str]] = {}
    broken: list[str] = []
    for source in sources:
        source = source if isinstance(source, Source) else Source(str(source))
        for place in _places(source.path, broken):
            known.setdefault(place, (source.weight, _label(place, Path(source.path))))
    found = []
    places = sorted(known, key=str)
    with ThreadPoolExecutor() as pool:
        for place, layout in zip(places, pool.map(_scan, places), strict=True):
            if isinstance(layout, str):
                broken.append(f"{place}: {layout}")
                continue
            for remark in layout.remarks:
                warnings.warn(f"{place}: {remark}", RecordingWarning, stacklevel=2)
            found.append(Recording(place, layout.rate, layout.num_samples or 0, *known[place], layout))
    return found, broken


def _label(place: Place, source: Path) -> str:
    folder = source if source.is_dir() else source.parent
    inside = place.path.relative_to(folder).parts if place.path.is_relative_to(folder) else ()
    return inside[0] if len(inside) > 1 else ""


def _scan(place: Place) -> Layout | str:
    """A file's layout, or what is wrong with it."""
    try:
        with place.open() as file:
            layout = scan(file)
    except (AudioError, OSError) as error:
        return str(getattr(error, "strerror", None) or error).removeprefix("stream: ")
    if layout.num_samples:
        return layout
    return "no samples" if layout.num_samples == 0 else "its length is not known"


def _places(source: str, broken: list[str]) -> Iterator[Place]:
    path = Path(source)
    if path.is_dir():
        left_out = LeftOut()
        paths = Search.for_recordings(EXPECTED, besides=[SHARD])(path, left_out)
        broken += [line.removeprefix("left out, ") for line in left_out.lines()]
    elif path.is_file():
        paths = [path]
    else:
        paths = [Path(found) for found in glob.glob(source, recursive=True) if Path(found).is_file()]
        if not paths:
            raise AudioError(f"{source}: expected {KINDS}, got nothing")
    for found in paths:
        kind = found.suffix.lower()
        if kind in MANIFESTS:
            yield from (Place(found.parent / name) for name in _manifest(found))
        elif kind == SHARD:
            yield from _shard(found, broken)
        else:
            yield Place(found)


def _manifest(path: Path) -> list[str]:
    """The column or key `path` of every row."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if path.suffix.lower() == ".csv":
                rows: list[Any] = list(csv.DictReader(file))
            else:
                rows = [json.loads(line) for line in file if line.strip()]
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise AudioError(f"{path}: expected {path.suffix[1:].upper()} text in UTF-8, got {error}") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or "path" not in row:
            has = f"columns {', '.join(map(str, row))}" if isinstance(row, dict) else f"the row {row!r}"
            raise AudioError(f"{path}: expected a column `path`, got {has}")
        if not row["path"] or not isinstance(row["path"], str):
            raise AudioError(f"{path}, row {number}: expected a path, got {row['path']!r}; give one or remove the row")
    return [row["path"] for row in rows]


def _shard(path: Path, broken: list[str]) -> Iterator[Place]:
    """Recordings in an uncompressed tar file, as WebDataset keeps them; they are read in place."""
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if member.isfile() and Path(member.name).suffix.lower() in READABLE:
                    yield Place(path, member.name, member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        broken.append(f"{path}: expected an uncompressed tar file, got {error}")


def read_mono(recording: Recording, sample_rate: int, start: int = 0, length: int = -1) -> NDArray[np.float32]:
    """Read `length` samples from `start` on (at the recording's rate), mixed down and resampled to `sample_rate`.

    BrokenRecordingError if there are none, or not finite ones.
    """
    try:
        with recording.place.open() as file:
            layout = recording.layout or scan(file)
            samples = read_excerpt(file, layout, start, length if length >= 0 else recording.num_samples)
    except (AudioError, OSError) as error:
        raise BrokenRecordingError(error) from error
    if not samples.size or not np.isfinite(samples).all():
        raise BrokenRecordingError(f"{'NaN or infinity' if samples.size else 'no samples'} from sample {start} on")
    mono = mix_down(samples, recording.sample_rate, recording.place)
    if recording.sample_rate != sample_rate:
        mono = soxr.resample(mono, recording.sample_rate, sample_rate)
    return np.asarray(mono, np.float32)


def report_broken(broken: Sequence[str], report: Path | None = None) -> None:
    """Print which files are left out, and append new lines to `report`."""
    known = set(report.read_text(encoding="utf-8").splitlines()) if report and report.exists() else set()
    for line in dict.fromkeys(broken):
        if line not in known:
            print(f"left out: {line}", file=sys.stderr)
            if report:
                with report.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
