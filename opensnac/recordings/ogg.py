"""Ogg files: chained recordings, missing pages, missing ends (RFC 3533)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from opensnac.recordings.containers import Found
from opensnac.recordings.views import Bytes, View

_HEADER = struct.Struct("<4sBBqIII")  # magic, version, flags, granule, serial, number, checksum
CONTINUED, BEGINS, ENDS = 1, 2, 4
SOUND = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ")


@dataclass
class _Link:
    """One of the recordings in a chain."""

    start: int
    stop: int = 0
    last_page: int = 0
    sounds: list[int] = field(default_factory=list)  # serial numbers of audio streams
    numbers: dict[int, int] = field(default_factory=dict)  # of each stream's last page
    ended: set[int] = field(default_factory=set)
    missing: int = 0
    running: bool = False  # whether it has a page that is not the first of its stream


def examine(content: Bytes, start: int) -> Found:
    """The recordings in the file, one part each."""
    links: list[_Link] = []
    found = Found("Ogg", [])
    position, skipped, cut = start, 0, False
    while position < content.size:
        page = _page(content, position)
        if page is None:
            after = content.find(b"OggS", position + 1)
            cut = after < 0
            if cut:
                break
            skipped += after - position
            position = after
            continue
        flags, serial, number, after = page
        if flags & BEGINS and (not links or links[-1].running):
            links.append(_Link(position))
        if links:
            _take(links[-1], content, position, flags, serial, number, after)
        position = after
    for link in links:
        found.parts.append(_part(content, link))
        _remark(link, found.remarks)
    if cut:
        found.remarks.append("its last page is incomplete: it is cut off; the pages before were read")
    if skipped:
        found.remarks.append(f"{skipped} bytes between its pages belong to none; they were skipped")
    return found if found.parts else Found("", [View(content, start)])


def _page(content: Bytes, position: int) -> tuple[int, int, int, int] | None:
    """Flags, serial number, page number and end of the page at `position`; None without a complete page."""
    head = content.near(position, _HEADER.size + 1)
    if len(head) <= _HEADER.size or head[:5] != b"OggS\0":
        return None
    _, _, flags, _, serial, number, _ = _HEADER.unpack(head[:-1])
    lengths = content.near(position + len(head), head[-1])
    after = position + len(head) + len(lengths) + sum(lengths)
    return (flags, serial, number, after) if len(lengths) == head[-1] and after <= content.size else None


def _take(link: _Link, content: Bytes, position: int, flags: int, serial: int, number: int, after: int) -> None:
    if flags & BEGINS:
        segments = content.near(position + _HEADER.size, 1)[0]
        if content.near(position + _HEADER.size + 1 + segments, 8).startswith(SOUND):
            link.sounds.append(serial)
    else:
        link.running = True
        link.missing += max(0, number - link.numbers.get(serial, number - 1) - 1)
    link.numbers[serial] = number
    if serial in link.sounds:
        link.last_page = position
    if flags & ENDS:
        link.ended.add(serial)
    link.stop = after


def _remark(link: _Link, remarks: list[str]) -> None:
    if link.missing:
        remarks.append(f"{link.missing} of its pages are missing; the others were read")
    if len(link.sounds) > 1:
        remarks.append(f"it has {len(link.sounds)} parallel audio streams; only the first was read")
    if link.sounds and link.sounds[0] not in link.ended:
        remarks.append("its last page is missing: it is cut off, or was recorded from a live stream")


def _part(content: Bytes, link: _Link) -> View:
    """A link; if its last page is missing, the last one present is marked as such, which libsndfile requires."""
    if not link.sounds or link.sounds[0] in link.ended:
        return View(content, link.start, link.stop)
    page = _page(content, link.last_page)
    assert page is not None
    marked = bytearray(content.at(link.last_page, page[3] - link.last_page))
    marked[5] |= ENDS
    marked[22:26] = bytes(4)
    marked[22:26] = struct.pack("<I", _crc32(marked))
    return View(content, link.start, link.stop, patches={link.last_page: bytes(marked)})


def _crc32(data: bytes | bytearray) -> int:
    crc = 0
    for byte in data:
        crc = (crc << 8) & 0xFFFF_FFFF ^ _CRC32[crc >> 24 ^ byte]
    return crc


def _table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ (0x04C11DB7 if crc >> 31 & 1 else 0)
        table.append(crc & 0xFFFF_FFFF)
    return table


_CRC32 = _table()
