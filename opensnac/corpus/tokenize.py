"""The tokenize command: makes a plan, runs its shards on an engine, and writes the metadata of the finished corpus."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from opensnac.corpus import local, shards
from opensnac.corpus.card import card
from opensnac.corpus.loading import Excluded
from opensnac.corpus.local import KILLS
from opensnac.corpus.plan import PLAN, Plan, make_plan
from opensnac.corpus.readers import CORPUS, INDEX, TOKENS, facts_at
from opensnac.corpus.settings import Settings
from opensnac.corpus.store import Store
from opensnac.corpus.work import RECORDS, Job, Record, Worker, facts_of, load_model
from opensnac.errors import OpensnacError

FAILED, CARD = "failed.parquet", "README.md"
RECORDED = "plan/records.jsonl"  # the records of all shards, once they are done
FAILURE = pa.schema([("id", pa.string()), ("source", pa.string()), ("reason", pa.string())])

On = Callable[[str, Any], None]


@dataclass(frozen=True)
class Totals:
    """Totals of a corpus."""

    recordings: int
    rows: int
    seconds: float
    tokens: int  # codes, without end tokens
    failed: int
    left_out: int


def tokenize(
    out: str,
    settings: Settings,
    *,
    engine: str = "local",
    workers: int | None = None,
    device: str = "cpu",
    readers: int = 0,
    address: str | None = None,
    on: On = lambda event, value: None,
) -> Totals:
    """Make the corpus, or continue one with the same settings. `on` receives progress events.

    `workers` is the number of processes, by default one per core or GPU; 0 works in this process. `engine` is local or
    ray, with the cluster at `address`. `readers` is the number of processes per worker that read and resample.
    Raises UsageError for missing inputs or a folder of another corpus, OpensnacError if work cannot continue.
    """
    store = Store(out)
    model = load_model(settings, "cpu")
    settings = replace(settings, fingerprint=model.fingerprint)
    facts = facts_of(settings, model)
    with store.locked():
        plan = make_plan(store, settings)
        if store.exists(CORPUS):
            _reopen(store, plan, on)
        if not store.exists(CORPUS):
            done = set(finished(store, plan))
            todo = [shard for shard in range(plan.shards) if shard not in done]
            on("plan", (plan, [Record.read(store, plan.name(shard)) for shard in sorted(done)]))
            job = Job(out, device, readers)
            if todo and engine == "ray":
                from opensnac.corpus import ray

                ray.run(job, todo, workers, on, address)
            elif todo:
                local.run(job, todo, local.default_workers(device) if workers is None else workers, on)
            _finish(store, plan, facts)
        _clean(store)
        return totals(store)


def finished(store: Store, plan: Plan) -> Iterator[int]:
    """The complete shards: those whose files and records exist."""
    records, files = set(store.names(RECORDS)), set(store.names("data"))
    endings = shards.ENDINGS[plan.settings.format]
    for shard in range(plan.shards):
        name = plan.name(shard)
        if f"{name}.json" in records and all(f"{name}{ending}" in files for ending in endings):
            yield shard


def failures(out: str, most: int) -> list[dict[str, str]]:
    """The first recordings of a corpus that failed: id, source, reason."""
    store = Store(out)
    if not store.exists(FAILED):
        return []
    return list(next(store.parquet(FAILED).iter_batches(most)).to_pylist())


def _reopen(store: Store, plan: Plan, on: On) -> None:
    """Reopen the shards of a finished corpus that can now be completed.

    These are shards with missing or truncated files, and those with failed recordings that can be encoded by now, as
    disks and files may come back. Without the records of its shards a corpus is left unchanged.
    """
    if not store.exists(RECORDED):
        return
    records = [Record.from_json(line) for line in store.read(RECORDED).splitlines()]
    failed = {record.shard: {f["id"] for f in record.failed if not f["reason"].startswith(KILLS)} for record in records}
    worker = Worker(Job(store.root)) if any(failed.values()) else None
    mended = {shard for shard, ids in failed.items() if ids and worker and _can_encode(worker, shard, ids)}
    lost = _lost(store, records)
    if lost or worker:
        on("again", (sum(map(len, failed.values())), len(mended), len(lost)))
    if lost or mended:
        for record in records:
            if record.shard not in lost | mended:
                record.write(store)
        store.remove(CORPUS)


def _lost(store: Store, records: list[Record]) -> set[int]:
    """The shards whose files are missing or changed; all shards if they were joined to one file."""
    facts = facts_at(store)
    if "files" in facts:
        return set() if _exist(store, facts["files"]) else {record.shard for record in records}
    return {record.shard for record in records if not _exist(store, record.files)}


def _exist(store: Store, files: dict[str, dict[str, Any]]) -> bool:
    return all(store.exists(name) and store.size(name) == facts["bytes"] for name, facts in files.items())


def _can_encode(worker: Worker, shard: int, ids: set[str]) -> bool:
    """Whether any of these recordings of a shard can be encoded now."""
    for entry in worker.plan.entries(shard):
        if entry.id in ids and not entry.problem:
            try:
                worker.code(entry)
            except Excluded:
                return True
            except Exception:  # the recording still fails, for whatever reason
                continue
            return True
    return False


def totals(store: Store) -> Totals:
    """Totals of a finished corpus."""
    return Totals(**facts_at(store)["totals"])


def _finish(store: Store, plan: Plan, facts: dict[str, Any]) -> None:
    """Merge the records of the shards into those of the corpus. The last file written marks it as finished."""
    missing = plan.shards - len(list(finished(store, plan)))
    if missing:
        raise OpensnacError(
            f"{store}: expected {plan.shards} finished shards, got {plan.shards - missing}; run the command again"
        )
    settings = plan.settings
    records = [Record.read(store, plan.name(shard)) for shard in range(plan.shards)]
    own = Totals(
        recordings=plan.recordings,
        rows=sum(record.rows for record in records),
        seconds=round(sum(record.seconds for record in records), 3),
        tokens=sum(record.tokens for record in records),
        failed=sum(len(record.failed) for record in records),
        left_out=sum(record.left_out for record in records),
    )
    if own.failed:
        failures = [failure for record in records for failure in record.failed]
        with store.atomic(FAILED) as part:
            pq.write_table(pa.Table.from_pylist(failures, FAILURE), part)
    else:
        store.remove(FAILED)
    facts |= {"columns": plan.columns, "totals": asdict(own), "licences": _licences(settings, records)}
    if settings.format == "bin":
        facts |= _join(store, records, facts["vocabulary"][1])
    kept = settings.format != "bin"  # otherwise shards were joined
    facts["shards"] = [
        {"rows": record.rows, "tokens": record.tokens} | ({"files": record.files} if kept else {}) for record in records
    ]
    store.write(RECORDED, "".join(f"{record.to_json()}\n" for record in records).encode())
    store.write(CARD, card(facts).encode())
    store.write(CORPUS, (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())


def _licences(settings: Settings, records: list[Record]) -> dict[str, float]:
    """Hours under each licence, from the recordings' columns or the command."""
    hours: dict[str, float] = {}
    for record in records:
        for licence, seconds in record.licences.items():
            hours[licence] = hours.get(licence, 0.0) + seconds / 3600
    rest = sum(record.seconds for record in records) / 3600 - sum(hours.values())
    if settings.licence and rest > 1e-9:
        hours[settings.licence] = hours.get(settings.licence, 0.0) + rest
    return {licence: round(count, 4) for licence, count in sorted(hours.items())}


