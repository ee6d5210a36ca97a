"""A recording becomes a `.snac` file and, by the same model only, a recording of the same length again."""

from __future__ import annotations

import io
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opensnac import SNAC, bitstream
from opensnac.bitstream import Limits
from opensnac.errors import AudioError, BitstreamError, LimitError, ModelError, ModelMismatchError
from opensnac.recordings import audio, model_cache, transcode
from opensnac.streaming import StreamDecoder

TINY = {
    "sampling_rate": 24000,
    "encoder_dim": 2,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 16,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "codebook_size": 4096,
    "codebook_dim": 8,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small model with random weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    SNAC(**TINY).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> SNAC:
    return model_cache.ModelCache(folder).get()


def speech(num_samples: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Float32 (channels, samples) of noise of varying loudness, without repetition."""
    noise = np.random.default_rng(seed).normal(size=(channels, num_samples))
    return (0.3 * noise * np.sin(np.arange(num_samples) / 999)).clip(-1, 1).astype(np.float32)


def coded(samples: np.ndarray, rate: int, model: SNAC, **options: bool) -> bytes:
    source, target = io.BytesIO(), io.BytesIO()
    soundfile.write(source, samples.T, rate, "FLOAT", format="WAV")
    source.seek(0)
    transcode.encode_file(source, target, model, **options)
    return target.getvalue()


def decoded(stream: bytes, model: SNAC, **options: object) -> tuple[np.ndarray, int]:
    target = io.BytesIO()
    transcode.decode_file(io.BytesIO(stream), target, model, **options)  # type: ignore[arg-type]
    return audio.read(io.BytesIO(target.getvalue()))


@given(
    num_samples=st.integers(1, 9000),
    rate=st.sampled_from([8000, 11025, 16000, 24000, 44100, 48000, 96000]),
    channels=st.integers(1, 2),
)
@settings(max_examples=25)
def test_the_length_round_trips_exactly(model: SNAC, num_samples: int, rate: int, channels: int) -> None:
    samples, back = decoded(coded(speech(num_samples, channels), rate, model), model)
    assert (samples.shape, back) == ((channels, num_samples), rate)


@pytest.mark.parametrize("rate", [8000, 24000, 44100, 96000])
def test_a_chosen_rate_gives_the_length_in_proportion_rounded_up(model: SNAC, rate: int) -> None:
    samples, back = decoded(coded(speech(10_001), 22050, model), model, sample_rate=rate)
    assert (samples.shape, back) == ((1, -(-10_001 * rate // 22050)), rate)


@pytest.mark.parametrize("num_samples", [1, 24000])
def test_silence_round_trips(model: SNAC, num_samples: int) -> None:
    silence = np.zeros((2, num_samples), np.float32)
    assert decoded(coded(silence, 24000, model), model)[0].shape == (2, num_samples)


def test_channels_are_encoded_independently(model: SNAC) -> None:
    samples = speech(150_000, channels=2)  # longer than one of the model's pieces
    recording = bitstream.read(io.BytesIO(coded(samples, 24000, model)))
    assert recording.header == transcode.header_for(model, 2, 24000)
    with torch.inference_mode():
        together = model.encode(torch.from_numpy(samples)[:, None])
    for scale, expected in zip(recording.codes, together, strict=True):
        np.testing.assert_array_equal(scale, expected.numpy())


def test_decoding_equals_the_model(model: SNAC) -> None:
    stream = coded(speech(30_000, channels=2), 24000, model)
    codes = [torch.from_numpy(scale) for scale in bitstream.read(io.BytesIO(stream)).codes]
    for options in ({"seed": 7, "noise": True}, {"noise": False}):
        with torch.inference_mode():
            expected = model.decode(codes, 30_000, **options)[:, 0].numpy()  # type: ignore[arg-type]
        np.testing.assert_allclose(decoded(stream, model, **options)[0], expected, atol=1 / 32768 + 1e-5)


def test_the_seed_decides_the_noise(model: SNAC) -> None:
    stream = coded(speech(5000), 24000, model)
    same, again, other = (decoded(stream, model, seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(same, again)
    assert (same != other).any()


def test_mono_is_the_mean_of_the_channels(model: SNAC) -> None:
    stereo = speech(5000, channels=2)
    mixed = coded(stereo, 24000, model, mono=True)
    assert mixed == coded(stereo.mean(axis=0, keepdims=True), 24000, model)
    assert decoded(mixed, model)[0].shape == (1, 5000)


def test_samples_beyond_full_scale_are_clipped(model: SNAC) -> None:
    loud = 20 * speech(5000)
    assert coded(loud, 24000, model) == coded(loud.clip(-1, 1), 24000, model)


def test_another_models_file_is_refused_by_both_names(model: SNAC) -> None:
    torch.manual_seed(1)
    other = SNAC(**TINY).eval()
    other.name = "other"
    ours, theirs = model.fingerprint[:16], other.fingerprint[:16]
    with pytest.raises(ModelMismatchError, match=rf"stream: .*'tiny' .*{ours}.*'other' .*{theirs}.*--model"):
        decoded(coded(speech(100), 24000, model), other)


def test_a_forged_layout_is_refused(model: SNAC) -> None:
    header = replace(transcode.header_for(model, 1, 24000), hop_length=256)
    with pytest.raises(ModelMismatchError, match=r"hop_length: expected 512, as its model 'tiny' .* has, got 256"):
        transcode.check_model(header, model)


class AskedError(Exception):
    """A model was asked for."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, dict[str, object]]]:
    """Records which models were to be loaded, and how, without loading any."""
    calls: list[tuple[object, dict[str, object]]] = []

    def load(name: object, **options: object) -> None:
        calls.append((name, options))
        raise AskedError

    monkeypatch.setattr(SNAC, "from_pretrained", load)
    return calls


@pytest.mark.parametrize("name", ["speech_24khz_small", "speech_24khz_tiny"])
def test_a_bundled_model_is_found_by_name(model: SNAC, asked: list[object], name: str) -> None:
    header = replace(transcode.header_for(model, 1, 24000), model_name=name)
    with pytest.raises(AskedError):
        model_cache.ModelCache().for_header(header)
    assert asked == [(name, {})]


def test_an_untrusted_name_downloads_nothing(model: SNAC, asked: list[object]) -> None:
    header = replace(transcode.header_for(model, 1, 24000), model_name="stranger/model")
    with pytest.raises(AskedError):
        model_cache.ModelCache().for_header(header)
    assert asked == [("stranger/model", {"local_files_only": True})]


@pytest.mark.parametrize("trusted", ["stranger/model", "stranger/*"])
def test_a_trusted_name_may_be_downloaded(model: SNAC, asked: list[object], trusted: str) -> None:
    header = replace(transcode.header_for(model, 1, 24000), model_name="stranger/model")
    with pytest.raises(AskedError):
        model_cache.ModelCache(trusted=["someone/else", trusted]).for_header(header)
    assert asked == [("stranger/model", {})]


@pytest.mark.parametrize("name", ["tiny", "./tiny", "models/tiny", "../tiny", "/tmp/tiny", "~/tiny", "a/b/c", "a/.."])
@pytest.mark.parametrize("trusted", [(), ("*",)])
def test_an_untrusted_name_opens_no_folder(
    folder: Path, model: SNAC, asked: list[object], monkeypatch: pytest.MonkeyPatch, name: str, trusted: tuple[str, ...]
) -> None:
    """Not even if a folder of that name exists and all hub ids are trusted."""
    (folder.parent / "models").mkdir(exist_ok=True)
    if not (folder.parent / "models/tiny").exists():
        (folder.parent / "models/tiny").symlink_to(folder)
    monkeypatch.chdir(folder.parent)
    header = replace(transcode.header_for(model, 1, 24000), model_name=name)
    with pytest.raises(ModelError, match="give its folder or hub id with --model"):
        model_cache.ModelCache(trusted=trusted).for_header(header)
    assert asked == []


def test_a_missing_model_is_named_with_a_remedy(model: SNAC) -> None:
    header = replace(transcode.header_for(model, 1, 24000), model_name="nowhere")
    with pytest.raises(ModelError, match=f"expected the model 'nowhere' .*{header.weights_hash}.*with --model"):
        model_cache.ModelCache().for_header(header)


def test_a_cache_loads_a_model_once_for_all_threads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    load = SNAC.from_pretrained
    monkeypatch.setattr(SNAC, "from_pretrained", lambda name: loads.append(name) or load(name))
    models = model_cache.ModelCache(folder)
    threads = [threading.Thread(target=models.get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == [folder]


def test_salvage_keeps_what_precedes_the_damage(model: SNAC, tmp_path: Path) -> None:
    intact = coded(speech(24000 * 12), 24000, model)
    stream = bytearray(intact)
    stream[-300] ^= 0x40
    with pytest.raises(BitstreamError, match=r"stream: packet .* is corrupt.*--salvage"):
        decoded(bytes(stream), model)
    whole = decoded(intact, model)[0]
    (tmp_path / "a.snac").write_bytes(stream)
    result = transcode.decode_file(tmp_path / "a.snac", tmp_path / "a.wav", model, salvage=True)
    kept, _ = audio.read(tmp_path / "a.wav")
    assert result.damage is not None
    assert 24000 * 5 < kept.shape[1] == round(result.seconds * 24000) < whole.shape[1]
    reached = kept.shape[1] - 11 * 512  # later samples depend on lost frames
    np.testing.assert_allclose(kept[:, :reached], whole[:, :reached], atol=1 / 32768 + 1e-5)


def test_a_stream_of_no_samples_is_refused(model: SNAC) -> None:
    target = io.BytesIO()
    none = [np.zeros((1, 0), np.int64)] * 3
    bitstream.write(target, transcode.header_for(model, 1, 24000), none, 0)
    with pytest.raises(BitstreamError, match="expected at least one sample to decode, got none"):
        decoded(target.getvalue(), model)


def test_too_many_channels_are_refused_with_a_remedy(model: SNAC) -> None:
    with pytest.raises(AudioError, match="expected at most 255 channels, got 256; mix down with --mono"):
        coded(np.zeros((256, 10), np.float32), 24000, model)
    assert decoded(coded(np.zeros((256, 10), np.float32), 24000, model, mono=True), model)[0].shape == (1, 10)


def test_impossible_rates_are_refused(model: SNAC) -> None:
    with pytest.raises(AudioError, match="decoding: expected a rate of 1000 to 768000 Hz, got 10"):
        decoded(coded(speech(100), 24000, model), model, sample_rate=10)


def test_an_existing_output_is_kept_without_any_work(model: SNAC, tmp_path: Path) -> None:
    existing = tmp_path / "a.snac"
    existing.write_text("older")
    with pytest.raises(FileExistsError, match="exists; --force replaces it"):
        transcode.encode_file(tmp_path / "missing.wav", existing, model)
    with pytest.raises(FileExistsError, match="exists; --force replaces it"):
        transcode.decode_file(tmp_path / "missing.snac", existing, model, ending=".wav")
    assert existing.read_text() == "older"


def test_progress_rises_to_its_end_and_can_stop_the_work(model: SNAC, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speech(24000 * 9, channels=2).T, 24000)
    encoded: list[float] = []
    decoded: list[float] = []
    transcode.encode_file(tmp_path / "a.wav", tmp_path / "a.snac", model, report=encoded.append)
    transcode.decode_file(tmp_path / "a.snac", tmp_path / "b.wav", model, report=decoded.append)
    for shares in (encoded, decoded):
        assert len(shares) > 3  # several reports before the end, so that an interrupt is heard
        assert shares == sorted(shares)
        assert shares[-1] == 1

    def stop(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transcode.decode_file(tmp_path / "a.snac", tmp_path / "c.wav", model, report=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.snac", "a.wav", "b.wav"]


def test_threads_share_the_cores() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    seen = []
    with model_cache.shared_cores(2):
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    assert seen == [2]
    assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


class Watched(io.BytesIO):
    """A stream that records the target's progress at each read."""

    def __init__(self, data: bytes, target: io.BytesIO) -> None:
        super().__init__(data)
        self.target = target
        self.progress: list[tuple[int, int]] = []

    def read(self, size: int | None = -1) -> bytes:
        self.progress.append((self.tell(), len(self.target.getbuffer())))
        return super().read(size)

    read1 = read


def test_memory_stays_constant(model: SNAC) -> None:
    """While seconds are read, input of a few before is already written, in both directions."""
    stream, sound = io.BytesIO(), io.BytesIO()
    samples = (20000 * speech(12 * 24000)[0]).astype("<i2").tobytes()
    source = Watched(samples, stream)
    transcode.encode_file(source, stream, model, raw=(24000, 1), live=True)
    coded_bytes = len(stream.getvalue())
    lag = max(read / len(samples) - written / coded_bytes for read, written in source.progress)
    assert lag * 12 < 3.5  # seconds: a block of samples, and the look-ahead
    coded = Watched(stream.getvalue(), sound)
    transcode.decode_file(coded, sound, model, ending=".raw")
    assert len(sound.getvalue()) == len(samples)
    lag = max(read / coded_bytes - written / len(samples) for read, written in coded.progress)
    assert lag * 12 < 1.0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(channels=1), "a: expected at most 1 channel, got 2"),
        (Limits(rates=(8000, 16000)), "a: expected rates of 8000 to 16000 Hz, got 24000 Hz"),
        (Limits(seconds=0.9), r"a: expected at most 0\.9 s of audio, got 1\.024 s"),
        (Limits(packet_frames=8), "a: expected packets of at most 8 coarse frames, got 12"),
        (Limits(packet_seconds=0), "a: expected the header within 0 s"),
    ],
)
def test_a_stream_beyond_the_limits_is_not_decoded(model: SNAC, tmp_path: Path, limits: Limits, message: str) -> None:
    (tmp_path / "a").write_bytes(coded(speech(24000, channels=2), 24000, model))
    transcode.decode_file(tmp_path / "a", tmp_path / "b.wav", model, limits=Limits())
    with pytest.raises(LimitError, match=message):
        transcode.decode_file(tmp_path / "a", tmp_path / "c.wav", model, limits=limits, salvage=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b.wav"]


def test_decoding_a_packet_has_a_time_limit(model: SNAC, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = coded(speech(24000), 24000, model)
    push = StreamDecoder.push

    def slow(self: StreamDecoder, *arguments: object) -> object:
        time.sleep(0.06)
        return push(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(StreamDecoder, "push", slow)
    with pytest.raises(LimitError, match=r"stream: expected packet 1 decoded within 0\.05 s"):
        transcode.decode_file(io.BytesIO(stream), io.BytesIO(), model, limits=Limits(packet_seconds=0.05))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(channels=1), "a.wav: expected at most 1 channel, got 2"),
        (Limits(rates=(8000, 16000)), "a.wav: expected rates of 8000 to 16000 Hz, got 24000 Hz"),
        (Limits(seconds=0.9), r"a.wav: expected at most 0\.9 s of audio, got 1\.000 s"),
        (Limits(file_bytes=90_000), "a.wav: expected a file of at most 90000 bytes, got 96044"),
    ],
)
def test_a_recording_beyond_the_limits_is_not_encoded(
    model: SNAC, tmp_path: Path, limits: Limits, message: str
) -> None:
    soundfile.write(tmp_path / "a.wav", speech(24000, channels=2).T, 24000)
    transcode.encode_file(tmp_path / "a.wav", tmp_path / "b.snac", model, limits=Limits())
    with pytest.raises(LimitError, match=message):
        transcode.encode_file(tmp_path / "a.wav", tmp_path / "c.snac", model, limits=limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.snac"]


def test_a_pipe_is_spooled_up_to_the_limits(model: SNAC) -> None:
    class Endless(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            self.given += len(buffer)
            return len(buffer)

    pipe = Endless()
    with pytest.raises(LimitError, match="expected a file of at most 1000000 bytes"):
        transcode.encode_file(io.BufferedReader(pipe), io.BytesIO(), model, limits=Limits(file_bytes=1_000_000))
    assert pipe.given < 1_200_000


def test_raw_samples_are_read_up_to_the_limits(model: SNAC) -> None:
    raw = io.BytesIO(bytes(2 * 24000 * 3))
    with pytest.raises(LimitError, match=r"stream: expected at most 2 s of audio, got 2\.\d+ s|got 3\.000 s"):
        transcode.encode_file(raw, io.BytesIO(), model, raw=(24000, 1), limits=Limits(seconds=2))
