"""Audio files round-trip, lengths are exact, bad files are refused with a clear message."""

from __future__ import annotations

import io
import os
import resource
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from opensnac.errors import AudioError
from opensnac.files import OutputFile, atomic_file
from opensnac.recordings import audio
from opensnac.recordings.remarks import RecordingWarning
from opensnac.recordings.sink import WRITABLE, _container
from opensnac.recordings.source import BLOCK_SAMPLES

# Container, subtype and the largest error of its coding.
FORMATS = {
    "u8.wav": ("WAV", "PCM_U8", 1 / 128),
    "s16.wav": ("WAV", "PCM_16", 1 / 32768),
    "s24.wav": ("WAV", "PCM_24", 1e-6),
    "float.wav": ("WAV", "FLOAT", 0.0),
    "double.wav": ("WAV", "DOUBLE", 1e-7),
    "s16.flac": ("FLAC", "PCM_16", 1 / 32768),
    "s24.flac": ("FLAC", "PCM_24", 1e-6),
    "vorbis.ogg": ("OGG", "VORBIS", 0.1),
    "opus.opus": ("OGG", "OPUS", 0.1),
    "layer3.mp3": ("MP3", "MPEG_LAYER_III", 0.1),
}
RATES = st.sampled_from([8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000])


def tone(num_samples: int, rate: int = 24000, channels: int = 1, hertz: float = 440.0) -> np.ndarray:
    """Float32 (channels, samples); each channel has a different level."""
    loudness = 0.5 / np.arange(1, channels + 1)[:, None]
    return (loudness * np.sin(2 * np.pi * hertz / rate * np.arange(num_samples))).astype(np.float32)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_every_format_gives_its_samples_and_rate(tmp_path: Path, name: str, channels: int) -> None:
    container, subtype, tolerance = FORMATS[name]
    if container == "MP3" and channels > 2:
        pytest.skip("MP3 has two channels at most")
    written = tone(24000, channels=channels)
    soundfile.write(tmp_path / name, written.T, 24000, subtype, format=container)
    samples, rate = audio.read(tmp_path / name)
    assert rate == 24000
    assert samples.dtype == np.float32
    assert samples.shape == written.shape
    assert np.abs(samples - written)[:, 2000:-2000].max() <= tolerance


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000])
def test_rates_round_trip(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1000, rate).T, rate)
    assert audio.read(tmp_path / "a.wav")[1] == rate


def test_a_long_file_is_read_block_by_block_without_seams(tmp_path: Path) -> None:
    written = np.random.default_rng(0).uniform(-1, 1, (2, 3 * BLOCK_SAMPLES + 7)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", written.T, 48000, "FLOAT")
    np.testing.assert_array_equal(audio.read(tmp_path / "a.wav")[0], written)


def test_floats_beyond_full_scale_are_read_as_they_are(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.float32([2.5, -3.0]), 8000, "FLOAT")
    assert audio.read(tmp_path / "a.wav")[0].tolist() == [[2.5, -3.0]]


def test_a_file_without_seeking_is_read_whole() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    content = io.BytesIO()
    soundfile.write(content, tone(500).T, 24000, format="WAV", subtype="FLOAT")
    np.testing.assert_array_equal(audio.read(Pipe(content.getvalue()))[0], tone(500))


def test_a_named_pipe_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    content = io.BytesIO()
    soundfile.write(content, tone(500).T, 24000, format="WAV", subtype="FLOAT")
    writer = threading.Thread(target=(tmp_path / "pipe.wav").write_bytes, args=(content.getvalue(),))
    writer.start()
    samples, _ = audio.read(tmp_path / "pipe.wav")
    writer.join()
    np.testing.assert_array_equal(samples, tone(500))


def test_a_streamed_wav_whose_length_was_never_filled_in_is_read() -> None:
    content = bytearray(_wav(tone(500)))
    content[4:8] = content[40:44] = b"\xff" * 4
    assert audio.read(io.BytesIO(content))[0].shape == (1, 500)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"expected audio, got an empty file \(0 bytes\)"),
        (b"just some text, named wav", "not readable as audio"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "not readable as audio"),
    ],
)
def test_files_without_audio_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(AudioError, match=f"a.wav: {message}"):
        audio.read(tmp_path / "a.wav")


def test_a_recording_without_samples_is_refused() -> None:
    with pytest.raises(AudioError, match="stream: expected at least one sample, got none"):
        audio.read(io.BytesIO(_wav(tone(0))))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_samples_are_refused(tmp_path: Path, bad: float) -> None:
    samples = tone(100)
    samples[0, 50] = bad
    soundfile.write(tmp_path / "a.wav", samples.T, 8000, "FLOAT")
    with pytest.raises(AudioError, match=r"a\.wav: expected finite samples, got NaN or infinity near 0; repair"):
        audio.read(tmp_path / "a.wav")


