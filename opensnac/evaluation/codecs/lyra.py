"""Lyra v2 (Zeghidour et al. 2021; github.com/google/lyra), from a folder of its published models, by LiteRT."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from opensnac.errors import OpensnacError
from opensnac.evaluation.codecs.base import Codec, Coded, fit, split_choice
from opensnac.evaluation.metrics import package_version
from opensnac.recordings import audio

MODELS = ("soundstream_encoder.tflite", "quantizer.tflite", "lyragan.tflite")
FRAME = 320  # samples: 20 ms
INDEX_BITS = 4
MAX_QUANTIZERS = 46  # input size of the quantiser's decoder; unused entries are -1


class Lyra(Codec):
    """Lyra v2 at 3.2, 6 or 9.2 kb/s, 16 kHz: `lyra:3.2@FOLDER`. Its three models keep state from frame to frame."""

    counted = "Lyra packets, which have no container"
    rate = 16_000
    quantizers: ClassVar = {"3.2": 16, "6": 30, "9.2": 46}  # by kb/s: 4 bits each, 50 frames per second
    delay = 0  # samples
    in_process: ClassVar = True

    def __init__(self, choice: str) -> None:
        self.name = f"lyra:{choice}"
        kilobits, self._folder = split_choice(choice)
        if kilobits not in self.quantizers:
            rates = ", ".join(self.quantizers)
            raise OpensnacError(f"lyra: expected a rate of {rates} kb/s, as in lyra:3.2@FOLDER, got {kilobits}")
        self._num_quantizers = self.quantizers[kilobits]

    def missing(self) -> str | None:
        if package_version("ai-edge-litert") is None:
            return "ai-edge-litert not installed; run: pip install 'opensnac[evaluate]'"
        if self._folder is None:
            return (
                f"no models given; fetch {', '.join(MODELS)} from github.com/google/lyra, folder lyra/model_coeffs, "
                f"and give the folder, as in {self.name}@FOLDER"
            )
        absent = [model for model in MODELS if not (Path(self._folder) / model).is_file()]
        if not absent:
            return None
        return f"{self._folder}: {', '.join(absent)} not found; fetch it from github.com/google/lyra, lyra/model_coeffs"

    def version(self) -> str:
        weights = hashlib.sha256()
        for model in MODELS:
            weights.update((Path(self._folder or "") / model).read_bytes())
        return f"Lyra v2 models {weights.hexdigest()[:16]}, ai-edge-litert {package_version('ai-edge-litert')}"

    def __call__(self, clip: np.ndarray, sample_rate: int) -> Coded:
        samples = audio.resample(clip[None], sample_rate, self.rate)[0]
        padded = np.pad(samples, (0, -(len(samples) + self.delay) % FRAME + self.delay)).astype(np.float32)
        encoder, quantizer, decoder = self._models()
        start = time.perf_counter()
        stream = b"".join(self._encode(frame[None], encoder, quantizer) for frame in padded.reshape(-1, FRAME))
        middle = time.perf_counter()
        size = (self._num_quantizers * INDEX_BITS + 7) // 8
        packets = [stream[position : position + size] for position in range(0, len(stream), size)]
        late = np.concatenate([self._decode(packet, quantizer, decoder) for packet in packets])
        end = time.perf_counter()
        return Coded(
            audio=fit(audio.resample(late[None, self.delay :], self.rate, sample_rate)[0], len(clip)),
            num_bytes=len(stream),
            file_bytes=len(stream),
            encode_seconds=middle - start,
            decode_seconds=end - middle,
        )

    def _models(self) -> list[Any]:
        """New encoder, quantiser and decoder: their state belongs to one stream."""
        from ai_edge_litert.interpreter import Interpreter

        folder = Path(self._folder or "")
        models = [Interpreter(model_path=str(folder / model), num_threads=1) for model in MODELS]
        for model in models:
            model.allocate_tensors()
        return models

    def _encode(self, frame: np.ndarray, encoder: Any, quantizer: Any) -> bytes:
        features = encoder.get_signature_runner()(input_audio=frame)["output_0"]
        run = quantizer.get_signature_runner("encode")
        indices = run(input_frames=features, num_quantizers=np.int32(self._num_quantizers))["output_0"]
        nibbles = np.zeros(self._num_quantizers + self._num_quantizers % 2, np.uint8)
        nibbles[: self._num_quantizers] = indices.ravel()[: self._num_quantizers]
        return (nibbles[::2] << INDEX_BITS | nibbles[1::2]).astype(np.uint8).tobytes()

    def _decode(self, packet: bytes, quantizer: Any, decoder: Any) -> np.ndarray:
        pairs = np.frombuffer(packet, np.uint8)
        indices = np.full((MAX_QUANTIZERS, 1, 1), -1, np.int32)
        nibbles = np.stack([pairs >> INDEX_BITS, pairs & 15], axis=1).ravel()
        indices[: self._num_quantizers, 0, 0] = nibbles[: self._num_quantizers]
        features = quantizer.get_signature_runner("decode")(encoding_indices=indices)["output_0"]
        return np.asarray(decoder.get_signature_runner()(input_audio=features)["output_0"][0])
