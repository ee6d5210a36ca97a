"""Making one shard of a plan: recordings are loaded, encoded and written, with a record of the outcome.

The record is written last. A shard without one is unfinished and is made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from opensnac.corpus import shards
from opensnac.corpus.loading import Excluded, Loaded, at_codec_rate, blocks_of, check_length, load, opened
from opensnac.corpus.plan import Plan
from opensnac.corpus.reading import Found, Loader, ReaderDied, Readers, reason
from opensnac.corpus.rows import Row, rows_of
from opensnac.corpus.settings import Settings
from opensnac.corpus.sources import Entry
from opensnac.corpus.store import Store
from opensnac.engine.batches import BATCH_SECONDS, encode_clips
from opensnac.engine.engine import Engine
from opensnac.errors import OpensnacError
from opensnac.recordings.model_cache import ModelCache
from opensnac.recordings.transcode import encode_blocks

WINDOW_SECONDS = {"cpu": 60.0, "cuda": 600.0}  # of recordings held in memory to form batches of similar length
BATCH = {"cpu": 0.0, "cuda": BATCH_SECONDS}  # seconds per batch: on a CPU one recording keeps a core busy
RECORDS = "work"
LICENCES = ("licence", "license")

READER_DEATHS = 2  # at one shard; then its worker reads without them, which identifies the culprit

# ("reads", number of the recording), ("codes", None), ("done" or "failed", (seconds, bytes) of a recording),
# ("died", a line about a process that did)
Report = Callable[[str, Any], None]


def no_report(event: str, value: Any) -> None:
    """Ignore the event."""


@dataclass
class Record:
    """The outcome of a shard: its files with sizes and digests, and the recordings that failed."""

    shard: int
    name: str
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0
    left_out: int = 0  # by the selection
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: list[dict[str, str]] = field(default_factory=list)
    licences: dict[str, float] = field(default_factory=dict)  # seconds

    @property
    def file(self) -> str:
        """The record's file name."""
        return f"{RECORDS}/{self.name}.json"

    @classmethod
    def read(cls, store: Store, name: str) -> Record:
        """The record of a shard by its name."""
        return cls.from_json(store.read(f"{RECORDS}/{name}.json"))

    def write(self, store: Store) -> None:
        """Write the record."""
        store.write(self.file, self.to_json().encode())

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> Record:
        """Parse the output of `to_json`."""
        return cls(**json.loads(line))


@dataclass(frozen=True)
class Job:
    """A worker's arguments: the corpus's folder, the model's device, and the number of reader processes."""

    out: str
    device: str = "cpu"
    readers: int = 0


def load_model(settings: Settings, device: str) -> Engine:
    """The model of a corpus, as an engine."""
    return ModelCache(settings.model, reduced=settings.reduced, device=device).get()


