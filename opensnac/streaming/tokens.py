"""Codes as tokens for language models, and sound from tokens as a model says them.

Layouts are data: which scale stands where in a coarse frame, and which part of the vocabulary it takes. By default a
coarse frame's codes stand in the order of a walk down the tree that the strides make, each code before those that
refine it: for strides 4, 2, 1 the scales [0, 1, 2, 2, 1, 2, 2], which is the layout of Orpheus TTS. Each place in that
row, a slot, has its own range of the vocabulary: token = offset + codebook_size x slot + code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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

MOST_TOKENS = 2**53  # that a saved reader may have counted


@dataclass(frozen=True)
class TokenLayout:
    """Where a code of each scale stands among a coarse frame's tokens, and which tokens stand for it.

    strides        frames of one code of each scale, coarse to fine, each a multiple of the next
    codebook_size  of every scale
    offset         the codec's first token in the vocabulary
    slots          the scale of each token of a coarse frame; the walk down the tree unless given
    ranges         "slot": each slot has a range of its own; "scale": all slots of a scale share one
    separator      a token in front of each coarse frame, None for none
    text, first    how a token reads as text, and the number there of the first one

    ConfigError for strides that make no tree, slots that do not hold each scale's codes, a separator that is a code.
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
                raise ConfigError(
                    f"strides are {list(self.strides)}; tokens need each one to be a multiple of the next"
                )
        object.__setattr__(self, "slots", tuple(self.slots) or tuple(self._walk(0)))
        if sorted(self.slots) != sorted(self._walk(0)):
            raise ConfigError(
                f"slots are {list(self.slots)}; expected the scales {sorted(self._walk(0))}, in any order"
            )
        if self.ranges not in ("slot", "scale"):
            raise ConfigError(f"ranges is {self.ranges!r}; expected 'slot' or 'scale'")
        if self.separator is not None and self.separator in self.vocabulary:
            raise ConfigError(
                f"the separator {self.separator} is a code's token; choose one outside of {self.vocabulary}"
            )

    @classmethod
    def of(cls, config: CodecConfig, offset: int = 0, **options: object) -> TokenLayout:
        """The layout of a codec's tokens; `options` are the fields above."""
        return cls(tuple(config.vq_strides), config.codebook_size, offset, **options)  # type: ignore[arg-type]

    @property
    def vocabulary(self) -> range:
        """The tokens that stand for codes."""
        ranges = len(self.slots) if self.ranges == "slot" else len(self.strides)
        return range(self.offset, self.offset + self.codebook_size * ranges)

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of a coarse frame, its separator included."""
        return len(self.slots) + (self.separator is not None)

    @property
    def pattern(self) -> tuple[int, ...]:
        """Which range each token of a coarse frame is from; -1 is the separator."""
        own = range(len(self.slots)) if self.ranges == "slot" else self.slots
        return (*([-1] if self.separator is not None else []), *own)

    def range_of(self, token: int) -> int | None:
        """The range that a token is from, -1 for the separator; None for one that is neither."""
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
        """Tokens (batch, tokens) of whole coarse frames -> codes of each scale. CodesError for what is none."""
        if tokens.shape[1] % self.tokens_per_frame:
            raise CodesError(f"{tokens.shape[1]} tokens came; expected {self.tokens_per_frame} for each coarse frame")
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
                f"token {index} is {int(tokens[:, index][wrong[:, frame, place]][0])}; {self._needed(place - lead)}"
            )
        return self._sorted(code)

    def code(self, token: int, slot: int) -> int:
        """The code that a token stands for in `slot`. CodesError if it stands for none there."""
        code = token - self._base(slot)
        if not 0 <= code < self.codebook_size:
            raise CodesError(f"token {token} came; {self._needed(slot)}")
        return code

    def to_text(self, tokens: Iterable[int]) -> str:
        """Tokens as the text that a model says: by default `<custom_token_10>` for the first."""
        return "".join(self.text.format(token - self.offset + self.first) for token in tokens)

    def from_text(self, text: str) -> list[int]:
        """The tokens in a text, other words left out; those of no code too, for `TokenStream` to judge."""
        before, _, after = self.text.partition("{}")
        numbers = re.findall(rf"{re.escape(before)}(\d+){re.escape(after)}", text)
        return [int(number) - self.first + self.offset for number in numbers]

    def frame_codes(self, rows: Sequence[Sequence[int]], device: torch.device) -> list[Codes]:
        """The codes of coarse frames, (1, n) of each scale, from the code in each slot of each."""
        return self._sorted(torch.tensor([rows], device=device))

    def _sorted(self, grid: Tensor) -> list[Codes]:
        """Codes (batch, coarse frames, slots) -> codes of each scale."""
        return [
            grid[..., [i for i, scale in enumerate(self.slots) if scale == which]].flatten(1)
            for which in range(len(self.strides))
        ]

    def _needed(self, slot: int) -> str:
        if slot < 0:
            return f"expected the separator {self.separator} in front of a coarse frame"
        first = self._base(slot)
        return f"expected {first} to {first + self.codebook_size - 1} in slot {slot} of {len(self.slots)}"

    def _walk(self, scale: int) -> list[int]:
        if scale == len(self.strides) - 1:
            return [scale]
        return [scale, *self._walk(scale + 1) * (self.strides[scale] // self.strides[scale + 1])]

    def _places(self) -> Iterable[tuple[int, int]]:
        """For each slot its scale, and the how-manieth of that scale in the coarse frame it is."""
        for slot, scale in enumerate(self.slots):
            yield scale, self.slots[:slot].count(scale)

    def _base(self, slot: int) -> int:
        return self.offset + self.codebook_size * (slot if self.ranges == "slot" else self.slots[slot])

    def _bases(self, device: torch.device) -> Tensor:
        return torch.tensor([self._base(slot) for slot in range(len(self.slots))], device=device)


@dataclass(frozen=True)
class RowLayout:
    """Codes as rows that a language model says side by side, each row a few steps later than the one before.

    strides        frames of one code of each scale, coarse to fine, each a multiple of the next
    codebook_size  of every scale
    delays         steps that each row comes late; as many numbers as rows, none for no delay
    pad            what stands where a row has no code yet, or no more; the codebook's size unless given
    rows           "scale": one row a scale, a step a frame of the finest, coarser codes repeated;
                   "slot": as many rows as a coarse frame has codes, scale by scale, a step a coarse frame

    ConfigError for strides that make no tree, delays of another number, a pad that is a code.
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
            raise ConfigError(f"delays are {list(self.delays)}; expected {rows} numbers of steps from 0 on")
        if self.pad in range(self.codebook_size):
            raise ConfigError(f"pad is {self.pad}, a code; expected a number outside of 0 to {self.codebook_size - 1}")

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
        """The inverse. CodesError for rows of another number, or that hold no code where one is expected."""
        if rows.ndim != 3 or rows.shape[1] != len(self.delays):
            raise CodesError(f"rows came as {tuple(rows.shape)}; expected (batch, {len(self.delays)}, steps)")
        steps = rows.shape[2] - max(self.delays)
        per_frame = self.strides[0] // self.strides[-1] if self.rows == "scale" else 1
        if steps < 0 or steps % per_frame:
            raise CodesError(
                f"{rows.shape[2]} steps came; expected {max(self.delays)} of delay and a multiple of {per_frame}"
            )
        straight = [rows[:, i, delay : delay + steps] for i, delay in enumerate(self.delays)]
        for i, row in enumerate(straight):
            if row.numel() and not 0 <= int(row.min()) <= int(row.max()) < self.codebook_size:
                raise CodesError(
                    f"row {i} holds {int(row.min())} to {int(row.max())}; expected 0 to {self.codebook_size - 1}"
                )
        if self.rows == "scale":
            return [row[:, :: s // self.strides[-1]] for row, s in zip(straight, self.strides, strict=True)]
        counts = [self.strides[0] // stride for stride in self.strides]
        parts = iter(straight)
        return [torch.stack([next(parts) for _ in range(count)], dim=2).flatten(1) for count in counts]


Row = list[int]  # the code in each slot of a coarse frame


class TokenReader:
    """Tokens one by one in, coarse frames out as soon as they are certain: the code in each slot of each.

    `repair` is as in TokenStream; `group` is the number of coarse frames that a model takes at once. `frames` counts
    coarse frames, `concealed` those that were not whole, `ignored` tokens left out, `tokens` all that came.
    """

    def __init__(self, layout: TokenLayout, *, repair: bool = False, group: int = 1) -> None:
        self.layout = layout
        self.tokens = self.ignored = self.frames = self.concealed = 0
        self._repair, self._group = repair, group
        self._alignment = Alignment(layout.pattern)
        self._row: list[int | None] = []  # codes of the coarse frame that is on its way; None where none came
        self._last: Row | None = None  # codes of the last whole coarse frame
        self._settled = (0, 0)  # `tokens` and `ignored` when it was last certain where every token belongs

    def push(self, token: int) -> list[Row]:
        """Take a token; the coarse frames that it makes certain. CodesError, without `repair`, for one out of place."""
        which = self.layout.range_of(token)
        if not self._repair and which != self.layout.pattern[self._alignment.expected]:
            slot = self._alignment.expected - self._lead
            raise CodesError(f"token {token} came; {self.layout._needed(slot)}")
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
        """What is left: with `repair` a coarse frame that has begun, concealed, and repetitions that fill the group.

        Nothing where no whole coarse frame ever came. Without `repair`, CodesError where the last one is not whole, or
        no token came at all.
        """
        self._refuse_unfinished()
        rows = self._take(self._alignment.finish())
        if self._last is not None and self._repair:
            rows += [self._last] * (-self.frames % self._group)
        return rows

    def save(self) -> dict[str, Any]:
        """Where the reader stands, as JSON knows it, after the first `tokens` tokens: later ones are in doubt."""
        tokens, ignored = self._settled
        counts = {"tokens": tokens, "ignored": ignored, "frames": self.frames, "concealed": self.concealed}
        return counts | {"place": self._alignment.expected, "row": list(self._row), "last": self._last}

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Stand where `save` was called. CodesError for what it did not write."""
        slots, size = len(self.layout.slots), self.layout.codebook_size
        names, holes = {*_COUNTS, "place", "row", "last"}, (None,) if self._repair else ()
        if set(saved) != names or not all(type(saved[name]) is int for name in (*_COUNTS, "place")):
            raise CodesError(f"expected {', '.join(sorted(names))} of a saved reader, got {sorted(saved)}")
        counts, place = [saved[name] for name in _COUNTS], saved["place"]
        if min(counts) < 0 or max(counts) > MOST_TOKENS or place not in range(self.layout.tokens_per_frame):
            raise CodesError(f"expected counts from 0 to {MOST_TOKENS} and a place of a token, got {counts}, {place}")
        row, last = saved["row"], saved["last"]
        if not _is_row(row, max(0, place - self._lead), size, holes) or not (
            last is None or _is_row(last, slots, size)
        ):
            raise CodesError(f"expected codes below {size} up to place {place}, got {str(row)[:80]}, {str(last)[:80]}")
        self.tokens, self.ignored, self.frames, self.concealed = counts
        self._settled = (self.tokens, self.ignored)
        self._row, self._last = list(row), last
        self._alignment = Alignment(self.layout.pattern, place)

    @property
    def _lead(self) -> int:
        return self.layout.tokens_per_frame - len(self.layout.slots)

    def _refuse_unfinished(self) -> None:
        came, needed = self._alignment.expected, self.layout.tokens_per_frame
        if self._repair or (self.frames and not came):
            return
        if came:
            what = f"the last coarse frame has {came} of its {needed} tokens; push the others"
        else:
            what = "no token came; push those of a coarse frame"
        raise CodesError(f"{what}, or repair to go without")

    def _take(self, placed: Iterable[tuple[int, int | None] | None]) -> list[Row]:
        """Put tokens into their places: (place in the coarse frame, token or None), None for one that is left out."""
        rows = []
        for entry in placed:
            if entry is None:
                self.ignored += 1
                continue
            place, token = entry
            if place >= self._lead:
                self._row.append(None if token is None else self.layout.code(token, place - self._lead))
            if place == self.layout.tokens_per_frame - 1:
                rows += self._heard(self._row)
                self._row = []
        return rows

    def _heard(self, row: Sequence[int | None]) -> list[Row]:
        """The coarse frame, or the last whole one in its stead; those in front of the first whole one wait for it."""
        self.frames += 1
        codes = [code for code in row if code is not None]
        if len(codes) == len(row):
            waited = self.frames - 1 if self._last is None else 0
            self._last = codes
            return [codes] * (1 + waited)
        self.concealed += 1
        return [] if self._last is None else [self._last]


class TokenStream:
    """Tokens one by one in, samples out; every frame is heard once, the first and the last too.

    With `repair` tokens may be missing, doubled or wrong: the range that a token is from tells where it belongs, so the
    stream finds its place again after a few tokens. A coarse frame that is not whole is concealed: it repeats the last
    whole one, or the first. `concealed` counts these, `ignored` the tokens that were left out, a language model's own
    signs among them. Without `repair` such tokens are CodesErrors, which leave the stream as it was. `layout` is that
    of `offset` unless given; `look_ahead` is as in StreamDecoder. All samples are on the model's device.

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
        """Coarse frames that came."""
        return self._reader.frames

    @property
    def concealed(self) -> int:
        """Of these, the ones that were not whole."""
        return self._reader.concealed

    @property
    def ignored(self) -> int:
        """Tokens that were left out."""
        return self._reader.ignored

    def push(self, token: int) -> Tensor:
        """Take a token; the samples (samples,) that it makes certain."""
        return self._hear(self._reader.push(int(token)))

    def finish(self) -> Tensor:
        """The rest of the sound.

        With `repair` a coarse frame that has begun is concealed, and a stream without a whole one is silence of its
        length. Without, CodesError where the last coarse frame is not whole, or no token came at all.
        """
        rows = self._reader.finish()
        length = self.frames * self._frame_samples
        if not rows and not self._state.pushed[0] and not self._state.waiting.shape[1]:
            return torch.zeros(length, device=self._device)
        return torch.cat([self._hear(rows), self._decoder.flush(self._state, length)[0][0]])

    def _hear(self, rows: Sequence[Row]) -> Tensor:
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
            f"codes of {[code.shape[1] for code in codes]} came; strides {list(strides)} need "
            "as many frames of each scale"
        )
