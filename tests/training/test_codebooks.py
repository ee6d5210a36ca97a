"""Codebooks are initialised from data, updated by moving averages, and unused codes are revived."""

from __future__ import annotations

import pytest
import torch

from opensnac.config import CodecConfig
from opensnac.model.quantizer import ResidualVectorQuantizer
from opensnac.training.codebooks import CodebookHealth, ema_update, initialise_from_data

CONFIG = CodecConfig(
    encoder_dim=8,
    encoder_rates=(2, 2),
    decoder_dim=32,
    decoder_rates=(2, 2),
    attn_window_size=None,
    codebook_size=64,
    vq_strides=(4, 2, 1),
)


@pytest.fixture
def quantizer() -> ResidualVectorQuantizer:
    torch.manual_seed(0)
    return ResidualVectorQuantizer(CONFIG)


def speechlike_latent() -> torch.Tensor:
    """Slow random walks in six of 32 dimensions around a mean far from zero."""
    generator = torch.Generator().manual_seed(1)
    walk = torch.randn(32, 64, 6, generator=generator).cumsum(1)
    return (walk @ torch.randn(6, 32, generator=generator) + 5 * torch.randn(32, generator=generator)).mT


def test_initialised_codebooks_explain_the_data_and_use_every_code(quantizer: ResidualVectorQuantizer) -> None:
    latent = speechlike_latent()
    with torch.no_grad():
        before = quantizer(latent)
        initialise_from_data(quantizer, latent, torch.Generator().manual_seed(0))
        after = quantizer(latent)
    variance = latent.var(dim=(0, 2)).mean()
    assert (latent - before.latent).square().mean() > 0.9 * variance
    assert (latent - after.latent).square().mean() < 0.05 * variance
    for codes in after.codes:
        assert len(codes.unique()) > 0.9 * CONFIG.codebook_size


def test_silence_keeps_weights_finite(quantizer: ResidualVectorQuantizer) -> None:
    initialise_from_data(quantizer, torch.zeros(8, 32, 64), torch.Generator().manual_seed(0))
    assert all(torch.isfinite(value).all() for value in quantizer.state_dict().values())
    assert torch.isfinite(quantizer(torch.randn(1, 32, 8)).latent).all()


def test_ema_update_by_hand(quantizer: ResidualVectorQuantizer) -> None:
    """Entry 3 was assigned (1, ...) and (3, ...): it moves a tenth of the way to 2; the others stay."""
    for scale in quantizer.scales:
        scale.codebook.weight.data.zero_()
    codes = [torch.tensor([[3, 3]])] * 3
    vectors = [torch.stack([torch.full((8,), 1.0), torch.full((8,), 3.0)])[None]] * 3
    ema_update(quantizer, codes, vectors, 0.1)
    for scale in quantizer.scales:
        weight = scale.codebook.weight.detach()
        torch.testing.assert_close(weight[3], torch.full((8,), 0.2))
        assert weight.abs().sum() == pytest.approx(1.6)


def test_dead_codes_are_revived_where_the_data_is(quantizer: ResidualVectorQuantizer) -> None:
    health = CodebookHealth(quantizer, patience=8)
    codes = [torch.zeros(1, 64, dtype=torch.int64)] * 3  # only entry 0 is ever used
    vectors = [torch.full((1, 64, 8), 7.0)] * 3
    for _ in range(8):
        health.observe(codes, vectors)
    health.revive([quantizer], torch.Generator().manual_seed(0))
    assert health.revived == [0, 0, 0]  # not idle for long enough
    health.observe(codes, vectors)
    assert health.usage()[0][0] == pytest.approx(1 / 64)
    assert health.usage()[0][1] == pytest.approx(1.0, abs=1e-3)
    health.revive([quantizer], torch.Generator().manual_seed(0))
    assert health.revived == [63, 63, 63]
    assert health.usage()[0][0] == pytest.approx(1 / 64)  # revival does not count as use
    for scale in quantizer.scales:
        assert (scale.codebook.weight.detach()[1:] == 7).all()
        assert (scale.codebook.weight[0] != 7).all()


def test_perplexity_of_even_use_is_the_codebook_size(quantizer: ResidualVectorQuantizer) -> None:
    health = CodebookHealth(quantizer, patience=8)
    health.observe([torch.arange(64)[None]] * 3, [torch.zeros(1, 64, 8)] * 3)
    assert [share for share, _ in health.usage()] == [1.0, 1.0, 1.0]
    assert all(perplexity == pytest.approx(64, rel=1e-3) for _, perplexity in health.usage())
