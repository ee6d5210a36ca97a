"""Irregular files: concatenated, truncated, unfinished, with wrong headers.

All of the sound is read, or an error or a remark says what is not.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

from opensnac.errors import AudioError
from opensnac.recordings import audio, mp3, ogg, source
from opensnac.recordings.excerpts import read_excerpt, scan
from opensnac.recordings.remarks import RecordingWarning
from opensnac.recordings.sink import WRITABLE
from opensnac.recordings.source import Source

RATE = 24000
SAMPLES = (0.3 * np.random.default_rng(0).standard_normal(60_000)).astype(np.float32)
CONTAINERS = {  # kind and coding, and how far samples may be from what was written
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "rf64": ("RF64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "aiff24": ("AIFF", "PCM_24"),
    "w64": ("W64", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "au": ("AU", "PCM_16"),
}
LOSSY = {"vorbis": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", None), "flac": ("FLAC", None)}


@cache
def encoded(kind: str, rate: int = RATE) -> bytes:
    """The file of all samples."""
    return written(kind, SAMPLES, rate)


def written(kind: str, samples: np.ndarray, rate: int = RATE) -> bytes:
    container, subtype = (CONTAINERS | LOSSY)[kind]
    content = io.BytesIO()
    soundfile.write(content, samples.T, rate, subtype, format=container)
    return content.getvalue()


def read(content: bytes, *expected: str) -> np.ndarray:
    """The samples of one channel; `expected` are parts of the remarks, in order."""
    with Source(io.BytesIO(content)) as source:
        blocks = list(source.blocks())
        remarks = list(source.remarks)
    assert len(remarks) == len(expected), remarks
    for remark, part in zip(remarks, expected, strict=True):
        assert part in remark
    if expected:
        with (
            pytest.raises(AudioError, match="--strict refuses that"),
            Source(io.BytesIO(content), strict=True) as s,
        ):
            list(s.blocks())
    return np.concatenate(blocks, axis=1)[0]


@pytest.mark.parametrize("kind", CONTAINERS | LOSSY)
def test_valid_files_have_no_remarks(kind: str) -> None:
    assert len(read(encoded(kind))) == len(SAMPLES)


@pytest.mark.parametrize("kind", LOSSY)
@pytest.mark.parametrize("count", [2, 3])
def test_concatenated_recordings_are_all_read(kind: str, count: int) -> None:
    alone = read(encoded(kind))
    np.testing.assert_array_equal(read(count * encoded(kind)), np.tile(alone, count))


def test_links_of_different_codecs_and_lengths_are_all_read() -> None:
    chain = written("vorbis", SAMPLES[:30_000]) + written("opus", SAMPLES[:7]) + encoded("vorbis")
    assert len(read(chain)) == 30_000 + 7 + 60_000


@pytest.mark.parametrize("kind", LOSSY)
def test_concatenated_recordings_of_different_formats_are_refused(kind: str) -> None:
    other_rate = encoded(kind) + encoded(kind, rate=48000)
    stereo = encoded(kind) + written(kind, np.stack([SAMPLES, SAMPLES]))
    for content in (other_rate, stereo):
        with pytest.raises(
            AudioError, match=r"expected 1 channels at 24000 Hz throughout, got .* from byte \d+; split it there"
        ):
            read(content)


def test_tags_around_mp3s_are_skipped() -> None:
    tag = b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10)
    ape = b"APETAGEX" + struct.pack("<III", 2000, 32, 0) + bytes(40)
    content = tag + encoded("mp3") + b"TAG" + bytes(125) + tag + encoded("mp3") + ape
    assert len(read(content)) == 2 * len(SAMPLES)


@pytest.mark.parametrize("count", [0, 10, 100_000])
def test_an_mp3_with_a_wrong_count_is_read_completely(count: int) -> None:
    content = bytearray(encoded("mp3"))
    at = content.find(b"Xing")
    content[at + 8 : at + 12] = struct.pack(">I", count)
    np.testing.assert_array_equal(read(bytes(content), f"declares {count} frames"), read(encoded("mp3")))


def without_count(content: bytes) -> bytes:
    """An MP3 of variable bitrate without the frame that holds the count."""
    frame = mp3._frame(content[:4])
    assert frame is not None
    return content[frame.length :]


@pytest.mark.parametrize("count", [1, 2])
def test_an_mp3_without_a_count_is_read_completely(count: int) -> None:
    content = without_count(encoded("mp3"))
    assert len(SAMPLES) * count <= len(read(content * count)) <= (len(SAMPLES) + 3000) * count


def test_an_mp3_after_one_with_a_count_is_read() -> None:
    samples = read(encoded("mp3") + without_count(encoded("mp3")), "frames")
    assert len(samples) >= 2 * len(SAMPLES)


def with_vbri(content: bytes, count: int) -> bytes:
    """The same MP3 with the VBRI header of Fraunhofer's encoder."""
    frame = mp3._frame(content[:4])
    assert frame is not None
    vbri = struct.pack(">4sHHHIIHHHH", b"VBRI", 1, 1105, 75, len(content), count, 0, 1, 2, 0)
    return (content[:4] + bytes(32) + vbri).ljust(frame.length, b"\0") + content[frame.length :]


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("off", [0, -30, 1000])
def test_an_mp3_with_fraunhofer_s_count_is_read_completely(off: int, copies: int) -> None:
    content = encoded("mp3")
    at = content.find(b"Xing")
    count = int.from_bytes(content[at + 8 : at + 12])
    remarks = [f"declares {count + off} frames; {count} are present"] if off else []
    samples = read(copies * with_vbri(content, count + off), *remarks)
    assert copies * len(SAMPLES) <= len(samples) <= copies * (len(SAMPLES) + 3000)


