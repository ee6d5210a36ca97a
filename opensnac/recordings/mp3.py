"""MP3 files: concatenated ones, and the true number of frames, whatever the headers declare.

An encoder may write a first frame without audio, named Xing, Info or VBRI, with the number of frames and the samples of
delay and padding. libsndfile trusts that number, and guesses if there is none.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from opensnac.recordings.containers import Found, id3_end
from opensnac.recordings.views import Bytes, View

_BIT_RATES = {  # kb/s by layer, for MPEG-1 and for MPEG-2
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (1, 1): tuple(range(32, 449, 32)),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # MPEG-1, MPEG-2, MPEG-2.5
XING_COUNT_AT, XING_BYTES_AT = 8, 12  # number of frames and of bytes, relative to the name, if flags 1 and 2 are set
TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI")


@dataclass(frozen=True)
class _Frame:
    """A frame's header. `same` is equal for frames of one stream."""

    length: int
    info_at: int  # position of the name in a Xing or Info frame
    same: tuple[int, int, bool]


@dataclass
class _Part:
    """A stream: the range and number of its frames, and its Xing, Info or VBRI frame."""

    start: int
    stop: int = 0
    count: int = 0
    name_at: int | None = None
    promised: int | None = None
    template: bytes = b""  # a header of one of its frames


def begins(content: Bytes, start: int) -> bool:
    """Whether two matching frames follow each other at `start`, or one fills the file."""
    first = _frame(content.at(start, 4))
    if first is None:
        return False
    after = start + first.length
    second = _frame(content.at(after, 4))
    return after >= content.size or (second is not None and second.same == first.same)


def examine(content: Bytes, start: int) -> Found:
    """The streams in the file, one part each, with corrected counts."""
    parts, junk, cut = _walk(content, start)
    found = Found("MP3", [])
    for part in parts:
        found.parts.append(_view(content, part))
        if part.promised is not None and abs(part.promised - part.count) > 1:
            found.remarks.append(f"its header declares {part.promised} frames; {part.count} are present and were read")
    if junk:
        found.remarks.append(f"{junk} bytes between its frames belong to none; they were skipped")
    if cut:
        found.remarks.append("its last frame is incomplete: it is cut off; the frames before were read")
    return found if found.parts else Found("", [View(content, start)])


def _walk(content: Bytes, start: int) -> tuple[list[_Part], int, bool]:
    """The streams, the bytes that belong to none, and whether the last frame is cut off."""
    frames: dict[bytes, _Frame | None] = {}
    parts: list[_Part] = []
    position, junk = start, 0
    while position + 4 <= content.size:
        header = content.near(position, 4)
        frame = frames[header] if header in frames else frames.setdefault(header, _frame(header))
        if frame is None:
            if _is_tag(content, position):
                if (after := _after_tag(content, position)) is None:
                    break
            else:
                after = _next_frame(content, position + 1)
                junk += after - position
            position = after
            continue
        if position + frame.length > content.size:
            return parts, junk, True
        if not parts or _counts(content, position, frame):
            parts.append(_begin(content, position, frame))
        else:
            parts[-1].count += 1
        position = parts[-1].stop = position + frame.length
    return [part for part in parts if part.count], junk, False


def _begin(content: Bytes, position: int, frame: _Frame) -> _Part:
    """A stream whose first frame is at `position`."""
    part = _Part(position, template=content.at(position, 4))
    name = content.at(position + frame.info_at, 12)
    if name[:4] in (b"Xing", b"Info"):
        part.name_at = position + frame.info_at
        part.promised = int.from_bytes(name[8:12]) if name[7] & 1 else None
    elif content.at(position + 36, 4) == b"VBRI":
        part.promised = int.from_bytes(content.at(position + 50, 4))
        part.start = position + frame.length
    else:
        part.count = 1
    return part


def _counts(content: Bytes, position: int, frame: _Frame) -> bool:
    """Whether a frame holds counts rather than audio."""
    return content.near(position + frame.info_at, 4) in (b"Xing", b"Info") or content.near(position + 36, 4) == b"VBRI"


def _view(content: Bytes, part: _Part) -> View:
    count = struct.pack(">I", part.count)
    if part.promised is not None and part.name_at is not None:
        patches = {part.name_at + XING_COUNT_AT: count}
        if content.at(part.name_at + 7, 1)[0] & 2:
            patches[part.name_at + XING_BYTES_AT] = struct.pack(">I", part.stop - part.start)
        return View(content, part.start, part.stop, patches=patches)
    header = bytearray(part.template)
    header[1] |= 1  # no checksum
    header[2] = header[2] & 0x0F & ~2 | 0xE0  # the highest bitrate, so that the name fits
    frame = _frame(bytes(header))
    assert frame is not None
    counting = bytes(header).ljust(frame.info_at, b"\0") + b"Xing" + struct.pack(">I", 1) + count
    start = part.start
    if part.name_at is not None:  # one without a count
        start += (_frame(part.template) or frame).length
    return View(content, start, part.stop, counting.ljust(frame.length, b"\0"))


def _frame(header: bytes) -> _Frame | None:
    """Parse four bytes as a frame's header; None if they are not one."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bit_rate, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 4 or bit_rate in (0, 15) or rate == 3:
        return None
    old = version == 3
    hertz = _RATES[version][rate]
    bits = 1000 * _BIT_RATES[1 if old else 2, layer][bit_rate - 1]
    padding = header[2] >> 1 & 1
    if layer == 1:
        length = (12 * bits // hertz + padding) * 4
    else:
        length = (144 if old or layer == 2 else 72) * bits // hertz + padding
    mono = header[3] >> 6 == 3
    side = 4 + ((17 if mono else 32) if old else (9 if mono else 17))
    return _Frame(length, side, (hertz, layer, mono))


def _next_frame(content: Bytes, position: int) -> int:
    """The position of the next frames or tag; the end of the file if there are none."""
    while (position := content.find(b"\xff", position)) >= 0:
        if begins(content, position):
            return position
        if _is_tag(content, position):
            return position
        position += 1
    return content.size


def _is_tag(content: Bytes, position: int) -> bool:
    head = content.near(position, 12)
    return head.startswith((*TAGS, b"ID3")) or not any(head)


def _after_tag(content: Bytes, position: int) -> int | None:
    """The end of a tag or a run of zeros; None if no frame follows."""
    head = content.near(position, 32)
    if head.startswith(b"ID3"):
        after = id3_end(content, position)
    elif head.startswith(b"TAG"):
        after = position + 128
    elif head.startswith(b"APETAGEX"):
        size, is_header = struct.unpack("<I", head[12:16])[0], head[23] & 0x20
        after = position + 32 + (size if is_header else 0)
    else:
        after = position + 1
    after = after if _frame(content.near(after, 4)) else _next_frame(content, max(after, position + 1))
    return after if after < content.size else None
