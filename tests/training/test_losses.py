"""Every loss against values worked out by hand or by another library."""

from __future__ import annotations

import pytest
import torch

from opensnac.spectra import distances
from opensnac.training import losses
from opensnac.training.config import TrainConfig
from opensnac.training.loop import find_config


def test_discriminator_loss_by_hand() -> None:
    # One discriminator: fake scores 0.5 and -1 give (0.25 + 1) / 2, real scores 1 and 3 give (0 + 4) / 2.
    fake, real = [[torch.zeros(1), torch.tensor([0.5, -1.0])]], [[torch.zeros(1), torch.tensor([1.0, 3.0])]]
    assert float(losses.discriminator_loss(fake, real)) == pytest.approx(0.625 + 2.0)
    assert float(losses.discriminator_loss(fake * 2, real * 2)) == pytest.approx(2 * 2.625)


def test_adversarial_loss_by_hand() -> None:
    assert float(losses.adversarial_loss([[torch.tensor([0.5, -1.0])]])) == pytest.approx((0.25 + 4) / 2)
    assert float(losses.adversarial_loss([[torch.ones(3)]])) == 0


def test_feature_loss_by_hand_leaves_the_scores_out() -> None:
    fake = [[torch.tensor([1.0, 2.0]), torch.tensor([0.0]), torch.tensor([100.0])]]
    real = [[torch.tensor([2.0, 4.0]), torch.tensor([0.5]), torch.tensor([-100.0])]]
    assert float(losses.feature_loss(fake, real)) == pytest.approx(1.5 + 0.5)


def test_codebook_and_commitment_pull_one_side_each() -> None:
    z_e = torch.tensor([[[1.0, 1.0]]], requires_grad=True)
    z_q = torch.tensor([[[0.0, 3.0]]], requires_grad=True)
    losses.codebook_loss([z_e], [z_q]).backward()
    assert z_e.grad is None
    assert z_q.grad.tolist() == [[[-1.0, 2.0]]]  # 2 (z_q - z_e) / 2 elements
    z_q.grad = None
    loss = losses.commitment_loss([z_e, z_e], [z_q, z_q])
    loss.backward()
    assert loss.item() == pytest.approx(2 * (1 + 4) / 2)
    assert z_q.grad is None
    assert z_e.grad.tolist() == [[[2.0, -4.0]]]


def test_dc_loss_by_hand() -> None:
    audio = torch.tensor([[[0.0, 0.5]], [[-0.25, -0.75]]])  # means of 0.25 and -0.5
    assert float(losses.dc_loss(audio, audio)) == 0
    assert float(losses.dc_loss(0 * audio, audio)) == pytest.approx((0.25**2 + 0.5**2) / 2)
    assert float(losses.dc_loss(audio + 0.1, audio)) == pytest.approx(0.01)


def test_dc_costs_more_than_mel_gains_by_it() -> None:
    """Silence is far from speech in mel; a DC offset, which leaks into the lowest bands, must not reduce the total."""
    weights = TrainConfig.from_toml(find_config("speech_24khz")).losses
    speech = 0.1 * torch.randn(1, 1, 24000, generator=torch.Generator().manual_seed(0))
    for level in (0.4, 0.6, 0.9):
        silence, offset = torch.zeros_like(speech), torch.full_like(speech, level)
        gain = distances.mel_loss(silence, speech, 24000) - distances.mel_loss(offset, speech, 24000)
        assert float(weights.mel * gain) > 0
        assert float(weights.dc * losses.dc_loss(offset, speech)) > float(weights.mel * gain)
