"""Mixtures of decoded audio and the original take from the original what their names say."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from opensnac.errors import OpensnacError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ceilings.py"
specification = importlib.util.spec_from_file_location("ceilings", SCRIPT)
ceilings = importlib.util.module_from_spec(specification)
specification.loader.exec_module(ceilings)


def spectrum_of_noise(seed: int) -> torch.Tensor:
    return ceilings.spectrum(0.1 * np.random.default_rng(seed).standard_normal(24_000))


def test_each_part_comes_from_the_original() -> None:
    original, decoded = spectrum_of_noise(0), 3 * spectrum_of_noise(1)
    mixed = dict(ceilings.mixtures(original, decoded))
    torch.testing.assert_close(mixed["phases"] * original.abs(), original * decoded.abs(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mixed["magnitudes"].abs(), original.abs())
    assert torch.equal(mixed["everything"], original)
    band = mixed["1000 to 3000 Hz"]
    bins = round(1000 / 24_000 * 1024) + 1, round(3000 / 24_000 * 1024) - 1
    assert torch.equal(band[slice(*bins)], original[slice(*bins)])
    assert torch.equal(band[: bins[0] - 2], decoded[: bins[0] - 2])
    assert torch.equal(band[bins[1] + 2 :], decoded[bins[1] + 2 :])


@pytest.mark.parametrize("frames", ceilings.FRAMES)
def test_a_gain_is_a_level_over_any_time(frames: int) -> None:
    original = spectrum_of_noise(0)
    torch.testing.assert_close(ceilings.with_levels(original, 3 * original, frames), original, rtol=0.02, atol=1e-4)


def test_levels_over_a_longer_time_leave_what_is_shorter() -> None:
    original = spectrum_of_noise(0)
    flickering = original * torch.tensor([0.5, 2.0]).repeat(original.shape[1])[: original.shape[1]]
    torch.testing.assert_close(ceilings.with_levels(original, flickering, 1), original, rtol=0.02, atol=1e-4)
    middle = slice(17, -17)
    left = ceilings.with_levels(original, flickering, 33)[:, middle]
    torch.testing.assert_close(left, flickering[:, middle], rtol=0.05, atol=1e-4)


def test_too_short_a_clip_is_an_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", np.zeros(512), 24_000)
    with pytest.raises(OpensnacError, match=r"short.wav: expected more than 512 samples at 24000 Hz, got 512"):
        ceilings.scores(tmp_path / "short.wav", codec="opensnac", seconds=5, metrics=["stoi"])
