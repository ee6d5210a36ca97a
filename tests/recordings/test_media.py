"""Reading with PyAV: without the encoder's delay and padding, with exact length, and no playlists."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest

from opensnac.errors import AudioError
from opensnac.recordings import audio, media
from opensnac.recordings.source import Source

av = pytest.importorskip("av", reason="pip install 'opensnac[media]'")

LENGTH = 30_000
FORMATS = [  # container, codec, rate, samples that come: codecs without a word on their padding give it too
    ("ipod", "aac", 24000, LENGTH),
    ("mp4", "aac", 44100, LENGTH),
    ("ipod", "alac", 24000, LENGTH),
    ("mov", "pcm_s16le", 24000, LENGTH),
    ("mp4", "libopus", 48000, LENGTH),
    ("webm", "libopus", 48000, LENGTH),
    ("matroska", "aac", 24000, LENGTH),
    ("wv", "wavpack", 24000, LENGTH),
    ("adts", "aac", 24000, LENGTH + 1744),
    ("amr", "libopencore_amrnb", 8000, LENGTH + 80),
    ("asf", "wmav2", 24000, LENGTH - 1328),  # this encoder never writes its last block
]


def encoded(container: str, codec: str, rate: int, tracks: int = 1) -> bytes:
    tone = (0.3 * np.sin(2 * np.pi * 440 / rate * np.arange(LENGTH)))[None].astype(np.float32)
    content = io.BytesIO()
    with av.open(content, "w", format=container) as output:
        streams = [output.add_stream(codec, rate=rate, layout="mono") for _ in range(tracks)]
        for stream in streams:
            if codec.startswith("wma"):
                stream.bit_rate = 64_000
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, 0
            to_codec = av.AudioResampler(stream.codec_context.format.name, "mono", rate)
            for part in [*to_codec.resample(frame), *to_codec.resample(None), None]:
                output.mux(stream.encode(part))
    return content.getvalue()


@pytest.mark.parametrize(("container", "codec", "rate", "length"), FORMATS)
def test_lengths_and_places_are_right(container: str, codec: str, rate: int, length: int) -> None:
    samples, read_rate = audio.read(io.BytesIO(encoded(container, codec, rate)))
    assert (samples.shape, read_rate) == ((1, length), rate)
    if length == LENGTH:
        tone = 0.3 * np.sin(2 * np.pi * 440 / rate * np.arange(LENGTH))
        assert np.abs(samples[0] - tone)[3000:-3000].max() < 0.05


def test_two_tracks_are_reported() -> None:
    with Source(io.BytesIO(encoded("matroska", "aac", 24000, tracks=2))) as source:
        assert len(source.remarks) == 1
        assert "has 2 audio tracks" in source.remarks[0]


@pytest.mark.parametrize(("container", "codec", "rate", "length"), FORMATS[:9])
def test_a_truncated_file_is_refused_or_reported(container: str, codec: str, rate: int, length: int) -> None:
    content = encoded(container, codec, rate)
    with pytest.raises(AudioError, match="not readable as audio|damaged|s are missing"):
        audio.read(io.BytesIO(content[: len(content) // 2]), strict=True)


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{}\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '{}'\n",
        b"some text",
    ],
)
def test_playlists_open_no_other_files(tmp_path: Path, content: bytes) -> None:
    secret = tmp_path / "secret.wav"
    audio.write(secret, np.ones((1, 9000), np.float32) / 2, 8000)
    (tmp_path / "a.m4a").write_bytes(content.replace(b"{}", bytes(secret)))
    with pytest.raises(AudioError, match=r"a\.m4a: not readable as audio"):
        audio.read(tmp_path / "a.m4a")


def test_without_pyav_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "available", lambda: False)
    with pytest.raises(AudioError, match=r"pip install 'opensnac\[media\]' for M4A"):
        audio.read(io.BytesIO(encoded("ipod", "aac", 24000)))


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content


def with_itunes_tag(content: bytes, value: str) -> bytes:
    """An M4A whose last box is `moov`, with a comment as iTunes writes it."""
    start = content.rindex(b"moov") - 4
    assert start + int.from_bytes(content[start : start + 4]) == len(content)
    own = bytes(4) + b"com.apple.iTunes"
    data = box(b"data", struct.pack(">II", 1, 0) + value.encode())
    comment = box(b"----", box(b"mean", own) + box(b"name", bytes(4) + b"iTunSMPB") + data)
    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    tag = box(b"udta", box(b"meta", bytes(4) + handler + box(b"ilst", comment)))
    return content[:start] + box(b"moov", content[start + 8 :].replace(b"udta", b"free") + tag)


def test_itunes_tags_give_delay_and_padding() -> None:
    content = with_itunes_tag(
        encoded("ipod", "aac", 24000), f" 00000000 00000400 00000100 {LENGTH - 500:016x} 00000000 00000000"
    )
    samples, _ = audio.read(io.BytesIO(content))
    assert samples.shape == (1, LENGTH - 500)
    tone = 0.3 * np.sin(2 * np.pi * 440 / 24000 * np.arange(LENGTH))
    assert np.abs(samples[0] - tone[: LENGTH - 500])[3000:-3000].max() < 0.05


@pytest.mark.parametrize("value", ["", "no numbers here at all", " 00000000 00000400 00000100 0000000000000000 0"])
def test_an_empty_itunes_tag_is_ignored(value: str) -> None:
    samples, _ = audio.read(io.BytesIO(with_itunes_tag(encoded("ipod", "aac", 24000), value)))
    assert samples.shape == (1, LENGTH)


def test_late_first_time_stamps_are_no_gap_and_a_jump_is_reported_once() -> None:
    parts = encoded("asf", "wmav2", 24000)  # begins at 0.17 s, as WMA does
    with Source(io.BytesIO(parts)) as source:
        list(source.blocks())
        assert source.remarks == []
    content = io.BytesIO()
    with av.open(content, "w", format="matroska") as output:
        stream = output.add_stream("pcm_s16le", rate=24000, layout="mono")
        for number in range(40):
            frame = av.AudioFrame.from_ndarray(np.ones((1, 2400), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 24000, 2400 * number + (24000 if number >= 20 else 0)
            output.mux(stream.encode(frame))
    with Source(io.BytesIO(content.getvalue())) as source:
        assert sum(block.shape[1] for block in source.blocks()) == 96_000
        assert source.remarks[0] == "its time stamps jump by 1.00 s at 2.0 s; the audio was joined there"
        assert len(source.remarks) == 2
        assert "declares 5.000 s, of which 1.000 s are missing" in source.remarks[1]
