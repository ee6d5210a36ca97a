"""Reading a corpus of any format: by rows, by shards, or as a PyTorch data set."""

from __future__ import annotations

import io
import json
import tarfile
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from opensnac import bitstream
from opensnac.config import CodecConfig
from opensnac.corpus.rows import flat_tokens
from opensnac.corpus.settings import layout_by_name
from opensnac.corpus.store import Store
from opensnac.errors import OpensnacError
from opensnac.streaming.tokens import TokenLayout

CORPUS, INDEX, TOKENS = "corpus.json", "index.parquet", "tokens.bin"
HELD = 4  # groups of rows cached for access to neighbouring rows


class Tokens(NamedTuple):
    """A row: its columns, and its codes, uint16 of each scale, or flat tokens, int64."""

    facts: dict[str, Any]
    codes: list[NDArray[np.uint16]] | None
    tokens: NDArray[np.int64] | None

    @property
    def num_codes(self) -> int:
        """How many codes there are."""
        return sum(map(len, self.codes or [])) + (0 if self.tokens is None else len(self.tokens))


def facts_at(store: Store) -> dict[str, Any]:
    """The contents of `corpus.json`. OpensnacError if it cannot be read."""
    try:
        return dict(json.loads(store.read(CORPUS)))
    except ValueError as error:
        raise OpensnacError(
            f"{store.url(CORPUS)}: expected JSON, got {error}; remove it and give the command of {store} again"
        ) from error


class Corpus:
    """The folder or URL that `opensnac tokenize` wrote, of any format. OpensnacError if it is not finished.

    corpus = Corpus("corpus/")
    len(corpus), corpus.facts["model"], corpus[0].facts["text"], corpus[0].codes
    """

    def __init__(self, folder: str) -> None:
        self.folder, self.store = str(folder), Store(str(folder))
        if not self.store.exists(CORPUS):
            raise OpensnacError(
                f"{folder}: expected a finished corpus with {CORPUS}, got none; give the folder that `opensnac "
                "tokenize` wrote, and run it again if it was stopped"
            )
        self.facts = facts_at(self.store)
        self.config = CodecConfig.from_dict(self.facts["config"])
        self.format = str(self.facts["format"])
        self._ends = list(accumulate(shard["rows"] for shard in self.facts["shards"]))
        self._group = lru_cache(maxsize=HELD)(self._read_group)

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs to reopen it."""
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Corpus.__init__(self, state["folder"])

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, row: int) -> Tokens:
        shard, place = self.locate(row)
        if self.format != "parquet":
            return self._group(shard, -1)[place]
        for group, rows in enumerate(self._rows_of_groups(shard)):
            if place < rows:
                return self._group(shard, group)[place]
            place -= rows
        raise AssertionError("unreachable")

    def locate(self, row: int) -> tuple[int, int]:
        """The shard of a row and its index there. IndexError for a row that does not exist."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row}: expected 0 to {len(self) - 1}, the rows of {self.folder}")
        row %= len(self)
        shard = bisect_right(self._ends, row)
        return shard, row - (self._ends[shard - 1] if shard else 0)

    @property
    def shards(self) -> int:
        """How many there are."""
        return len(self._ends)

    @property
    def layout(self) -> TokenLayout | None:
        """The layout of flat tokens; None if codes are stored scale by scale."""
        return None if self.facts["tokens"] is None else layout_by_name(self.facts["tokens"], self.config)

    def read(self, shard: int) -> list[Tokens]:
        """All rows of a shard."""
        return self._read_group(shard, -1)

    def flat(self, row: Tokens, layout: TokenLayout | None = None) -> NDArray[np.int64]:
        """A row as flat tokens in a layout, by default the corpus's or a tree from offset 0."""
        own = self.layout
        layout = layout or own or TokenLayout.of(self.config)
        if row.codes is not None:
            return flat_tokens(row.codes, layout).astype(np.int64)
        return _flat(row) + (layout.offset - (own or layout).offset)

    def codes(self, row: Tokens) -> list[NDArray[np.int64]]:
        """A row's codes of each scale, coarse to fine."""
        if row.codes is not None:
            return [code.astype(np.int64) for code in row.codes]
        layout = layout_by_name(self.facts["tokens"], self.config)
        return [code[0].numpy() for code in layout.unflatten(torch.from_numpy(_flat(row))[None])]

    def to_datasets(self) -> Any:
        """The rows as a `datasets.Dataset`: codes_0, codes_1, ... or tokens, and the other columns."""
        import datasets

        if self.format == "parquet":
            files = [self.store.url(name) for shard in self.facts["shards"] for name in shard["files"]]
            return datasets.load_dataset("parquet", data_files=files, split="train")
        return datasets.Dataset.from_generator(self._plain_rows)

    def _plain_rows(self) -> Iterator[dict[str, Any]]:
        for shard in range(self.shards):
            for row in self.read(shard):
                codes = {f"codes_{n}": code.tolist() for n, code in enumerate(row.codes or [])}
                yield row.facts | (codes or {"tokens": self.flat(row).tolist()})

    def _read_group(self, shard: int, group: int) -> list[Tokens]:
        """The rows of a shard, or of one row group of a Parquet file."""
        if self.format == "webdataset":
            return list(_tar_rows(self.store.read(self._file(shard))))
        if self.format == "bin":
            return list(self._bin_rows(shard))
        if not self.store.exists(self._file(shard)):
            raise OpensnacError(
                f"{self.store.url(self._file(shard))}: expected a shard, got none; `{self.facts['command']} -o "
                f"{self.folder}` writes it again"
            )
        parquet = self.store.parquet(self._file(shard))
        return list(_table_rows(parquet.read() if group < 0 else parquet.read_row_group(group)))

    def _rows_of_groups(self, shard: int) -> list[int]:
        from opensnac.corpus.shards import ROWS_A_GROUP

        rows = self.facts["shards"][shard]["rows"]
        return [min(ROWS_A_GROUP, rows - first) for first in range(0, rows, ROWS_A_GROUP)]

    def _file(self, shard: int) -> str:
        return str(next(iter(self.facts["shards"][shard]["files"])))

    def _bin_rows(self, shard: int) -> Iterator[Tokens]:
        for facts in self._index.read_row_group(shard).to_pylist():
            first = facts.pop("offset")
            tokens = np.asarray(self.memory_map[first : first + facts.pop("num_tokens")], np.int64)
            yield Tokens(facts, None, tokens)

    @cached_property
    def _index(self) -> pq.ParquetFile:
        return self.store.parquet(INDEX)

    @cached_property
    def memory_map(self) -> np.memmap[Any, Any]:
        """All tokens of the format bin, row after row, each followed by the end token."""
        if not self.store.is_local:
            raise OpensnacError(
                f"{self.folder}: expected a local folder to map to memory, got a URL; copy it here first"
            )
        return np.memmap(self.store.path(TOKENS), np.dtype(self.facts["dtype"]).newbyteorder("<"), "r")


