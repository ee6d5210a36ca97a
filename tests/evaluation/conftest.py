"""A synthetic clip that the metrics take for speech, and a tiny model."""

import numpy as np
import pytest

from opensnac import SNAC

RATE = 24_000


@pytest.fixture(scope="session")
def clip() -> np.ndarray:
    """1.2 s of voiced syllables at 24 kHz, float32 (samples,): a gliding pitch, two moving formants."""
    time = np.arange(int(1.2 * RATE)) / RATE
    pitch = 120 + 25 * np.sin(2 * np.pi * 0.7 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formants = (500 + 250 * np.sin(2 * np.pi * 1.9 * time), 1600 + 600 * np.sin(2 * np.pi * 1.3 * time + 1))
    voice = np.zeros_like(time)
    for harmonic in range(1, 60):
        frequency = harmonic * pitch
        resonance = sum(np.exp(-(((frequency - formant) / 150) ** 2)) for formant in formants) + 0.02
        voice += resonance / np.sqrt(harmonic) * np.sin(harmonic * phase) * (frequency < RATE / 2)
    syllables = np.clip(1.6 * np.sin(2 * np.pi * 1.75 * time) ** 2 - 0.2, 0, 1)
    breath = 0.002 * np.random.default_rng(0).standard_normal(len(time))
    voice = voice * syllables + breath
    return (0.5 * voice / np.abs(voice).max()).astype(np.float32)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A tiny model with random weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    SNAC(
        sampling_rate=RATE,
        encoder_dim=4,
        encoder_rates=[2, 4, 8, 8],
        decoder_dim=32,
        decoder_rates=[8, 8, 4, 2],
        attn_window_size=None,
        codebook_size=64,
        vq_strides=[4, 2, 1],
    ).save_pretrained(folder)
    return folder
