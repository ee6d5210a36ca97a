"""The demo: its files and output, with and without the packages for quality scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from opensnac import SNAC, cli
from opensnac.errors import OpensnacError
from opensnac.evaluation import metrics
from opensnac.showcase import demo

REPOSITORY = Path(__file__).parents[2]
INSTALL = "pip install 'opensnac[evaluate]'"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small model with random weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    SNAC(
        sampling_rate=24000,
        encoder_dim=4,
        encoder_rates=[2, 4, 8, 8],
        decoder_dim=32,
        decoder_rates=[8, 8, 4, 2],
        attn_window_size=None,
        codebook_size=64,
        vq_strides=[4, 2, 1],
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """0.5 s of stereo noise at 16 kHz."""
    path = tmp_path / "talk.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (8000, 2)), 16000)
    return path


def test_it_writes_snac_wav_and_picture(
    tmp_path: Path, talk: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "out"
    demo.run_demo(out, talk, model)
    said = capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["talk.png", "talk.snac", "talk.wav"]
    for path in out.iterdir():
        assert f"wrote {path}" in said
    samples, rate = soundfile.read(out / "talk.wav")
    assert (samples.shape, rate) == ((8000, 2), 16000)


def test_its_numbers_match_the_files(
    tmp_path: Path, talk: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.run_demo(tmp_path / "out", talk, model)
    said = capsys.readouterr().out
    size = (tmp_path / "out/talk.snac").stat().st_size
    for part in (
        "talk.wav, 0.50 s, 16000 Hz, 2 channels",
        "tiny",
        "32,000 bytes, 512,000 bits per second",
        f"{size:,} bytes, {8 * size / 0.5:,.0f} bits per second, 1/{32000 / size:.0f} of PCM",
        "times real time",
        "STOI",
    ):
        assert part in said


def test_speed_is_duration_over_time() -> None:
    assert demo._speed(8.0, (2.0, 0.5)) == "16.0 times real time; 4.0 in the first run"


def test_it_replaces_its_earlier_output(tmp_path: Path, talk: Path, model: Path) -> None:
    demo.run_demo(tmp_path / "out", talk, model)
    before = (tmp_path / "out/talk.snac").read_bytes()
    (tmp_path / "out/talk.snac").write_bytes(b"something older")
    demo.run_demo(tmp_path / "out", talk, model)
    assert (tmp_path / "out/talk.snac").read_bytes() == before


def test_a_recording_is_never_overwritten(tmp_path: Path, talk: Path, model: Path) -> None:
    before = talk.read_bytes()
    with pytest.raises(OpensnacError, match="talk.wav: expected a recording outside of the demo's folder"):
        demo.run_demo(tmp_path, talk, model)
    assert talk.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["talk.wav"]


def test_a_missing_evaluate_extra_is_named(
    tmp_path: Path, talk: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (demo, metrics):
        monkeypatch.setattr(module, "package_version", lambda package: None)
    demo.run_demo(tmp_path / "out", talk, model)
    said = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["talk.snac", "talk.wav"]
    for what in ("pesq", "pystoi", "matplotlib"):
        assert f"{what} not installed; run: {INSTALL}" in said


def test_a_metric_that_does_not_apply_has_no_score(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "silence.flac", np.zeros(2400), 24000)
    demo.run_demo(tmp_path / "out", tmp_path / "silence.flac", model)
    assert capsys.readouterr().out.count("does not apply to this recording") == 2
    assert (tmp_path / "out/silence.png").exists()


def test_the_default_is_the_first_example(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.run_demo(tmp_path, model=model)
    assert demo.first_example().parent == REPOSITORY / "examples"
    assert (tmp_path / f"{demo.first_example().stem}.snac").exists()


def test_without_examples_it_asks_for_a_recording(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "EXAMPLES", tmp_path / "examples")
    with pytest.raises(OpensnacError, match=r"examples: expected example recordings.*opensnac demo talk.wav"):
        demo.run_demo(tmp_path)


def test_the_command_passes_all_on(tmp_path: Path, talk: Path, model: Path) -> None:
    result = CliRunner().invoke(cli.app, ["demo", str(talk), "-o", str(tmp_path / "o"), "--model", str(model)])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "o/talk.snac").exists()


def test_every_example_is_short_mono_and_has_its_origin_named() -> None:
    origins = (REPOSITORY / "examples/README.md").read_text(encoding="utf-8")
    recordings = sorted((REPOSITORY / "examples").glob("*.flac"))
    assert len(recordings) >= 2
    for path in recordings:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels) == (24000, 1)
        assert path.stat().st_size < 400_000
        assert f"`{path.name}`, {info.duration:.1f} s" in origins
