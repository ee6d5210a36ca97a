"""Tones that a codec adds are found at their frequency and height."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from opensnac.recordings import audio

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "tones.py"
specification = importlib.util.spec_from_file_location("tones", SCRIPT)
tones = importlib.util.module_from_spec(specification)
specification.loader.exec_module(tones)


def noise(seconds: float = 4.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (0.05 * rng.standard_normal(int(seconds * tones.RATE))).astype(np.float32)


def tone(hz: float, level: float, count: int) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hz * np.arange(count) / tones.RATE)).astype(np.float32)


def test_noise_has_no_lines_and_a_tone_is_one() -> None:
    plain = noise()
    assert np.abs(tones.line_heights([plain])).max() < 3
    heights = tones.line_heights([plain + tone(9000, 0.01, len(plain))])
    # A tone's power in its bin is (level / 2)^2 times the window's sum squared, noise's is its variance times the
    # window's energy: 1024^2 and 768.
    expected = 10 * np.log10(1 + (0.01 / 2) ** 2 * 1024**2 / (0.05**2 * 768))
    assert tones.hertz(int(heights.argmax())) == 9000
    assert heights.max() == pytest.approx(expected, abs=1)


def test_a_tone_in_one_clip_of_two_counts_by_its_length() -> None:
    long, short = noise(6), noise(2)
    half = [long, short + tone(9000, 0.05, len(short))]
    whole = [long + tone(9000, 0.05, len(long)), short]
    assert tones.line_heights(whole).max() - tones.line_heights(half).max() == pytest.approx(10 * np.log10(3), abs=0.5)


def test_neighbours_of_a_line_do_not_count() -> None:
    heights = np.zeros(200)
    heights[[50, 51, 120]] = 10, 9, 5
    assert list(tones.tallest(heights, 2)) == [50, 120]


def test_the_table_names_the_line_that_a_codec_adds(tmp_path, monkeypatch, capsys) -> None:
    class Singing:
        def __init__(self, name: str) -> None: ...

        def __call__(self, clip: np.ndarray, rate: int) -> object:
            self.audio = clip + tone(6000, 0.02, len(clip))
            return self

    audio.write(tmp_path / "a.wav", noise()[None], tones.RATE)
    monkeypatch.setattr(tones, "by_name", Singing)
    tones.main([str(tmp_path), "--codec", "singing", "--lines", "1"])
    row = next(line for line in capsys.readouterr().out.splitlines() if "singing" in line)
    hz, decoded, original, added = map(float, re.findall(r"-?\d+\.?\d*", row))
    assert hz == 6000
    assert decoded > 15
    assert added == pytest.approx(decoded - max(0, original), abs=0.11)
