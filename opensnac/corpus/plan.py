"""The plan of a corpus: all recordings in order, cut into shards that are named by a digest of their content.

It is made once, in two passes that hold a few rows at a time, and stored in the corpus's folder as a Parquet file with
one row group per shard. A worker reads its shard's row group and needs nothing else.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from opensnac.corpus.places import Place
from opensnac.corpus.settings import Settings
from opensnac.corpus.sources import Entry, find
from opensnac.corpus.store import Store
from opensnac.recordings.jobs import UsageError

PLAN = "plan/plan.parquet"
SHARDS = 64  # per corpus, within the bounds below: enough that workers finish at about the same time
SMALLEST, LARGEST = 4 << 20, 256 << 20  # bytes of recordings in a shard
MIN_ROWS, MAX_ROWS = 16, 4096
UNKNOWN_BYTES = 1 << 18  # assumed size of a recording whose size is unknown
ROWS_AT_ONCE = 1024
OWN_COLUMNS = (
    *("id", "source", "channel", "start", "num_samples", "sampling_rate", "seconds"),
    *("peak", "level_db", "clipped", "tokens", "offset", "num_tokens"),
)
ROW = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("member", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("column", pa.string()),
        ("row", pa.int64()),
        ("columns", pa.string()),
        ("problem", pa.string()),
    ]
)
KINDS = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "str": pa.string(), "json": pa.string()}


@dataclass(frozen=True)
class Plan:
    """The plan stored in a corpus's folder. Threads and processes each open their own."""

    store: Store

    @cached_property
    def _file(self) -> pq.ParquetFile:
        return self.store.parquet(PLAN)

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return dict(json.loads(self._file.metadata.metadata[b"opensnac"]))

    @property
    def settings(self) -> Settings:
        """The settings of the command."""
        return Settings.from_json(self._facts["settings"])

    @property
    def columns(self) -> dict[str, str]:
        """The columns passed through: their names in the corpus, and their types."""
        return dict(self._facts["columns"])

    @property
    def shards(self) -> int:
        """How many there are."""
        return int(self._file.num_row_groups)

    @property
    def recordings(self) -> int:
        """How many there are."""
        return int(self._file.metadata.num_rows)

    @cached_property
    def starts(self) -> list[int]:
        """The number of each shard's first recording, and the total count last."""
        rows = (self._file.metadata.row_group(shard).num_rows for shard in range(self.shards))
        return list(accumulate(rows, initial=0))

    @cached_property
    def sizes(self) -> list[int]:
        """Bytes of the recordings of each shard, as far as known."""
        return [int(size) for size in self._facts["sizes"]]

    def name(self, shard: int) -> str:
        """A shard's file name, without folder and ending: its number and a digest of what determines its content."""
        return f"{shard:05d}-of-{self.shards:05d}-{self._facts['digests'][shard]}"

    def entries(self, shard: int) -> list[Entry]:
        """The recordings of a shard, in order."""
        return [_entry(row) for row in self._file.read_row_group(shard).to_pylist()]


def make_plan(store: Store, settings: Settings) -> Plan:
    """The plan in the folder, made if there is none. UsageError if it belongs to another corpus."""
    if store.exists(PLAN):
        plan = Plan(store)
        if plan.settings != settings:
            raise UsageError(
                f"{store}: expected an empty folder or one of the same command, got one of `{plan.settings.command}` "
                f"(model {plan.settings.fingerprint[:16]}); choose another folder"
            )
        return plan
    with tempfile.TemporaryDirectory(prefix="opensnac-") as folder:
        listing = Path(folder) / "listing.parquet"
        found = _list(settings.inputs, listing)
        shards = _Shards(found, settings)
        with store.atomic(PLAN) as part:
            _cut(listing, shards, part)
    return Plan(store)


@dataclass
class _Found:
    """Facts collected while listing."""

    rows: int
    bytes: int
    columns: dict[str, str]


def _list(inputs: Iterable[str], listing: Path) -> _Found:
    """Write all entries to a file, in order. UsageError for duplicate ids."""
    columns: dict[str, str] = {}
    hashes = array("Q")  # eight bytes per recording, so that millions can be checked for duplicates
    total = 0
    with pq.ParquetWriter(listing, ROW) as writer:
        for entries in _batched(find(inputs), ROWS_AT_ONCE):
            for entry in entries:
                _widen_types(columns, entry.columns)
                hashes.append(_hash(entry.id))
                total += _bytes(entry)
            writer.write_table(_table(entries))
    _require_different_ids(hashes, listing)
    return _Found(len(hashes), total, columns)


