"""Verification of a corpus: files by their digests, rows by their counts, codes by encoding recordings again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch

from opensnac.corpus.loading import Excluded
from opensnac.corpus.plan import Plan
from opensnac.corpus.readers import Corpus, Tokens
from opensnac.corpus.rows import Row
from opensnac.corpus.shards import header_of
from opensnac.corpus.tokenize import FAILED
from opensnac.corpus.work import Job, Worker
from opensnac.errors import OpensnacError

AGAIN = "the command that made the corpus writes it again"


@dataclass
class CheckResult:
    """What was checked, and the problems found, one line each."""

    folder: str
    files: int = 0
    rows: int = 0
    recordings: int = 0  # encoded again
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        seen = f"{self.files:,} files, {self.rows:,} rows, {self.recordings:,} recordings encoded again"
        found = f"{len(self.problems)} problems" if self.problems else "no problems"
        return f"{self.folder}: {seen}: {found}"


def check_corpus(folder: str, sample: int = 10, seed: int = 0) -> CheckResult:
    """Verify all files and rows, and encode a random `sample` of recordings again.

    Raises OpensnacError if there is no finished corpus.
    """
    corpus, checked = Corpus(folder), CheckResult(folder)
    checked.problems += _files(corpus, checked)
    if not checked.problems:
        checked.problems += _rows(corpus, checked)
        checked.problems += _codes(corpus, checked, sample, seed)
    return checked


def _files(corpus: Corpus, checked: CheckResult) -> Iterator[str]:
    stated = {name: facts for shard in corpus.facts["shards"] for name, facts in shard.get("files", {}).items()}
    for name, facts in {**stated, **corpus.facts.get("files", {})}.items():
        if not corpus.store.exists(name):
            yield f"{corpus.store.url(name)}: expected a file, got none; {AGAIN}"
            continue
        checked.files += 1
        found = corpus.store.digest(name)
        if found != facts:
            yield (
                f"{corpus.store.url(name)}: expected {facts['bytes']} bytes with SHA-256 {facts['sha256'][:16]}, got "
                f"{found['bytes']} with {str(found['sha256'])[:16]}; remove it; {AGAIN}"
            )


def _rows(corpus: Corpus, checked: CheckResult) -> Iterator[str]:
    tokens = 0
    for shard in range(corpus.shards):
        rows = corpus.read(shard)
        checked.rows += len(rows)
        if len(rows) != corpus.facts["shards"][shard]["rows"]:
            yield f"shard {shard}: expected {corpus.facts['shards'][shard]['rows']} rows, got {len(rows)}"
        for row in rows:
            tokens += row.num_codes
            problem = _wrong(corpus, row)
            if problem:
                yield f"row {row.facts['id']}: {problem}"
    totals = corpus.facts["totals"]
    if (checked.rows, tokens) != (totals["rows"], totals["tokens"]):
        yield (
            f"{corpus.folder}: expected {totals['rows']} rows with {totals['tokens']} codes, got {checked.rows} with "
            f"{tokens}"
        )


def _wrong(corpus: Corpus, row: Tokens) -> str | None:
    """What is wrong with a row on its own; None if nothing is."""
    config = corpus.config
    try:
        codes = corpus.codes(row)
    except OpensnacError as error:
        return str(error)
    if any(code.size and not 0 <= code.min() <= code.max() < config.codebook_size for code in codes):
        return f"expected codes from 0 to {config.codebook_size - 1}, got others"
    frames = {len(code) * stride for code, stride in zip(codes, config.vq_strides, strict=True)}
    if len(frames) != 1:
        return f"expected the same number of frames in each scale, got {sorted(frames)}"
    if "--drop-repeated-frames" in corpus.facts["command"].split():
        return None
    rate = row.facts["sampling_rate"]
    needed = header_of(rate, ("any", corpus.facts["fingerprint"]), config)
    (count,) = frames
    if not needed.fits(count, row.facts["num_samples"]):
        return f"expected frames for {row.facts['num_samples']} samples at {rate} Hz, got {count}"
    return None


def _codes(corpus: Corpus, checked: CheckResult, sample: int, seed: int) -> Iterator[str]:
    """Encode some recordings again, one at a time, and compare."""
    plan = Plan(corpus.store)
    numbers = np.random.default_rng(seed).permutation(plan.recordings)[:sample].tolist()
    if not numbers:
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    worker = Worker(Job(corpus.folder))
    failed = _failed(corpus)
    try:
        for shard, (first, stop) in enumerate(pairwise(plan.starts)):
            entries = plan.entries(shard) if any(first <= number < stop for number in numbers) else []
            stored = {row.facts["id"]: row for row in corpus.read(shard)} if entries else {}
            for number in sorted(number for number in numbers if first <= number < stop):
                entry = entries[number - first]
                checked.recordings += 1
                try:
                    yield from _different(corpus, worker.code(entry), stored)
                except Excluded:
                    pass
                except Exception as error:
                    if entry.id not in failed:
                        yield f"{entry.id}: expected a readable recording, as it was when encoded, got {error}"
    finally:
        torch.set_num_threads(threads)


def _different(corpus: Corpus, rows: list[Row], stored: dict[str, Tokens]) -> Iterator[str]:
    for row in rows:
        kept = stored.get(row.id)
        if kept is None:
            yield f"row {row.id}: expected in its shard, got none"
        elif any(not np.array_equal(a, b) for a, b in zip(corpus.codes(kept), row.codes, strict=True)):
            yield f"row {row.id}: expected the codes of {row.source}, got others; was the recording changed?"


def _failed(corpus: Corpus) -> set[str]:
    if not corpus.store.exists(FAILED):
        return set()
    return set(corpus.store.parquet(FAILED).read(columns=["id"])["id"].to_pylist())
