"""EnCodec, DAC and Mimi from the package `transformers`, with models from a local folder or the hub.

Codes are packed frame by frame, each in the number of bits that the codebook's size needs: all that a receiver needs
that knows the model and the number of codebooks.
"""

from __future__ import annotations

import functools
import time
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np

from opensnac.errors import OpensnacError
from opensnac.evaluation.codecs.base import Codec, Coded, fit, split_choice
from opensnac.evaluation.metrics import package_version
from opensnac.recordings import audio

RATE_TOLERANCE = 0.02  # of the requested rate: 2.6 stands for 2.584


class TransformersCodec(Codec):
    """`FAMILY:KILOBITS`, or `FAMILY:KILOBITS@FOLDER_OR_HUB_ID`; the rate determines the number of codebooks."""

    counted = "packed codes, which have no container"
    in_process: ClassVar = True
    family: ClassVar[str]
    model_class: ClassVar[str]
    published: ClassVar[str]  # hub id of the default

    def __init__(self, choice: str) -> None:
        self.name = f"{self.family}:{choice}"
        kilobits, model = split_choice(choice)
        self._kilobits = float(kilobits)
        self._model_name = model or self.published

    @functools.cached_property
    def model(self) -> Any:
        """The model, loaded on first use without unpickling."""
        import transformers

        load = getattr(transformers, self.model_class).from_pretrained
        try:
            return load(self._model_name, use_safetensors=True, local_files_only=True).eval()
        except OSError:
            return load(self._model_name, use_safetensors=True).eval()

    def missing(self) -> str | None:
        if package_version("transformers") is None:
            return "transformers not installed; run: pip install 'opensnac[peers]'"
        try:
            _ = self.model
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            return (
                f"{self._model_name}: {reason} (give a folder of the model's config.json and model.safetensors, "
                f"as in {self.family}:{self._kilobits:g}@FOLDER, or run where the hub can be reached)"
            )
        try:
            _ = self.num_codebooks
        except OpensnacError as error:
            return str(error)
        return None

    @property
    @abstractmethod
    def most_codebooks(self) -> int:
        """The number of codebooks of the model."""

    @property
    @abstractmethod
    def frame_rate(self) -> float:
        """Frames per second."""

    @abstractmethod
    def encode(self, samples: Any) -> Any:
        """(1, 1, samples) -> codes (codebooks, frames)."""

    @abstractmethod
    def decode(self, codes: Any) -> Any:
        """Codes (codebooks, frames) -> audio of any shape with only the samples."""

    @property
    def bits(self) -> int:
        """Bits per code."""
        return int(self.model.config.codebook_size - 1).bit_length()

    @property
    def num_codebooks(self) -> int:
        """The number of codebooks for the requested rate. OpensnacError, with the possible rates, if there is none."""
        one = self.frame_rate * self.bits / 1000  # kb/s
        count = round(self._kilobits / one)
        if not 1 <= count <= self.most_codebooks or abs(count * one / self._kilobits - 1) > RATE_TOLERANCE:
            raise OpensnacError(
                f"{self.family}: expected a multiple of {one:.4g} kb/s, the rates of {self._model_name}, "
                f"up to {one * self.most_codebooks:.4g}, got {self._kilobits:g}"
            )
        return count

    def version(self) -> str:
        names = f"{self._model_name}, {self.num_codebooks} codebooks"
        return f"{names}, weights {fingerprint(self.model)}, transformers {package_version('transformers')}"

    def __call__(self, clip: np.ndarray, sample_rate: int) -> Coded:
        import torch

        rate = self.model.config.sampling_rate
        samples = torch.from_numpy(audio.resample(clip[None], sample_rate, rate).copy())[None]
        with torch.inference_mode():
            start = time.perf_counter()
            codes = self.encode(samples).cpu().numpy()
            stream = pack(codes, self.bits)
            middle = time.perf_counter()
            received = unpack(stream, len(codes), self.bits)
            decoded = self.decode(torch.from_numpy(received)).reshape(1, -1).cpu().numpy()
            end = time.perf_counter()
        return Coded(
            audio=fit(audio.resample(decoded, rate, sample_rate)[0], len(clip)),
            num_bytes=len(stream),
            file_bytes=len(stream),
            encode_seconds=middle - start,
            decode_seconds=end - middle,
            codes=list(codes),
            codebook_size=self.model.config.codebook_size,
        )


