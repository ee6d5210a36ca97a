"""Alignment and loudness: delays and gains are undone exactly; uncorrelated audio is not shifted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opensnac.evaluation.matching import delay, loudness, match

RATE = 24_000


@settings(max_examples=5)
@given(shift=st.integers(-700, 700), gain=st.floats(0.1, 4))
def test_delay_and_gain_are_undone(shift, gain):
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    late = np.zeros_like(noise)
    late[max(shift, 0) : len(noise) + min(shift, 0)] = gain * noise[max(-shift, 0) : len(noise) - max(shift, 0)]
    matched = match(noise, late, RATE)
    assert matched.shift == shift
    assert matched.gain_db == pytest.approx(-20 * np.log10(gain), abs=0.4)  # samples shifted out are lost
    inside = slice(1_000, -1_000)
    assert matched.audio[inside] == pytest.approx(noise[inside], rel=0.05, abs=1e-4)


def test_an_equal_copy_stays_as_it_is(clip):
    matched = match(clip, clip.copy(), RATE)
    assert (matched.shift, matched.gain_db) == (0, 0)
    assert np.array_equal(matched.audio, clip)


def test_uncorrelated_audio_is_not_shifted():
    signal, other = np.random.default_rng(0).standard_normal((2, RATE)).astype(np.float32)
    assert delay(signal, other, 700) == 0


def test_a_pitch_period_is_not_taken_for_a_delay(clip):
    assert delay(clip, (clip + np.roll(clip, 190)).astype(np.float32), 700) == 0  # an echo, one period late


def test_delays_beyond_the_limit_are_not_searched():
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    assert match(noise, np.roll(noise, 2_000), RATE).shift == 0


@pytest.mark.parametrize("length", [1, 100, RATE])
def test_silence_is_left_alone(length, clip):
    silence = np.zeros(length, np.float32)
    for first, second in ((silence, clip[:length]), (clip[:length], silence), (silence, silence)):
        matched = match(first, second, RATE)
        assert matched.gain_db == 0
        assert np.array_equal(matched.audio, second)


def test_short_clips_are_matched_by_power(clip):
    short = clip[5_000:8_000]
    assert match(short, short / 3, RATE).audio == pytest.approx(short, rel=1e-4)


def test_loudness_of_the_standard_s_reference_tone():
    """ITU-R BS.1770-4: a full-scale sine at 997 Hz in one channel is at -3.01 LUFS."""
    tone = np.sin(2 * np.pi * 997 * np.arange(5 * 48_000) / 48_000).astype(np.float32)
    assert loudness(tone, 48_000) == pytest.approx(-3.01, abs=0.05)
