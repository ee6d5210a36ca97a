"""FLAC files: concatenated ones, and each one's true length from the number in its last frame (RFC 9639)."""

from __future__ import annotations

import struct

from opensnac.recordings.containers import BrokenFileError, Found, id3_end
from opensnac.recordings.views import Bytes, View

START = b"fLaC\x00\x00\x00\x22"
START_ALONE = b"fLaC\x80\x00\x00\x22"  # the first metadata block is the only one
TOTAL_AT = 21  # position of the number of samples, the low 36 bits
LAST_FRAMES = 1 << 20  # bytes at the end searched for the last frame
_BLOCK_SIZES = {1: 192, **{n: 576 << (n - 2) for n in range(2, 6)}, **{n: 256 << (n - 8) for n in range(8, 16)}}


def examine(content: Bytes, start: int) -> Found:
    """The recordings in the file, with their true numbers of samples in the headers."""
    starts = [start, *_further_starts(content, start)]
    found = Found("FLAC", [])
    for first, stop in zip(starts, [*starts[1:], content.size], strict=True):
        found.parts.append(_part(content, first, stop, found.remarks))
    return found


def _further_starts(content: Bytes, start: int) -> list[int]:
    starts = []
    for pattern in (START, START_ALONE):
        position = start + 4
        while (position := content.find(pattern, position)) >= 0:
            starts.append(position)
            position += 4
    return sorted(starts)


def _part(content: Bytes, start: int, stop: int, remarks: list[str]) -> View:
    high, low = struct.unpack(">BI", content.at(start + TOTAL_AT, 5).ljust(5, b"\0"))
    promised = (high & 0x0F) << 32 | low
    stop = _before_tags(content, start, stop)
    there = _length(content, start, stop)
    if there is None:
        if not promised:
            raise BrokenFileError(
                "expected a length in its header or a complete last frame, got neither; it is cut off"
            )
        return View(content, start, stop)  # libsndfile refuses truncated files
    if there == promised:
        return View(content, start, stop)
    if promised:
        remarks.append(f"its header declares {promised} samples; {there} are present and were read")
    total = struct.pack(">BI", high & 0xF0 | there >> 32, there & 0xFFFF_FFFF)
    return View(content, start, stop, patches={start + TOTAL_AT: total})


def _before_tags(content: Bytes, start: int, stop: int) -> int:
    """The start of tags after the FLAC stream, which some programs append although they should not."""
    if content.at(stop - 128, 3) == b"TAG":
        stop -= 128
    first = max(start, stop - LAST_FRAMES)
    tagged = first + content.at(first, stop - first).rfind(b"ID3")
    return tagged if tagged >= first and id3_end(content, tagged) == stop else stop


def _length(content: Bytes, start: int, stop: int) -> int | None:
    """Samples up to the end of the last frame; None if it is incomplete."""
    block_size = struct.unpack(">H", content.at(start + 8, 2).ljust(2, b"\0"))[0]
    first = max(start, stop - LAST_FRAMES)
    data = content.at(first, stop - first)
    position = len(data)
    while (position := data.rfind(b"\xff", 0, position)) >= 0:
        if (length := _frame_end(data, position, block_size)) is not None and _crc16(data[position:]) == 0:
            return length
    return None


def _frame_end(data: bytes, at: int, block_size: int) -> int | None:
    """The index of the first sample after the frame whose header is at `at`; None if there is no header."""
    if len(data) - at < 8 or data[at + 1] & 0xFE != 0xF8:
        return None
    code, rate = data[at + 2] >> 4, data[at + 2] & 15
    coded = _coded_number(data, at + 4)
    if coded is None or code == 0 or rate == 15 or data[at + 3] & 1:
        return None
    number, end = coded
    wide = {6: 1, 7: 2}.get(code, 0)
    size = int.from_bytes(data[end : end + wide]) + 1 if wide else _BLOCK_SIZES[code]
    end += wide + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if end >= len(data) or _crc8(data[at:end]) != data[end]:
        return None
    variable = data[at + 1] & 1
    return (number if variable else number * block_size) + size


def _coded_number(data: bytes, at: int) -> tuple[int, int] | None:
    """A number of one to seven bytes in UTF-8 coding, and where it ends."""
    first = data[at]
    if first < 0x80:
        return first, at + 1
    length = 8 - (first ^ 0xFF).bit_length()
    if not 2 <= length <= 7 or at + length > len(data):
        return None
    number = first & (0x7F >> length)
    for byte in data[at + 1 : at + length]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 0x3F
    return number, at + length


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = _CRC8[crc ^ byte]
    return crc


def _crc16(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = (crc << 8) & 0xFFFF ^ _CRC16[crc >> 8 ^ byte]
    return crc


def _table(polynomial: int, bits: int) -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << (bits - 8)
        for _ in range(8):
            crc = (crc << 1) ^ (polynomial if crc >> (bits - 1) & 1 else 0)
        table.append(crc & (1 << bits) - 1)
    return table


_CRC8, _CRC16 = _table(0x07, 8), _table(0x8005, 16)