def test_data_between_mp3_frames_is_skipped_with_a_remark() -> None:
    content = encoded("mp3")
    assert len(read(content[:5000] + b"no frame" * 40 + content[5000:], "320 bytes between its frames")) > 59_000


def test_mp3_blocks_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder keeps its state from one block to the next."""
    whole = read(encoded("mp3"))
    monkeypatch.setattr(source, "BLOCK_SAMPLES", 4096)
    np.testing.assert_array_equal(read(encoded("mp3")), whole)


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_header_that_claims_too_much(kind: str, share: float) -> None:
    content = encoded(kind)
    cut = read(content[: int(share * len(content))], "its header declares 2.500 s, of which ")
    assert share * len(SAMPLES) - 2100 < len(cut) <= share * len(SAMPLES)
    np.testing.assert_array_equal(cut, read(content)[: len(cut)])


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_a_truncated_ogg_is_read_to_its_last_page(kind: str) -> None:
    content = encoded(kind)
    cut = read(content[: len(content) * 3 // 4], "last page is missing", "last page is incomplete")
    assert 20_000 < len(cut) < 55_000


def test_a_truncated_mp3_is_read_to_its_last_frame() -> None:
    content = encoded("mp3")
    assert 25_000 < len(read(content[: len(content) // 2], "frames", "last frame is incomplete")) < 35_000


def test_missing_pages_are_counted() -> None:
    content = encoded("vorbis")
    pages = [i for i in range(len(content)) if content.startswith(b"OggS", i)]
    assert len(pages) > 4
    read(content[: pages[3]] + content[pages[4] :], "1 of its pages are missing", "s are missing")


def crashed(kind: str) -> bytes:
    """A file from a recorder that crashed before it completed the header."""
    content = bytearray(encoded(kind))
    if kind in ("wav", "float.wav"):
        at = content.find(b"data")
        content[4:8], content[at + 4 : at + 8] = struct.pack("<I", 36), bytes(4)
    elif kind == "rf64":
        content[20:36] = bytes(16)
    elif kind.startswith("aiff"):
        at, common = content.find(b"SSND"), content.find(b"COMM")
        content[4:8], content[at + 4 : at + 8], content[common + 10 : common + 14] = bytes(4), bytes(4), bytes(4)
    elif kind == "w64":
        at = content.find(b"data")
        content[16:24], content[at + 16 : at + 24] = struct.pack("<Q", 104), struct.pack("<Q", 24)
    elif kind == "caf":
        at = content.find(b"data\0")
        content[at + 4 : at + 12] = bytes(8)
    else:
        content[8:12] = bytes(4)
    return bytes(content)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_the_file_of_a_recorder_that_crashed_is_read(kind: str) -> None:
    remark = "were read too" if kind == "au" else "its header was never completed"
    np.testing.assert_array_equal(read(crashed(kind), remark), read(encoded(kind)))


@pytest.mark.parametrize("kind", ["wav", "aiff", "caf"])
def test_a_crashed_recording_that_begins_with_silence(kind: str) -> None:
    silent = crashed(kind).replace(encoded(kind)[-2 * len(SAMPLES) : -100_000], bytes(2 * len(SAMPLES) - 100_000))
    assert len(read(silent, "its header was never completed")) == len(SAMPLES)


@pytest.mark.parametrize("riff", [0, 36, 44, 2 * len(SAMPLES) + 36, 0xFFFFFFFF])
def test_a_crashed_wav_with_any_outer_size(riff: int) -> None:
    content = bytearray(crashed("wav"))
    content[4:8] = struct.pack("<I", riff)
    assert len(read(bytes(content), "its header was never completed")) == len(SAMPLES)


def test_a_partly_updated_header() -> None:
    content = bytearray(encoded("wav"))
    content[4:8], content[40:44] = struct.pack("<I", 36 + 60_000), struct.pack("<I", 60_000)
    assert len(read(bytes(content), "60000 bytes more than its header declares, which were read too")) == 60_000


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0xFFFF0000, 0x7FFFFFFF, 0x7FFFF000, 0x80000000])
def test_a_stream_of_unknown_length_is_read(size: int) -> None:
    content = bytearray(encoded("wav"))
    content[4:8], content[40:44] = struct.pack("<I", min(size + 36, 0xFFFFFFFF)), struct.pack("<I", size)
    assert len(read(bytes(content))) == len(SAMPLES)


def test_streams_of_unknown_length_in_other_containers() -> None:
    au, caf = bytearray(encoded("au")), bytearray(encoded("caf"))
    au[8:12] = b"\xff" * 4
    at = caf.find(b"data\0")
    caf[at + 4 : at + 12] = b"\xff" * 8
    assert len(read(bytes(au))) == len(read(bytes(caf))) == len(SAMPLES)


def test_an_empty_recording_is_not_taken_for_a_crashed_one() -> None:
    for kind in CONTAINERS:
        with pytest.raises(AudioError, match="expected at least one sample"):
            read(written(kind, SAMPLES[:0]))


def test_chunks_and_tags_after_the_samples_are_skipped() -> None:
    content = bytearray(encoded("wav"))
    chunk = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf58.29.100\0"
    inside = bytearray(content + chunk)
    inside[4:8] = struct.pack("<I", len(inside) - 8)
    for whole in (inside, content + chunk, content + b"ID3\x04" + bytes(40), content + bytes(1000)):
        assert len(read(bytes(whole))) == len(SAMPLES)


@pytest.mark.parametrize("padding", [0, 1])
def test_a_chunk_after_an_odd_number_of_bytes_is_skipped(padding: int) -> None:
    content = io.BytesIO()
    soundfile.write(content, SAMPLES[:4999], RATE, "PCM_U8", format="WAV")
    bare = content.getvalue()[: 44 + 4999]
    assert len(read(bare + bytes(padding) + b"LIST" + struct.pack("<I", 4) + b"INFO")) == 4999


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_second_file_after_the_first_is_named(kind: str) -> None:
    content = encoded(kind)
    samples = read(content + content, f"file follows at byte {len(content)} and is not read; split the file there")
    assert len(samples) == len(SAMPLES)


def flac_total(content: bytes, total: int) -> bytes:
    changed = bytearray(content)
    changed[21:26] = struct.pack(">BI", changed[21] & 0xF0 | total >> 32, total & 0xFFFFFFFF)
    return bytes(changed)


def test_a_flac_written_through_a_pipe_is_read() -> None:
    assert len(read(flac_total(encoded("flac"), 0))) == len(SAMPLES)
    assert len(read(flac_total(encoded("flac"), 0) * 2)) == 2 * len(SAMPLES)
    tagged = b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10) + flac_total(encoded("flac"), 0) + b"TAG" + bytes(125)
    assert len(read(tagged)) == len(SAMPLES)


@pytest.mark.parametrize("total", [1, 59_999, 60_001, (1 << 36) - 1])
def test_a_flac_with_a_wrong_count_is_read_completely(total: int) -> None:
    assert len(read(flac_total(encoded("flac"), total), f"declares {total} samples; 60000 are present")) == 60_000


@pytest.mark.parametrize("total", [0, 60_000])
def test_a_truncated_flac_is_refused_with_any_count(total: int) -> None:
    content = flac_total(encoded("flac"), total)
    with pytest.raises(AudioError, match="cut|not readable as audio"):
        read(content[: len(content) * 3 // 4])


def test_a_python_caller_is_warned(tmp_path: Path) -> None:
    (tmp_path / "cut.wav").write_bytes(encoded("wav")[:60_000])
    with pytest.warns(RecordingWarning, match=r"cut\.wav: its header declares 2\.500 s, of which 1\.251 s are missing"):
        audio.read(tmp_path / "cut.wav")
    with pytest.raises(AudioError, match="--strict refuses that"):
        audio.read(tmp_path / "cut.wav", strict=True)


class Failing(io.BytesIO):
    """A file on a disk that breaks in the middle."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > 60_000:
            raise OSError(5, "Input/output error")
        return super().read(size)


