"""The scripts of examples/ run with default arguments, except for fewer steps, and their README lists them all."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from opensnac import SNAC
from opensnac.recordings import audio

EXAMPLES = Path(__file__).parents[2] / "examples"
RECORDINGS = ("lj_speech", "thorsten")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a script in a scratch folder, in this process."""
    monkeypatch.chdir(tmp_path)

    def do(name: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return do


def test_compress_folder(run: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    run("compress_folder.py")
    printed = capsys.readouterr().out
    for name in RECORDINGS:
        decoded, original = audio.read(f"compressed/{name}.flac"), audio.read(EXAMPLES / f"{name}.flac")
        assert (decoded[0].shape, decoded[1]) == (original[0].shape, original[1])
        size = Path(f"compressed/{name}.flac.snac").stat().st_size
        assert re.search(rf"^{name}\.flac .* {size:,} +1\d\d\d$", printed, re.MULTILINE)  # about 1.1 kb/s


def test_tokens_to_speech(run: Callable[..., None]) -> None:
    run("tokens_to_speech.py", "--faster", "100")
    heard, rate = audio.read("speech.wav")
    model = SNAC.from_pretrained()
    samples, _ = audio.read(EXAMPLES / "lj_speech.flac")
    whole = model.decode(model.encode(torch.from_numpy(samples)[None]))[0].numpy()
    assert rate == model.config.sampling_rate
    assert heard.shape == whole.shape
    assert np.abs(heard - whole.clip(-1, 1)).max() < 2**-15  # the steps of 16 bits


def test_fine_tune(run: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    run("fine_tune.py", "--steps", "1")
    before, after = SNAC.from_pretrained("speech_24khz_tiny"), SNAC.from_pretrained("runs/my_voice/last")
    assert after.config == before.config
    assert after.fingerprint != before.fingerprint
    distances = [float(text) for text in re.findall(r"mel distance (\S+) dB", capsys.readouterr().out)]
    assert len(distances) == 2
    assert abs(distances[1] - distances[0]) < 1  # it started from the trained weights


def test_the_readme_lists_every_script_and_recording() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| \[?`([\w/.]+)`", page, re.MULTILINE))
    own = [path for pattern in ("*.py", "*.flac", "music/*.flac") for path in EXAMPLES.glob(pattern)]
    here = {path.relative_to(EXAMPLES).as_posix() for path in own}
    assert listed == here | {"speech_lm/"}
