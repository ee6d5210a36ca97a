"""Many decoder streams that advance together, on a GPU with one launch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from opensnac.engine.codec import Coder, frozen
from opensnac.engine.graph import Step
from opensnac.engine.span import Span, to_device
from opensnac.errors import BackendError, CodesError, OpensnacError
from opensnac.model.codec import Codes


class DecoderPool:
    """Slots for `streams` decoder streams; those with a group of frames ready advance together.

    Each stream gives what StreamDecoder gives, up to rounding. Needs an engine with backend "torch";
    opening and closing streams allocates and copies nothing. `compiler` is as in engine.graph.Step.

        pool = DecoderPool(model.freeze(backend="torch", device="cuda"), 64)
        place = pool.open(seed=7)
        for samples in pool.push({place: codes}).values():  # codes (n,) of each scale, one group of frames
            play(samples)
        play(pool.close(place))
    """

    @torch.inference_mode(False)
    def __init__(self, model: Coder, streams: int, *, compiler: str | None = None) -> None:
        engine = frozen(model)
        if engine.backend.name == "c":
            raise BackendError("pool: expected an engine with backend 'torch', got 'c'")
        self.engine, self.group = engine, engine.config.frame_multiple
        counts = [self.group // stride for stride in engine.config.vq_strides]
        codes = [torch.zeros(streams, count, dtype=torch.int64, device=engine.device) for count in counts]
        stack, like = engine.decoder_stack(), engine.zeros(streams, engine.latent_dim)
        self._step = Step(stack, codes, self.group, like, engine.dequantize, compiler=compiler)
        self._late = -stack.out_offset
        self._pushed: dict[int, int] = {}  # samples that each open stream's codes stand for

    @property
    def free(self) -> list[int]:
        """Unused places."""
        return [place for place in range(len(self._step.active)) if place not in self._pushed]

    def open(self, *, seed: int = 0, noise: bool = True) -> int:
        """Open a stream; returns its place. OpensnacError if all are in use."""
        if not self.free:
            raise OpensnacError(f"pool: expected a free place, got {len(self._pushed)} in use; close a stream first")
        place = self.free[0]
        self._step.begin(slice(place, place + 1), Span([0], [None], [seed if noise else None]))
        self._pushed[place] = 0
        return place

    def push(self, codes: Mapping[int, Sequence[Codes]]) -> dict[int, Tensor]:
        """Take one group of frames of some streams, (n,) or (1, n) of each scale; returns each one's new samples.

        CodesError for codes of another shape; their range is not checked.
        """
        for place, scales in codes.items():
            shapes, wanted = [code.numel() for code in scales], [held.shape[1] for held in self._step.inputs]
            if place not in self._pushed or shapes != wanted:
                raise CodesError(f"place {place}: expected an open stream and {wanted} codes, got {shapes}")
        places = self._places([*codes])
        for held, scale in zip(self._step.inputs, zip(*codes.values(), strict=True), strict=False):
            rows = [code.flatten().to(scale[0].device) for code in scale]
            held[places] = torch.stack(rows).to(held.device, non_blocking=True)
        return self._advance([*codes])

    def close(self, place: int) -> Tensor:
        """End a stream and free its place; returns the rest of its samples."""
        end = self._pushed[place]
        self._step.end(place, end)
        rest = [self.engine.zeros(0, 1).flatten().float()]
        while end and self._pushed[place] - self._late < end:
            rest.append(self._advance([place], end)[place])
        del self._pushed[place]
        return torch.cat(rest)

    def _advance(self, places: Sequence[int], end: int | None = None) -> dict[int, Tensor]:
        """One step of the streams in `places`; returns their new samples, up to `end` if given."""
        at = self._places(places)
        self._step.active.zero_()
        self._step.active[at] = True
        (y,), samples = self._step.advance(), {}
        for place, heard in zip(places, y[at, :, 0].float(), strict=True):
            first = self._pushed[place] - self._late
            stop = self._step.samples if end is None else min(self._step.samples, end - first)
            samples[place] = heard[max(0, -first) : stop]
            self._pushed[place] += self._step.samples
        return samples

    def _places(self, places: Sequence[int]) -> Tensor:
        return to_device(torch.tensor(places, dtype=torch.int64), self.engine.device)
