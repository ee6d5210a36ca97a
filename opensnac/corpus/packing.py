"""Tokens for training: shuffled, split over ranks and workers, packed to a context, resumable after any batch.

The order is a function of the seed and of the number of sequences read so far. So a state is a few numbers, and
resuming skips that many sequences: whole shards by their counts, without reading them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from opensnac.corpus.readers import Corpus, Tokens
from opensnac.corpus.settings import layout_by_name
from opensnac.errors import OpensnacError
from opensnac.streaming.tokens import TokenLayout

WINDOW = 8  # shards whose rows are mixed


class PackedTokens(IterableDataset[dict[str, torch.Tensor]]):
    """Sequences of `context` tokens, {"input_ids": int64 (context,)}, from a corpus of any format.

    A row is its text's tokens (given a `tokenizer` and a column `text`), its codes in a `layout` and the token `end`.
    Rows are concatenated and cut into sequences. The default `layout` places codes after the tokenizer's vocabulary;
    `end` is the next number after them, and `vocabulary` the total.

    Process `rank` of `world` (default: torch.distributed's) reads its share. `epochs` None repeats forever; an
    incomplete last sequence is dropped. Iterate over a TokenLoader, which holds the state.
    """

    def __init__(
        self,
        folder: str | Corpus,
        context: int,
        *,
        seed: int = 0,
        epochs: int | None = 1,
        shuffle: bool = True,
        layout: str | None = None,
        tokenizer: Any = None,
        text: str = "text",
        end: int | None = None,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        self.corpus = folder if isinstance(folder, Corpus) else Corpus(folder)
        if context < 1:
            raise OpensnacError(f"context: expected at least 1 token, got {context}")
        if tokenizer is not None and text not in self.corpus.facts["columns"]:
            columns = ", ".join(self.corpus.facts["columns"]) or "none"
            raise OpensnacError(
                f"{self.corpus.folder}: expected a column {text!r} for the tokenizer, got {columns}; name one by text="
            )
        self.context, self.seed, self.epochs, self.shuffle = context, seed, epochs, shuffle
        self.layout = self._layout(layout, tokenizer)
        self.end = self.layout.vocabulary.stop if end is None else end
        self.tokenizer, self.text = tokenizer, text
        self.rank, self.world = _share(rank, world)
        self.taken: list[int] = []  # sequences of each worker to skip, in order of their turns
        self.turn = 0  # the worker whose batch is next
        self.epoch = 0  # the first one to read

    @property
    def vocabulary(self) -> int:
        """The vocabulary size: text, codes, end."""
        return max(self.layout.vocabulary.stop, self.end + 1)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        info = get_worker_info()
        workers, own = (info.num_workers, info.id) if info else (1, 0)
        worker = (own + self.turn) % workers
        skip = self.taken[worker] if self.taken else 0
        for tokens in self._sequences(self.rank * workers + worker, self.world * workers, skip):
            yield {"input_ids": torch.from_numpy(tokens), "worker": torch.tensor(worker)}

    def _sequences(self, share: int, shares: int, skip: int) -> Iterator[NDArray[np.int64]]:
        """The sequences of one of several shares, from number `skip` on."""
        start, position = skip * self.context, 0  # in tokens of the share: of the first sequence, and of the window
        carry = np.zeros(0, np.int64)
        for epoch in count(self.epoch):
            if self.epochs is not None and epoch >= self.epoch + self.epochs:
                return
            for window, shards, whole in self._windows(epoch, share, shares):
                length = self._length(shards) if whole else None
                if length is not None and position + length <= start:
                    position += length
                    continue
                tokens = self._tokens(shards, (self.seed, epoch, window), None if whole else slice(share, None, shares))
                carry = np.concatenate([carry, tokens[max(0, start - position) :]])
                position += len(tokens)
                for first in range(0, len(carry) - self.context + 1, self.context):
                    yield carry[first : first + self.context]
                carry = carry[len(carry) // self.context * self.context :]
            if position == 0:
                return  # an empty share would loop forever

    def _windows(self, epoch: int, share: int, shares: int) -> Iterator[tuple[int, Sequence[int], bool]]:
        """The windows of a share: index, shards, and whether the share takes all of their rows, else a slice."""
        order = np.arange(self.corpus.shards)
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation(order)
        whole = len(order) >= shares
        own = order[share::shares] if whole else order
        for window, first in enumerate(range(0, len(own), WINDOW)):
            yield window, own[first : first + WINDOW].tolist(), whole

    def _length(self, shards: Sequence[int]) -> int | None:
        """Tokens of all rows of some shards, each with its end; None if that needs the tokenizer."""
        if self.tokenizer is not None:
            return None
        facts = [self.corpus.facts["shards"][shard] for shard in shards]
        return sum(shard["tokens"] + shard["rows"] for shard in facts)

    def _tokens(self, shards: Sequence[int], seed: tuple[int, ...], part: slice | None) -> NDArray[np.int64]:
        """The tokens of a window's rows in a shuffled order."""
        rows = [row for shard in shards for row in self.corpus.read(shard)]
        order = np.random.default_rng(seed).permutation(len(rows)) if self.shuffle else np.arange(len(rows))
        if part is not None:
            order = order[part]
        parts = [tokens for n in order for tokens in self._row(rows[n])]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def _row(self, row: Tokens) -> Iterator[NDArray[np.int64]]:
        if self.tokenizer is not None and row.facts.get(self.text):
            yield np.asarray(_encoded(self.tokenizer, str(row.facts[self.text])), np.int64)
        yield self.corpus.flat(row, self.layout)
        yield np.array([self.end])

    def _layout(self, name: str | None, tokenizer: Any) -> TokenLayout:
        if name is not None:
            return layout_by_name(name, self.corpus.config)
        if tokenizer is not None:
            return TokenLayout.of(self.corpus.config, _size(tokenizer))
        return self.corpus.layout or TokenLayout.of(self.corpus.config)


class TokenLoader:
    """Batches of a PackedTokens data set, {"input_ids": int64 (batch, context)}, by worker processes or this one.

    `state_dict` records the position after any batch; a loader with the same settings that loads it with
    `load_state_dict` continues with the next batch. Iterating again after the end begins the next epoch.
    """

    def __init__(self, dataset: PackedTokens, batch_size: int, workers: int = 0, **options: Any) -> None:
        self.dataset, self.batch_size, self.workers, self._options = dataset, batch_size, workers, options
        self._taken = [0] * max(1, workers)
        self._turn = self._epoch = 0

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        self.dataset.taken, self.dataset.turn, self.dataset.epoch = list(self._taken), self._turn, self._epoch
        options = {"multiprocessing_context": "spawn"} if self.workers else {}
        loader = DataLoader(
            self.dataset, batch_size=self.batch_size, num_workers=self.workers, **options | self._options
        )
        for batch in loader:
            worker = int(batch.pop("worker")[0])
            self._taken[worker] += len(batch["input_ids"])
            self._turn = (worker + 1) % len(self._taken)
            yield batch
        self._taken, self._turn = [0] * len(self._taken), 0
        self._epoch += self.dataset.epochs or 0

    def state_dict(self) -> dict[str, Any]:
        """The position, in JSON values."""
        return {"taken": list(self._taken), "turn": self._turn, "epoch": self._epoch, "for": self._settings()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a position; OpensnacError for a state of other settings, which would read other tokens."""
        wrong = [name for name, value in self._settings().items() if state["for"].get(name) != value]
        if wrong:
            came = ", ".join(f"{name} {state['for'].get(name)}" for name in wrong)
            own = ", ".join(f"{name} {self._settings()[name]}" for name in wrong)
            raise OpensnacError(f"loader state: expected {own}, got {came}; build the loader with the same settings")
        self._taken, self._turn, self._epoch = list(state["taken"]), int(state["turn"]), int(state["epoch"])

    def _settings(self) -> dict[str, Any]:
        dataset = self.dataset
        return {
            "rows": len(dataset.corpus),
            "context": dataset.context,
            "seed": dataset.seed,
            "shuffle": dataset.shuffle,
            "epochs": dataset.epochs,
            "rank": dataset.rank,
            "world": dataset.world,
            "workers": self.workers,
        }


def _share(rank: int | None, world: int | None) -> tuple[int, int]:
    """The rank and world size of this process."""
    if rank is None and world is None and torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    rank, world = rank or 0, world or 1
    if not 0 <= rank < world:
        raise OpensnacError(f"rank: expected 0 to {world - 1} of world {world}, got {rank}")
    return rank, world


def _encoded(tokenizer: Any, text: str) -> Sequence[int]:
    """A text's token numbers, by a tokenizer of transformers or of tokenizers."""
    found = tokenizer(text)["input_ids"] if callable(tokenizer) else tokenizer.encode(text).ids
    return list(found)


def _size(tokenizer: Any) -> int:
    return int(len(tokenizer) if hasattr(tokenizer, "__len__") else tokenizer.get_vocab_size())
