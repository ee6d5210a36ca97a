"""Many decoder streams that stand side by side and step together, on a GPU by one launch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from opensnac.engine.codec import Coder, frozen
from opensnac.engine.graph import Step
from opensnac.engine.span import Span
from opensnac.errors import BackendError, CodesError, OpensnacError
from opensnac.model.codec import Codes


class DecoderPool:
    """Places for `streams` decoder streams; whichever have a group of frames ready take a step together.

    Each gives what StreamDecoder gives it alone, to the rounding of sums. Needs an engine of another backend than c;
    streams come and go without anything being allocated or copied. `compiler` is as in engine.graph.Step.

        pool = DecoderPool(model.freeze(backend="torch", device="cuda"), 64)
        place = pool.open(seed=7)
        for samples in pool.push({place: codes}).values():  # codes (n,) of each scale, one group of frames
            play(samples)
        play(pool.close(place))
    """

    def __init__(self, model: Coder, streams: int, *, compiler: str | None = None) -> None:
        engine = frozen(model)
        if engine.backend.name == "c":
            raise BackendError("a pool steps tensors: expected backend 'torch' or 'triton', got 'c'")
        self.engine, self.group = engine, engine.config.frame_multiple
        counts = [self.group // stride for stride in engine.config.vq_strides]
        codes = [torch.zeros(streams, count, dtype=torch.int64, device=engine.device) for count in counts]
        row, like = engine.decoder_row(), engine.nothing(streams, engine.latent_dim)
        self._step = Step(row, codes, self.group, like, engine.dequantize, compiler=compiler)
        self._late = -row.out_offset
        self._pushed: dict[int, int] = {}  # samples that each open stream's codes stand for

    @property
    def free(self) -> list[int]:
        """Places that no stream has."""
        return [place for place in range(len(self._step.active)) if place not in self._pushed]

    def open(self, *, seed: int = 0, noise: bool = True) -> int:
        """A place for a new stream. OpensnacError if there is none."""
        if not self.free:
            raise OpensnacError(f"all {len(self._pushed)} places of the pool are taken; close a stream first")
        place = self.free[0]
        self._step.begin(slice(place, place + 1), Span([0], [None], [seed if noise else None]))
        self._pushed[place] = 0
        return place

    def push(self, codes: Mapping[int, Sequence[Codes]]) -> dict[int, Tensor]:
        """Take one group of frames of some streams, (n,) or (1, n) of each scale; each one's new samples (samples,).

        CodesError for codes of another shape; that they are in range is not looked at.
        """
        for place, scales in codes.items():
            shapes, wanted = [code.numel() for code in scales], [held.shape[1] for held in self._step.inputs]
            if place not in self._pushed or shapes != wanted:
                raise CodesError(f"stream {place} got {shapes} codes, expected an open stream and {wanted}")
            for held, code in zip(self._step.inputs, scales, strict=True):
                held[place] = code.flatten().to(held.device, non_blocking=True)
        return self._advance([*codes])

    def close(self, place: int) -> Tensor:
        """End a stream and free its place; the rest of its samples."""
        end = self._pushed[place]
        self._step.end(place, end)
        rest = [self.engine.nothing(0, 1).flatten().float()]
        while end and self._pushed[place] - self._late < end:
            rest.append(self._advance([place], end)[place])
        del self._pushed[place]
        return torch.cat(rest)

    def _advance(self, places: Sequence[int], end: int | None = None) -> dict[int, Tensor]:
        """One step of those streams: what begins where the last one stopped, up to `end` if that is known."""
        self._step.active.zero_()
        self._step.active[list(places)] = True
        (y,), heard = self._step.advance(), {}
        for place in places:
            first = self._pushed[place] - self._late
            stop = self._step.samples if end is None else min(self._step.samples, end - first)
            heard[place] = y[place, max(0, -first) : stop, 0].float().clone()
            self._pushed[place] += self._step.samples
        return heard
