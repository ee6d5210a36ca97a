"""Listing inputs: folders, globs, manifests and tar shards -> entries in a fixed order, one at a time."""

from __future__ import annotations

import csv
import glob
import io
import itertools
import json
import os
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from opensnac.corpus.places import Place, is_url, join, open_binary, parquet_file
from opensnac.corpus.store import file_system
from opensnac.recordings.jobs import UsageError
from opensnac.recordings.source import READABLE

# Columns that may name a row's recording; the first present one counts: opensnac's, the hub's, NeMo's, others'.
PATH_COLUMNS = ("audio", "path", "file_name", "audio_filepath", "audio_path", "filepath", "file", "filename", "wav")
TEXT_MANIFESTS = (".csv", ".tsv", ".jsonl")
MANIFESTS = (*TEXT_MANIFESTS, ".parquet")
SHARD = ".tar"
METADATA = tuple(f"metadata{ending}" for ending in MANIFESTS)  # beside recordings: the folder's manifest
KINDS = "a folder, an audio file, a glob, a CSV, TSV, JSONL or Parquet manifest or a tar shard"


@dataclass(frozen=True)
class Entry:
    """A recording to tokenize, or the `problem` that prevents reading it.

    `columns` holds the other columns of its manifest row, as JSON values.
    """

    id: str
    place: Place
    columns: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def find(inputs: Iterable[str]) -> Iterator[Entry]:
    """The recordings of all inputs, input by input. UsageError if an input has none.

    A file's id is its path below its folder, after the input's name if there are several inputs.
    """
    inputs = list(inputs)
    for source in inputs:
        prefix = f"{_stem(source)}/" if len(inputs) > 1 else ""
        found = _at(source, prefix)
        first = next(found, None)
        if first is None:
            raise UsageError(f"{source}: expected {KINDS} with recordings, got none")
        yield from itertools.chain([first], found)


def _at(source: str, prefix: str) -> Iterator[Entry]:
    fs, root = file_system(source)
    if fs.isdir(root):
        yield from _folder(fs, root.rstrip("/"), source.rstrip("/") or "/", "", prefix)
    elif fs.isfile(root):
        yield from _file(source, _plain(source), prefix, fs.size(root), alone=True)
    elif glob.has_magic(source):
        names = [fs.unstrip_protocol(name) for name in fs.glob(root)] if is_url(source) else _glob(source)
        for name in sorted(names):
            path = file_system(name)[1]
            if not fs.isdir(path):
                yield from _file(name, _plain(name), f"{_plain(name)}/", fs.size(path), alone=True)
    else:
        raise UsageError(f"{source}: expected {KINDS}, got nothing of that name")


def _glob(pattern: str) -> list[str]:
    return glob.glob(pattern, recursive=True)


def _folder(fs: Any, path: str, source: str, below: str, prefix: str) -> Iterator[Entry]:
    """The recordings in a folder, by name, or the rows of its metadata file. Hidden names and links to folders are
    skipped."""
    try:
        listing = sorted(fs.ls(path, detail=True), key=lambda entry: entry["name"].rstrip("/"))
    except OSError as error:
        yield Entry(f"{prefix}{below or source}", Place(source), {}, f"expected a readable folder, got {_why(error)}")
        return
    entries = {entry["name"].rstrip("/").rpartition("/")[2]: entry for entry in listing}
    stated = next((name for name in METADATA if name in entries), None)
    if stated:
        yield from _file(f"{source}/{stated}", "", f"{prefix}{below}", 0)
        return
    for name, entry in entries.items():
        if name.startswith(".") or not name:
            continue
        if entry["type"] == "directory":
            if not entry.get("islink"):
                yield from _folder(fs, f"{path}/{name}", f"{source}/{name}", f"{below}{name}/", prefix)
        elif name.lower().endswith((*READABLE, SHARD)):
            own = f"{prefix}{below}{name}"
            yield from _file(f"{source}/{name}", own, f"{own[: -len(SHARD)]}/", entry["size"] or 0)


def _file(source: str, own_id: str, prefix: str, size: int, alone: bool = False) -> Iterator[Entry]:
    """The entries of one file; `prefix` goes before the ids of its contents."""
    ending = PurePosixPath(source).suffix.lower()
    if ending in MANIFESTS:
        read = _parquet if ending == ".parquet" else _text_manifest
        yield from read(source, prefix)
    elif ending == SHARD:
        yield from _shard(source, f"{_stem(source)}/" if alone and not prefix else prefix)
    else:
        yield Entry(own_id, Place(source, size=size))


def _text_manifest(source: str, prefix: str) -> Iterator[Entry]:
    """The rows of a CSV, TSV or JSONL file."""
    ending = PurePosixPath(source).suffix.lower()
    number = -1
    with io.TextIOWrapper(open_binary(source), encoding="utf-8-sig", newline="") as file:
        if ending == ".jsonl":
            rows: Iterator[Any] = (json.loads(line) for line in file if line.strip())
        else:
            rows = csv.DictReader(file, delimiter="\t" if ending == ".tsv" else ",", strict=True)
        try:
            for number, row in enumerate(rows):
                yield _row(source, number, row, prefix)
        except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
            raise UsageError(
                f"{source}, row {number + 1}: expected {ending[1:].upper()} text in UTF-8, got {error}; repair it"
            ) from error


