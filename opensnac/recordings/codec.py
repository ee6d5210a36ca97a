"""The interface of a model for coding files, in NumPy: on PyTorch or on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from opensnac.config import CodecConfig

if TYPE_CHECKING:
    from opensnac.engine.codec import Coder


Arrays = list[NDArray[Any]]


class Encoder(Protocol):
    """An encoder of parallel streams."""

    def push(self, audio: NDArray[np.float32], /) -> Arrays:
        """Take (streams, samples); returns the codes that are final, (streams, n) of each scale."""

    def flush(self) -> Arrays:
        """End the streams; returns the rest of their codes."""


class Decoder(Protocol):
    """A decoder of parallel streams."""

    look_ahead: int

    def push(self, codes: Sequence[NDArray[np.integer[Any]]], /) -> NDArray[np.float32]:
        """Take codes (streams, n / stride) of each scale; returns the new samples, (streams, samples)."""

    def flush(self, *, drop_partial: bool = False) -> NDArray[np.float32]:
        """End the streams; returns the rest of their samples. `drop_partial` drops an incomplete group of frames."""


class Codec(Protocol):
    """A trained model."""

    name: str
    fingerprint: str
    config: CodecConfig
    piece_samples: int  # of all streams together, that suit its device at a time

    def stream_encoder(self, streams: int = 1) -> Encoder:
        """An encoder for `streams` parallel streams."""

    def stream_decoder(self, streams: int = 1, *, seed: int = 0, noise: bool = True) -> Decoder:
        """A decoder for `streams` parallel streams, and their noise."""


if TYPE_CHECKING:
    Model: TypeAlias = Coder | Codec


def in_arrays(model: Model) -> Codec:
    """The model with a NumPy interface, wrapped if it is a PyTorch model."""
    if hasattr(model, "stream_encoder"):
        return cast(Codec, model)
    from opensnac.streaming.arrays import ArrayCodec

    return ArrayCodec(cast("Coder", model))
