"""What files are coded with, in NumPy: a model on PyTorch or on ONNX Runtime."""

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
    """Streams of samples, side by side."""

    def push(self, audio: NDArray[np.float32], /) -> Arrays:
        """Take (streams, samples); the codes that became certain, (streams, n) of each scale."""

    def flush(self) -> Arrays:
        """End the streams; the rest of their codes."""


class Decoder(Protocol):
    """Streams of codes, side by side."""

    look_ahead: int

    def push(self, codes: Sequence[NDArray[np.integer[Any]]], /) -> NDArray[np.float32]:
        """Take codes (streams, n / stride) of each scale; the new samples, (streams, samples)."""

    def flush(self, *, drop_partial: bool = False) -> NDArray[np.float32]:
        """End the streams; the rest of their samples. `drop_partial` leaves out frames that fill no group."""


class Codec(Protocol):
    """A trained model."""

    name: str
    fingerprint: str
    config: CodecConfig

    def stream_encoder(self, streams: int = 1) -> Encoder:
        """Streams that begin side by side."""

    def stream_decoder(self, streams: int = 1, *, seed: int = 0, noise: bool = True) -> Decoder:
        """Streams that begin side by side, and their noise."""


if TYPE_CHECKING:
    Model: TypeAlias = Coder | Codec


def in_arrays(model: Model) -> Codec:
    """The model, behind NumPy's arrays if it is one of PyTorch."""
    if hasattr(model, "stream_encoder"):
        return cast(Codec, model)
    from opensnac.streaming.arrays import ArrayCodec

    return ArrayCodec(cast("Coder", model))
