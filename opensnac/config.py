"""The codec's configuration: the published keys, checked, and the rates derived from them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from opensnac.errors import ConfigError

HEAD_CHANNELS = 64  # channels of one attention head, fixed by the published models
HUB_KEYS = {  # added to a config.json by hubs and libraries
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "library_name",
    "license",
    "model_type",
    "pipeline_tag",
    "tags",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
}


@dataclass(frozen=True)
class CodecConfig:
    """Shape of a SNAC model: exactly the keys of a published `config.json`.

    Lengths are in samples at `sampling_rate` (Hz) or in latent frames of `hop_length` samples.
    ConfigError names a key whose value no model can be built with.
    """

    sampling_rate: int = 44100
    encoder_dim: int = 64
    encoder_rates: tuple[int, ...] = (3, 3, 7, 7)
    latent_dim: int | None = None
    decoder_dim: int = 1536
    decoder_rates: tuple[int, ...] = (7, 7, 3, 3)
    attn_window_size: int | None = 32
    codebook_size: int = 4096
    codebook_dim: int = 8
    vq_strides: tuple[int, ...] = (8, 4, 2, 1)
    noise: bool = True
    depthwise: bool = True

    def __post_init__(self) -> None:
        for key in ("encoder_rates", "decoder_rates", "vq_strides"):
            object.__setattr__(self, key, _positive_tuple(key, getattr(self, key)))
        for key in ("sampling_rate", "encoder_dim", "decoder_dim", "codebook_size", "codebook_dim"):
            _require_positive(key, getattr(self, key))
        for key in ("noise", "depthwise"):
            if not isinstance(getattr(self, key), bool):
                raise ConfigError(f"{key}: expected true or false, got {getattr(self, key)!r}")
        self._check_latent_dim()
        self._check_rates()
        self._check_attention()

    def _check_latent_dim(self) -> None:
        latent_dim = self.encoder_dim * 2 ** len(self.encoder_rates)
        if self.latent_dim not in (None, latent_dim):
            raise ConfigError(
                f"latent_dim: expected {latent_dim}, encoder_dim {self.encoder_dim} doubled "
                f"{len(self.encoder_rates)} times, or null, got {self.latent_dim}"
            )
        object.__setattr__(self, "latent_dim", latent_dim)

    def _check_rates(self) -> None:
        if math.prod(self.encoder_rates) != math.prod(self.decoder_rates):
            raise ConfigError(
                "encoder_rates and decoder_rates: expected equal products, the hop length, got "
                f"{math.prod(self.encoder_rates)} from {list(self.encoder_rates)} and "
                f"{math.prod(self.decoder_rates)} from {list(self.decoder_rates)}"
            )
        if self.decoder_dim % 2 ** len(self.decoder_rates):
            raise ConfigError(
                f"decoder_dim: expected a multiple of {2 ** len(self.decoder_rates)}, as it is halved "
                f"{len(self.decoder_rates)} times, got {self.decoder_dim}"
            )

    def _check_attention(self) -> None:
        if self.attn_window_size is None:
            return
        _require_positive("attn_window_size", self.attn_window_size)
        for key, channels in (("latent_dim", self.latent_dim), ("decoder_dim", self.decoder_dim)):
            if channels is None or channels % HEAD_CHANNELS:
                raise ConfigError(
                    f"{key}: expected a multiple of {HEAD_CHANNELS} with attention, got {channels} "
                    "(or set attn_window_size to null)"
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CodecConfig:
        """Build from a mapping of published keys; ConfigError names an unknown key.

        Keys that hubs and libraries add to a `config.json` (HUB_KEYS) are ignored.
        """
        known = [field.name for field in fields(cls)]
        values = {key: value for key, value in values.items() if key not in HUB_KEYS}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(f"unknown configuration key {', '.join(map(repr, unknown))}; expected {', '.join(known)}")
        return cls(**values)

    @classmethod
    def from_json(cls, path: Path) -> CodecConfig:
        """Read a `config.json`. ConfigError names the file if it is not a JSON object of valid keys."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: expected JSON, got {error}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: expected a JSON object of keys, got a JSON {type(values).__name__}")
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The published keys as JSON values; `latent_dim` is derived and therefore null."""
        values = asdict(self) | {"latent_dim": None}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @property
    def hop_length(self) -> int:
        """Samples per latent frame."""
        return math.prod(self.encoder_rates)

    @property
    def frame_multiple(self) -> int:
        """Latent frames come in multiples of this, the least common one of all strides and the attention window."""
        return math.lcm(*self.vq_strides, self.attn_window_size or 1)

    @property
    def coarse_stride(self) -> int:
        """Latent frames per coarse frame, the shortest stretch with whole codes of every scale."""
        return math.lcm(*self.vq_strides)

    @property
    def frame_rate(self) -> float:
        """Latent frames per second."""
        return self.sampling_rate / self.hop_length

    @property
    def code_rates(self) -> tuple[float, ...]:
        """Codes per second of each scale, coarse to fine."""
        return tuple(self.frame_rate / stride for stride in self.vq_strides)

    @property
    def bits_per_code(self) -> int:
        """Bits per code at fixed width."""
        return (self.codebook_size - 1).bit_length()

    @property
    def bits_per_second(self) -> float:
        """Bitrate of one channel's codes at fixed width."""
        return sum(self.code_rates) * self.bits_per_code

    def num_frames(self, num_samples: int) -> int:
        """Latent frames for `num_samples` samples, padding included."""
        return -(-num_samples // (self.hop_length * self.frame_multiple)) * self.frame_multiple


def _require_positive(key: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{key}: expected an integer of at least 1, got {value!r}")


def _positive_tuple(key: str, values: object) -> tuple[int, ...]:
    if not isinstance(values, list | tuple) or not values:
        raise ConfigError(f"{key}: expected a list of at least one integer, got {values!r}")
    for value in values:
        _require_positive(f"{key} entry", value)
    return tuple(values)