def _row(source: str, number: int, row: Any, prefix: str) -> Entry:
    if not isinstance(row, dict):
        raise UsageError(f"{source}, row {number}: expected an object of keys and values, got {row!r}")
    if None in row:
        raise UsageError(
            f"{source}, row {number}: expected {len(row) - 1} cells as the header has, got {row[None]!r} in addition"
        )
    column = _path_column(source, row)
    named = row.pop(column)
    named = named.get("path") if isinstance(named, dict) else named
    own_id = str(row.pop("id", None) or named or number)
    place = Place(source if not named else join(os.path.dirname(source), str(named)))
    if not isinstance(named, str) or not named:
        return Entry(
            prefix + own_id, place, _given(row), f"row {number} of {source}: expected a path in `{column}`, got none"
        )
    return Entry(prefix + own_id, place if is_url(place.path) else _sized(place), _given(row))


def _sized(place: Place) -> Place:
    try:
        return Place(place.path, size=os.stat(place.path).st_size)
    except OSError:  # reading it reports the reason
        return place


def _given(row: dict[Any, Any]) -> dict[str, Any]:
    """The other columns of a row that have a value."""
    return {str(name): value for name, value in row.items() if value is not None}


def _path_column(source: str, columns: Iterable[str]) -> str:
    found = next((name for name in PATH_COLUMNS if name in columns), None)
    if found is None:
        raise UsageError(
            f"{source}: expected a column {', '.join(PATH_COLUMNS[:-1])} or {PATH_COLUMNS[-1]} that locates a row's "
            f"recording, got {', '.join(map(str, columns)) or 'none'}"
        )
    return found


def _parquet(source: str, prefix: str) -> Iterator[Entry]:
    """The rows of a Parquet file: paths, or the hub's `{"bytes", "path"}`, whose bytes are not read here."""
    import pyarrow as pa

    try:
        file = parquet_file(source)
    except pa.ArrowInvalid as error:
        raise UsageError(f"{source}: expected a Parquet file, got {error}") from error
    schema = file.schema_arrow
    audio = _path_column(source, schema.names)
    holds_bytes = pa.types.is_struct(schema.field(audio).type)
    if holds_bytes and {"bytes", "path"} - {child.name for child in schema.field(audio).type}:
        raise UsageError(f"{source}: expected `{audio}` to hold bytes and path, got {schema.field(audio).type}")
    binary = [name for name in schema.names if name != audio and _is_binary(schema.field(name).type)]
    if binary:
        print(f"opensnac: {source}: skipping columns of bytes: {', '.join(binary)}", file=sys.stderr)
    others = [name for name in schema.names if name not in (audio, *binary)]
    number = 0
    for group in range(file.metadata.num_row_groups):
        size = _bytes_a_row(file.metadata.row_group(group), audio) if holds_bytes else 0
        columns = [*others, f"{audio}.path" if holds_bytes else audio]
        for batch in file.iter_batches(1024, row_groups=[group], columns=columns):
            for row in batch.to_pylist():
                if holds_bytes:
                    path = (row.pop(audio) or {}).get("path") or ""
                    own_id = str(row.pop("id", None) or path or number)
                    place = Place(source, member=path, size=size, column=audio, row=number)
                    yield Entry(prefix + own_id, place, _given(row))
                else:
                    yield _row(source, number, row, prefix)
                number += 1


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _bytes_a_row(group: Any, column: str) -> int:
    """The mean size of a row's audio, from the file's metadata alone."""
    chunks = [group.column(i) for i in range(group.num_columns)]
    size = sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema == f"{column}.bytes")
    return int(size // max(1, group.num_rows))


def _shard(source: str, prefix: str) -> Iterator[Entry]:
    """Recordings in an uncompressed tar file as WebDataset keeps them: `key.flac` with `key.json` or `key.txt` beside.

    They are read in place later. An unreadable member becomes an entry with a problem.
    """
    try:
        with open_binary(source) as file, tarfile.open(fileobj=file, mode="r:") as shard:
            members = (member for member in shard if member.isfile())
            for _, sample in itertools.groupby(members, key=lambda member: _key(member.name)):
                yield from _sample(source, prefix, list(sample), lambda member: _content(shard, member))
    except (tarfile.TarError, OSError) as error:
        problem = f"expected an uncompressed tar file, got {error}; unpack it, or pack it again without compression"
        yield Entry(f"{prefix}{PurePosixPath(source).name}", Place(source), {}, problem)


def _sample(
    source: str, prefix: str, members: list[tarfile.TarInfo], content: Callable[[tarfile.TarInfo], str]
) -> Iterator[Entry]:
    columns: dict[str, Any] = {}
    problem = ""
    for member in members:
        if member.name.lower().endswith(".txt"):
            columns["text"] = content(member)
        elif member.name.lower().endswith(".json"):
            try:
                columns |= dict(json.loads(content(member)))
            except (ValueError, TypeError) as error:
                problem = f"{member.name}: expected a JSON object, got {error}"
    for member in members:
        if member.name.lower().endswith(READABLE):
            place = Place(source, member.name, member.offset_data, member.size)
            own_id = str(columns.get("id") or member.name)
            yield Entry(prefix + own_id, place, {k: v for k, v in columns.items() if k != "id"}, problem)


def _content(shard: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = shard.extractfile(member)
    assert file is not None  # it is a plain file
    return file.read().decode("utf-8", errors="replace")


def _key(name: str) -> str:
    """The key shared by a sample's files: the name up to the first dot after its folder."""
    folder, _, name = name.rpartition("/")
    return f"{folder}/{name.partition('.')[0]}"


def _plain(source: str) -> str:
    """A path as an id: without a URL scheme and without parts that lead out of the folder."""
    path = source.partition("://")[2] if is_url(source) else source
    return "/".join(part for part in path.split("/") if part not in ("", ".", ".."))


def _stem(source: str) -> str:
    """The last part of a path, without its ending if it is a manifest's or a shard's."""
    path = PurePosixPath(_plain(source) or "root")
    return path.stem if path.suffix.lower() in (*MANIFESTS, SHARD) else path.name


def _why(error: OSError) -> str:
    return error.strerror or str(error)
