"""Audio formats of clients: 16-bit or float samples or Opus packets, at the client's sampling rate."""

from __future__ import annotations

from typing import Any

import numpy as np

from opensnac.errors import AudioError, OpensnacError
from opensnac.recordings.resampling import Resampler
from opensnac.recordings.sink import as_int16

OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
OPUS_PACKETS_PER_SECOND = 50
TYPES: dict[str, np.dtype[Any]] = {"pcm16": np.dtype("<i2"), "float32": np.dtype("<f4")}


class SoundWriter:
    """Converts a model's samples to binary messages; `samples` counts the samples sent, at the client's rate."""

    def __init__(self, model_rate: int, rate: int, kind: str) -> None:
        self.samples = 0
        self._resampler = Resampler(model_rate, rate, 1)
        self._opus = Opus(rate) if kind == "opus" else None
        self._type = TYPES.get(kind)

    def push(self, samples: np.ndarray) -> list[bytes]:
        """Messages for float32 samples (n,); the resampler holds some back."""
        return self._messages(self._resampler.push(samples[None])[0])

    def finish(self) -> list[bytes]:
        """The rest."""
        rest = self._messages(self._resampler.finish()[0])
        return rest if self._opus is None else rest + self._opus.finish()

    def _messages(self, samples: np.ndarray) -> list[bytes]:
        self.samples += len(samples)
        if not len(samples):
            return []
        if self._opus is not None:
            return self._opus.push(as_int16(samples))
        if self._type == TYPES["pcm16"]:
            return [as_int16(samples).astype(self._type).tobytes()]
        return [samples.astype(TYPES["float32"]).tobytes()]


class Opus:
    """Opus packets of 20 ms, one per message, by libopus. Raises OpensnacError without PyAV or for other rates."""

    def __init__(self, rate: int) -> None:
        if rate not in OPUS_RATES:
            raise OpensnacError(f"expected a rate of {', '.join(map(str, OPUS_RATES))} Hz for Opus, got {rate}")
        try:
            import av
        except ImportError as error:
            raise OpensnacError("Opus needs: pip install 'opensnac[media]' on the server") from error
        self._av, self._rate = av, rate
        self._coder: Any = av.CodecContext.create("libopus", "w")
        self._coder.sample_rate, self._coder.layout, self._coder.format = rate, "mono", "s16"
        self._size = rate // OPUS_PACKETS_PER_SECOND
        self._waiting = np.zeros(0, np.int16)

    def push(self, samples: np.ndarray) -> list[bytes]:
        """The packets that int16 samples (n,) complete."""
        self._waiting = np.concatenate([self._waiting, samples])
        packets = []
        while len(self._waiting) >= self._size:
            frame = self._av.AudioFrame.from_ndarray(self._waiting[None, : self._size], format="s16", layout="mono")
            frame.sample_rate = self._rate
            packets += [bytes(packet) for packet in self._coder.encode(frame)]
            self._waiting = self._waiting[self._size :]
        return packets

    def finish(self) -> list[bytes]:
        """The last packet, padded with silence, and what the encoder still holds."""
        rest = self.push(np.zeros(-len(self._waiting) % self._size, np.int16))
        return rest + [bytes(packet) for packet in self._coder.encode(None)]


class SoundReader:
    """Converts binary messages to a model's samples, (1, 1, n) within ±1; `samples` counts the client's samples."""

    def __init__(self, rate: int, model_rate: int, kind: str) -> None:
        self.samples = 0
        self._resampler = Resampler(rate, model_rate, 1)
        self._type = TYPES[kind]

    def push(self, message: bytes) -> np.ndarray:
        """Samples of a message, less what the resampler holds back. AudioError for partial samples, NaN or infinity."""
        if len(message) % self._type.itemsize:
            raise AudioError(f"expected whole samples of {self._type.itemsize} bytes, got {len(message)} bytes")
        samples = np.frombuffer(message, self._type).astype(np.float32)
        if self._type == TYPES["pcm16"]:
            samples /= 32768
        elif not np.isfinite(samples).all():
            raise AudioError("expected finite samples, got NaN or infinity")
        self.samples += len(samples)
        return self._resampler.push(samples[None].clip(-1, 1)).clip(-1, 1)[None]

    def finish(self) -> np.ndarray:
        """The rest."""
        return self._resampler.finish().clip(-1, 1)[None]
