"""The picture of spectrograms: its values, and that it is drawn."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from opensnac.evaluation import picture

RATE = 24_000


def sine(hertz: float, seconds: float = 0.3, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)


@pytest.mark.parametrize("hertz", [110, 440, 1_000, 4_000, 11_000])
def test_a_tone_is_loudest_in_the_band_that_holds_it(hertz: float) -> None:
    spectrum = picture.mel_spectrogram(sine(hertz), RATE)
    mel = 2595 * np.log10(1 + hertz / 700)
    band = mel / (2595 * np.log10(1 + RATE / 2 / 700)) * picture.BANDS
    assert abs(spectrum[:, spectrum.shape[1] // 2].argmax() - int(band)) <= 1


def test_levels_are_decibels() -> None:
    loud, quiet = (picture.mel_spectrogram(sine(1_000, level=level), RATE).max() for level in (0.5, 0.05))
    assert loud - quiet == pytest.approx(20, abs=0.01)


@pytest.mark.parametrize("num_samples", [1, 119, 24_000])
def test_a_frame_each_five_milliseconds(num_samples: int) -> None:
    spectrum = picture.mel_spectrogram(np.ones(num_samples, np.float32), RATE)
    assert spectrum.shape == (picture.BANDS, num_samples // 120 + 1)
    assert np.isfinite(spectrum).all()


@pytest.mark.parametrize("seconds", [1 / RATE, 0.5, 11.0])
def test_a_picture_replaces_the_previous_one(tmp_path: Path, seconds: float) -> None:
    target = tmp_path / "a.png"
    target.write_bytes(b"an older one")
    pair = np.stack([sine(440, seconds), np.zeros(int(seconds * RATE))])
    picture.draw(target, pair, [("original", "1 byte"), ("decoded, $\\frac$", "$2 bytes")], RATE)
    content = target.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == (1200, 696)
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_drawn_differs_between_tones(tmp_path: Path) -> None:
    for hertz in (440, 880):
        pair = np.stack([sine(hertz), sine(hertz)])
        picture.draw(tmp_path / f"{hertz}.png", pair, [("a", ""), ("b", "")], RATE)
    assert (tmp_path / "440.png").read_bytes() != (tmp_path / "880.png").read_bytes()
