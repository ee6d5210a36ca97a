"""Crops are pieces of the recordings, drawn evenly, and the same for the same generator."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from opensnac.errors import AudioError
from opensnac.recordings.remarks import RecordingWarning
from opensnac.training.augment import add_at, at_speed, augment, low_pass
from opensnac.training.config import AugmentConfig, Source
from opensnac.training.data import CODEBOOKS, Crops, read_ahead
from opensnac.training.sources import find_recordings, report_broken

RATE = 8000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ramp in 16 bits, whose samples encode their position, and files that are not recordings."""
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
    """A truncated FLAC and a WAV with NaN can be opened; reading them fails."""
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
    with pytest.raises(AudioError, match="expected readable recordings"):
        Crops([r for r in found if "good" not in r.place.path.name], RATE, 16000, in_memory=in_memory).draw(range(1))


def test_manifests_and_single_files(folder: Path) -> None:
    (folder / "list.csv").write_text("path,speaker\nshort.wav,a\nmissing.wav,b\n")
    found, broken = find_recordings([folder / "list.csv", folder / "deep" / "ramp.flac"])
    assert sorted(recording.place.path.name for recording in found) == ["ramp.flac", "short.wav"]
    assert "missing.wav" in broken[0]
    (folder / "list.csv").write_bytes(
        "\ufeffpath\nshort.wav\n".encode()
    )  # with a byte order mark, as spreadsheets save it
    assert len(find_recordings([folder / "list.csv"])[0]) == 1
    (folder / "list.csv").write_text("speaker,path\na,short.wav\nb\n")
    with pytest.raises(AudioError, match="row 2: expected a path"):
        find_recordings([folder / "list.csv"])
    (folder / "wrong.csv").write_text("file\nshort.wav\n")
    with pytest.raises(AudioError, match="expected a column `path`, got columns file"):
        find_recordings([folder / "wrong.csv"])
    with pytest.raises(AudioError, match="nowhere: expected"):
        find_recordings([folder / "nowhere"])
    with pytest.raises(AudioError, match="expected readable recordings"):
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


def test_recordings_are_decoded_once_for_consecutive_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = find_recordings([folder / "deep"])
    first = Crops(found, RATE, 500, in_memory=True).draw(range(3))
    with monkeypatch.context() as without_reading:
        without_reading.setattr("opensnac.training.data.read_mono", None)
        assert torch.equal(Crops(found, RATE, 500, in_memory=True).draw(range(3)), first)
    other_rate = Crops(found, RATE // 2, 500, in_memory=True)
    assert other_rate.draw(range(1)).shape == (1, 1, 500)
    assert sum(r.num_samples for r in found) > sum(len(samples) for samples in other_rate._decoded)


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


def test_globs_jsonl_and_shards(folder: Path) -> None:
    """Members of a tar shard are read in place: other files and labels are ignored."""
    with tarfile.open(folder / "shard-000.tar", "w") as shard:
        for name, file in (("0001.flac", "deep/ramp.flac"), ("0002.wav", "short.wav"), ("0003.wav", "broken.wav")):
            shard.add(folder / file, name)
            (folder / "label.json").write_text("{}")
            shard.add(folder / "label.json", name.split(".")[0] + ".json")
    (folder / "list.jsonl").write_text('{"path": "deep/ramp.flac", "text": "ah"}\n\n{"path": "short.wav"}\n')
    for source in (folder / "list.jsonl", folder / "**/*[pt].[fw]*", folder / "shard-*.tar"):
        found, broken = find_recordings([str(source)])
        assert sorted(recording.num_samples for recording in found) == [10, 32000]
        assert len(broken) == source.name.endswith(".tar")
        whole = next(recording for recording in found if recording.num_samples == 32000)
        batch = Crops([whole], RATE, 500).draw(range(20))
        starts = (batch[:, 0, :1] * 32768).round()
        assert torch.equal(batch[:, 0] * 32768, starts + torch.arange(500))
    (folder / "list.jsonl").write_text('{"file": "short.wav"}\n')
    with pytest.raises(AudioError, match="expected a column `path`, got columns file"):
        find_recordings([folder / "list.jsonl"])
    (folder / "list.jsonl").write_text('{"path": ')
    with pytest.raises(AudioError, match="expected JSONL text in UTF-8"):
        find_recordings([folder / "list.jsonl"])
    with pytest.raises(AudioError, match=r"none\*\.wav: expected a folder, an audio file, a glob"):
        find_recordings([str(folder / "none*.wav")])


def test_damaged_shards_are_listed(folder: Path) -> None:
    with tarfile.open(folder / "cut.tar", "w") as shard:
        shard.add(folder / "short.wav", "a.wav")
        shard.add(folder / "deep" / "ramp.flac", "b.flac")
    (folder / "cut.tar").write_bytes((folder / "cut.tar").read_bytes()[:3000])
    (folder / "noise.tar").write_bytes(b"\x01" * 2000)
    found, broken = find_recordings([folder / "cut.tar", folder / "noise.tar"])
    assert [recording.place.member for recording in found if recording.num_samples == 10] == ["a.wav"]
    assert any("noise.tar: expected an uncompressed tar" in line for line in broken)


def test_weights_multiply_hours(tmp_path: Path) -> None:
    """Two sources of equal length, one with weight 4: four crops of five are its own."""
    for name, value in (("a", 0.25), ("b", 0.5)):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "x.wav", np.full(8000, value), RATE)
    found, _ = find_recordings([Source(str(tmp_path / "a")), Source(str(tmp_path / "b"), weight=4.0)])
    crops = Crops(found, RATE, 100)
    assert crops.seconds == 2.0
    share = float((crops.draw(range(1000)).amax((1, 2)) == 0.5).float().mean())
    assert share == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_nth_batch_does_not_depend_on_workers(folder: Path, workers: int) -> None:
    found, _ = find_recordings([folder / "deep"])
    crops = Crops(found, RATE, 500, seed=3, gain_db=(-6, 0), augmentation=AugmentConfig(noise=0.5, mix=0.5))
    batches = [batch for batch, _ in read_ahead(crops, 4, range(2, 4), range(5, 8), workers, pin_memory=False)]
    assert len(batches) == 3
    for step, batch in zip(range(5, 8), batches, strict=True):
        assert torch.equal(batch, crops.draw([4 * step + 2, 4 * step + 3]))
    assert not torch.equal(crops.draw([1]), crops.draw([1], CODEBOOKS))
    assert not torch.equal(crops.draw([1]), Crops(found, RATE, 500, seed=4).draw([1]))