@pytest.mark.parametrize("kind", ["wav", "aiff", "caf"])
def test_a_read_error_is_not_taken_for_the_end(kind: str) -> None:
    with pytest.raises(AudioError, match="cannot be read: Input/output error"):
        audio.read(Failing(encoded(kind)))


def test_a_name_that_is_not_unicode_is_read(tmp_path: Path) -> None:
    name = tmp_path / b"caf\xe9.wav".decode(errors="surrogateescape")
    name.write_bytes(encoded("wav"))
    assert audio.read(name)[0].shape == (1, len(SAMPLES))
    for ending in WRITABLE:
        audio.write(name.with_suffix(ending), SAMPLES[None], RATE, force=True)


@pytest.mark.parametrize("damage", [lambda page: page[:22], lambda page: page[:-1], lambda page: b"OggX" + page[4:]])
def test_pages_match_their_headers(damage: Callable[[bytes], bytes]) -> None:
    from opensnac.recordings.views import Bytes

    content = encoded("vorbis")
    page = content[: content.find(b"OggS", 4)]
    assert ogg._page(Bytes(io.BytesIO(page)), 0) is not None
    assert ogg._page(Bytes(io.BytesIO(damage(page))), 0) is None


@pytest.mark.parametrize("kind", CONTAINERS | LOSSY)
@pytest.mark.parametrize("seed", range(3))
def test_noise_in_a_file_ends_in_an_error_or_in_samples(kind: str, seed: int) -> None:
    """No content of a file causes an unexpected error or an endless loop."""
    rng = np.random.default_rng(seed)
    for _ in range(10):
        content = bytearray(written(kind, SAMPLES[:3000]))
        where = rng.integers(0, min(200, len(content)), 8)
        for at in where:
            content[at] = rng.integers(256)
        with contextlib.suppress(AudioError), Source(io.BytesIO(content)) as source:
            for block, _ in zip(source.blocks(), range(50), strict=False):
                assert len(block) == source.channels


