"""Distances of spectra against values worked out by hand or by another library."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch

from opensnac.spectra import distances


def test_mel_filters_equal_librosa_where_bands_are_wide() -> None:
    """Integrated over bins rather than sampled, so equal only where triangles are much wider than a bin."""
    ours = distances.mel_filters(24000, 2048, 40).T.numpy()
    theirs = librosa.filters.mel(sr=24000, n_fft=2048, n_mels=40, norm="slaney", htk=False)
    assert np.abs(ours - theirs).max() / theirs.max() < 0.05
    np.testing.assert_allclose(ours.sum(1), theirs.sum(1), rtol=0.02)


@pytest.mark.parametrize(("window", "bands"), list(zip(distances.MEL_WINDOWS, distances.MEL_BANDS, strict=True)))
@pytest.mark.parametrize("rate", [16000, 24000, 44100])
def test_no_mel_band_is_empty(window: int, bands: int, rate: int) -> None:
    assert float(distances.mel_filters(rate, window, bands).sum(0).min()) > 0


def test_log_mel_of_a_tone_is_its_magnitude() -> None:
    """A cosine of amplitude a on bin k has magnitude a x window sum / 2 there, and half that next to it."""
    window, bins = 512, torch.arange(24000)
    audio = 0.5 * torch.cos(2 * torch.pi * 64 * bins / window)[None, None]
    spectrum = torch.zeros(window // 2 + 1)
    spectrum[63:66] = 0.5 * window / 4 * torch.tensor([0.5, 1.0, 0.5])
    expected = (distances.mel_filters(24000, window, 80).T @ spectrum).clamp(min=distances.MEL_FLOOR).log10()
    middle = distances.log_mel(audio, 24000, window, 80)[0, :, 50]
    strong = expected > -4
    assert strong.any()
    torch.testing.assert_close(middle[strong], expected[strong], atol=2e-3, rtol=0)


def test_mel_loss_of_a_gain_is_its_logarithm() -> None:
    """Ten times the level is 1 in log10 at every window: 7 in all, as long as nothing is under the floor."""
    audio = 0.1 * torch.randn(2, 1, 8192, generator=torch.Generator().manual_seed(0))
    assert float(distances.mel_loss(10 * audio, audio, 24000)) == pytest.approx(7, abs=1e-3)
    assert float(distances.mel_loss(audio, audio, 24000)) == 0


def test_mel_loss_of_silence_has_finite_gradients() -> None:
    silence = torch.zeros(1, 1, 8192, requires_grad=True)
    distances.mel_loss(silence, 0.1 * torch.randn(1, 1, 8192), 24000).backward()
    assert torch.isfinite(silence.grad).all()


def test_complex_loss_by_hand() -> None:
    """Silence instead of a signal is one mean away in each window, its negative two; compressed, a quarter is half."""
    torch.manual_seed(0)
    audio = 0.1 * torch.randn(2, 1, 4096)
    windows = len(distances.COMPLEX_WINDOWS)
    assert float(distances.complex_loss(audio, audio)) == 0
    assert float(distances.complex_loss(0 * audio, audio)) == pytest.approx(windows, rel=1e-4)
    assert float(distances.complex_loss(-audio, audio)) == pytest.approx(2 * windows, rel=1e-4)
    assert float(distances.complex_loss(audio / 4, audio)) == pytest.approx(windows / 2, rel=1e-2)


def test_complex_loss_depends_on_phase() -> None:
    phase = 2 * np.pi * 1000 / 24000 * torch.arange(8192)
    cosine, sine = torch.cos(phase)[None, None], torch.sin(phase)[None, None]
    assert float(distances.complex_loss(sine, cosine)) > 2
    assert float(distances.mel_loss(sine, cosine, 24000)) < 0.25 * float(distances.mel_loss(0 * sine, cosine, 24000))


def test_complex_loss_of_silence_stays_finite() -> None:
    silence = torch.zeros(1, 1, 4096)
    hat = (1e-3 * torch.randn(1, 1, 4096)).requires_grad_()
    loss = distances.complex_loss(hat, silence)
    loss.backward()
    assert float(loss.detach()) < 1e3
    assert bool(hat.grad.isfinite().all())
    silence.requires_grad_()
    distances.complex_loss(silence, hat.detach()).backward()
    assert bool(silence.grad.isfinite().all())


def test_complex_loss_in_shares_of_given_levels() -> None:
    audio, audio_hat = torch.randn(2, 2, 1, 4096, generator=torch.Generator().manual_seed(0))
    levels = distances.complex_levels(audio)
    whole = distances.complex_loss(audio_hat, audio)
    torch.testing.assert_close(distances.complex_loss(audio_hat, audio, levels), whole)
    torch.testing.assert_close(distances.complex_loss(audio_hat, audio, 2 * levels), whole / 2)
    halves = [distances.complex_loss(audio_hat[i : i + 1], audio[i : i + 1], levels) for i in range(2)]
    torch.testing.assert_close(torch.stack(halves).mean(), whole)


def test_tone_loss_counts_peaks_above_three_decibels() -> None:
    power = torch.ones(1025)
    sung = power.clone()
    sung[768] = 100.0  # 20 dB, of which the mean of the 41 bins around it gets a share
    assert float(distances.tone_loss(sung, power)) == pytest.approx((20 - 20 / 41 - 3) ** 2 / 1025)
    assert float(distances.tone_loss(power, sung)) == 0, "what is left out is no tone"
    assert float(distances.tone_loss(10 * sung, sung)) == pytest.approx(0, abs=1e-6), "nor is a level"


def test_tone_loss_does_not_depend_on_level() -> None:
    """The gradient along the signal is zero: the loss does not change its level."""
    noise = torch.randn(2, 1, 4096, generator=torch.Generator().manual_seed(0))
    decoded = (noise + torch.sin(2.4 * torch.arange(4096))).requires_grad_()
    loss = distances.tone_loss(distances.mean_power(decoded), distances.mean_power(noise))
    (gradient,) = torch.autograd.grad(loss, decoded)
    assert loss.item() > 0.1
    assert abs((gradient * decoded).sum().item()) < 1e-3 * (gradient.norm() * decoded.norm()).item()


def test_tone_loss_lowers_only_the_tone() -> None:
    time = torch.arange(24000) / 24000
    noise = 0.01 * torch.randn(1, 1, 24000, generator=torch.Generator().manual_seed(0))
    power = distances.mean_power(noise)
    level = torch.tensor(0.01, requires_grad=True)
    before = distances.tone_loss(distances.mean_power(noise + level * torch.sin(2 * torch.pi * 9000 * time)), power)
    before.backward()
    assert level.grad > 0
    quieter = noise + 0.5 * level.detach() * torch.sin(2 * torch.pi * 9000 * time)
    assert distances.tone_loss(distances.mean_power(quieter), power) < before


def test_losses_that_share_spectra_are_the_same_to_the_last_bit() -> None:
    audio, audio_hat = torch.randn(2, 2, 1, 4096, generator=torch.Generator().manual_seed(0))
    decoded, original = distances.Spectra(audio_hat), distances.Spectra(audio)
    for _ in range(2):
        assert torch.equal(distances.mel_loss(decoded, original, 24000), distances.mel_loss(audio_hat, audio, 24000))
        assert torch.equal(distances.complex_loss(decoded, original), distances.complex_loss(audio_hat, audio))
        assert torch.equal(distances.mean_power(decoded), distances.mean_power(audio_hat))
