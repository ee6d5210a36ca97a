"""Streams of NumPy arrays, batched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from opensnac.engine.codec import Coder, frozen
from opensnac.streaming.refining import RefiningEncoder
from opensnac.streaming.streams import StreamDecoder, StreamEncoder

Arrays = list[NDArray[Any]]


class ArrayCodec:
    """A PyTorch model with the interface that files are coded with; `opensnac.runtime.Codec` has it without PyTorch.

    Its encoder is a StreamEncoder unless a RefiningEncoder of the model is given.
    """

    def __init__(self, model: Coder, encoder: RefiningEncoder | None = None) -> None:
        self.engine = frozen(model)
        self._encoder = encoder or StreamEncoder(self.engine)
        self.name, self.fingerprint, self.config = self.engine.name, self.engine.fingerprint, self.engine.config
        self.piece_samples = self.engine.piece_samples

    def stream_encoder(self, streams: int = 1) -> ArrayEncoder:
        """An encoder for `streams` parallel streams of samples."""
        return ArrayEncoder(self._encoder, streams)

    def stream_decoder(self, streams: int = 1, *, seed: int = 0, noise: bool = True) -> ArrayDecoder:
        """A decoder for `streams` parallel streams of codes; the noise is as in `SNAC.decode`."""
        return ArrayDecoder(StreamDecoder(self.engine), streams, seed, noise)


class ArrayEncoder:
    """Samples in, codes out."""

    def __init__(self, encoder: StreamEncoder | RefiningEncoder, streams: int) -> None:
        self._encoder: Any = encoder
        self._state = encoder.start(streams)

    def push(self, audio: NDArray[np.float32]) -> Arrays:
        """Take (streams, samples); returns the codes that are final, (streams, n) of each scale."""
        samples = torch.from_numpy(np.ascontiguousarray(audio)).to(self._encoder.engine.device)
        return _stacked(self._encoder.push(samples[:, None], self._state))

    def flush(self) -> Arrays:
        """End the streams; returns the rest of their codes."""
        return _stacked(self._encoder.flush(self._state))


class ArrayDecoder:
    """Codes in, samples out, delayed by `look_ahead` samples."""

    def __init__(self, decoder: StreamDecoder, streams: int, seed: int, noise: bool) -> None:
        self._decoder, self._state = decoder, decoder.start(streams, seed=seed, noise=noise)
        self.look_ahead = decoder.look_ahead

    def push(self, codes: Sequence[NDArray[np.integer[Any]]]) -> NDArray[np.float32]:
        """Take codes (streams, n / stride) of each scale; returns the new samples, (streams, samples)."""
        device = self._decoder.engine.device
        return _to_numpy(self._decoder.push([torch.from_numpy(scale).to(device) for scale in codes], self._state))

    def flush(self, *, drop_partial: bool = False) -> NDArray[np.float32]:
        """End the streams; returns the rest of their samples. `drop_partial` drops an incomplete group of frames."""
        return _to_numpy(self._decoder.flush(self._state, drop_partial=drop_partial))


def _stacked(streams: list[list[torch.Tensor]]) -> Arrays:
    return [torch.cat(scale).cpu().numpy() for scale in zip(*streams, strict=True)]


def _to_numpy(streams: list[torch.Tensor]) -> NDArray[np.float32]:
    return torch.cat(streams).float().cpu().numpy()
