"""The format never changes: a golden file, and a second reader written from docs/bitstream.md alone."""

import hashlib
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from streams import Sample, assert_same_codes, samples

from opensnac.bitstream import Header, Writer, read

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "golden" / "tiny_v1.snac"
EXPECTED = json.loads(TINY.with_suffix(".json").read_text())


def crc32(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def crc16(data: bytes, crc: int) -> int:
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ (0x1021 if crc & 0x8000 else 0)) & 0xFFFF
    return crc


def documented_reader(data: bytes) -> dict[str, Any]:
    """Read an intact stream with integer arithmetic, as specified in docs/bitstream.md."""

    def number(offset: int, size: int) -> int:
        return int.from_bytes(data[offset : offset + size], "big")

    assert data[:6] == b"SNAC\1\0"
    channels, scales = data[6], data[18]
    strides = list(data[19 : 19 + scales])
    length = data[27 + scales]
    header_size = 32 + scales + length
    assert number(header_size - 4, 4) == crc32(data[: header_size - 4])
    coarse_stride = math.lcm(*strides)
    header = {
        "model_name": data[28 + scales : 28 + scales + length].decode(),
        "weights_hash": data[19 + scales : 27 + scales].hex(),
        "sampling_rate": number(7, 3),
        "original_rate": number(10, 3),
        "channels": channels,
        "hop_length": number(13, 2),
        "vq_strides": strides,
        "codebook_size": number(15, 2) + 1,
        "frame_multiple": data[17] * coarse_stride,
    }
    width = number(15, 2).bit_length()
    codes: list[list[list[int]]] = [[[] for _ in range(channels)] for _ in strides]
    at = header_size
    while coarse_frames := data[at]:
        bits = coarse_frames * channels * sum(coarse_stride // stride for stride in strides) * width
        size = 1 + (bits + 7) // 8
        assert number(at + size, 2) == crc16(data[at : at + size], number(at - 2, 2))
        payload = "".join(f"{byte:08b}" for byte in data[at + 1 : at + size])
        assert "1" not in payload[bits:]
        read_bits = iter(payload)
        for _ in range(coarse_frames):
            for channel in range(channels):
                for scale, stride in enumerate(strides):
                    for _ in range(coarse_stride // stride):
                        code = int("".join(next(read_bits) for _ in range(width)), 2)
                        codes[scale][channel].append(code)
        at += size + 2
    assert number(at + 6, 4) == crc32(data[: at + 6])
    assert at + 10 == len(data)
    return {"header": header, "codes": codes, "num_samples": number(at + 1, 5)}


def test_the_golden_file_was_never_changed() -> None:
    digest = hashlib.sha256(TINY.read_bytes()).hexdigest()
    assert digest == "9c9148c070eb51ea4e58ff9374a30b0e0c1e431464ca134f779ee0b8d731c0eb"


def test_the_golden_file_is_read() -> None:
    with TINY.open("rb") as file:
        recording = read(file)
    assert recording.header == Header(**EXPECTED["header"])
    assert recording.num_samples == EXPECTED["num_samples"]
    assert_same_codes(recording.codes, [np.array(scale) for scale in EXPECTED["codes"]])


def test_the_golden_file_is_written() -> None:
    file = io.BytesIO()
    writer = Writer(file, Header(**EXPECTED["header"]), EXPECTED["coarse_frames_per_packet"])
    writer.write([np.array(scale) for scale in EXPECTED["codes"]])
    writer.close(EXPECTED["num_samples"])
    assert file.getvalue() == TINY.read_bytes()


def test_the_page_shows_the_golden_file() -> None:
    page = (ROOT / "docs" / "bitstream.md").read_text()
    lines = re.findall(r"^[0-9a-f]{8}: ([0-9a-f ]+)$", page, re.MULTILINE)
    assert bytes.fromhex("".join(lines)) == TINY.read_bytes()
    rows = re.findall(r"^\| ([0-9a-f]{2}) \| ((?:`[0-9a-f… ]+` ?)+) \|", page, re.MULTILINE)
    assert len(rows) > 15
    for offset, cells in rows:
        shown = bytes.fromhex(re.sub("[`…]", "", cells))
        start = int(offset, 16)
        assert TINY.read_bytes()[start : start + len(shown)] == shown


def test_checksums_are_those_the_page_names() -> None:
    assert crc32(b"123456789") == 0xCBF43926
    assert crc16(b"123456789", 0) == 0x31C3


def test_the_documented_reader_reads_the_golden_file() -> None:
    expected = {key: EXPECTED[key] for key in ("header", "codes", "num_samples")}
    assert documented_reader(TINY.read_bytes()) == expected


@given(samples())
@settings(max_examples=50)
def test_the_documented_reader_agrees(recording: Sample) -> None:
    header = recording.header
    came = documented_reader(recording.data)
    assert Header(**came["header"]) == header
    assert came["num_samples"] == recording.num_samples
    assert came["codes"] == [scale.tolist() for scale in recording.codes]
