"""Codecs and their programs: bytes, length, rate, alignment; how to install missing ones."""

import re
import sys

import numpy as np
import pytest

from opensnac.errors import OpensnacError
from opensnac.evaluation.codecs import Codec, amr, by_name
from opensnac.evaluation.codecs.base import run_program
from opensnac.evaluation.codecs.programs import Codec2, Opus, ogg_packet_sizes
from opensnac.evaluation.metrics import METRICS

RATE = 24_000


def ready(codec: Codec) -> Codec:
    if (reason := codec.missing()) is not None:
        pytest.skip(reason)
    return codec


@pytest.mark.parametrize(
    "name", ["original", "opus:6", "codec2:1200", "codec2:700C", "speex:6", "speex:12", "amrwb:6.6"]
)
@pytest.mark.parametrize(("rate", "num_samples"), [(24_000, 28_800), (16_000, 12_345), (44_100, 30_001)])
def test_audio_comes_back_at_the_same_length_and_rate(name, rate, num_samples, clip):
    signal = np.resize(clip, num_samples)
    coded = ready(by_name(name))(signal, rate)
    assert coded.audio.shape == signal.shape
    assert coded.audio.dtype == np.float32
    assert np.isfinite(coded.audio).all()
    assert np.abs(coded.audio).max() > 0.05


