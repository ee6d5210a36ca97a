"""Codes as one row of tokens for language models, and sound from tokens as a model says them.

A coarse frame's codes stand in the order of a walk down the tree that the strides make, each code before those that
refine it: for strides 4, 2, 1 the scales [0, 1, 2, 2, 1, 2, 2], which is the layout of Orpheus TTS. Each place in that
row, a slot, has its own range of the vocabulary: token = offset + codebook_size x slot + code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from opensnac.config import CodecConfig
from opensnac.engine.codec import Coder
from opensnac.errors import CodesError, ConfigError
from opensnac.model.codec import Codes
from opensnac.streaming.streams import StreamDecoder

Tokens = Int[Tensor, "batch tokens"]


@dataclass(frozen=True)
class TokenLayout:
    """Where a code of each scale stands among a coarse frame's tokens. ConfigError for strides that make no tree."""

    strides: tuple[int, ...]
    codebook_size: int
    offset: int = 0  # of the codec's first token in the vocabulary
    slots: tuple[int, ...] = field(init=False)  # the scale of each token of a coarse frame

    def __post_init__(self) -> None:
        for coarse, fine in zip(self.strides, self.strides[1:], strict=False):
            if coarse % fine:
                raise ConfigError(
                    f"strides are {list(self.strides)}; tokens need each one to be a multiple of the next"
                )
        object.__setattr__(self, "slots", tuple(self._walk(0)))

    @classmethod
    def of(cls, config: CodecConfig, offset: int = 0) -> TokenLayout:
        """The layout of a codec's tokens."""
        return cls(tuple(config.vq_strides), config.codebook_size, offset)

    @property
    def vocabulary(self) -> range:
        """The tokens that stand for codes."""
        return range(self.offset, self.offset + self.codebook_size * len(self.slots))

    def flatten(self, codes: Sequence[Codes]) -> Tokens:
        """Codes (batch, n / stride) of each scale, coarse to fine -> tokens (batch, tokens) int64."""
        lengths = [code.shape[1] * stride for code, stride in zip(codes, self.strides, strict=True)]
        if len(set(lengths)) != 1:
            raise CodesError(
                f"codes of {[code.shape[1] for code in codes]} came; strides {list(self.strides)} need "
                "as many frames of each scale"
            )
        grids = [code.long().unflatten(1, (-1, self.slots.count(scale))) for scale, code in enumerate(codes)]
        columns = [grids[scale][:, :, place] for scale, place in self._places()]
        return (torch.stack(columns, dim=-1) + self._bases(codes[0].device)).flatten(1)

    def unflatten(self, tokens: Tokens) -> list[Codes]:
        """Tokens (batch, tokens) of whole coarse frames -> codes of each scale. CodesError for what is none."""
        if tokens.shape[1] % len(self.slots):
            raise CodesError(f"{tokens.shape[1]} tokens came; {len(self.slots)} for each coarse frame were needed")
        grid = tokens.unflatten(1, (-1, len(self.slots))) - self._bases(tokens.device)
        wrong = (grid < 0) | (grid >= self.codebook_size)
        if wrong.any():
            _, frame, slot = (int(i) for i in torch.nonzero(wrong)[0])
            index = frame * len(self.slots) + slot
            raise CodesError(
                f"token {index} is {int(tokens[:, index][wrong[:, frame, slot]][0])}; {self._needed(slot)}"
            )
        places = list(self._places())
        return [
            grid[..., [i for i, (scale, _) in enumerate(places) if scale == which]].flatten(1)
            for which in range(len(self.strides))
        ]

    def code(self, token: int, slot: int) -> int:
        """The code that a token stands for in `slot`. CodesError if it stands for none there."""
        code = token - self.offset - self.codebook_size * slot
        if not 0 <= code < self.codebook_size:
            raise CodesError(f"token {token} came; {self._needed(slot)}")
        return code

    def _needed(self, slot: int) -> str:
        first = self.offset + self.codebook_size * slot
        return f"{first} to {first + self.codebook_size - 1} was needed in slot {slot} of {len(self.slots)}"

    def _walk(self, scale: int) -> list[int]:
        if scale == len(self.strides) - 1:
            return [scale]
        return [scale, *self._walk(scale + 1) * (self.strides[scale] // self.strides[scale + 1])]

    def _places(self) -> Iterable[tuple[int, int]]:
        """For each slot its scale, and the how-manieth of that scale in the coarse frame it is."""
        for slot, scale in enumerate(self.slots):
            yield scale, self.slots[:slot].count(scale)

    def _bases(self, device: torch.device) -> Tensor:
        return self.offset + self.codebook_size * torch.arange(len(self.slots), device=device)


class TokenStream:
    """Tokens one by one in, samples out; every frame is heard once, the first and the last too.

    With `repair` a token of another slot is taken for the code it would be there, and one that is no code at all (a
    language model's own signs) is left out; `repaired` and `ignored` count them. Without it both are CodesErrors, which
    leave the stream as it was. `look_ahead` is as in StreamDecoder.

        stream = TokenStream(model, offset=128266)
        for token in tokens:
            play(stream.push(token))  # (samples,), often none
        play(stream.finish())
    """

    def __init__(
        self,
        model: Coder,
        offset: int = 0,
        *,
        repair: bool = False,
        look_ahead: int | None = None,
        seed: int = 0,
    ) -> None:
        self.layout = TokenLayout.of(model.config, offset)
        self.repaired = self.ignored = self.frames = 0
        self._decoder = StreamDecoder(model, look_ahead)
        self.look_ahead = self._decoder.look_ahead
        self._state = self._decoder.start(seed=seed)
        self._device = self._decoder.engine.device
        self._repair = repair
        self._row: list[int] = []

    def push(self, token: int) -> Tensor:
        """Take a token; the samples (samples,) that it makes certain."""
        if self._repair and token not in self.layout.vocabulary:
            self.ignored += 1
            return torch.zeros(0)
        self._row.append(self._placed(int(token)))
        if len(self._row) < len(self.layout.slots):
            return torch.zeros(0)
        codes = self.layout.unflatten(torch.tensor([self._row], device=self._device))
        self._row = []
        self.frames += 1
        return self._decoder.push(codes, self._state)[0][0]

    def finish(self) -> Tensor:
        """The rest. CodesError where the last coarse frame is not whole, unless it may be left out to repair."""
        if self._row and not self._repair:
            raise CodesError(
                f"the last coarse frame has {len(self._row)} of its {len(self.layout.slots)} tokens; "
                "push the others, or repair to leave it out"
            )
        self.ignored += len(self._row)
        self._row = []
        return self._decoder.flush(self._state, drop_partial=self._repair)[0][0]

    def _placed(self, token: int) -> int:
        """The token, or the one that stands for its code in the slot whose turn it is."""
        slot = len(self._row)
        try:
            self.layout.code(token, slot)
        except CodesError:
            if not self._repair:
                raise
            self.repaired += 1
            layout = self.layout
            return layout.offset + layout.codebook_size * slot + (token - layout.offset) % layout.codebook_size
        return token
