"""Codes as tokens for language models, and audio from tokens as a model generates them.

A layout is data: the scale of each token in a coarse frame, and its range of the vocabulary. By default a coarse
frame's codes are in depth-first order of the tree that the strides form, each code before those that refine it: for
strides 4, 2, 1 the scales [0, 1, 2, 2, 1, 2, 2], the layout of Orpheus TTS. Each position in that sequence, a slot, has
its own range of the vocabulary: token = offset + codebook_size x slot + code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from opensnac.config import CodecConfig
from opensnac.engine.codec import Coder
from opensnac.errors import CodesError, ConfigError
from opensnac.model.codec import Codes
from opensnac.streaming.alignment import Alignment
from opensnac.streaming.streams import StreamDecoder

Tokens = Int[Tensor, "batch tokens"]
Rows = Int[Tensor, "batch rows steps"]

MAX_TOKENS = 2**53  # counted, in a saved reader


@dataclass(frozen=True)
class TokenLayout:
    """The order of codes among a coarse frame's tokens, and the tokens that stand for them.

    strides        frames per code of each scale, coarse to fine, each a multiple of the next
    codebook_size  of every scale
    offset         the codec's first token in the vocabulary
    slots          the scale of each token of a coarse frame; default: depth-first order
    ranges         "slot": each slot has its own range; "scale": all slots of a scale share one
    separator      a token before each coarse frame, or None
    text, first    the format of a token as text, and the number of the first one

    ConfigError for strides that form no tree, slots that do not match each scale's codes, a separator that is a code.
    """

    strides: tuple[int, ...]
    codebook_size: int
    offset: int = 0
    slots: tuple[int, ...] = ()
    ranges: Literal["slot", "scale"] = "slot"
    separator: int | None = None
    text: str = "<custom_token_{}>"
    first: int = 10

    def __post_init__(self) -> None:
        for coarse, fine in zip(self.strides, self.strides[1:], strict=False):
            if coarse % fine:
                raise ConfigError(f"strides: expected each a multiple of the next, got {list(self.strides)}")
        object.__setattr__(self, "slots", tuple(self.slots) or tuple(self._walk(0)))
        if sorted(self.slots) != sorted(self._walk(0)):
            raise ConfigError(
                f"slots: expected the scales {sorted(self._walk(0))} in any order, got {list(self.slots)}"
            )
        if self.ranges not in ("slot", "scale"):
            raise ConfigError(f"ranges: expected 'slot' or 'scale', got {self.ranges!r}")
        if self.separator is not None and self.separator in self.vocabulary:
            raise ConfigError(
                f"separator: expected a token outside {self.vocabulary}, those of codes, got {self.separator}"
            )

    @classmethod
    def of(cls, config: CodecConfig, offset: int = 0, **options: object) -> TokenLayout:
        """The layout for a codec; `options` are the fields above."""
        return cls(tuple(config.vq_strides), config.codebook_size, offset, **options)  # type: ignore[arg-type]

    @property
    def vocabulary(self) -> range:
        """The tokens of codes."""
        ranges = len(self.slots) if self.ranges == "slot" else len(self.strides)
        return range(self.offset, self.offset + self.codebook_size * ranges)

    @property
    def tokens_per_frame(self) -> int:
        """Tokens per coarse frame, separator included."""
        return len(self.slots) + (self.separator is not None)

    @property
    def pattern(self) -> tuple[int, ...]:
        """The range of each token of a coarse frame; -1 is the separator."""
        own = range(len(self.slots)) if self.ranges == "slot" else self.slots
        return (*([-1] if self.separator is not None else []), *own)

    def range_of(self, token: int) -> int | None:
        """A token's range, -1 for the separator, None for any other token."""
        if token == self.separator:
            return -1
        return (token - self.offset) // self.codebook_size if token in self.vocabulary else None

    def flatten(self, codes: Sequence[Codes]) -> Tokens:
        """Codes (batch, n / stride) of each scale, coarse to fine -> tokens (batch, tokens) int64."""
        _check_frames(codes, self.strides)
        grids = [code.long().unflatten(1, (-1, self.slots.count(scale))) for scale, code in enumerate(codes)]
        columns = [grids[scale][:, :, place] for scale, place in self._places()]
        tokens = torch.stack(columns, dim=-1) + self._bases(codes[0].device)
        if self.separator is not None:
            tokens = torch.cat([torch.full_like(tokens[..., :1], self.separator), tokens], dim=-1)
        return tokens.flatten(1)

    def unflatten(self, tokens: Tokens) -> list[Codes]:
        """Tokens (batch, tokens) of whole coarse frames -> codes of each scale. CodesError for tokens out of place."""
        if tokens.shape[1] % self.tokens_per_frame:
            raise CodesError(f"tokens: expected a multiple of {self.tokens_per_frame}, got {tokens.shape[1]}")
        grid = tokens.unflatten(1, (-1, self.tokens_per_frame))
        lead = self.tokens_per_frame - len(self.slots)
        code = grid[..., lead:] - self._bases(tokens.device)
        wrong = torch.cat(
            [grid[..., :lead] != (self.separator or 0), (code < 0) | (code >= self.codebook_size)], dim=-1
        )
        if wrong.any():
            _, frame, place = (int(i) for i in torch.nonzero(wrong)[0])
            index = frame * self.tokens_per_frame + place
            raise CodesError(
                f"token {index}: {self._expected(place - lead)}, got {int(tokens[:, index][wrong[:, frame, place]][0])}"
            )
        return self._sorted(code)

    def code(self, token: int, slot: int) -> int:
        """The code that a token stands for in `slot`. CodesError if it stands for none there."""
        code = token - self._base(slot)
        if not 0 <= code < self.codebook_size:
            raise CodesError(f"{self._expected(slot)}, got {token}")
        return code

    def to_text(self, tokens: Iterable[int]) -> str:
        """Tokens as a model's text: by default `<custom_token_10>` for the first."""
        return "".join(self.text.format(token - self.offset + self.first) for token in tokens)

    def from_text(self, text: str) -> list[int]:
        """The tokens in a text, ignoring other words; tokens of no code are left to `TokenStream`."""
        before, _, after = self.text.partition("{}")
        numbers = re.findall(rf"{re.escape(before)}(\d+){re.escape(after)}", text)
        return [int(number) - self.first + self.offset for number in numbers]

    def frame_codes(self, rows: Sequence[Sequence[int]], device: torch.device) -> list[Codes]:
        """The code in each slot of each coarse frame -> codes, (1, n) of each scale."""
        grid = np.array([rows], np.int64)  # for so little, several times as fast as a tensor
        return [torch.from_numpy(codes).to(device) for codes in self._sorted(grid)]

    def _sorted(self, grid: Any) -> list[Any]:
        """Codes (batch, coarse frames, slots), a tensor or array -> codes of each scale."""
        return [
            grid[..., [i for i, scale in enumerate(self.slots) if scale == which]].reshape(len(grid), -1)
            for which in range(len(self.strides))
        ]

    def _expected(self, slot: int) -> str:
        if slot < 0:
            return f"expected the separator {self.separator} before a coarse frame"
        first = self._base(slot)
        return f"expected {first} to {first + self.codebook_size - 1} in slot {slot} of {len(self.slots)}"

    def _walk(self, scale: int) -> list[int]:
        if scale == len(self.strides) - 1:
            return [scale]
        return [scale, *self._walk(scale + 1) * (self.strides[scale] // self.strides[scale + 1])]

    def _places(self) -> Iterable[tuple[int, int]]:
        """Each slot's scale, and its index among the slots of that scale."""
        for slot, scale in enumerate(self.slots):
            yield scale, self.slots[:slot].count(scale)

    def _base(self, slot: int) -> int:
        return self.offset + self.codebook_size * (slot if self.ranges == "slot" else self.slots[slot])

    def _bases(self, device: torch.device) -> Tensor:
        return torch.tensor([self._base(slot) for slot in range(len(self.slots))], device=device)


@dataclass(frozen=True)
class RowLayout:
    """Codes as parallel rows for a language model that predicts one token per row and step (delay pattern).

    strides        frames per code of each scale, coarse to fine, each a multiple of the next
    codebook_size  of every scale
    delays         each row's delay in steps; default: none
    pad            the token before a row's first code and after its last; default: `codebook_size`
    rows           "scale": one row per scale, one step per frame of the finest, coarser codes repeated;
                   "slot": one row per code of a coarse frame, scale by scale, one step per coarse frame

    ConfigError for strides that form no tree, a wrong number of delays, a pad that is a code.
    """

    strides: tuple[int, ...]
    codebook_size: int
    delays: tuple[int, ...] = ()
    pad: int | None = None
    rows: Literal["scale", "slot"] = "scale"

    def __post_init__(self) -> None:
        tree = TokenLayout(self.strides, self.codebook_size)
        rows = len(self.strides) if self.rows == "scale" else len(tree.slots)
        object.__setattr__(self, "delays", tuple(self.delays) or (0,) * rows)
        object.__setattr__(self, "pad", self.codebook_size if self.pad is None else self.pad)
        if len(self.delays) != rows or min(self.delays) < 0:
            raise ConfigError(f"delays: expected {rows} numbers of steps from 0 on, got {list(self.delays)}")
        if self.pad in range(self.codebook_size):
            raise ConfigError(f"pad: expected a number outside 0 to {self.codebook_size - 1}, got the code {self.pad}")

    def to_rows(self, codes: Sequence[Codes]) -> Rows:
        """Codes (batch, n / stride) of each scale -> rows (batch, rows, steps) int64."""
        _check_frames(codes, self.strides)
        fine = self.strides[-1]
        if self.rows == "scale":
            rows = [code.repeat_interleave(s // fine, dim=1) for code, s in zip(codes, self.strides, strict=True)]
        else:
            counts = [self.strides[0] // stride for stride in self.strides]
            parts = [code.unflatten(1, (-1, count)).unbind(2) for code, count in zip(codes, counts, strict=True)]
            rows = [row for part in parts for row in part]
        steps = rows[0].shape[1] + max(self.delays)
        padded = rows[0].new_full((rows[0].shape[0], len(rows), steps), self.pad or 0, dtype=torch.int64)
        for i, (row, delay) in enumerate(zip(rows, self.delays, strict=True)):
            padded[:, i, delay : delay + row.shape[1]] = row
        return padded

    def from_rows(self, rows: Rows) -> list[Codes]:
        """The inverse of `to_rows`. CodesError for a wrong number of rows, or anything but a code where one belongs."""
        if rows.ndim != 3 or rows.shape[1] != len(self.delays):
            raise CodesError(f"rows: expected (batch, {len(self.delays)}, steps), got {tuple(rows.shape)}")
        steps = rows.shape[2] - max(self.delays)
        per_frame = self.strides[0] // self.strides[-1] if self.rows == "scale" else 1
        if steps < 0 or steps % per_frame:
            raise CodesError(
                f"rows: expected {max(self.delays)} steps of delay and a multiple of {per_frame}, got {rows.shape[2]}"
            )
        straight = [rows[:, i, delay : delay + steps] for i, delay in enumerate(self.delays)]
        for i, row in enumerate(straight):
            if row.numel() and not 0 <= int(row.min()) <= int(row.max()) < self.codebook_size:
                raise CodesError(
                    f"row {i}: expected 0 to {self.codebook_size - 1}, got {int(row.min())} to {int(row.max())}"
                )
        if self.rows == "scale":
            return [row[:, :: s // self.strides[-1]] for row, s in zip(straight, self.strides, strict=True)]
        counts = [self.strides[0] // stride for stride in self.strides]
        parts = iter(straight)
        return [torch.stack([next(parts) for _ in range(count)], dim=2).flatten(1) for count in counts]


Row = list[int]  # the code in each slot of a coarse frame


class TokenReader:
    """Tokens in, one by one; coarse frames out as soon as they are certain, as the code in each slot.

    `repair` is as in TokenStream; `group` is the number of coarse frames per group of the model. `frames` counts coarse
    frames, `concealed` those that were incomplete, `ignored` tokens left out, `tokens` all tokens.
    """

    def __init__(self, layout: TokenLayout, *, repair: bool = False, group: int = 1) -> None:
        self.layout = layout
        self.tokens = self.ignored = self.frames = self.concealed = 0
        self._repair, self._group = repair, group
        self._alignment = Alignment(layout.pattern)
        self._row: list[int | None] = []  # codes of the coarse frame in progress; None where one is missing
        self._last: Row | None = None  # codes of the last complete coarse frame
        self._settled = (0, 0)  # `tokens` and `ignored` when every token had last been placed

    def push(self, token: int) -> list[Row]:
        """Take a token; returns the coarse frames now certain. CodesError, without `repair`, for one out of place."""
        which = self.layout.range_of(token)
        if not self._repair and which != self.layout.pattern[self._alignment.expected]:
            slot = self._alignment.expected - self._lead
            raise CodesError(f"{self.layout._expected(slot)}, got {token}")
        self.tokens += 1
        if which is None:
            self.ignored += 1
            rows = []
        else:
            rows = self._take(self._alignment.push(which, token))
        if self._alignment.certain:
            self._settled = (self.tokens, self.ignored)
        return rows

    def finish(self) -> list[Row]:
        """The remaining coarse frames: with `repair`, an incomplete one, concealed, and repeats that fill the group.

        Empty if no coarse frame was ever complete. Without `repair`, CodesError if the last one is incomplete, or there
        were no tokens.
        """
        self._refuse_unfinished()
        rows = self._take(self._alignment.finish())
        if self._last is not None and self._repair:
            rows += [self._last] * (-self.frames % self._group)
        return rows

    def save(self) -> dict[str, Any]:
        """The reader's state after the first `tokens` tokens, as JSON values; later tokens are not placed yet."""
        tokens, ignored = self._settled
        counts = {"tokens": tokens, "ignored": ignored, "frames": self.frames, "concealed": self.concealed}
        return counts | {"place": self._alignment.expected, "row": list(self._row), "last": self._last}

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Restore what `save` returned. CodesError for anything else."""
        slots, size = len(self.layout.slots), self.layout.codebook_size
        names, holes = {*_COUNTS, "place", "row", "last"}, (None,) if self._repair else ()
        if set(saved) != names or not all(type(saved[name]) is int for name in (*_COUNTS, "place")):
            raise CodesError(f"saved reader: expected {', '.join(sorted(names))}, got {sorted(saved)}")
        counts, place = [saved[name] for name in _COUNTS], saved["place"]
        if min(counts) < 0 or max(counts) > MAX_TOKENS or place not in range(self.layout.tokens_per_frame):
            raise CodesError(
                f"saved reader: expected counts from 0 to {MAX_TOKENS} and a token's place, got {counts}, {place}"
            )
        row, last = saved["row"], saved["last"]
        if not _is_row(row, max(0, place - self._lead), size, holes) or not (
            last is None or _is_row(last, slots, size)
        ):
            raise CodesError(
                f"saved reader: expected codes below {size} up to place {place}, got {str(row)[:80]}, {str(last)[:80]}"
            )
        self.tokens, self.ignored, self.frames, self.concealed = counts
        self._settled = (self.tokens, self.ignored)
        self._row, self._last = list(row), last
        self._alignment = Alignment(self.layout.pattern, place)

    @property
    def _lead(self) -> int:
        return self.layout.tokens_per_frame - len(self.layout.slots)

    def _refuse_unfinished(self) -> None:
        got, needed = self._alignment.expected, self.layout.tokens_per_frame
        if self._repair or (self.frames and not got):
            return
        frame = "the last coarse frame" if got else "a coarse frame"
        raise CodesError(f"expected {needed} tokens for {frame}, got {got or 'none'}; push the rest, or use repair")

    def _take(self, placed: Iterable[tuple[int, int | None] | None]) -> list[Row]:
        """Put tokens into place: (place in the coarse frame, token or None for a missing one); None: superfluous."""
        rows = []
        for entry in placed:
            if entry is None:
                self.ignored += 1
                continue
            place, token = entry
            if place >= self._lead:
                self._row.append(None if token is None else self.layout.code(token, place - self._lead))
            if place == self.layout.tokens_per_frame - 1:
                rows += self._complete(self._row)
                self._row = []
        return rows

    def _complete(self, row: Sequence[int | None]) -> list[Row]:
        """The coarse frame, or the last complete one in its place; those before the first complete one wait for it."""
        self.frames += 1
        codes = [code for code in row if code is not None]
        if len(codes) == len(row):
            waited = self.frames - 1 if self._last is None else 0
            self._last = codes
            return [codes] * (1 + waited)
        self.concealed += 1
        return [] if self._last is None else [self._last]


class TokenStream:
    """Tokens in, one by one; samples out. Every frame is played exactly once, the first and the last included.

    With `repair` tokens may be missing, repeated or wrong: the range of a token tells where it belongs, so the stream
    realigns after a few tokens. An incomplete coarse frame is concealed: the last complete one is repeated, or the
    first. `concealed` counts these, `ignored` the tokens left out, such as a language model's special tokens. Without
    `repair` such tokens raise CodesError and leave the stream unchanged. `layout` defaults to that of `offset`;
    `look_ahead` is as in StreamDecoder. Samples are on the model's device.

        stream = TokenStream(model, offset=128266, repair=True)
        for token in tokens:
            play(stream.push(token))  # (samples,), often none
        play(stream.finish())
    """

    def __init__(
        self,
        model: Coder,
        offset: int = 0,
        *,
        layout: TokenLayout | None = None,
        repair: bool = False,
        look_ahead: int | None = None,
        seed: int = 0,
    ) -> None:
        self.layout = layout or TokenLayout.of(model.config, offset)
        group = model.config.frame_multiple // model.config.coarse_stride
        self._reader = TokenReader(self.layout, repair=repair, group=group)
        self._decoder = StreamDecoder(model, look_ahead)
        self.look_ahead = self._decoder.look_ahead
        self._state = self._decoder.start(seed=seed)
        self._device = self._decoder.engine.device
        self._frame_samples = model.config.coarse_stride * model.hop_length

    @property
    def frames(self) -> int:
        """Coarse frames so far."""
        return self._reader.frames

    @property
    def concealed(self) -> int:
        """Of these, the incomplete ones."""
        return self._reader.concealed

    @property
    def ignored(self) -> int:
        """Tokens left out."""
        return self._reader.ignored

    def push(self, token: int) -> Tensor:
        """Take a token; returns the samples (samples,) that are now final."""
        return self._decode(self._reader.push(int(token)))

    def finish(self) -> Tensor:
        """The remaining samples.

        With `repair` an incomplete last coarse frame is concealed, and a stream without any complete one is silence of
        its length. Without, CodesError if the last coarse frame is incomplete, or there were no tokens.
        """
        rows = self._reader.finish()
        length = self.frames * self._frame_samples
        if not rows and not self._state.pushed[0] and not self._state.waiting.shape[1]:
            return torch.zeros(length, device=self._device)
        return torch.cat([self._decode(rows), self._decoder.flush(self._state, length)[0][0]])

    def _decode(self, rows: Sequence[Row]) -> Tensor:
        if not rows:
            return torch.zeros(0, device=self._device)
        return self._decoder.push(self.layout.frame_codes(rows, self._device), self._state)[0][0]


_COUNTS = ("tokens", "ignored", "frames", "concealed")


def _is_row(row: Any, length: int, size: int, others: Sequence[None] = ()) -> bool:
    codes = isinstance(row, list) and all(code in others or (type(code) is int and 0 <= code < size) for code in row)
    return codes and len(row) == length


def _check_frames(codes: Sequence[Codes], strides: Sequence[int]) -> None:
    lengths = [code.shape[1] * stride for code, stride in zip(codes, strides, strict=True)]
    if len(set(lengths)) != 1:
        raise CodesError(
            f"codes: expected equally many frames of each scale for strides {list(strides)}, "
            f"got {[code.shape[1] for code in codes]} codes"
        )