@pytest.mark.parametrize(
    "name", ["opus:6", "codec2:3200", "codec2:1200", "speex:4", "speex:8", "speex:12", "amrwb:6.6", "amrwb:23.85"]
)
def test_decoded_audio_is_aligned(name, clip):
    if (reason := METRICS["stoi"].missing()) is not None:
        pytest.skip(reason)
    decoded = ready(by_name(name))(clip, RATE).audio
    shifts = (-RATE // 100, 0, RATE // 100)  # 10 ms early, in place, 10 ms late
    scores = [METRICS["stoi"].measure(clip, np.roll(decoded, shift), RATE) for shift in shifts]
    assert np.argmax(scores) == 1, scores


def test_opus_returns_the_waveform_in_place(clip):
    decoded = ready(Opus("16"))(clip, RATE).audio
    correlation = np.correlate(decoded, clip, mode="full")
    assert abs(np.argmax(correlation) - (len(clip) - 1)) <= 2


@pytest.mark.parametrize("repeats", [1, 6])  # one Ogg page of audio, and two
def test_speex_returns_the_waveform_in_place(repeats, clip):
    signal = np.tile(clip, repeats)
    decoded = ready(by_name("speex:12"))(signal, RATE).audio
    lags = [np.dot(np.roll(decoded, -lag), signal) for lag in range(-400, 400)]
    assert abs(np.argmax(lags) - 400) <= 2


def test_opus_bytes_are_packets_and_the_file_is_larger(clip):
    coded = ready(Opus("16"))(clip, RATE)
    assert 12_000 < 8 * coded.num_bytes / (len(clip) / RATE) < 20_000
    assert coded.num_bytes + 100 < coded.file_bytes


def test_opus_encodes_music_with_the_option(clip):
    speech, music = (ready(by_name(name))(clip, RATE) for name in ("opus:16", "opus:16@music"))
    assert not np.array_equal(speech.audio, music.audio)
    assert by_name("opus:16@music").name == "opus:16@music"


def test_codec2_bytes_are_whole_frames(clip):
    coded = ready(Codec2("1200"))(clip, RATE)
    assert coded.num_bytes == 31 * 6  # 1.2 s and 20 ms of delay in frames of 40 ms and 48 bits
    assert coded.file_bytes == coded.num_bytes


def test_speex_bytes_are_at_most_the_rate_asked_for(clip):
    coded = ready(by_name("speex:8"))(clip, RATE)
    assert 6_000 < 8 * coded.num_bytes / (len(clip) / RATE) < 8_500  # a frame more than the clip fills
    assert coded.num_bytes + 100 < coded.file_bytes


def test_amr_wb_bytes_are_whole_frames(clip):
    coded = ready(by_name("amrwb:6.6"))(clip, RATE)
    assert coded.num_bytes == 61 * 18  # 1.2 s and the delay in frames of 20 ms: 132 bits and a header
    assert coded.file_bytes == coded.num_bytes + 9


def test_a_missing_library_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(amr, "ENCODER", "libno-such.so.0")
    line = "libno-such.so.0 not found; run: apt-get install libvo-amrwbenc0 libopencore-amrwb0"
    assert line in by_name("amrwb:6.6").missing().replace("libno-such.so.0, libopencore-amrwb.so.0", "libno-such.so.0")


def test_opensnac_counts_the_snac_file_and_shows_its_codes(model_folder, clip):
    codec = by_name(f"opensnac:{model_folder}")
    coded = codec(clip, RATE)
    frames = codec.model.config.num_frames(len(clip))
    assert coded.audio.shape == clip.shape
    assert [len(scale) for scale in coded.codes] == [frames // 4, frames // 2, frames]
    assert coded.codebook_size == 64
    payload = 6 * sum(len(scale) for scale in coded.codes) / 8
    assert payload < coded.num_bytes <= payload + 100
    assert coded.file_bytes == coded.num_bytes
    assert re.fullmatch(r"opensnac \S+, tiny [0-9a-f]{16}, backend (torch|c \w+), code [0-9a-f]{16}", codec.version())


def test_a_missing_model_is_reported():
    assert "got 'nowhere'" in by_name("opensnac:nowhere").missing()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("opus:6", "opusenc, opusdec not found; run: apt-get install opus-tools"),
        ("codec2:1200", "c2enc, c2dec not found; run: apt-get install codec2"),
        ("speex:6", "speexenc, speexdec not found; run: apt-get install speex"),
    ],
)
def test_a_missing_program_says_how_to_install_it(name, line, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert by_name(name).missing() == line


@pytest.mark.parametrize(
    "name",
    [
        "",
        "mp3",
        "opus",
        "opus:fast",
        "opus:6@noise",
        "codec2",
        "originals",
        "opensnac:",
        "lyra",
        "dac:big",
        "refined:0",
    ],
)
def test_an_unknown_codec_is_refused_with_the_known_forms(name):
    with pytest.raises(OpensnacError, match=f"expected a codec opensnac, .*opus:6.*codec2:1200.*, got {name!r}"):
        by_name(name)


def test_rates_that_a_codec_does_not_have_are_refused():
    with pytest.raises(OpensnacError, match="opus: expected a rate from 6 to 256 kb/s, as in opus:6, got 3"):
        by_name("opus:3")
    with pytest.raises(OpensnacError, match=r"codec2: expected a rate of 3200, .*700C, .* b/s, .* got 1000"):
        by_name("codec2:1000")
    with pytest.raises(OpensnacError, match="speex: expected a rate from 3.95 to 42.2 kb/s, as in speex:6, got 1"):
        by_name("speex:1")
    with pytest.raises(OpensnacError, match="amrwb: expected a rate of 6.6, .*, 23.85 kb/s, as in amrwb:6.6, got 7"):
        by_name("amrwb:7")
    with pytest.raises(OpensnacError, match="lyra: expected a rate of 3.2, 6, 9.2 kb/s, .* got 4"):
        by_name("lyra:4@folder")


def test_a_failing_program_is_quoted():
    script = "import sys; print('first', file=sys.stderr); sys.exit('no such voice')"
    with pytest.raises(OpensnacError, match="expected exit code 0, got 1: no such voice"):
        run_program([sys.executable, "-c", script])


@pytest.mark.skipif(sys.platform != "linux", reason="programs' memory is read from /proc")
def test_a_program_s_memory_excludes_its_parent():
    ballast = np.ones(40_000_000)  # 320 MB in this process, not the program's
    script = "import time; held = bytearray(50_000_000); time.sleep(0.1)"
    peak = run_program([sys.executable, "-S", "-c", script]).peak_bytes
    assert 50_000_000 < peak < 120_000_000 < ballast.nbytes


def ogg_page(segments: list[int]) -> bytes:
    return b"OggS" + bytes(22) + bytes([len(segments), *segments]) + bytes(sum(segments))


def test_ogg_packets_run_over_segments_and_pages():
    stream = ogg_page([255, 10, 3]) + ogg_page([7, 255]) + ogg_page([255, 0])
    assert ogg_packet_sizes(stream) == [265, 3, 7, 510]


def test_data_that_is_not_ogg_is_refused():
    with pytest.raises(OpensnacError, match="expected an Ogg page at byte 31 of 35"):
        ogg_packet_sizes(ogg_page([3]) + b"RIFF")
