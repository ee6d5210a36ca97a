"""Headers round-trip, and every value out of bounds is refused or reported."""

import io
import math
import zlib
from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from streams import SPEECH, headers, sample

from opensnac.bitstream import FORMAT_VERSION, MAGIC, Header, Reader
from opensnac.errors import CorruptStreamError, HeaderError, NotSnacError, UnsupportedFormatError


def with_bytes(offset: int, data: bytes, header: Header = SPEECH) -> bytes:
    """A stream whose header has other bytes at an offset, with a valid checksum."""
    body = bytearray(header.to_bytes()[:-4])
    body[offset : offset + len(data)] = data
    return bytes(body) + zlib.crc32(body).to_bytes(4) + b"\0" * 10


@given(headers())
def test_headers_round_trip(header: Header) -> None:
    data = header.to_bytes()
    assert Reader(io.BytesIO(data)).header == header
    assert len(data) == 32 + len(header.vq_strides) + len(header.model_name.encode())


def test_a_header_is_laid_out_by_least_common_multiple() -> None:
    header = replace(SPEECH, vq_strides=(6, 4), codebook_size=1025, channels=2, frame_multiple=24)
    assert header.coarse_stride == 12
    assert header.codes_per_coarse_frame == (2, 3)
    assert header.bits_per_code == 11
    assert header.bits_per_coarse_frame == 2 * 5 * 11


@given(
    num_samples=st.integers(0, 5000),
    original_rate=st.integers(1, 60),
    sampling_rate=st.integers(1, 60),
    multiple=st.integers(1, 3),
    hop_length=st.integers(1, 9),
)
@example(num_samples=1, original_rate=48, sampling_rate=24, multiple=1, hop_length=4)
def test_frames_fit_exactly_if_rounding_and_padding_can_give_them(
    num_samples: int, original_rate: int, sampling_rate: int, multiple: int, hop_length: int
) -> None:
    header = replace(
        SPEECH,
        original_rate=original_rate,
        sampling_rate=sampling_rate,
        hop_length=hop_length,
        vq_strides=(1,),
        frame_multiple=multiple,
    )
    exact = num_samples * sampling_rate / original_rate
    assume(exact < 2000)
    least = 1 if num_samples else 0
    coded = {max(math.floor(exact), least), max(math.ceil(exact), least)}
    possible = {math.ceil(samples / hop_length / multiple) * multiple for samples in coded}
    assert {frames for frames in range(2000 + 30) if header.fits(frames, num_samples)} == possible
    assert header.num_frames(num_samples) == max(possible)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_name": ""}, "model_name: expected 1 to 255 bytes of UTF-8, got 0"),
        ({"model_name": "ü" * 128}, "expected 1 to 255 bytes of UTF-8, got 256"),
        ({"model_name": "bell\a"}, r"expected no control characters, got 'bell\\x07'"),
        ({"model_name": "\udc80"}, "expected no control characters"),
        ({"weights_hash": "0123"}, "weights_hash: expected the first 16 lower-case hex digits .*, got '0123'"),
        ({"weights_hash": "0123456789ABCDEF"}, "weights_hash: .* got '0123456789ABCDEF'"),
        ({"sampling_rate": 0}, "sampling_rate: expected an integer from 1 to 16777215, got 0"),
        ({"sampling_rate": 24000.0}, r"sampling_rate: expected an integer .*, got 24000\.0"),
        ({"original_rate": 1 << 24}, "original_rate: expected .*, got 16777216"),
        ({"channels": 0}, "channels: expected an integer from 1 to 255, got 0"),
        ({"channels": True}, "channels: expected .*, got True"),
        ({"hop_length": 65536}, "hop_length: expected an integer from 1 to 65535, got 65536"),
        ({"codebook_size": 1}, "codebook_size: expected an integer from 2 to 65536, got 1"),
        ({"vq_strides": ()}, "number of vq_strides: expected an integer from 1 to 16, got 0"),
        ({"vq_strides": (1,) * 17}, "number of vq_strides: expected .*, got 17"),
        ({"vq_strides": (256, 1)}, "vq_strides entry: expected an integer from 1 to 255, got 256"),
        ({"vq_strides": (251, 241, 239)}, "expected at most 4096 codes per coarse frame"),
        ({"channels": 255, "vq_strides": (16, 1)}, r"got 4335 from 255 channels with vq_strides \[16, 1\]"),
        ({"frame_multiple": 0}, "frame_multiple: expected an integer from 1 to 1020, got 0"),
        ({"frame_multiple": 6}, "frame_multiple: expected a multiple of 4, the frames of a coarse frame, got 6"),
        ({"frame_multiple": 1024}, "frame_multiple: expected .*, got 1024"),
    ],
)
def test_a_value_that_the_header_cannot_hold_is_refused(change: dict, message: str) -> None:
    with pytest.raises(HeaderError, match=message):
        replace(SPEECH, **change)


