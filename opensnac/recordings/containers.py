"""What the bytes of a recording say about themselves, and what of it is wrong.

libsndfile believes headers: it stops where a wrong one says so, reads the first of several recordings in a row only,
and says nothing. So the frame of each container that people's files come in is walked here first. `examine` gives the
parts of a file that libsndfile reads one by one, their headers put right, and a line for whatever was not in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from opensnac.recordings.views import Bytes, View


class BrokenFileError(Exception):
    """What keeps a file from being read, in words that its name goes in front of."""


@dataclass
class Found:
    """The parts of a recording, in order, and remarks. `kind` names the container, "" where it is none of ours.

    `promised` is what the header says to be there, `there` what is, in bytes; both 0 where they agree.
    """

    kind: str
    parts: list[View]
    remarks: list[str] = field(default_factory=list)
    promised: int = 0
    there: int = 0


def examine(content: Bytes) -> Found:
    """Look through a file. Nothing is decoded; FLAC, Ogg and MP3 files are read once, of others only the headers."""
    from opensnac.recordings import chunks, flac, mp3, ogg  # they need Found

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
    """Where what follows an ID3v2 tag at `start` begins; `start` where there is none."""
    while (head := content.at(start, 10))[:3] == b"ID3" and len(head) == 10 and max(head[6:10]) < 0x80:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        start += 10 + size + (10 if head[5] & 0x10 else 0)
    return start
