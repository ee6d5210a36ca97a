"""Latent frames to waveform."""

from __future__ import annotations

import torch
from torch import nn

from opensnac.config import CodecConfig
from opensnac.model.attention import LocalAttention
from opensnac.model.encoder import DILATIONS
from opensnac.model.layers import (
    Convolution,
    Depthwise,
    Noise,
    Pointwise,
    ResidualUnit,
    Seed,
    Signal,
    Snake,
    Upsample,
)


class DecoderBlock(nn.Module):
    """A step up by `stride` that halves the channels, noise, three residual units."""

    def __init__(self, channels: int, stride: int, noise: bool, depthwise: bool, layer: int) -> None:
        super().__init__()
        half = channels // 2
        self.stride = stride
        layers: list[nn.Module] = [Snake(channels), Upsample(channels, half, stride)]
        if noise:
            layers.append(Noise(half, layer))
        layers += [ResidualUnit(half, dilation, depthwise) for dilation in DILATIONS]
        self.block = nn.Sequential(*layers)

    def forward(self, x: Signal, seed: Seed, start: int | None) -> Signal:
        for layer in self.block:
            x = layer(x, seed, start) if isinstance(layer, Noise) else layer(x)
        return x


class Decoder(nn.Module):
    """Latent (batch, frames, latent_dim) -> audio (batch, frames x hop, 1) in [-1, 1]."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        channels = config.decoder_dim
        latent_dim = config.encoder_dim * 2 ** len(config.encoder_rates)
        layers: list[nn.Module] = (
            [Depthwise(latent_dim), Pointwise(latent_dim, channels)]
            if config.depthwise
            else [Convolution(latent_dim, channels)]
        )
        if config.attn_window_size is not None:
            layers.append(LocalAttention(channels, config.attn_window_size))
        for layer, stride in enumerate(config.decoder_rates):
            layers.append(DecoderBlock(channels, stride, config.noise, config.depthwise, layer))
            channels //= 2
        layers += [Snake(channels), Convolution(channels, 1)]
        self.model = nn.Sequential(*layers)

    def forward(self, latent: Signal, seed: Seed = None, first_frame: int | None = 0) -> Signal:
        """Decode frames that begin at absolute frame `first_frame`; seed None leaves the noise out,
        and training gives one for each clip.

        With `first_frame` None the noise is drawn afresh, as training wants it.
        """
        x, start = latent, first_frame
        for layer in self.model:
            if isinstance(layer, DecoderBlock):
                start = None if start is None else start * layer.stride
                x = layer(x, seed, start)
            else:
                x = layer(x)
        return torch.tanh(x)