def _widen_types(kinds: dict[str, str], columns: dict[str, Any]) -> None:
    """Widen the columns' types so that these values fit."""
    for name, value in columns.items():
        came = next(
            (k for t, k in ((bool, "bool"), (int, "int"), (float, "float"), (str, "str")) if type(value) is t), "json"
        )
        if came == "int" and not -(2**63) <= value < 2**63:
            came = "json"
        known = kinds.get(name, came)
        if known != came:
            came = "float" if {known, came} == {"int", "float"} else "json"
        kinds[name] = came


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _require_different_ids(hashes: array[int], listing: Path) -> None:
    values, counts = np.unique(
        np.frombuffer(hashes, np.uint64) if hashes else np.zeros(0, np.uint64), return_counts=True
    )
    doubtful = set(values[counts > 1].tolist())
    seen: dict[str, Place] = {}
    for batch in pq.ParquetFile(listing).iter_batches(ROWS_AT_ONCE) if doubtful else ():
        for entry in map(_entry, batch.to_pylist()):
            if entry.id in seen:
                raise UsageError(
                    f"expected a unique id for every recording, got {entry.id!r} for {seen[entry.id]} and for "
                    f"{entry.place}; name each once, or give ids in a manifest's column `id`"
                )
            if _hash(entry.id) in doubtful:
                seen[entry.id] = entry.place


class _Shards:
    """Where shards begin and end: a function of the recordings alone, not of the workers."""

    def __init__(self, found: _Found, settings: Settings) -> None:
        self.found, self.settings = found, settings
        self._bytes = min(max(found.bytes // SHARDS, SMALLEST), LARGEST)
        if settings.shard_megabytes is not None:
            self._bytes = max(1, round(settings.shard_megabytes * 1e6))
        self._rows = min(max(found.rows // SHARDS, MIN_ROWS), MAX_ROWS)

    def cut(self, entries: Iterable[Entry]) -> Iterator[list[Entry]]:
        """The entries of each shard."""
        shard: list[Entry] = []
        size = 0
        for entry in entries:
            if shard and (len(shard) >= self._rows or size + _bytes(entry) > self._bytes):
                yield shard
                shard, size = [], 0
            shard.append(entry)
            size += _bytes(entry)
        if shard:
            yield shard


def _cut(listing: Path, shards: _Shards, target: Path) -> None:
    """Write the plan from a listing."""
    settings, columns = shards.settings, _names(shards.found.columns)
    sizes, digests = [], []
    stored = pq.ParquetFile(listing)
    entries = (_entry(row) for batch in stored.iter_batches(ROWS_AT_ONCE) for row in batch.to_pylist())
    digest = hashlib.sha256(settings.to_json().encode() + json.dumps(columns).encode())
    with pq.ParquetWriter(target, ROW, compression="zstd") as writer:
        for shard in shards.cut(entries):
            table = _table(shard)
            writer.write_table(table, row_group_size=len(shard))
            own = digest.copy()
            own.update(json.dumps(table.to_pylist()).encode())
            sizes.append(sum(map(_bytes, shard)))
            digests.append(own.hexdigest()[:12])
        facts = {"settings": settings.to_json(), "columns": columns, "sizes": sizes, "digests": digests}
        writer.add_key_value_metadata({"opensnac": json.dumps(facts)})


def _names(found: dict[str, str]) -> dict[str, str]:
    """Columns passed through; one that clashes with a column of the corpus is renamed manifest_NAME."""
    return {passed_name(name): kind for name, kind in found.items()}


def passed_name(name: str) -> str:
    """The name of a manifest's column in the corpus."""
    return f"manifest_{name}" if name in OWN_COLUMNS or name.startswith("codes_") else name


def _table(entries: list[Entry]) -> pa.Table:
    rows = [
        {
            "id": entry.id,
            "path": entry.place.path,
            "member": entry.place.member,
            "offset": entry.place.offset,
            "size": entry.place.size,
            "column": entry.place.column,
            "row": entry.place.row,
            "columns": json.dumps(entry.columns, default=str, ensure_ascii=False),
            "problem": entry.problem,
        }
        for entry in entries
    ]
    return pa.Table.from_pylist(rows, ROW)


def _entry(row: dict[str, Any]) -> Entry:
    place = Place(row["path"], row["member"], row["offset"], row["size"], row["column"], row["row"])
    return Entry(row["id"], place, json.loads(row["columns"]), row["problem"])


def _bytes(entry: Entry) -> int:
    return entry.place.size if entry.place.size >= 0 else UNKNOWN_BYTES


def _batched(entries: Iterator[Entry], size: int) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    for entry in entries:
        batch.append(entry)
        if len(batch) == size:
            yield batch
            batch = []
    yield batch
