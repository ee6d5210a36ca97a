"""Waveform to latent frames."""

from __future__ import annotations

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor, nn

from opensnac.config import CodecConfig
from opensnac.errors import AudioError
from opensnac.model.attention import LocalAttention
from opensnac.model.layers import Convolution, Depthwise, Downsample, ResidualUnit, Signal, Snake

DILATIONS = (1, 3, 9)

Audio = Float[Tensor, "batch 1 _samples"]
Latent = Float[Tensor, "batch _channels _frames"]


class EncoderBlock(nn.Module):
    """Three residual units, then downsampling by `stride` that doubles the channels."""

    def __init__(self, channels: int, stride: int, depthwise: bool) -> None:
        super().__init__()
        units = [ResidualUnit(channels, dilation, depthwise) for dilation in DILATIONS]
        self.block = nn.Sequential(*units, Snake(channels), Downsample(channels, 2 * channels, stride))

    def forward(self, x: Signal) -> Signal:
        return self.block(x)


class Encoder(nn.Module):
    """Audio (batch, 1, samples) of whole groups of frames -> latent (batch, latent_dim, samples / hop)."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        channels = config.encoder_dim
        layers: list[nn.Module] = [Convolution(1, channels)]
        for stride in config.encoder_rates:
            layers.append(EncoderBlock(channels, stride, config.depthwise))
            channels *= 2
        if config.attn_window_size is not None:
            layers.append(LocalAttention(channels, config.attn_window_size))
        layers.append(Depthwise(channels) if config.depthwise else Convolution(channels, channels))
        self.multiple = config.hop_length * (config.attn_window_size or 1)
        self.block = nn.Sequential(*layers)

    def layers(self) -> Iterator[nn.Module]:
        """The layers, in order."""
        for part in self.block:
            yield from part.block if isinstance(part, EncoderBlock) else [part]

    def forward(self, audio: Tensor) -> Latent:
        if audio.ndim != 3 or audio.shape[1] != 1 or audio.shape[2] % self.multiple:
            raise AudioError(
                f"audio: expected shape (batch, 1, samples) with samples a multiple of {self.multiple}, "
                f"got {tuple(audio.shape)}; SNAC.preprocess pads"
            )
        return self.block(audio.transpose(1, 2)).transpose(1, 2)