def _join(store: Store, records: list[Record], end: int) -> dict[str, Any]:
    """Join the shards: one file of all tokens, one index of all rows with their offsets. Returns facts about them."""
    with store.atomic(TOKENS) as part, part.open("wb") as target:
        for record in records:
            with store.open(f"data/{record.name}.bin") as file:
                shutil.copyfileobj(file, target)
    position = 0
    with store.atomic(INDEX) as part:
        writer = None
        for record in records:
            table = store.parquet(f"data/{record.name}.parquet").read()
            counts = table["num_tokens"].to_numpy()
            ends = position + np.cumsum(counts + 1)
            table = table.append_column("offset", pa.array(ends - counts - 1, pa.int64()))
            position = int(ends[-1]) if len(ends) else position
            writer = writer or pq.ParquetWriter(part, table.schema, compression="zstd")
            writer.write_table(table)
        assert writer is not None  # a plan has at least one shard
        writer.close()
    return {
        "dtype": shards.bin_dtype(end).__name__,
        "end": end,
        "files": {name: store.digest(name) for name in (TOKENS, INDEX)},
    }


def _clean(store: Store) -> None:
    """Remove files that a finished corpus no longer needs; parts of a joined file stay while recordings fail."""
    facts = facts_at(store)
    for name in store.names(RECORDS):
        store.remove(f"{RECORDS}/{name}")
    store.remove(RECORDS)
    if facts["format"] == "bin" and not facts["totals"]["failed"]:
        for name in store.names("data"):
            store.remove(f"data/{name}")
        store.remove("data")


__all__ = ["CORPUS", "FAILED", "PLAN", "Totals", "failures", "finished", "tokenize", "totals"]
