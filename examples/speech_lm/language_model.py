"""A small Llama-like model of text and speech: one sequence of tokens, each predicted from those before it.

Tokens 0 to 255 are bytes of text, 256 ends a row, and from 257 on are codes, with a range for each slot of a coarse
frame in the order of `opensnac.tokens.TokenLayout`. A token's slot determines the range of the next token, so the
softmax is over that range only: a seventh of the vocabulary with strides 4, 2, 1, and no token outside its slot.

The model is designed for a few hours of data. Slots of one scale share an embedding table. A code's embedding is its
codebook vector, projected by a matrix with a high learning rate, plus a vector of its own with a low one. The output
biases start from the token frequencies.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from opensnac import SNAC
from opensnac.files import atomic_file
from opensnac.tokens import TokenLayout

END = 256
FIRST_CODE = 257
HEAD = 64  # channels per attention head

Cache = list[tuple[Tensor, Tensor]]  # keys and values of each layer, (batch, heads, time, HEAD)


class Bytes:
    """Text as its bytes in UTF-8: a tokenizer for `opensnac.corpus.PackedTokens`."""

    def __len__(self) -> int:
        return FIRST_CODE

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}


@dataclass(frozen=True)
class Shape:
    """Of the model, and of the codec whose codes it generates."""

    codec: str  # as `SNAC.from_pretrained` takes it
    strides: tuple[int, ...]
    codebook_size: int
    codebook_dim: int
    width: int = 192  # a multiple of 64
    layers: int = 4
    context: int = 896  # tokens; 82 a second with the default codec

    @property
    def layout(self) -> TokenLayout:
        """Of the codes among the tokens."""
        return TokenLayout(tuple(self.strides), self.codebook_size, FIRST_CODE)


class Attention(nn.Module):
    """Causal attention with rotary positions. With a cache it continues where the last call ended."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, angles: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, time, width) -> the same shape, and all keys and values so far."""
        q, k, v = self.into(x).unflatten(-1, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        q, k = _rotated(q, angles), _rotated(k, angles)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - q.shape[2])
        attended = F.scaled_dot_product_attention(q, k, v, *([mask] if past else []), is_causal=past is None)
        return self.out(attended.transpose(1, 2).flatten(2)), k, v