GIGABYTES = 5 << 30
SOUND_AT = GIGABYTES - 40_000  # bytes of silence
ENDING = (SAMPLES[:20_000].clip(-0.99, 0.99) * 32768).astype("<i2")


def large_wav(path: Path, header: bytes) -> Path:
    """Five gigabytes of silence with sound at the end, as a sparse file."""
    with path.open("wb") as file:
        file.write(header)
        file.seek(len(header) + SOUND_AT)
        file.write(ENDING.tobytes())
    return path


def wav_header(size: int, riff: int) -> bytes:
    form = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    return struct.pack("<4sI8sI", b"RIFF", riff, b"WAVEfmt ", 16) + form + struct.pack("<4sI", b"data", size)


def rf64_header() -> bytes:
    sizes = struct.pack("<QQQI", GIGABYTES + 72, GIGABYTES, GIGABYTES // 2, 0)
    plain = wav_header(0xFFFFFFFF, 0xFFFFFFFF)
    return b"RF64" + plain[4:12] + struct.pack("<4sI", b"ds64", 28) + sizes + plain[12:]


WRAPPED = GIGABYTES % (1 << 32)


@pytest.mark.parametrize(
    ("header", "remark"),
    [
        (rf64_header(), None),
        (wav_header(0xFFFFFFFF, 0xFFFFFFFF), None),  # as a pipe writes it
        (wav_header(WRAPPED, WRAPPED + 36), "its header's 32-bit size wrapped around at 4 GiB"),
        (wav_header(0, 36), "its header was never completed"),
    ],
)
def test_a_wav_of_more_than_four_gigabytes_is_read_to_its_end(
    tmp_path: Path, header: bytes, remark: str | None
) -> None:
    path = large_wav(tmp_path / "large.wav", header)
    layout = scan(path)
    assert layout.num_samples == GIGABYTES // 2
    assert len(layout.remarks) == (remark is not None)
    assert all(remark is not None and remark in line for line in layout.remarks)
    with path.open("rb") as file:
        end = read_excerpt(file, layout, SOUND_AT // 2 - 5, 20_010)
    np.testing.assert_array_equal(end[0], np.pad(ENDING / np.float32(32768), (5, 0)))


def test_a_file_without_bytes_is_reported_as_empty(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").touch()
    with pytest.raises(AudioError, match=r"a\.mp3: expected audio, got an empty file \(0 bytes\)"):
        audio.read(tmp_path / "a.mp3")


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
@pytest.mark.parametrize("container", ["WAV", "WAVEX", "AIFF", "W64", "CAF", "AU"])
def test_every_width_of_samples_is_read(container: str, subtype: str) -> None:
    if not soundfile.check_format(container, subtype):
        pytest.skip(f"no {subtype} in {container}")
    quiet = SAMPLES[:3000].clip(-0.9, 0.9)
    content = io.BytesIO()
    soundfile.write(content, quiet, RATE, subtype, format=container)
    samples = read(content.getvalue())
    assert len(samples) == 3000
    assert np.abs(samples - quiet).max() < (0.03 if subtype in ("PCM_U8", "ULAW", "ALAW") else 1e-6)


def test_a_flac_behind_a_tag_and_with_other_blocks_is_read() -> None:
    content = encoded("flac")
    other = struct.pack(">I", 2 << 24 | 8) + b"riffelse" + struct.pack(">I", 1 << 24 | 500) + bytes(500)
    with_blocks = content[:42] + other + content[42:]
    tag = b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10)
    for whole in (with_blocks, tag + with_blocks, tag + tag + content):
        np.testing.assert_array_equal(read(whole), read(content))
