"""Formats that libsndfile does not read (M4A, AAC, WebM, WMA, AMR, audio of video files), with PyAV if installed.

The encoder's delay and padding are removed where the container declares them: MP4, Matroska and iTunes' tag do; bare
AAC, WMA and AMR do not.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from opensnac.recordings.containers import BrokenFileError
from opensnac.recordings.remarks import Remarks, missing
from opensnac.recordings.views import Bytes, View

EXTRA = "opensnac[media]"
ENDINGS = (
    *(".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".aac", ".webm", ".weba", ".mkv", ".mka"),
    *(".wma", ".wmv", ".asf", ".amr", ".awb", ".avi", ".flv", ".mp2", ".mpg", ".mpeg", ".ts", ".ac3", ".eac3"),
    *(".wv", ".tta", ".ape", ".ogv"),
)
# FFmpeg's names of containers, except those that refer to other files or addresses.
CONTAINERS = "mov,matroska,asf,amr,aac,avi,flv,mp3,mpeg,mpegts,ac3,eac3,wv,tta,ape,ogg,wav,w64,aiff,caf,au"
TELLING = ("mov", "matroska", "asf", "avi", "flv", "wv", "tta")  # containers whose headers declare the duration
MAX_PADDING = 1 << 14  # samples; more than two frames of the longest kind
GAP_SECONDS = 0.1  # smallest jump of time stamps that counts as missing audio


def available() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


class MediaFile:
    """The best audio stream of a file, with its rate (Hz) and channels; `num_samples` if known.

    BrokenFileError if FFmpeg cannot read it.
    """

    def __init__(self, content: Bytes, remarks: Remarks) -> None:
        self._content, self._remarks = content, remarks
        self._first_pts: int | None = None
        self._late: float | None = None  # seconds by which time stamps are ahead of the samples so far
        with self._opened() as (container, stream):
            tracks = len(container.streams.audio)
            if tracks > 1:
                remarks.add(f"it has {tracks} audio tracks; only track {stream.index} was read")
            first = next(self._frames(container, stream), None)
            if first is None:
                raise BrokenFileError("its audio cannot be decoded")
            self.rate, self.channels = first.sample_rate, len(first.layout.channels)
            self.kind = container.format.name
            self.codec = stream.codec_context.name
            seconds = _promised_seconds(container, stream, self.rate, self._first_pts)
            self.num_samples = None if seconds is None else round(seconds * self.rate)

    def blocks(self) -> Iterator[np.ndarray]:
        """All samples, float32 (samples, channels)."""
        import av

        to_float = av.AudioResampler(format="fltp")
        read, end, self._late = 0, Fraction(0), None
        with self._opened() as (container, stream):
            tagged = _itunes_length(container, stream)
            held = np.zeros((0, self.channels), np.float32)  # the padding is known only at the end of the file
            for frame in self._frames(container, stream):
                self._check(frame, read)
                read += frame.samples
                end = max(end, _end_of(frame.opaque))
                held = np.concatenate([held, *(part.to_ndarray().T for part in to_float.resample(frame))])
                if len(held) > 2 * MAX_PADDING:
                    yield held[:-MAX_PADDING]
                    held = held[-MAX_PADDING:]
            surplus = max(0, read - self._true_length(read, end, tagged))
            yield held[: max(0, len(held) - surplus)]
        self._compare(read)

    def _opened(self) -> _Opened:
        return _Opened(self._content)

    def _frames(self, container: Any, stream: Any) -> Iterator[Any]:
        """Decoded frames, each with its packet."""
        import av

        try:
            for packet in container.demux(stream):
                if self._first_pts is None:
                    self._first_pts = packet.pts
                for frame in packet.decode():
                    frame.opaque = packet
                    yield frame
        except av.FFmpegError as error:
            raise BrokenFileError(f"damaged: {error.strerror or error}") from error

    def _check(self, frame: Any, read: int) -> None:
        if (frame.sample_rate, len(frame.layout.channels)) != (self.rate, self.channels):
            raise BrokenFileError(
                f"expected {self.channels} channels at {self.rate} Hz throughout, got {len(frame.layout.channels)} at "
                f"{frame.sample_rate} Hz after {read / self.rate:.1f} s; split it there"
            )
        if frame.time is None:
            return
        position = read / self.rate
        late = frame.time - position
        jump = 0.0 if self._late is None else late - self._late
        if jump > GAP_SECONDS:
            self._remarks.add(f"its time stamps jump by {jump:.2f} s at {position:.1f} s; the audio was joined there")
        if self._late is None or jump > GAP_SECONDS:
            self._late = late

    def _true_length(self, read: int, end: Fraction, tagged: int | None) -> int:
        """Samples without the encoder's padding, as far as the container declares it."""
        if tagged is not None:
            length = tagged
        elif self.kind.startswith("mov") and end:
            length = round(end * self.rate)
            if self.num_samples and length - self.num_samples > self.rate // 500:  # cut by an edit list
                length = self.num_samples
        elif self.kind.startswith("matroska") and self.codec != "opus" and self.num_samples:
            length = self.num_samples
        else:
            return read  # FFmpeg has removed the padding, or it is unknown
        return length if 0 <= read - length <= MAX_PADDING else read

    def _compare(self, read: int) -> None:
        if self.num_samples and self.num_samples - read > self.rate * GAP_SECONDS:
            self._remarks.add(missing(self.num_samples / self.rate, read / self.rate))


class _Opened:
    """A context manager for a container and its audio stream."""

    def __init__(self, content: Bytes) -> None:
        self._content = content

    def __enter__(self) -> tuple[Any, Any]:
        import av

        try:
            self._container = av.open(
                View(self._content),
                options={"format_whitelist": CONTAINERS, "protocol_whitelist": ""},
                metadata_errors="replace",
            )
        except av.FFmpegError as error:
            raise BrokenFileError(f"{error.strerror or error}") from error
        stream = self._container.streams.best("audio")
        if stream is None:
            self._container.close()
            raise BrokenFileError("it has no audio")
        return self._container, stream

    def __exit__(self, *_: object) -> None:
        self._container.close()


def _end_of(packet: Any) -> Fraction:
    """When a packet's audio ends, in seconds; 0 if unknown."""
    if packet is None or packet.pts is None or not packet.duration:
        return Fraction(0)
    return Fraction((packet.pts + packet.duration) * packet.time_base)


def _promised_seconds(container: Any, stream: Any, rate: int, first_pts: int | None) -> Fraction | None:
    """The duration declared for this stream, without the delay at the start; None if there is none."""
    if (tagged := _itunes_length(container, stream)) is not None:
        return Fraction(tagged, rate)
    if not container.format.name.startswith(TELLING):
        return None
    if stream.duration:
        return Fraction(stream.duration * stream.time_base)
    delay = min(0, first_pts or 0) * stream.time_base
    if re.fullmatch(r"\d+:\d\d:\d\d(\.\d+)?", written := stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = map(Fraction, written.split(":"))
        return Fraction(3600 * hours + 60 * minutes + seconds + delay)
    if container.duration and len(container.streams) == 1:
        return Fraction(Fraction(container.duration, 1_000_000) + delay)
    return None


def _itunes_length(container: Any, stream: Any) -> int | None:
    """The number of samples in the tag iTunSMPB: flags, delay, padding, length, ... in hex."""
    for key, value in itertools.chain(container.metadata.items(), stream.metadata.items()):
        fields = value.split() if key == "iTunSMPB" else []
        if len(fields) > 3 and all(char in "0123456789abcdefABCDEF" for char in fields[3]):
            return int(fields[3], 16) or None
    return None
