"""Distances of spectra by hand, and the bandwidth of filtered noise."""

import math

import numpy as np
import pytest
import scipy.signal

from opensnac.evaluation.spectral import bandwidth, log_spectral_distance, mel_distance, stft_distance

RATE = 24_000


@pytest.fixture
def noise() -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)


@pytest.mark.parametrize("distance", [mel_distance, log_spectral_distance])
def test_half_the_level_is_six_decibels(distance, noise):
    assert distance(noise, noise / 2, RATE) == pytest.approx(20 * math.log10(2), abs=1e-3)


@pytest.mark.parametrize("distance", [mel_distance, log_spectral_distance])
def test_to_silence_it_is_what_rises_above_the_floor(distance):
    silence = np.zeros(RATE, np.float32)
    assert distance(silence, silence, RATE) == 0
    assert distance(silence + 1e-7, silence, RATE) == 0  # -140 dB


def test_stft_distance_of_half_the_level_is_a_half_and_the_logarithm_of_two(noise):
    assert stft_distance(noise, noise / 2, RATE) == pytest.approx(0.5 + math.log(2), abs=1e-4)


@pytest.mark.parametrize("distance", [mel_distance, log_spectral_distance, stft_distance])
def test_the_order_of_samples_matters_not_only_the_mean_spectrum(distance, noise):
    rising = noise * np.linspace(0, 1, RATE)
    assert distance(rising, rising[::-1], RATE) > distance(rising, 0.9 * rising, RATE)


@pytest.mark.parametrize("cutoff", [1_000, 3_500, 8_000])
@pytest.mark.parametrize("rate", [24_000, 48_000])
def test_bandwidth_is_where_a_low_pass_cuts(noise, cutoff, rate):
    taps = scipy.signal.firwin(801, cutoff, fs=rate)
    filtered = scipy.signal.fftconvolve(noise, taps, mode="same")
    assert bandwidth(noise, filtered, rate) == pytest.approx(cutoff / 1000, abs=0.3)


def test_a_lower_cutoff_never_has_more_bandwidth(noise):
    kept = []
    for cutoff in (9_000, 6_000, 4_000, 2_000):
        taps = scipy.signal.firwin(401, cutoff, fs=RATE)
        kept.append(bandwidth(noise, scipy.signal.fftconvolve(noise, taps, mode="same"), RATE))
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > kept[-1] + 5


def test_bandwidth_is_measured_against_the_original_s_own(noise):
    taps = scipy.signal.firwin(801, 4_000, window=("kaiser", 12), fs=RATE)
    narrow = scipy.signal.fftconvolve(noise, taps, mode="same")
    assert bandwidth(narrow, narrow, RATE) < 5
    assert bandwidth(narrow, noise, RATE) < 5, "what was not there to keep is no bandwidth"
    assert bandwidth(noise, noise / 100, RATE) is None, "40 dB lower, nothing is kept"


def test_a_cut_off_end_does_not_count_as_bandwidth(noise):
    tone = np.cos(2 * np.pi * 1000 * np.arange(len(noise)) / RATE + 1).astype(np.float32)
    assert bandwidth(noise + tone, tone, RATE) < 1.5