@pytest.mark.parametrize(
    ("offset", "data", "message"),
    [
        (6, b"\0", "channels: expected .*, got 0"),
        (6, b"\xff\x00\x00\x01\x00\x00\x01\x00\x01\x00\x01\x01\x03\xfb\xfa\xf9", "codes per coarse frame"),
        (7, b"\0\0\0", "sampling_rate: expected .*, got 0"),
        (10, b"\0\0\0", "original_rate: expected .*, got 0"),
        (13, b"\0\0", "hop_length: expected .*, got 0"),
        (15, b"\0\0", "codebook_size: expected .*, got 1"),
        (17, b"\0", "frame_multiple: expected .*, got 0"),
        (19, b"\0", "vq_strides entry: expected .*, got 0"),
        (31, b"\xff", "'utf-8' codec can't decode byte 0xff"),
        (31, b"\x1b[2J", "control characters"),
    ],
)
def test_an_impossible_value_in_an_intact_header_is_reported(offset: int, data: bytes, message: str) -> None:
    with pytest.raises(CorruptStreamError, match=f"the header has an invalid value: .*{message}"):
        Reader(io.BytesIO(with_bytes(offset, data)))


@pytest.mark.parametrize("scales", [0, 17])
def test_an_impossible_number_of_scales_is_reported(scales: int) -> None:
    body = SPEECH.to_bytes()[:18] + bytes([scales]) + b"\1" * scales + bytes(8) + b"\1m"
    with pytest.raises(CorruptStreamError, match=f"number of vq_strides: expected .*, got {scales}"):
        Reader(io.BytesIO(body + zlib.crc32(body).to_bytes(4)))


@pytest.mark.parametrize("payload_type", [1, 2, 255])
def test_an_unknown_payload_type_needs_a_newer_version(payload_type: int) -> None:
    message = f"payload type: expected 0, got {payload_type}, which needs a newer opensnac"
    with pytest.raises(UnsupportedFormatError, match=message):
        Reader(io.BytesIO(with_bytes(5, bytes([payload_type]))))


def test_a_damaged_payload_type_is_reported_as_damage() -> None:
    data = bytearray(sample(SPEECH, 1).data)
    data[5] ^= 1
    with pytest.raises(CorruptStreamError, match=r"the header \(bytes 0 to 58\) is corrupt"):
        Reader(io.BytesIO(data))


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 255])
def test_a_newer_version_is_named_whatever_follows_it(version: int) -> None:
    with pytest.raises(UnsupportedFormatError, match=f"format version: expected 1, got {version}"):
        Reader(io.BytesIO(MAGIC + bytes([version])))


def test_an_impossible_version_is_damage() -> None:
    with pytest.raises(
        CorruptStreamError, match="format version: expected 1, got 0, which never existed; without its header"
    ):
        Reader(io.BytesIO(MAGIC + b"\0"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"got an empty input \(0 bytes\)"),
        (
            b"RIFF\x24\x08\0\0WAVE",
            "starts with b'SNAC', got b'RIFF', apparently a WAV file: encode it",
        ),
        (b"OggS\0\2", "apparently an Ogg file"),
        (b"fLaC\0\0", "apparently a FLAC file"),
        (b"ID3\4\0", "apparently an MP3 file"),
        (b"\xff\xfb\x90\x64", "apparently an MP3 file"),
        (b"{}", "starts with b'SNAC', got b'{}'$"),
    ],
)
def test_another_kind_of_file_is_named(data: bytes, message: str) -> None:
    with pytest.raises(NotSnacError, match=message):
        Reader(io.BytesIO(data))
