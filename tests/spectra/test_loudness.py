"""The loudness loss against values computed by hand and against PESQ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from opensnac.evaluation.metrics import pesq_wideband
from opensnac.recordings import audio
from opensnac.spectra.loudness import auditory_model, loudness, loudness_loss

RATE = 24000
EXAMPLE = Path(__file__).parents[2] / "examples" / "lj_speech.flac"


def tone(hz: float, level: float = 0.1, rate: int = RATE) -> Tensor:
    return level * torch.sin(2 * torch.pi * hz * torch.arange(rate) / rate)[None, None]


def cost(got: Tensor, wanted: Tensor, rate: int = RATE) -> float:
    return float(loudness_loss(got, wanted, rate))


def played(clip: Tensor, times: float) -> tuple[Tensor, Tensor]:
    power, sone = loudness(clip, torch.full((1, 1, 1), times), RATE)
    return power[0, :, 10], sone[0, :, 10]


def test_power_is_that_of_the_samples() -> None:
    """A sine of amplitude 0.1 has a power of 0.005 at any frequency."""
    for hz in (100, 1000, 6000):
        assert float(played(tone(hz), 1)[0].sum()) == pytest.approx(0.1**2 / 2, rel=1e-3)


def test_loudness_of_a_tone_by_hand() -> None:
    """At 1 kHz the threshold in quiet is 3.64 - 6.5 exp(-3.174) + 0.001 dB, or 2.164, and the exponent 0.23."""
    power, sone = played(tone(1000), 1e5)
    loudest = int(power.argmax())
    over = float(power[loudest]) / 2.164
    expected = 0.1866 * (2 * 2.164) ** 0.23 * ((0.5 + 0.5 * over) ** 0.23 - 1)
    assert float(sone[loudest]) == pytest.approx(expected, rel=0.02)
    assert float(played(tone(1000, level=1e-6), 1)[1].max()) == 0, "below the threshold nothing is heard"


def test_a_clip_is_played_at_one_level() -> None:
    wanted, got = tone(440) + tone(700), tone(440) + tone(750)
    assert cost(got, wanted) == pytest.approx(cost(got / 4, wanted / 4), rel=1e-4)
    assert cost(got * 1e-4, wanted * 1e-4) < cost(got, wanted) / 2, "what is nearly silent stays so"


def test_bands_cover_the_spectrum_once() -> None:
    members = auditory_model(RATE, 768).members
    assert members.shape == (256, 49)
    assert (members.sum(1) == 1).all()


def test_the_recording_itself_and_a_small_gain_cost_nothing() -> None:
    recording = example()
    assert cost(recording, recording) < 0.01
    assert cost(1.05 * recording, recording) < 0.01


def test_additions_cost_more_than_omissions() -> None:
    quiet, loud = tone(500), tone(500) + tone(2000)
    level = (loud.square().mean() / quiet.square().mean()).sqrt()
    assert cost(loud, quiet) > 1.5 * cost(quiet * level, loud)


def test_the_cost_is_similar_at_another_rate() -> None:
    costs = [cost(tone(440, rate=r) + tone(800, rate=r), tone(440, rate=r), r) for r in (16000, 24000, 48000)]
    np.testing.assert_allclose(costs, costs[0], rtol=0.02)


@pytest.mark.parametrize("wanted", [0.0, 0.1])
def test_gradients_of_silence_are_finite(wanted: float) -> None:
    got = torch.zeros(2, 1, 4096, requires_grad=True)
    value = loudness_loss(got, wanted * torch.randn(2, 1, 4096), RATE)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(got.grad).all()


def test_it_orders_damage_as_pesq_does() -> None:
    """Noise, clipping, steps in level, low passes: raw scores of the package `pesq` against this cost."""
    recording, generator = example(), torch.Generator().manual_seed(0)
    noise = torch.randn(recording.shape, generator=generator) * recording.std()
    spectrum = torch.fft.rfft(recording)
    damaged = [recording + share * noise for share in (0.01, 0.03, 0.1, 0.3)]
    damaged += [recording.clamp(-limit, limit) for limit in (0.03, 0.1)]
    damaged += [recording * (1 + share * noise.sign()) for share in (0.1, 0.5)]
    for cut in (1000, 2000, 4000):
        kept = spectrum.clone()
        kept[..., round(cut * recording.shape[-1] / RATE) :] = 0
        damaged.append(torch.fft.irfft(kept, recording.shape[-1]))
    raw, costs = [], []
    for clip in damaged:
        score = pesq_wideband(recording[0, 0].numpy(), clip[0, 0].numpy(), RATE)
        raw.append((3.8224 - np.log(4 / (score - 0.999) - 1)) / 1.3669)  # P.862.2's mapping, undone
        costs.append(cost(clip, recording))
    assert np.corrcoef(raw, costs)[0, 1] < -0.8


def example() -> Tensor:
    samples, rate = audio.read(EXAMPLE)
    assert rate == RATE
    return torch.as_tensor(np.asarray(samples)).float()[:1, None]
