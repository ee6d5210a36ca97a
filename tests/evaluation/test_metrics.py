"""Metrics: perfect for a copy, worse with more noise, correct by hand, absent if they do not apply."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensnac.errors import OpensnacError
from opensnac.evaluation import metrics
from opensnac.evaluation.metrics import METRICS, Metric, codebook_use, pesq_wideband, require, si_sdr
from opensnac.recordings import audio

RATE = 24_000
EXAMPLE = Path(__file__).parents[2] / "examples/lj_speech.flac"
PERFECT = {
    "pesq_wb": (4.6439, 1e-3),  # the highest that P.862.2 gives
    "stoi": (1.0, 1e-6),
    "estoi": (1.0, 1e-6),
    "visqol_audio": (4.7321, 1e-3),  # the highest of its support vector regression
    "visqol_speech": (4.6, 0.4),  # the lattice is not normalised
    "si_sdr": (100.0, 0.0),
    "mel_distance": (0.0, 0.0),
    "stft_distance": (0.0, 0.0),
    "log_spectral_distance": (0.0, 0.0),
    "bandwidth": (12.0, 0.0),
}
# How much better a noisier clip may score: the learned metrics are not quite monotone near perfection.
TOLERANCE = {"visqol_speech": 0.15, "dnsmos": 0.15}
# The least that the noisiest clip loses against the cleanest.
MIN_LOSS = {
    "pesq_wb": 2.0,
    "stoi": 0.05,
    "estoi": 0.1,
    "visqol_audio": 1.5,
    "visqol_speech": 1.5,
    "dnsmos": 0.3,
    "si_sdr": 30.0,
    "mel_distance": 15.0,
    "stft_distance": 2.0,
    "log_spectral_distance": 15.0,
}
SPECTRA = ("mel_distance", "log_spectral_distance")  # which silence has too


def installed(name: str) -> Metric:
    metric = METRICS[name]
    if (reason := metric.missing()) is not None:
        pytest.skip(reason)
    return metric


@pytest.mark.parametrize("name", PERFECT)
def test_a_perfect_copy_scores_perfectly(name, clip):
    value, tolerance = PERFECT[name]
    assert installed(name).measure(clip, clip.copy(), RATE) == pytest.approx(value, abs=tolerance)


@pytest.mark.parametrize("name", MIN_LOSS)
def test_more_noise_never_scores_better(name, clip):
    metric = installed(name)
    noise = np.random.default_rng(1).standard_normal(len(clip)).astype(np.float32)
    scores = [metric.measure(clip, clip + level * noise, RATE) for level in (1e-3, 1e-2, 1e-1)]
    losses = -np.diff(scores) if metric.higher_is_better else np.diff(scores)
    assert (losses >= -TOLERANCE.get(name, 0)).all(), scores
    assert losses.sum() > MIN_LOSS[name], scores


@pytest.mark.parametrize("name", METRICS)
def test_silence_has_no_score_but_no_intelligibility_and_a_spectrum(name, clip):
    metric = installed(name)
    silence = np.zeros_like(clip)
    of_silence = metric.measure(silence, clip, RATE)
    as_silence = metric.measure(clip, silence, RATE)
    if name in SPECTRA:
        assert of_silence == as_silence > 20
    elif name == "stft_distance":
        assert of_silence is None
        assert as_silence > 2
    else:
        assert of_silence is None
        assert as_silence == pytest.approx(0, abs=0.01) if "stoi" in name else as_silence is None


@pytest.mark.parametrize("name", ["pesq_wb", "stoi", "estoi", "visqol_audio", "visqol_speech", "distill_mos"])
def test_short_clips_have_no_score(name, clip):
    short = clip[: RATE // 10]
    assert installed(name).measure(short, short, RATE) is None


@pytest.mark.parametrize("name", ["stoi", "estoi", "visqol_audio", "visqol_speech"])
def test_a_click_in_silence_is_scored_or_absent_but_no_error(name, clip):
    click = np.zeros_like(clip)
    click[len(click) // 2] = 0.5
    score = installed(name).measure(click, click, RATE)
    assert score is None or score > 1e-3, "the made-up 1e-5 of a library is no score"


@pytest.mark.parametrize("name", ["pesq_wb", "visqol_audio", "mel_distance", "stft_distance"])
def test_any_sampling_rate_is_brought_to_the_metric_s_own(name, clip):
    at_48k = np.repeat(clip, 2)
    value, tolerance = PERFECT[name]
    assert installed(name).measure(at_48k, at_48k, 48_000) == pytest.approx(value, abs=tolerance)


def test_wideband_pesq_is_absent_for_narrowband_recordings(clip):
    assert pesq_wideband(clip, clip, 8_000) is None


def test_pesq_is_absent_beyond_what_its_library_holds(clip):
    long = np.tile(clip, 51)
    assert pesq_wideband(long, long, RATE) is None


@pytest.mark.parametrize("name", ["dnsmos", "distill_mos"])
def test_some_metrics_rate_the_decoded_audio_alone(name, clip):
    measure = installed(name).measure
    score = measure(clip, clip, RATE)
    assert 1 < score < 5
    assert measure(clip[::-1].copy(), clip, RATE) == score


def test_distill_mos_likes_speech_and_no_noise():
    """On recorded speech, as the metric rates the synthetic clip of the other tests as noise."""
    measure = installed("distill_mos").measure
    samples, rate = audio.read(EXAMPLE)
    speech = samples[0, : 4 * rate]
    noise = np.random.default_rng(1).standard_normal(len(speech)).astype(np.float32)
    scores = [measure(speech, speech + level * noise, rate) for level in (0, 0.01, 0.1)]
    assert scores[0] > 3.5
    assert (np.diff(scores) < -0.3).all(), scores


def test_distill_mos_prints_nothing_and_leaves_no_stand_in_behind(capsys):
    installed("distill_mos")
    before = sys.modules.get("torchaudio")
    metrics._distill_mos_model.cache_clear()
    metrics._distill_mos_model()
    assert capsys.readouterr().out == ""
    assert sys.modules.get("torchaudio") is before


def test_si_sdr_by_hand():
    reference = np.array([1, -1, 1, -1], np.float32)
    orthogonal = np.array([1, 1, -1, -1], np.float32)
    decoded = reference + 0.1 * orthogonal  # energies 4 and 0.04: 20 dB
    assert si_sdr(reference, decoded, RATE) == pytest.approx(20, abs=1e-4)
    assert si_sdr(reference, 3 * decoded + 0.5, RATE) == pytest.approx(20, abs=1e-4), "scale and offset are free"
    assert si_sdr(reference, orthogonal, RATE) == -100


def test_codebook_use_by_hand():
    use = codebook_use(np.array([[0, 0], [3, 3]]), codebook_size=4)
    assert (use.count, use.share, use.entropy_bits, use.perplexity) == (4, 0.5, 1, 2)
    assert use.share_if_uniform == pytest.approx(1 - 0.75**4)


@given(st.lists(st.integers(0, 15), min_size=1))
def test_perplexity_is_at_most_the_number_of_entries_used(codes):
    use = codebook_use(np.array(codes), codebook_size=16)
    assert use.share == len(set(codes)) / 16
    assert 1 - 1e-9 <= use.perplexity <= len(set(codes)) + 1e-9


def test_a_metric_without_its_package_says_how_to_install_it():
    metric = Metric("x", "X", 1, True, si_sdr, ("no-such-package-anywhere",))
    assert metric.missing() == ("no-such-package-anywhere not installed; run: pip install 'opensnac[evaluate]'")
    other = Metric(
        "x", "X", 1, True, si_sdr, ("no-such-package-anywhere",), install="--no-deps no-such-package-anywhere"
    )
    assert other.missing().endswith("run: pip install --no-deps no-such-package-anywhere")
    assert METRICS["si_sdr"].missing() is None
    with pytest.raises(OpensnacError, match=r"no-such-package not installed; run: pip install 'opensnac\[evaluate\]'"):
        require("numpy", "no-such-package")
    require("numpy")
