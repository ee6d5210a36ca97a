"""The recipe of an evaluation set: its sources, excerpts and mixtures, on a package made here."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from opensnac.errors import OpensnacError
from opensnac.recordings import audio
from opensnac.recordings.source import READABLE

RECIPES = Path(__file__).parent.parent.parent / "recipes"
RATE = 24_000


@pytest.fixture
def recipe(load_recipe):
    return load_recipe("fetch_evaluation_set")


def test_every_package_has_size_licence_and_label():
    packages = tomllib.loads((RECIPES / "evaluation_set.toml").read_text())["package"]
    assert {package["label"] for package in packages} == {"music", "environment"}
    assert sum(package["megabytes"] for package in packages) < 50
    for package in packages:
        assert package["licence"]
        assert all(Path(file).suffix in READABLE for file in package["files"])


def test_excerpts_are_cut_from_a_package_and_their_source_is_recorded(recipe, apt, tmp_path):
    package = {"name": "noise-data", "label": "music", "megabytes": 1, "licence": "none", "start": 15}
    package["files"] = ["usr/share/noise.wav"]
    out = tmp_path / "out"
    assert list(recipe.fetch({"seconds": 10, "package": [package]}, out)) == [
        "- music: Debian package noise-data 1.2-3; none"
    ]
    samples, rate = audio.read(out / "music" / "noise-data_noise.flac")
    assert (samples.shape, rate) == ((1, 10 * RATE), RATE)
    assert samples[0, 0] == pytest.approx(0, abs=1e-3), "15 of 30 s from -0.5 to 0.5"


def test_a_package_that_cannot_be_fetched_is_named(recipe, apt, tmp_path):
    with pytest.raises(OpensnacError, match="other could not be downloaded: E: no other; run `apt-get update`"):
        recipe.unpack("other", tmp_path)


def test_other_systems_are_refused(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OpensnacError, match="apt-get not found: this recipe needs Debian"):
        recipe.unpack("noise-data", tmp_path)


def test_speech_and_speech_over_music_join_what_was_fetched(recipe, tmp_path):
    audio.write(tmp_path / "music" / "a.flac", 0.1 * np.ones((2, 44_100)), 44_100)
    assert "examples/" in "".join(recipe.add_speech(tmp_path))
    assert "10 dB lower" in "".join(recipe.add_mixed(tmp_path))
    names = {label: {file.name for file in (tmp_path / label).iterdir()} for label in ("speech", "mixed")}
    assert names["speech"] == names["mixed"] == {file.name for file in recipe.EXAMPLES.glob("*.flac")}


def test_music_is_ten_decibels_below_speech(recipe):
    generator = np.random.default_rng(0)
    speech, music = 0.05 * generator.standard_normal(RATE), 3 * generator.standard_normal(RATE // 2)
    under = recipe.mix(speech, music) - speech
    assert 10 * np.log10(np.mean(speech**2) / np.mean(under**2)) == pytest.approx(10, abs=1e-6)
    assert np.abs(recipe.mix(20 * speech, music)).max() <= 1
