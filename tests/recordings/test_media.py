"""What PyAV reads: without the encoder's delay and padding, as long as it was, and no playlists."""

from __future__ import annotations

import io
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
]


def encoded(container: str, codec: str, rate: int, tracks: int = 1) -> bytes:
    tone = (0.3 * np.sin(2 * np.pi * 440 / rate * np.arange(LENGTH)))[None].astype(np.float32)
    content = io.BytesIO()
    with av.open(content, "w", format=container) as output:
        streams = [output.add_stream(codec, rate=rate, layout="mono") for _ in range(tracks)]
        for stream in streams:
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


def test_two_tracks_are_told() -> None:
    with Source(io.BytesIO(encoded("matroska", "aac", 24000, tracks=2))) as source:
        assert len(source.remarks) == 1
        assert "holds 2 tracks of sound" in source.remarks[0]


@pytest.mark.parametrize(("container", "codec", "rate", "length"), FORMATS[:9])
def test_a_cut_file_is_refused_or_told(container: str, codec: str, rate: int, length: int) -> None:
    content = encoded(container, codec, rate)
    with pytest.raises(AudioError, match="not readable as audio|damaged|of them are missing"):
        audio.read(io.BytesIO(content[: len(content) // 2]), strict=True)


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{}\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '{}'\n",
        b"some text",
    ],
)
def test_a_file_that_names_others_opens_none(tmp_path: Path, content: bytes) -> None:
    secret = tmp_path / "secret.wav"
    audio.write(secret, np.ones((1, 9000), np.float32) / 2, 8000)
    (tmp_path / "a.m4a").write_bytes(content.replace(b"{}", bytes(secret)))
    with pytest.raises(AudioError, match=r"a\.m4a: not readable as audio"):
        audio.read(tmp_path / "a.m4a")


def test_without_pyav_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "available", lambda: False)
    with pytest.raises(AudioError, match=r"pip install 'opensnac\[media\]' for M4A"):
        audio.read(io.BytesIO(encoded("ipod", "aac", 24000)))
