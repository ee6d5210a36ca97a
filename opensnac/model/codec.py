"""The codec for training: waveform -> latent -> codes -> waveform, differentiable, whole signals at a time."""

from __future__ import annotations

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opensnac.config import CodecConfig
from opensnac.errors import OpensnacError
from opensnac.model.checks import checked_audio
from opensnac.model.decoder import Decoder, Seed
from opensnac.model.encoder import Audio, Encoder, Latent
from opensnac.model.identity import fingerprint
from opensnac.model.layers import Kernel
from opensnac.model.quantizer import Codes, Quantized, ResidualVectorQuantizer

__all__ = ["Audio", "Codec", "Codes", "Latent", "Quantized"]


class Codec(nn.Module):
    """Multi-scale neural audio codec (arXiv 2410.14411): modules with the published state-dict names and shapes.

    Takes the keys of a published `config.json` (see CodecConfig); ConfigError names an unknown one. Audio is
    (batch, 1, samples) at `sampling_rate`, in [-1, 1]; a latent is (batch, latent_dim, frames); codes are one
    (batch, frames / stride) integer tensor per scale, coarse to fine. All methods are differentiable.
    """

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = CodecConfig.from_dict(config)
        self.name = "unnamed"
        self._folded_from: tuple[str, str] | None = None  # fingerprints before and after weight norm was folded
        self.encoder = Encoder(self.config)
        self.quantizer = ResidualVectorQuantizer(self.config)
        self.decoder = Decoder(self.config)

    def forward(self, audio: Audio) -> tuple[Audio, list[Codes]]:
        """Audio through the codec and back: (audio of the same length, codes).

        In training mode each call draws new noise.
        """
        audio_hat, quantized = self.reconstruct(audio)
        return audio_hat, quantized.codes

    def reconstruct(self, audio: Audio) -> tuple[Audio, Quantized]:
        """As forward, with the quantiser's intermediate results instead of the codes alone."""
        quantized = self.quantize(self.latent(audio))
        seeds = torch.randint(2**62, audio.shape[:1], device=audio.device) if self.training else 0
        return self.decode_latent(quantized.latent, seeds)[..., : audio.shape[-1]], quantized

    def preprocess(self, audio: Audio) -> Audio:
        """Audio zero-padded on the right to whole groups of frames, as the encoder takes it."""
        samples = self.config.num_frames(audio.shape[-1]) * self.hop_length
        return F.pad(audio, (0, samples - audio.shape[-1]))

    def latent(self, audio: Audio) -> Latent:
        """Audio of any length -> the encoder's output (batch, latent_dim, frames). AudioError for unsuitable audio."""
        refuse_tracing()
        weight = self.quantizer.scales[0].codebook.weight
        audio = checked_audio(audio, weight.dtype, weight.device, finite=not torch.compiler.is_compiling())
        return self.encoder(self.preprocess(audio))

    def quantize(self, latent: Latent) -> Quantized:
        """Quantise a latent (batch, latent_dim, frames); gradients pass straight through."""
        return self.quantizer(latent)

    def from_codes(self, codes: list[Tensor]) -> Latent:
        """The latent that codes stand for; the codes of the first scales alone give a coarser one."""
        return self.quantizer.from_codes(codes)

    def decode_latent(self, latent: Latent, seed: Seed = 0) -> Audio:
        """Latent -> audio (batch, 1, frames x hop). `seed` of the noise: one, or one per clip; None for no noise."""
        refuse_tracing()
        return self.decoder(latent, seed)

    def fold_weight_norm(self) -> Self:
        """Replace each weight's gain and direction by the weight, in place: for inference, not for training."""
        before = self.fingerprint
        self.fold()
        self._folded_from = (before, fingerprint(self.state_dict()))
        return self

    def fold(self) -> None:
        """As fold_weight_norm, without keeping the fingerprint: for weights that are about to be replaced."""
        for module in self.modules():
            if isinstance(module, Kernel):
                module.fold()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights before folding, 64 hex digits; files name the model they need by it."""
        now = fingerprint(self.state_dict())
        return self._folded_from[0] if self._folded_from and self._folded_from[1] == now else now

    @property
    def sampling_rate(self) -> int:
        """Samples per second, Hz."""
        return self.config.sampling_rate

    @property
    def codebook_size(self) -> int:
        """Entries of each scale's codebook."""
        return self.config.codebook_size

    @property
    def vq_strides(self) -> tuple[int, ...]:
        """Latent frames per code of each scale, coarse to fine."""
        return self.config.vq_strides

    @property
    def hop_length(self) -> int:
        """Samples per latent frame."""
        return self.config.hop_length

    @property
    def frame_rate(self) -> float:
        """Latent frames per second."""
        return self.config.frame_rate

    @property
    def code_rates(self) -> tuple[float, ...]:
        """Codes per second of each scale, coarse to fine."""
        return self.config.code_rates

    @property
    def bits_per_second(self) -> float:
        """Bitrate of one channel's codes at fixed width."""
        return self.config.bits_per_second

    @property
    def latent_dim(self) -> int:
        """Channels of a latent frame."""
        return self.config.encoder_dim * 2 ** len(self.config.encoder_rates)


def refuse_tracing() -> None:
    """OpensnacError under torch.jit.trace, which misses part of the codec's arithmetic."""
    if torch.jit.is_tracing():
        raise OpensnacError("torch.jit.trace misses part of the codec's arithmetic; use torch.export instead")