def test_recordings_that_workers_find_broken_are_reported(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", np.full(16000, 0.5), RATE)
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan), RATE, subtype="FLOAT")
    crops = Crops(find_recordings([tmp_path])[0], RATE, 1000)
    lines = [line for _, broken in read_ahead(crops, 4, range(4), range(4), 2, False) for line in broken]
    assert any("nan.wav: NaN" in line for line in lines)


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_speed_moves_pitch_and_time_together(tmp_path: Path, speed: float, in_memory: bool) -> None:
    time = np.arange(4 * RATE) / RATE
    soundfile.write(tmp_path / "chirp.wav", 0.5 * np.sin(2 * np.pi * (400 * time + 50 * time**2)), RATE)
    augmentation = AugmentConfig(speed=1, speed_range=(speed, speed))
    found = find_recordings([tmp_path])[0]
    for crop in Crops(found, RATE, RATE, augmentation=augmentation, in_memory=in_memory).draw(range(5))[:, 0].numpy():
        assert len(crop) == RATE
        ups = np.flatnonzero((crop[:-1] < 0) & (crop[1:] >= 0))
        pitch = RATE / np.diff(ups)
        climb = np.polyfit(ups[1:] / RATE, pitch, 1)[0]
        assert climb == pytest.approx(100 * speed**2, rel=0.15)  # Hz per second: higher by the speed, in less time
    assert at_speed(np.ones(800, np.float32), 0.8, 1000).shape == (1000,)


def test_each_augmentation() -> None:
    rng, time = np.random.default_rng(0), np.arange(RATE) / RATE
    low, high = (np.sin(2 * np.pi * f * time).astype(np.float32) for f in (500, 3000))

    def level(clip: np.ndarray, hertz: int) -> float:
        return float(np.abs(np.fft.rfft(clip))[hertz] * 2 / RATE)

    def through(config: AugmentConfig) -> np.ndarray:
        return augment(low + high, lambda: high, RATE, config, rng)

    assert np.array_equal(through(AugmentConfig()), low + high)
    dull = through(AugmentConfig(band_limit=1, band_limit_hz=(1500, 1500)))
    assert level(dull, 500) == pytest.approx(1, abs=1e-3)
    assert level(dull, 3000) < 0.01
    assert level(low_pass(low, RATE, 500), 500) == pytest.approx(np.sqrt(0.5), abs=1e-3)
    noisy = through(AugmentConfig(noise=1, noise_snr_db=(20, 20))) - low - high
    assert np.sqrt(np.mean(noisy**2)) == pytest.approx(0.1, rel=0.05)
    mixed = through(AugmentConfig(mix=1, mix_snr_db=(6, 6)))
    assert level(mixed, 3000) == pytest.approx(1 + np.sqrt(2) * 10 ** (-6 / 20), rel=1e-3)
    assert np.array_equal(add_at(low, np.zeros_like(low), 0.0), low)


def test_concatenated_and_miscounted_recordings_are_drawn_from_completely(tmp_path: Path) -> None:
    """As the command line reads them: no part is skipped silently."""
    ramp = np.arange(-16000, 16000, dtype=np.int16)
    for name, half in (("1", ramp[:16000]), ("2", ramp[16000:])):
        soundfile.write(tmp_path / name, half, RATE, format="FLAC")
    (tmp_path / "both.flac").write_bytes((tmp_path / "1").read_bytes() + (tmp_path / "2").read_bytes())
    soundfile.write(tmp_path / "crashed.wav", ramp, RATE)
    content = (tmp_path / "crashed.wav").read_bytes()
    (tmp_path / "crashed.wav").write_bytes(content[:40] + bytes(4) + content[44:])
    with pytest.warns(RecordingWarning, match=r"crashed\.wav: its header was never completed"):
        found, broken = find_recordings([tmp_path / "*.*"])
    assert broken == []
    assert [recording.num_samples for recording in found] == [32000, 32000]
    for in_memory in (False, True):
        for recording in found:
            batch = Crops([recording], RATE, 500, in_memory=in_memory).draw(range(200))
            starts = (batch[:, 0, 0] * 32768).round()
            np.testing.assert_array_equal(batch[:, 0], (starts[:, None] + torch.arange(500)) / 32768)
            assert starts.min() < -13000
            assert starts.max() > 12000


def test_other_files_in_a_folder_are_reported(folder: Path) -> None:
    (folder / "cover.jpg").touch()
    (folder / ".hidden.wav").touch()
    (folder / "gone.wav").symlink_to("nowhere")
    _, broken = find_recordings([folder])
    assert [line for line in broken if "broken.wav" not in line] == [
        f"hidden: {folder / '.hidden.wav'}",
        f"another extension: {folder / 'cover.jpg'}",
        f"a broken link: {folder / 'gone.wav'}",
    ]