def test_a_header_that_claims_terabytes_allocates_none() -> None:
    content = io.BytesIO()
    soundfile.write(content, tone(5000).T, 16000, format="FLAC")
    forged = bytearray(content.getvalue())
    forged[21] |= 0x0F  # the upper bits of the 36 that hold the number of samples
    with pytest.warns(RecordingWarning, match="declares 64424514440 samples; 5000 are present"):
        assert audio.read(io.BytesIO(forged))[0].shape == (1, 5000)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_truncated_flac_is_refused(share: float) -> None:
    content = io.BytesIO()
    soundfile.write(content, tone(50_000).T, 16000, format="FLAC")
    with pytest.raises(AudioError, match="not readable as audio"):
        audio.read(io.BytesIO(content.getvalue()[: int(share * len(content.getvalue()))]))


def test_impossible_rates_are_refused() -> None:
    content = bytearray(_wav(tone(100)))
    content[24:28] = struct.pack("<I", 7)
    with pytest.raises(AudioError, match="expected a rate of 1000 to 768000 Hz, got 7 Hz"):
        audio.read(io.BytesIO(content))


def test_headerless_samples_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    with pytest.raises(AudioError, match="expected a rate for headerless samples"):
        audio.read(tmp_path / "a.raw")


@pytest.mark.parametrize("name", ["missing.wav", "."])
def test_files_that_cannot_be_opened_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(AudioError, match=r"cannot be read: (No such file|Is a directory)"):
        audio.read(tmp_path / name)


@pytest.mark.parametrize("ending", WRITABLE)
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("num_samples", [1, 1000, 100_000])
def test_writing_keeps_length_rate_and_channels(tmp_path: Path, ending: str, channels: int, num_samples: int) -> None:
    path, rate = tmp_path / f"a{ending.upper()}", 48000 if ending == ".opus" else 44100
    audio.write(path, tone(num_samples, rate, channels), rate)
    samples, came = audio.read(path)
    assert (samples.shape, came) == ((channels, num_samples), rate)
    if ending in (".wav", ".flac"):
        assert np.abs(samples - tone(num_samples, rate, channels)).max() <= 1 / 32768


def test_minutes_of_ogg_do_not_overflow_the_stack() -> None:
    """As they would if libsndfile got them at once."""
    target = io.BytesIO()
    audio.write(target, np.zeros((1, 8000 * 600), np.float32), 8000, ".ogg")
    assert soundfile.info(io.BytesIO(target.getvalue())).frames == 8000 * 600


def test_samples_beyond_full_scale_are_clipped_and_never_wrap() -> None:
    target = io.BytesIO()
    audio.write(target, np.float32([[1.5, -1.5, 1.0, -1.0, 0.0]]), 8000)
    samples, _ = soundfile.read(io.BytesIO(target.getvalue()), dtype="int16")
    assert samples.tolist() == [32767, -32768, 32767, -32768, 0]


@pytest.mark.parametrize("name", ["a.mp3", "a.oga", "a.wave", "a", "a.txt"])
def test_unknown_endings_are_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(AudioError, match=r"expected a name that ends in \.wav, \.flac, \.ogg"):
        audio.write(tmp_path / name, tone(10), 8000)
    assert list(tmp_path.iterdir()) == []


def test_samples_a_format_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"FLAC cannot hold 9 channels at 8000 Hz .*use another of \.wav"):
        audio.write(tmp_path / "a.flac", tone(10, channels=9), 8000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(10,), (1, 0), (1, 1, 10)])
def test_audio_of_another_shape_is_not_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(AudioError, match=r"expected audio of shape \(channels, samples\), got"):
        audio.write(tmp_path / "a.wav", np.zeros(shape, np.float32), 8000)


