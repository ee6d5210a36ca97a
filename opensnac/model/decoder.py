"""Latent frames to waveform."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor, nn

from opensnac.config import CodecConfig
from opensnac.errors import CodesError
from opensnac.model.attention import LocalAttention
from opensnac.model.encoder import DILATIONS, Audio
from opensnac.model.layers import Convolution, Depthwise, Noise, Pointwise, ResidualUnit, Signal, Snake, Upsample
from opensnac.model.noise import position_noise

Seed = int | Int[Tensor, " clips"] | None


class DecoderBlock(nn.Module):
    """Upsampling by `stride` that halves the channels, noise, three residual units."""

    def __init__(self, channels: int, stride: int, noise: bool, depthwise: bool, layer: int) -> None:
        super().__init__()
        half = channels // 2
        layers: list[nn.Module] = [Snake(channels), Upsample(channels, half, stride)]
        if noise:
            layers.append(Noise(half, layer))
        layers += [ResidualUnit(half, dilation, depthwise) for dilation in DILATIONS]
        self.block = nn.Sequential(*layers)


class Decoder(nn.Module):
    """Latent (batch, latent_dim, frames) -> audio (batch, 1, frames x hop) in [-1, 1]."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        channels = config.decoder_dim
        self.latent_dim = config.encoder_dim * 2 ** len(config.encoder_rates)
        layers: list[nn.Module] = (
            [Depthwise(self.latent_dim), Pointwise(self.latent_dim, channels)]
            if config.depthwise
            else [Convolution(self.latent_dim, channels)]
        )
        if config.attn_window_size is not None:
            layers.append(LocalAttention(channels, config.attn_window_size))
        for layer, stride in enumerate(config.decoder_rates):
            layers.append(DecoderBlock(channels, stride, config.noise, config.depthwise, layer))
            channels //= 2
        layers += [Snake(channels), Convolution(channels, 1), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def layers(self) -> Iterator[nn.Module]:
        """The layers, in order."""
        for part in self.model:
            yield from part.block if isinstance(part, DecoderBlock) else [part]

    def forward(self, latent: Tensor, seed: Seed = None) -> Audio:
        """Decode whole signals. `seed` of the noise: one, or one per clip; None for no noise."""
        if latent.ndim != 3 or latent.shape[1] != self.latent_dim:
            raise CodesError(f"latent: expected shape (batch, {self.latent_dim}, frames), got {tuple(latent.shape)}")
        x = latent.transpose(1, 2)
        for layer in self.layers():
            x = layer(x, _noise(x, layer, seed)) if isinstance(layer, Noise) else layer(x)
        return x.transpose(1, 2)


def _noise(x: Signal, layer: Noise, seed: Seed) -> Tensor | None:
    """(batch or 1, steps)"""
    if seed is None:
        return None
    return position_noise(seed, layer.layer, torch.arange(x.shape[1], device=x.device)).view(-1, x.shape[1])
