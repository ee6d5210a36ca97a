"""Excerpts of a recording by seeking, after its file has been scanned once."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from opensnac.errors import AudioError
from opensnac.recordings.source import Source
from opensnac.recordings.views import Bytes, View, ViewSpec

TWO_PAGES = 2 * 65_307  # largest size of two Ogg pages, in bytes
MPEG_STATE = 1 << 13  # samples of context of an MP3 decoder: seven frames


@dataclass(frozen=True)
class Layout:
    """The result of scanning a file: plain values, which can be stored and sent to other processes.

    `parts` are its byte ranges with samples and their numbers of samples; empty if it cannot seek and is read from the
    start.
    """

    rate: int
    channels: int
    num_samples: int | None
    parts: tuple[tuple[ViewSpec, int], ...]
    remarks: tuple[str, ...] = ()


def scan(file: str | Path | BinaryIO) -> Layout:
    """Scan a recording for its layout. Errors as in Source."""
    with Source(file) as recording:
        return Layout(
            recording.rate,
            recording.channels,
            recording.num_samples,
            tuple(recording.parts),
            tuple(recording.remarks),
        )


def read_excerpt(file: BinaryIO, layout: Layout, start: int, length: int) -> np.ndarray:
    """Read `length` samples from `start` on, fewer at the end: float32 (channels, samples).

    AudioError or OSError if they cannot be read.
    """
    if not layout.parts:
        return _from_the_beginning(file, start, length)
    content = Bytes(file)
    pieces = [np.zeros((layout.channels, 0), np.float32)]
    first = start
    for spec, num_samples in layout.parts:
        last = min(first + length - sum(piece.shape[1] for piece in pieces), num_samples)
        if 0 <= first < last:
            pieces.append(_seek(content, spec, first, last))
        first = max(0, first - num_samples)
    return np.concatenate(pieces, axis=1)


def _seek(content: Bytes, spec: ViewSpec, first: int, last: int) -> np.ndarray:
    view = View.of(content, spec)
    try:
        with soundfile.SoundFile(io.BufferedReader(view)) as file:
            start = first
            if file.subtype == "VORBIS":
                start = min(first, _before_last_page(content, spec))
            elif file.subtype.startswith("MPEG"):
                start = max(0, first - MPEG_STATE)
            file.seek(start)
            samples: np.ndarray = file.read(last - start, dtype="float32", always_2d=True)[first - start :].T
    except soundfile.SoundFileError as error:
        raise view.error or AudioError(str(getattr(error, "error_string", error)).rstrip(". ")) from error
    if view.error is not None:
        raise view.error
    return samples


def _before_last_page(content: Bytes, spec: ViewSpec) -> int:
    """The first sample of a stream's last page, inside which libvorbis may seek to the wrong sample."""
    tail = content.at(max(spec.start, spec.stop - TWO_PAGES), TWO_PAGES)
    page = tail.rfind(b"OggS", 0, max(0, tail.rfind(b"OggS")))
    return max(0, int.from_bytes(tail[page + 6 : page + 14], "little", signed=True)) if page >= 0 else 0


def _from_the_beginning(file: BinaryIO, start: int, length: int) -> np.ndarray:
    with Source(file) as recording:
        return np.concatenate([*_cut(recording.blocks(), start, start + length)], axis=1)


def _cut(blocks: Iterable[np.ndarray], start: int, stop: int) -> Iterable[np.ndarray]:
    position = 0
    for block in blocks:
        yield block[:, max(0, start - position) : max(0, stop - position)]
        position += block.shape[1]
        if position >= stop:
            break
