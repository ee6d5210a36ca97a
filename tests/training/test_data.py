"""Crops are pieces of the recordings, drawn evenly, and the same for the same generator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from opensnac.errors import AudioError
from opensnac.training.data import Crops
from opensnac.training.sources import find_recordings, report_broken

RATE = 8000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ramp in 16 bits, whose every sample tells its position, and what is no recording."""
    ramp = np.arange(-16000, 16000, dtype=np.int16)
    (tmp_path / "deep").mkdir()
    soundfile.write(tmp_path / "deep" / "ramp.flac", ramp, RATE)
    soundfile.write(tmp_path / "short.wav", np.full(10, 0.5), RATE)
    (tmp_path / "broken.wav").write_bytes(b"RIFF but no more")
    (tmp_path / "notes.txt").write_text("not audio")
    return tmp_path


def test_broken_files_are_listed_and_left_out(folder: Path) -> None:
    found, broken = find_recordings([folder])
    assert [recording.place.path.name for recording in found] == ["ramp.flac", "short.wav"]
    assert len(broken) == 1
    assert "broken.wav" in broken[0]


@pytest.mark.parametrize("in_memory", [False, True])
def test_files_that_break_while_read_are_listed_once(
    tmp_path: Path, in_memory: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A FLAC that was cut and a WAV with NaN open well; what they hold shows when it is read."""
    noise = np.random.default_rng(0).uniform(-0.4, 0.4, 16000)
    soundfile.write(tmp_path / "good.wav", np.full(16000, 0.5), RATE)
    soundfile.write(tmp_path / "cut.flac", noise, RATE)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "cut.flac").read_bytes()[:9000])
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan), RATE, subtype="FLOAT")
    found, broken = find_recordings([tmp_path])
    assert (len(found), broken) == (3, [])
    crops = Crops(found, RATE, 16000, in_memory=in_memory)
    batch = crops.draw(range(30))
    assert (batch == 0.5).all()
    crops.draw(range(30))
    report_broken(crops.new_broken(), tmp_path / "broken.txt")
    report_broken(crops.new_broken() + crops.new_broken(), tmp_path / "broken.txt")
    said = capsys.readouterr().err
    assert said == "".join(f"left out: {line}\n" for line in (tmp_path / "broken.txt").read_text().splitlines())
    assert said.count("left out") == 2
    assert said.count("cut.flac") == 1
    assert said.count("nan.wav: NaN or infinity") == 1
    with pytest.raises(AudioError, match="no readable recordings|100 recordings in a row"):
        Crops([r for r in found if "good" not in r.place.path.name], RATE, 16000, in_memory=in_memory).draw(range(1))


def test_manifests_and_single_files(folder: Path) -> None:
    (folder / "list.csv").write_text("path,speaker\nshort.wav,a\nmissing.wav,b\n")
    found, broken = find_recordings([folder / "list.csv", folder / "deep" / "ramp.flac"])
    assert sorted(recording.place.path.name for recording in found) == ["ramp.flac", "short.wav"]
    assert "missing.wav" in broken[0]
    (folder / "list.csv").write_bytes("\ufeffpath\nshort.wav\n".encode())  # as spreadsheets save it
    assert len(find_recordings([folder / "list.csv"])[0]) == 1
    (folder / "list.csv").write_text("speaker,path\na,short.wav\nb\n")
    with pytest.raises(AudioError, match="row 2, has no path"):
        find_recordings([folder / "list.csv"])
    (folder / "wrong.csv").write_text("file\nshort.wav\n")
    with pytest.raises(AudioError, match="columns file; a column `path` was needed"):
        find_recordings([folder / "wrong.csv"])
    with pytest.raises(AudioError, match="no recordings at .*nowhere"):
        find_recordings([folder / "nowhere"])
    with pytest.raises(AudioError, match="no readable recordings"):
        Crops([], RATE, 100)


@pytest.mark.parametrize("in_memory", [False, True])
def test_crops_are_slices_read_in_place(folder: Path, in_memory: bool) -> None:
    found, _ = find_recordings([folder / "deep"])
    crops = Crops(found, RATE, 500, in_memory=in_memory)
    batch = crops.draw(range(200))
    assert batch.shape == (200, 1, 500)
    starts = (batch[:, 0, 0] * 32768).round().int()
    expected = (starts.numpy()[:, None] + np.arange(500)) / 32768
    assert np.array_equal(batch[:, 0].numpy(), expected.astype(np.float32))
    assert starts.min() < -13000  # the whole recording is drawn from, evenly
    assert starts.max() > 12000
    assert abs(float(starts.float().mean()) + 250) < 2000
    again = crops.draw(range(200))
    assert np.array_equal(batch.numpy(), again.numpy())


def test_short_recordings_are_padded(folder: Path) -> None:
    found, _ = find_recordings([folder / "short.wav"])
    crop = Crops(found, RATE, 100).draw(range(1))[0, 0]
    assert (crop[:10] == 0.5).all()
    assert (crop[10:] == 0).all()


@pytest.mark.parametrize("in_memory", [False, True])
def test_other_rates_and_channels(tmp_path: Path, in_memory: bool) -> None:
    """A tone at 44.1 kHz in stereo is the same tone in mono at 24 kHz."""
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(88200) / 44100)
    soundfile.write(tmp_path / "tone.wav", np.stack([tone, tone], 1), 44100)
    found, _ = find_recordings([tmp_path])
    crop = Crops(found, 24000, 2400, in_memory=in_memory).draw(range(1))[0, 0].numpy()
    spectrum = np.abs(np.fft.rfft(crop * np.hanning(2400)))
    assert np.argmax(spectrum) == 44  # bins are 10 Hz apart
    assert np.abs(crop[200:-200]).max() == pytest.approx(0.5, abs=0.01)


def test_gain_is_drawn_between_its_bounds(folder: Path) -> None:
    found, _ = find_recordings([folder / "short.wav"])
    peaks = Crops(found, RATE, 5, gain_db=(-6, 0)).draw(range(300)).amax((1, 2))
    assert 0.25 < float(peaks.min()) < 0.27
    assert 0.48 < float(peaks.max()) <= 0.5
    loud = Crops(found, RATE, 5, gain_db=(20, 20)).draw(range(3))
    assert (loud == 1).all()  # never beyond full scale, where no codec follows
