"""The discriminators: multi-period (arXiv 2010.05646) and complex multi-band, multi-scale STFT (arXiv 2306.06546)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from opensnac.training.config import DiscriminatorConfig
from opensnac.training.losses import Features

BAND_EDGES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # fractions of the spectrum
SLOPE = 0.1

Audio = Float[Tensor, "batch 1 samples"]


def _convolution(inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)) -> nn.Module:
    padding = (kernel[0] // 2, kernel[1] // 2)
    return weight_norm(nn.Conv2d(inputs, outputs, kernel, stride, padding))


class PeriodDiscriminator(nn.Module):
    """A 2-D discriminator of the clip folded to (time / period, period)."""

    def __init__(self, period: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.period = period
        widths = (1, *channels)
        strides = [3] * (len(channels) - 1) + [1]
        self.layers = nn.ModuleList(
            _convolution(a, b, (5, 1), (s, 1)) for a, b, s in zip(widths, channels, strides, strict=False)
        )
        self.score = _convolution(channels[-1], 1, (3, 1))

    def forward(self, audio: Audio) -> list[Tensor]:
        """Features of every layer, scores last."""
        x = F.pad(audio, (0, -audio.shape[-1] % self.period), mode="reflect").unflatten(2, (-1, self.period))
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            features.append(x)
        return [*features, self.score(x)]


class SpectrumDiscriminator(nn.Module):
    """A discriminator of the complex STFT with one window length; five bands have separate layers."""

    def __init__(self, window: int, channels: int) -> None:
        super().__init__()
        self.window = window
        bins = window // 2 + 1
        edges = [int(edge * bins) for edge in BAND_EDGES]
        self.bands = list(pairwise(edges))
        self.layers = nn.ModuleList(self._band(channels) for _ in self.bands)
        self.score = _convolution(channels, 1, (3, 3))

    @staticmethod
    def _band(channels: int) -> nn.Sequential:
        down = [_convolution(channels, channels, (3, 9), (1, 2)) for _ in range(3)]
        return nn.Sequential(_convolution(2, channels, (3, 9)), *down, _convolution(channels, channels, (3, 3)))

    def forward(self, audio: Audio) -> list[Tensor]:
        """Features of every band and layer, scores last."""
        window = torch.hann_window(self.window, device=audio.device)
        spectrum = torch.stft(audio[:, 0].float(), self.window, self.window // 4, window=window, return_complex=True)
        x = torch.view_as_real(spectrum).permute(0, 3, 2, 1)  # (batch, real and imaginary, frames, bins)
        features, tops = [], []
        for (low, high), layers in zip(self.bands, self.layers, strict=True):
            band = x[..., low:high]
            for layer in layers.children():
                band = F.leaky_relu(layer(band), SLOPE)
                features.append(band)
            tops.append(band)
        return [*features, self.score(torch.cat(tops, dim=-1))]


class Discriminators(nn.Module):
    """All discriminators."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        periods = [PeriodDiscriminator(period, config.period_channels) for period in config.periods]
        spectra = [SpectrumDiscriminator(window, config.window_channels) for window in config.windows]
        self.discriminators = nn.ModuleList([*periods, *spectra])

    def forward(self, audio: Audio) -> Features:
        """Each one's features, with the mean removed and the peak scaled to 0.8 so that level is no cue."""
        audio = audio - audio.mean(dim=-1, keepdim=True)
        audio = 0.8 * audio / (audio.abs().amax(dim=-1, keepdim=True) + 1e-9)
        return [discriminator(audio) for discriminator in self.discriminators]