def _flat(row: Tokens) -> NDArray[np.int64]:
    assert row.tokens is not None  # a row has either codes or tokens
    return row.tokens


def _table_rows(table: pa.Table) -> Iterator[Tokens]:
    """The rows of a Parquet table; lists of codes are views of one array."""
    lists = [name for name in table.schema.names if name == "tokens" or name.startswith("codes_")]
    columns = {name: table[name].combine_chunks() for name in lists}
    flat = {name: column.flatten().to_numpy() for name, column in columns.items()}
    ends = {name: np.cumsum(column.value_lengths().to_numpy()) for name, column in columns.items()}
    for n, facts in enumerate(table.drop_columns(lists).to_pylist()):
        cut = [flat[name][(ends[name][n - 1] if n else 0) : ends[name][n]] for name in lists]
        if lists == ["tokens"]:
            yield Tokens(facts, None, cut[0].astype(np.int64))
        else:
            yield Tokens(facts, cut, None)


def _tar_rows(data: bytes) -> Iterator[Tokens]:
    facts: dict[str, Any] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None  # shards hold plain files
            if member.name.endswith(".json"):
                facts = json.load(file)
            else:
                codes = bitstream.read(io.BytesIO(file.read())).codes
                yield Tokens(facts, [code[0].astype(np.uint16) for code in codes], None)


class TokenDataset(Dataset[dict[str, Any]]):
    """The rows of a corpus as a map-style data set of tensors.

    An item has the row's columns and `codes`, a list of int64 tensors (n_i,), coarse to fine; or `tokens`, one int64
    tensor (n,), if the corpus holds them or a `layout` is given (tree, tree:OFFSET or orpheus).
    """

    def __init__(self, folder: str | Corpus, layout: str | None = None) -> None:
        self.corpus = folder if isinstance(folder, Corpus) else Corpus(folder)
        self.layout = self.corpus.layout if layout is None else layout_by_name(layout, self.corpus.config)

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, row: int) -> dict[str, Any]:
        found = self.corpus[row]
        if self.layout is not None:
            return found.facts | {"tokens": torch.from_numpy(self.corpus.flat(found, self.layout))}
        return found.facts | {"codes": [torch.from_numpy(code) for code in self.corpus.codes(found)]}
