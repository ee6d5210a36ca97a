"""Checks of the container format of a recording, and corrections for damaged headers.

libsndfile trusts headers: it stops where a wrong one says so, reads only the first of several concatenated recordings,
and does not warn. So the structure of the common containers is parsed here first. `examine` returns the parts of a file
that libsndfile reads one by one, with corrected headers, and a remark for each irregularity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from opensnac.recordings.views import Bytes, View


class BrokenFileError(Exception):
    """Why a file cannot be read; the message goes after the file's name."""


@dataclass
class Found:
    """The parts of a recording, in order, and remarks. `kind` names the container, "" if it is not one of ours.

    `promised` is what the header declares, `there` what is present, in bytes; both 0 where they agree.
    """

    kind: str
    parts: list[View]
    remarks: list[str] = field(default_factory=list)
    promised: int = 0
    there: int = 0


def examine(content: Bytes) -> Found:
    """Scan a file without decoding: FLAC, Ogg and MP3 files are read once, others only their headers."""
    from opensnac.recordings import chunks, flac, mp3, ogg  # they import Found

    start = id3_end(content, 0)
    head = content.at(start, 64)
    readers: dict[bytes, Callable[[Bytes, int], Found]] = {
        b"fLaC": flac.examine,
        b"OggS": ogg.examine,
        **dict.fromkeys(chunks.MAGICS, chunks.examine),
    }
    for magic, read in readers.items():
        if head.startswith(magic):
            return read(content, start)
    if mp3.begins(content, start):
        return mp3.examine(content, start)
    return Found("", [View(content)])


def id3_end(content: Bytes, start: int) -> int:
    """The end of an ID3v2 tag at `start`; `start` if there is none."""
    while (head := content.at(start, 10))[:3] == b"ID3" and len(head) == 10 and max(head[6:10]) < 0x80:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        start += 10 + size + (10 if head[5] & 0x10 else 0)
    return start
