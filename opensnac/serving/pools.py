"""Pools of decoder and encoder streams."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from opensnac.engine.codec import Coder, frozen
from opensnac.model.checks import checked_audio, checked_codes
from opensnac.serving.pool import Pool, PoolLimits
from opensnac.serving.stream import Parts, Stream
from opensnac.streaming.streams import State, StreamDecoder, StreamEncoder


class DecoderPool(Pool[Tensor]):
    """Streams of codes to samples; each equals StreamDecoder's output for it alone.

    async with DecoderPool(model, PoolLimits(streams=100)) as pool:
        stream = pool.open(seed=7)
        await stream.push(codes)  # (1, n / stride) of each scale, whole coarse frames
        await stream.finish()
        async for samples in stream:  # (n,)
            play(samples)
    """

    def __init__(
        self, model: Coder, limits: PoolLimits | None = None, *, look_ahead: int | None = None, **options: Any
    ) -> None:
        engine = frozen(model)
        self._decoder = StreamDecoder(engine, look_ahead)
        frames = engine.config.frame_multiple
        sizes = [frames // stride for stride in engine.config.vq_strides]
        super().__init__(self._decoder, frames, sizes, limits or PoolLimits(), **options)

    def open(self, *, seed: int = 0, noise: bool = True, state: State | None = None) -> Stream[Tensor]:
        """A new stream, or one that continues from a state. Raises LimitError if the pool is full, OpensnacError for a
        state that does not belong to a stream of this model."""
        start = self._decoder.start(seed=seed, noise=noise) if state is None else self._decoder.resume(state)
        return self._add(start)

    def _checked(self, parts: Any) -> Parts:
        config = self.engine.config
        codes, _ = checked_codes(parts, config, self.engine.device, config.coarse_stride)
        return codes

    def _stepped(self, parts: Parts, state: State) -> list[Tensor]:
        return [
            audio[0].clone() for audio in self._decoder.push(parts, state, check=False)
        ]  # does not keep the batch alive

    def _ended(self, parts: Parts, state: State, num_samples: int | None) -> list[Tensor]:
        if parts[0].numel():
            self._decoder.push(parts, state, check=False)
        return [audio[0] for audio in self._decoder.flush(state, num_samples)]

    def _seconds(self, piece: Tensor) -> float:
        return len(piece) / self.engine.config.sampling_rate


class EncoderPool(Pool[list[Tensor]]):
    """Streams of samples to codes; each equals StreamEncoder's output for it alone.

    async with EncoderPool(model) as pool:
        stream = pool.open()
        await stream.push(audio)  # (1, 1, samples), any number of them, at the model's rate
        await stream.finish()
        async for codes in stream:  # (n / stride,) of each scale
            ...
    """

    def __init__(
        self, model: Coder, limits: PoolLimits | None = None, *, look_ahead: int | None = None, **options: Any
    ) -> None:
        engine = frozen(model)
        self._encoder = StreamEncoder(engine, look_ahead)
        samples = engine.config.frame_multiple * engine.hop_length
        super().__init__(self._encoder, samples, [samples], limits or PoolLimits(), **options)

    def open(self, *, state: State | None = None) -> Stream[list[Tensor]]:
        """A new stream, or one that continues from a state; errors as in DecoderPool."""
        return self._add(self._encoder.start() if state is None else self._encoder.resume(state))

    def _checked(self, parts: Any) -> Parts:
        return [checked_audio(parts, torch.float32, self.engine.device)[:, 0]]

    def _stepped(self, parts: Parts, state: State) -> list[list[Tensor]]:
        return [[code[0] for code in codes] for codes in self._encoder.push(parts[0][:, None], state, check=False)]

    def _ended(self, parts: Parts, state: State, num_samples: int | None) -> list[list[Tensor]]:
        if parts[0].numel():
            self._encoder.push(parts[0][:, None], state, check=False)
        return [[code[0] for code in codes] for codes in self._encoder.flush(state)]

    def _seconds(self, piece: list[Tensor]) -> float:
        frames = len(piece[0]) * self.engine.config.vq_strides[0]
        return frames * self.engine.hop_length / self.engine.config.sampling_rate
