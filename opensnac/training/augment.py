"""Augmentation of crops: speed, mixing with another crop, low-pass filtering, noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from opensnac.recordings import audio
from opensnac.training.config import AugmentConfig

Clip = NDArray[np.float32]

STEEPNESS = 16  # of the low-pass: magnitude 1 / sqrt(1 + (f / edge)^16), zero phase
SPEED_STEPS = 1000  # speeds are multiples of 1 / 1000
QUIET = 1e-5  # RMS below which relative levels make no sense


def augment(
    clip: Clip, another: Callable[[], Clip], sample_rate: int, config: AugmentConfig, rng: np.random.Generator
) -> Clip:
    """A clip (samples,) at `sample_rate` Hz, randomly augmented; `another` draws a second clip of equal length."""
    if rng.uniform() < config.mix:
        clip = add_at(clip, another(), rng.uniform(*config.mix_snr_db))
    if rng.uniform() < config.band_limit:
        clip = low_pass(clip, sample_rate, rng.uniform(*config.band_limit_hz))
    if rng.uniform() < config.noise:
        noise = rng.standard_normal(len(clip), np.float32)
        clip = add_at(clip, noise, rng.uniform(*config.noise_snr_db))
    return clip


def draw_speed(config: AugmentConfig, rng: np.random.Generator) -> float:
    """The speed of a crop: 1, or a random one."""
    if not config.speed or rng.uniform() >= config.speed:
        return 1.0
    return round(rng.uniform(*config.speed_range) * SPEED_STEPS) / SPEED_STEPS


def at_speed(clip: Clip, speed: float, num_samples: int) -> Clip:
    """The first `num_samples` of a clip (samples,) played at another speed; pitch and formants change with it."""
    played = audio.resample(clip[None], round(speed * SPEED_STEPS), SPEED_STEPS, num_samples)[0]
    return np.asarray(played, np.float32)


def add_at(clip: Clip, other: Clip, snr_db: float) -> Clip:
    """`clip` plus `other` at `snr_db` below it; if either is silent, the clip unchanged."""
    level, other_level = (float(np.sqrt(np.mean(np.square(x)))) for x in (clip, other))
    if min(level, other_level) < QUIET:
        return clip
    return clip + other * np.float32(level / other_level * 10 ** (-snr_db / 20))


def low_pass(clip: Clip, sample_rate: int, edge: float) -> Clip:
    """Low-pass filtered at `edge` Hz, where the power is halved."""
    frequencies = np.fft.rfftfreq(len(clip), 1 / sample_rate)
    spectrum = np.fft.rfft(clip) / np.sqrt(1 + (frequencies / edge) ** STEEPNESS)
    return np.fft.irfft(spectrum, len(clip)).astype(np.float32)
