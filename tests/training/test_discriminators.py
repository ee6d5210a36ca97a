"""The discriminators depend on what they are designed for."""

from __future__ import annotations

from itertools import pairwise

import torch

from opensnac.training.config import DiscriminatorConfig
from opensnac.training.discriminators import Discriminators, PeriodDiscriminator, SpectrumDiscriminator

SMALL = DiscriminatorConfig(periods=(2, 3), period_channels=(4, 8, 8), windows=(512, 128), window_channels=4)


def test_published_sizes() -> None:
    """2, 3, 5, 7, 11 and 2048, 1024, 512 with the published channels: as many parameters as counted by hand."""
    adversaries = Discriminators(DiscriminatorConfig())
    widths = [1, 32, 128, 512, 1024, 1024]
    # per convolution: inputs x outputs x taps weights, outputs biases, outputs gains
    layers = sum(a * b * 5 + 2 * b for a, b in pairwise(widths))
    period = layers + 1024 * 3 + 2
    band = (2 * 32 * 27 + 64) + 3 * (32 * 32 * 27 + 64) + (32 * 32 * 9 + 64)
    spectrum = 5 * band + 32 * 9 + 2
    assert sum(p.numel() for p in adversaries.parameters()) == 5 * period + 3 * spectrum


def test_a_period_discriminator_keeps_phases_apart() -> None:
    """A change of one sample affects only the scores of its own phase."""
    torch.manual_seed(0)
    model = PeriodDiscriminator(5, (4, 4, 4))
    audio = torch.randn(1, 1, 500)
    changed = audio.clone()
    changed[..., 252] += 1  # phase 2
    difference = (model(audio)[-1] - model(changed)[-1]).abs().sum((0, 1, 2))
    assert difference[2] > 0
    assert difference[[0, 1, 3, 4]].sum() == 0


def test_a_spectrum_discriminator_sees_phase() -> None:
    """Two signals of equal magnitudes and other phases score differently: the STFT is complex."""
    torch.manual_seed(0)
    model = SpectrumDiscriminator(512, 4)
    tone = torch.sin(torch.arange(4096) * 0.3)[None, None]
    assert (model(tone)[-1] - model(-tone)[-1]).abs().max() > 1e-5
    assert len(model(tone)) == 5 * 5 + 1  # five layers in five bands, and the scores


def test_level_and_dc_do_not_matter() -> None:
    torch.manual_seed(0)
    model = Discriminators(SMALL)
    audio = 0.1 * torch.randn(2, 1, 4096)
    for a, b in zip(model(audio), model(0.3 * audio + 0.2), strict=True):
        torch.testing.assert_close(a[-1], b[-1], atol=1e-4, rtol=1e-3)


def test_gradients_reach_the_audio_through_each() -> None:
    audio = (0.1 * torch.randn(1, 1, 2050)).requires_grad_()
    for features in Discriminators(SMALL)(audio):
        (gradient,) = torch.autograd.grad(features[-1].sum(), audio, retain_graph=True)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0