class Block(nn.Module):
    """Attention, then a gated feed-forward network, each pre-normalised and residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 8 * round(width / 3)
        self.before, self.between = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention = Attention(width)
        self.up, self.down = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, angles: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, time, width) -> the same shape, and all keys and values so far."""
        attended, k, v = self.attention(self.before(x), angles, past)
        x = x + attended
        gate, up = self.up(self.between(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up), k, v


class SpeechLM(nn.Module):
    """Predicts each next token. Input and output embeddings are tied."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, self.layout = shape, shape.layout
        rows, sides = FIRST_CODE + len(shape.strides) * shape.codebook_size, len(shape.strides) * shape.codebook_dim
        self.own, self.slots = nn.Embedding(rows, shape.width), nn.Embedding(len(self.layout.slots), shape.width)
        self.spread, self.bias = nn.Linear(sides, shape.width, bias=False), nn.Parameter(torch.zeros(rows))
        self.register_buffer("codebooks", torch.zeros(rows, sides))
        for table in (self.own, self.slots):
            nn.init.normal_(table.weight, std=0.02)
        nn.init.normal_(self.own.weight[:FIRST_CODE], std=shape.width**-0.5)
        nn.init.normal_(self.spread.weight, std=shape.width**-0.5)
        self.blocks = nn.ModuleList(Block(shape.width) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width)
        nn.init.constant_(self.norm.weight, 0.3)
        for name, weight in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                nn.init.normal_(weight, std=0.02 / (2 * shape.layers) ** 0.5)

    @torch.no_grad()
    def initialise(self, codec: SNAC, counts: Tensor) -> None:
        """Start from the codec's codebooks and the count, at least 1, of each row of the table."""
        size, width = self.shape.codebook_size, self.shape.codebook_dim
        for n, scale in enumerate(codec.quantizer.scales):
            rows = slice(FIRST_CODE + n * size, FIRST_CODE + (n + 1) * size)
            self.codebooks[rows, n * width : (n + 1) * width] = F.normalize(scale.codebook.weight, dim=-1)
        self.bias.copy_(counts.log())

    def row_of(self, tokens: Tensor) -> Tensor:
        """The row of each token in the embedding table, which slots of one scale share."""
        slot, code = (tokens - FIRST_CODE) // self.shape.codebook_size, (tokens - FIRST_CODE) % self.shape.codebook_size
        scale = torch.tensor(self.layout.slots)[slot.clamp(min=0)]
        return torch.where(tokens < FIRST_CODE, tokens, FIRST_CODE + scale * self.shape.codebook_size + code)

    def rows_of(self, slot: int) -> tuple[int, int]:
        """First and last + 1 of the rows that are allowed in a slot; text and the end in the first slot too."""
        first = FIRST_CODE + self.layout.slots[slot] * self.shape.codebook_size
        return (first if slot else 0), first + self.shape.codebook_size

    def token_of(self, row: int, slot: int) -> int:
        """The token of a row in a slot."""
        if row < FIRST_CODE:
            return row
        return row + (slot - self.layout.slots[slot]) * self.shape.codebook_size

    def next_slot(self, tokens: Tensor) -> Tensor:
        """The slot that comes after each token."""
        slot = torch.div(tokens - FIRST_CODE, self.shape.codebook_size, rounding_mode="floor").clamp(min=-1)
        return (slot + 1) % len(self.layout.slots)

    def table(self) -> Tensor:
        """The embedding table, (rows, width)."""
        return self.own.weight + self.spread(self.codebooks)

    def hidden(
        self, tokens: Tensor, table: Tensor, cache: Cache | None = None, position: int = 0
    ) -> tuple[Tensor, Cache]:
        """Tokens (batch, time) from `position` on -> (batch, time, width), and the cache for the next call."""
        x = (F.embedding(self.row_of(tokens), table) + self.slots(self.next_slot(tokens))) * self.shape.width**0.5
        angles = _angles(position, tokens.shape[1])
        cached: Cache = []
        for n, block in enumerate(self.blocks):
            x, *now = block(x, angles, cache[n] if cache else None)
            cached.append(tuple(now))
        return self.norm(x), cached

    def scores(self, x: Tensor, table: Tensor, first: int, stop: int) -> Tensor:
        """Logits of rows `first` to `stop` after hidden states (..., width)."""
        return x @ table[first:stop].T + self.bias[first:stop]

    def losses(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Negative log-likelihoods in nats of all tokens (batch, time) but the first, and these tokens: (n,) each."""
        table = self.table()
        x, targets = self.hidden(tokens[:, :-1], table)[0], tokens[:, 1:]
        slots = self.next_slot(tokens[:, :-1])
        parts = []
        for slot in range(len(self.layout.slots)):
            first, stop = self.rows_of(slot)
            here = targets[slots == slot]
            scores = self.scores(x[slots == slot], table, first, stop)
            parts.append((F.cross_entropy(scores, self.row_of(here) - first, reduction="none"), here))
        return torch.cat([loss for loss, _ in parts]), torch.cat([target for _, target in parts])

    @torch.inference_mode()
    def generate(
        self, tokens: list[int], temperature: float, top_p: float, generator: torch.Generator
    ) -> Iterator[int]:
        """Sample codes that follow the tokens, until and including END, or without end."""
        position, cache, table = 0, None, self.table()
        while True:
            x, cache = self.hidden(torch.tensor([tokens]), table, cache, position)
            position += len(tokens)
            cache = [(k[:, :, -self.shape.context :], v[:, :, -self.shape.context :]) for k, v in cache]
            slot = int(self.next_slot(torch.tensor(tokens[-1])))
            first, stop = self.rows_of(slot)
            first = max(first, END)  # the text is over
            scores = self.scores(x[0, -1], table, first, stop) / temperature
            tokens = [self.token_of(first + _sample(scores, top_p, generator), slot)]
            yield tokens[0]
            if tokens[0] == END:
                return

    def save(self, folder: Path) -> None:
        """Write shape and weights into a folder."""
        with atomic_file(folder / "shape.json", force=True) as part:
            part.write_text(json.dumps(asdict(self.shape), indent=1) + "\n", encoding="utf-8")
        with atomic_file(folder / "model.safetensors", force=True) as part:
            part.write_bytes(save(self.state_dict()))

    @classmethod
    def load(cls, folder: Path) -> SpeechLM:
        """Load what `save` wrote."""
        model = cls(Shape(**json.loads((folder / "shape.json").read_text(encoding="utf-8"))))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.eval()


def _angles(position: int, count: int) -> Tensor:
    """Rotary positions, complex (count, HEAD / 2)."""
    steps = torch.arange(position, position + count, dtype=torch.float32)
    speeds = 10000.0 ** (-torch.arange(0, HEAD, 2, dtype=torch.float32) / HEAD)
    return torch.polar(torch.ones(1), steps[:, None] * speeds)


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * angles).flatten(-2)


def _sample(scores: Tensor, top_p: float, generator: torch.Generator) -> int:
    """Nucleus sampling: one of the most likely indices that together have the probability `top_p`."""
    likely, numbers = scores.softmax(0).sort(descending=True)
    likely = likely * (likely.cumsum(0) - likely < top_p)
    return int(numbers[torch.multinomial(likely, 1, generator=generator)])