class Worker:
    """Makes shards of a plan, one at a time; holds the model and at most a window of recordings."""

    def __init__(self, job: Job) -> None:
        self.store = Store(job.out)
        self.plan = Plan(self.store)
        self.settings = self.plan.settings
        self.model = load_model(self.settings, job.device)
        if self.model.fingerprint != self.settings.fingerprint:
            raise OpensnacError(
                f"{self.settings.model}: expected the weights {self.settings.fingerprint[:16]} of the plan in "
                f"{job.out}, got {self.model.fingerprint[:16]}; use that model, or choose another folder"
            )
        self._device, self._kind = job.device, job.device.partition(":")[0]
        self._loader = Loader(self.settings, self.model.config)
        self._readers = Readers(self._loader, job.readers) if job.readers else None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._readers is not None:
            self._readers.stop()

    def make(self, shard: int, report: Report = no_report, skip: Mapping[int, str] | None = None) -> Record:
        """Make a shard; write its files and its record. `skip` maps recordings not to read to the reason."""
        record, rows = self._read_and_code(shard, report, dict(skip or {}))
        layout = self.settings.layout(self.model.config)
        for row in rows:
            record.rows += 1
            record.seconds += row.seconds
            record.tokens += sum(len(code) for code in row.codes)
            licence = next((str(row.columns[name]) for name in LICENCES if row.columns.get(name)), None)
            if licence is not None:
                record.licences[licence] = record.licences.get(licence, 0.0) + row.seconds
        self._write(record, rows, layout)
        record.write(self.store)
        return record

    def code(self, entry: Entry) -> list[Row]:
        """The rows of one recording. Raises Excluded, AudioError or OSError as `load` does."""
        loaded = load(entry.place, self.settings, self.model.config)
        codes = self._encode_long(entry, loaded) if loaded.samples is None else next(self._encode_batch([loaded]))
        return list(rows_of(entry, loaded, codes, self.settings, self.model.config))

    def _read_and_code(self, shard: int, report: Report, skip: Mapping[int, str]) -> tuple[Record, list[Row]]:
        """The rows of a shard and their record; starts over if a reader dies."""
        entries = [replace(e, problem=skip.get(n, e.problem)) for n, e in enumerate(self.plan.entries(shard))]
        for _ in range(READER_DEATHS):
            if self._readers is None:
                break
            record = Record(shard, self.plan.name(shard))
            try:
                return record, self._rows(zip(entries, self._readers.read(entries), strict=True), record, report)
            except ReaderDied:
                report("died", f"a reader died at shard {shard}; the shard is read again")
        record = Record(shard, self.plan.name(shard))
        return record, self._rows(self._load_here(entries, report), record, report)

    def _rows(self, loaded_entries: Iterable[tuple[Entry, Found]], record: Record, report: Report) -> list[Row]:
        """All rows of a shard in order, one window of recordings at a time."""
        rows: list[Row] = []
        window: list[tuple[Entry, Found]] = []
        held, most = 0, WINDOW_SECONDS[self._kind] * self.model.config.sampling_rate
        for entry, loaded in loaded_entries:
            window.append((entry, loaded))
            held += loaded.samples.size if isinstance(loaded, Loaded) and loaded.samples is not None else 0
            if held > most:
                rows += self._encode_window(window, record, report)
                window, held = [], 0
        return rows + self._encode_window(window, record, report)

    def _encode_window(self, window: list[tuple[Entry, Found]], record: Record, report: Report) -> list[Row]:
        """The rows of a window; failures go into the record."""
        report("codes", None)
        short = [loaded for _, loaded in window if isinstance(loaded, Loaded) and loaded.samples is not None]
        batched = self._encode_batch(short)
        rows: list[Row] = []
        for entry, loaded in window:
            seconds, size = 0.0, max(0, entry.place.size)
            if isinstance(loaded, Loaded):
                coded = next(batched) if loaded.samples is not None else self._try_encode_long(entry, loaded)
                if isinstance(coded, list):
                    rows += rows_of(entry, loaded, coded, self.settings, self.model.config)
                    seconds = loaded.num_samples / loaded.rate
            else:
                coded = loaded
            if isinstance(coded, Excluded):
                record.left_out += 1
            elif isinstance(coded, str):
                record.failed.append({"id": entry.id, "source": str(entry.place), "reason": coded})
            report("failed" if isinstance(coded, str) else "done", (seconds, size))
        return rows

    def _load_here(self, entries: list[Entry], report: Report) -> Iterator[tuple[Entry, Found]]:
        """Each recording, read by this process; reports its number before reading it."""
        for number, entry in enumerate(entries):
            report("reads", number)
            yield entry, self._loader(entry)

    def _encode_batch(self, window: Sequence[Loaded]) -> Iterator[list[np.ndarray]]:
        """Codes of short recordings in order, (channels, n_i) for each scale; batched by similar length."""
        channels = [channel for loaded in window if loaded.samples is not None for channel in loaded.samples]
        clips = [torch.from_numpy(channel)[None, None].to(self._device) for channel in channels]
        seconds = BATCH[self._kind]
        try:
            coded = dict(encode_clips(self.model, clips, seconds))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            coded = dict(encode_clips(self.model, clips, 0.0))
        first = 0
        for loaded in window:
            own = [coded[first + n] for n in range(loaded.channels)]
            first += loaded.channels
            yield [torch.cat(scale).cpu().numpy() for scale in zip(*own, strict=True)]

    def _try_encode_long(self, entry: Entry, loaded: Loaded) -> list[np.ndarray] | Excluded | str:
        try:
            return self._encode_long(entry, loaded)
        except Excluded as out:
            return out
        except torch.OutOfMemoryError:  # not the recording's fault
            raise
        except Exception as error:  # a broken recording must not stop the others
            return reason(error, entry)

    def _encode_long(self, entry: Entry, loaded: Loaded) -> list[np.ndarray]:
        """Codes of a long recording, encoded in chunks.

        They are collected in one buffer per scale: many small arrays between the large ones that the model frees would
        fragment the heap.
        """
        buffers = [bytearray() for _ in self.model.config.vq_strides]
        with opened(entry.place) as recording:
            blocks = at_codec_rate(blocks_of(recording, loaded, self.settings), loaded, self.model.config)
            for codes in encode_blocks(blocks, self.model, loaded.channels):
                for buffer, scale in zip(buffers, codes, strict=True):
                    buffer += scale.T.astype(np.uint16).tobytes()
        check_length(loaded, self.settings)
        return [np.frombuffer(buffer, np.uint16).reshape(-1, loaded.channels).T for buffer in buffers]

    def _write(self, record: Record, rows: list[Row], layout: Any) -> None:
        settings, config, columns = self.settings, self.model.config, self.plan.columns
        names = [f"data/{record.name}{ending}" for ending in shards.ENDINGS[settings.format]]
        with ExitStack() as stack:
            paths = [stack.enter_context(self.store.atomic(name)) for name in names]
            if settings.format == "parquet":
                facts = json.dumps(facts_of(settings, self.model))
                shards.write_parquet(paths[0], rows, columns, layout, facts, len(config.vq_strides))
            elif settings.format == "webdataset":
                model = (self.model.name, self.model.fingerprint)
                shards.write_webdataset(paths[0], record.shard, rows, columns, model, config)
            else:
                shards.write_bin(paths[0], paths[1], rows, columns, layout)
        record.files = {name: self.store.digest(name) for name in names}


def facts_of(settings: Settings, model: Engine) -> dict[str, Any]:
    """Metadata of a corpus's files: the model and the command that made them."""
    layout = settings.layout(model.config)
    return {
        "command": settings.command,
        "format": settings.format,
        "model": model.name,
        "fingerprint": model.fingerprint,
        "config": model.config.to_dict(),
        "tokens": settings.tokens,
        "vocabulary": None if layout is None else [layout.vocabulary.start, layout.vocabulary.stop],
    }