class Encodec(TransformersCodec):
    """EnCodec (Défossez et al. 2022), the causal 24 kHz model: `encodec:1.5`."""

    family, model_class, published = "encodec", "EncodecModel", "facebook/encodec_24khz"

    def missing(self) -> str | None:
        reason = super().missing()
        if reason is None and (self.model.config.normalize or self.model.config.chunk_length_s):
            return f"{self._model_name} also sends a gain per chunk, which is not counted; use the 24 kHz model"
        return reason

    @property
    def most_codebooks(self) -> int:
        return int(1000 * max(self.model.config.target_bandwidths) / (self.frame_rate * self.bits))

    @property
    def frame_rate(self) -> float:
        return float(self.model.config.sampling_rate / np.prod(self.model.config.upsampling_ratios))

    def encode(self, samples: Any) -> Any:
        bandwidth = min(self.model.config.target_bandwidths, key=lambda rate: abs(rate - self._kilobits))
        return self.model.encode(samples, bandwidth=bandwidth).audio_codes[0, 0][: self.num_codebooks]

    def decode(self, codes: Any) -> Any:
        return self.model.decode(codes[None, None], [None]).audio_values


class Dac(TransformersCodec):
    """The Descript Audio Codec (Kumar et al. 2023): `dac:2.6@descript/dac_44khz`, or `dac:1.5` of the 24 kHz model."""

    family, model_class, published = "dac", "DacModel", "descript/dac_24khz"

    @property
    def most_codebooks(self) -> int:
        return int(self.model.config.n_codebooks)

    @property
    def frame_rate(self) -> float:
        return float(self.model.config.sampling_rate / np.prod(self.model.config.downsampling_ratios))

    def encode(self, samples: Any) -> Any:
        return self.model.encode(samples, n_quantizers=self.num_codebooks).audio_codes[0]

    def decode(self, codes: Any) -> Any:
        return self.model.decode(audio_codes=codes[None]).audio_values


class Mimi(TransformersCodec):
    """Mimi (Défossez et al. 2024): `mimi:1.1`."""

    family, model_class, published = "mimi", "MimiModel", "kyutai/mimi"

    @property
    def most_codebooks(self) -> int:
        return int(self.model.config.num_quantizers)

    @property
    def frame_rate(self) -> float:
        return float(self.model.config.frame_rate)

    def encode(self, samples: Any) -> Any:
        return self.model.encode(samples, num_quantizers=self.num_codebooks).audio_codes[0]

    def decode(self, codes: Any) -> Any:
        return self.model.decode(codes[None]).audio_values


def pack(codes: np.ndarray, bits: int) -> bytes:
    """Codes (codebooks, frames) as bytes: frame by frame, highest bit first, zeros at the end."""
    places = np.arange(bits - 1, -1, -1)
    return np.packbits((codes.T[:, :, None] >> places & 1).astype(np.uint8)).tobytes()


def unpack(stream: bytes, num_codebooks: int, bits: int) -> np.ndarray:
    """The inverse of `pack`: int64 (codebooks, frames). Frames need at least 8 bits, else padding would add one."""
    loose = np.unpackbits(np.frombuffer(stream, np.uint8))
    num_frames = len(loose) // (num_codebooks * bits)
    frames = loose[: num_frames * num_codebooks * bits].reshape(num_frames, num_codebooks, bits)
    return np.ascontiguousarray((frames.astype(np.int64) << np.arange(bits - 1, -1, -1)).sum(axis=2).T)


def fingerprint(model: Any) -> str:
    """A fingerprint of the weights from their sums, which are cheap."""
    import hashlib

    sums = [f"{name} {tuple(value.shape)} {value.double().sum():.9g}" for name, value in model.state_dict().items()]
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()[:16]
