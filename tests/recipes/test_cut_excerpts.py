"""Excerpts for evaluation: the middle of every recording, in the same tree."""

import sys

import numpy as np
import pytest

from opensnac.recordings import audio

RATE = 24_000


def test_the_middle_of_every_recording_is_cut_and_mixed(load_recipe, monkeypatch, tmp_path, capsys):
    ramp = np.stack([np.linspace(0, 0.9, 3 * RATE), np.zeros(3 * RATE)])
    audio.write(tmp_path / "in" / "album" / "long.wav", ramp, RATE)
    audio.write(tmp_path / "in" / "short.flac", ramp[:, : RATE // 2], RATE)
    recipe = load_recipe("cut_excerpts")
    monkeypatch.setattr(
        sys, "argv", ["cut_excerpts", str(tmp_path / "in"), str(tmp_path / "out"), "--seconds", "1", "--mono"]
    )
    recipe.main()
    samples, rate = audio.read(tmp_path / "out" / "album" / "long.flac")
    assert (samples.shape, rate) == ((1, RATE), RATE)
    assert samples.mean() == pytest.approx(0.225, abs=1e-3)
    assert audio.read(tmp_path / "out" / "short.flac")[0].shape == (1, RATE // 2)
    assert "2 excerpts" in capsys.readouterr().out


def test_a_folder_without_recordings_is_refused(load_recipe, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["cut_excerpts", str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        load_recipe("cut_excerpts").main()
    assert "expected recordings, got none" in capsys.readouterr().err