def test_a_failure_midway_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    samples = np.zeros((1, 3 * BLOCK_SAMPLES), np.float32)
    samples[0, -1] = np.nan  # found in the third block, when two are written
    (tmp_path / "a.wav").write_text("older")
    with pytest.raises(AudioError, match="expected finite samples, got NaN or infinity near 131072"):
        audio.write(tmp_path / "a.wav", samples, 8000, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_text() == "older"


@contextmanager
def small_disk() -> Iterator[None]:
    """No file may grow beyond 4,096 bytes, as on a full disk; briefly, as pytest may write its own log there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("ending", WRITABLE)
@pytest.mark.parametrize("num_samples", [5000, 200_000])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, ending: str, num_samples: int) -> None:
    num_samples *= 10 if ending == ".opus" else 1  # with fewer bits
    noise = np.random.default_rng(0).uniform(-1, 1, (1, num_samples)).astype(np.float32)
    with pytest.raises(OSError, match="File too large") as raised, small_disk():
        audio.write(tmp_path / f"a{ending}", noise, 24000)
    assert raised.value.filename == str(tmp_path / f"a{ending}")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_for_bytes_too(tmp_path: Path) -> None:
    def fill() -> None:
        with atomic_file(tmp_path / "a.snac") as path, OutputFile(path, tmp_path / "a.snac") as file:
            file.write(bytes(5000))

    with pytest.raises(OSError, match="File too large") as raised, small_disk():
        fill()
    assert raised.value.filename == str(tmp_path / "a.snac")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(OutputFile, "__init__", lambda self, path, shown: refuse(path))
    with pytest.raises(PermissionError) as raised:
        audio.write(tmp_path / "a.wav", tone(10), 8000)
    assert raised.value.filename == str(tmp_path / "a.wav")


@pytest.mark.parametrize("name", [255 * "x", 127 * "é" + "x", 61 * "𝒜" + "x.snac", "caf\udce9.snac"])
def test_long_and_odd_names_are_written(tmp_path: Path, name: str) -> None:
    with atomic_file(tmp_path / name) as path:
        assert len(os.fsencode(path.name)) <= 100
        path.write_bytes(b"content")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_wav_beyond_four_gigabytes_becomes_rf64() -> None:
    assert _container(".wav", 6 * 360_000_000) == ("RF64", "PCM_16")
    assert _container(".wav", 360_000_000) == ("WAV", "PCM_16")


@given(num_samples=st.integers(1, 5000), there=RATES, back=RATES, channels=st.integers(1, 3))
@settings(max_examples=150)
def test_resampling_there_and_back_has_exact_lengths(num_samples: int, there: int, back: int, channels: int) -> None:
    samples = tone(num_samples, back, channels)
    coded = audio.resample(samples, back, there)
    assert coded.shape == (channels, -(-num_samples * there // back))
    assert audio.resample(coded, there, back, num_samples).shape == samples.shape
    assert coded.dtype == np.float32


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 44100, 48000, 96000])
def test_resampling_keeps_the_phase_of_a_tone(rate: int) -> None:
    resampled = audio.resample(tone(rate, rate, 2, hertz=997), rate, 24000)
    expected = tone(24000, 24000, 2, hertz=997)
    assert np.abs(resampled - expected)[:, 500:-500].max() < 1e-4


def test_resampling_removes_what_the_lower_rate_cannot_hold() -> None:
    aliased = audio.resample(tone(48000, 48000, hertz=15000), 48000, 24000)
    assert np.abs(aliased[:, 500:-500]).max() < 1e-4


def test_resampling_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.random.default_rng(0).normal(size=(2, 10_000)).astype(np.float32)
    whole = audio.resample(samples, 44100, 24000)
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 777)
    np.testing.assert_allclose(audio.resample(samples, 44100, 24000), whole, atol=1e-6)


@pytest.mark.parametrize("rates", [(8000, 24000), (24000, 24000), (96000, 24000)])
def test_a_longer_result_than_the_input_ends_in_silence(rates: tuple[int, int]) -> None:
    resampled = audio.resample(tone(9600, rates[0]), *rates, num_samples=100_000)
    assert resampled.shape == (1, 100_000)
    assert not resampled[:, 40_000:].any()


def test_silence_stays_silence() -> None:
    assert not audio.resample(np.zeros((1, 44100), np.float32), 44100, 24000).any()


def test_an_atomic_file_appears_at_its_end(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.bin"
    with atomic_file(target) as path:
        path.write_bytes(b"content")
        assert not target.exists()
    assert target.read_bytes() == b"content"
    assert list(target.parent.iterdir()) == [target]


def test_an_atomic_file_does_not_replace_without_force(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"older")
    with pytest.raises(FileExistsError, match=r"a\.bin: exists; --force replaces it"), atomic_file(target):
        pytest.fail("the block must not run")
    with atomic_file(target, force=True) as path:
        path.write_bytes(b"newer")
    assert target.read_bytes() == b"newer"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    with pytest.raises(FileExistsError, match="exists"), atomic_file(target) as path:
        _ = path.write_bytes(b"ours"), target.write_bytes(b"theirs")
    assert target.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"older")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_file(tmp_path / "link", force=True) as path:
        path.write_bytes(b"newer")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"newer"


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_or_device_is_never_replaced(tmp_path: Path, force: bool) -> None:
    for target in (tmp_path, Path(os.devnull)):
        with pytest.raises(FileExistsError, match="is not a regular file"), atomic_file(target, force):
            pytest.fail("the block must not run")


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_file(tmp_path / "a.bin") as path:
            path.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def _wav(samples: np.ndarray) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples.T, 24000, format="WAV", subtype="PCM_16")
    return content.getvalue()
