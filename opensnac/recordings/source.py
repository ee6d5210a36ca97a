"""Reading recordings in blocks, also with wrong headers: numpy only, no torch.

Audio is float32 of shape (channels, samples), full scale at ±1.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from opensnac.bitstream import Limits
from opensnac.errors import AudioError, LimitError
from opensnac.recordings import media
from opensnac.recordings.containers import BrokenFileError, Found, examine
from opensnac.recordings.remarks import Remarks, missing
from opensnac.recordings.views import Bytes, View, ViewSpec

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000  # Hz; a header with another rate is considered damaged
BLOCK_SAMPLES = 1 << 16  # samples per channel that are read, resampled or written at a time
# The extensions that folders are searched for; a file given by name may have any that soundfile reads.
READABLE = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".caf", ".w64")
FORMATS = "a WAV, FLAC, OGG, Opus or MP3 file"
LOSSY = ("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III")  # whose samples may exceed ±1 a little
SPOOLED_BYTES = 1 << 16  # read from a pipe at a time
UNKNOWN_LENGTH = 1 << 62  # samples; libsndfile reports about this for a stream of unknown length


class Source:
    """A recording opened for reading in blocks: `rate` (Hz), `channels`, and `num_samples` from its header, or None.

    `source` is a file name or an open binary stream; one that cannot seek is spooled to disk first. With `raw`, a rate
    and a number of channels, it is headerless 16-bit little-endian PCM, read as it arrives. `remarks` has a line for
    each irregularity: what is missing, what was not read. AudioError if it is not audio, and with `strict` in place of
    remarks; LimitError beyond `limits`.
    """

    def __init__(
        self,
        source: str | Path | BinaryIO,
        raw: tuple[int, int] | None = None,
        strict: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self.name = stream_name(source)
        self._limits = limits
        self.num_samples: int | None = None
        self.lossy = False
        self.exact = True  # whether `num_samples` is exact unless samples are missing
        self.repeatable = True  # whether `blocks` can be called more than once
        self.remarks = Remarks(self.name, strict)
        self.parts: list[
            tuple[ViewSpec, int]
        ] = []  # of the file, with their samples; none where it is not libsndfile's
        self._parts: list[View] = []
        with ExitStack() as closing, self._readable():
            if raw is not None:
                self.rate, self.channels = raw
                self._begin = self._raw_blocks_of(_opened(source, closing))
            elif isinstance(source, str | Path) and Path(source).suffix.lower() == ".raw":
                raise AudioError(f"{self.name}: expected a rate for headerless samples, got none; give it with --raw")
            else:
                self._begin = self._open(Bytes(self._seekable(source, closing)))
            check_rate(self.rate, self.name)
            if limits is not None:
                limits.check_layout(self.channels, self.rate)
                limits.check_length(self.num_samples or 0, self.rate)
            self._closing = closing.pop_all()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def blocks(self) -> Iterator[np.ndarray]:
        """The samples: float32 of shape (channels, up to BLOCK_SAMPLES or a little more).

        Integers are divided by their full scale; floats are unchanged and may exceed ±1. AudioError for NaN or
        infinity, and for an empty recording. A truncated FLAC is refused; other formats are read as far as possible,
        with a remark.
        """
        length = 0
        blocks = self._begin()
        while True:
            with self._readable():
                block = next(blocks, None)
                if block is None:
                    break
                if self._limits is not None:
                    self._limits.check_length(length + len(block), self.rate)
            if not np.isfinite(block).all():
                raise AudioError(f"{self.name}: expected finite samples, got NaN or infinity near {length}; repair it")
            yield block.T
            length += len(block)
        if length == 0:
            raise AudioError(f"{self.name}: expected at least one sample, got none")

    def _seekable(self, source: str | Path | BinaryIO, closing: ExitStack) -> BinaryIO:
        """A seekable file; a pipe is spooled to disk."""
        file, limits = _opened(source, closing), self._limits
        if file.seekable():
            if limits is not None:
                limits.check_size(file.seek(0, io.SEEK_END))
            return file
        clock = None if limits is None else limits.clock()
        spooled = tempfile.TemporaryFile()  # noqa: SIM115
        closing.callback(spooled.close)
        read = getattr(file, "read1", file.read)  # what is available
        while piece := read(SPOOLED_BYTES):
            spooled.write(piece)
            if limits is not None and clock is not None:
                limits.check_size(spooled.tell())
                clock.check()
        return spooled

    def _open(self, content: Bytes) -> Callable[[], Iterator[np.ndarray]]:
        """Examine the file; returns the function that reads it."""
        if not content.size:
            raise BrokenFileError("expected audio, got an empty file (0 bytes)")
        found = examine(content)
        for remark in found.remarks:
            self.remarks.add(remark)
        try:
            self._measure(found)
        except soundfile.SoundFileError:
            if found.kind in ("FLAC", "MP3") or not media.available():
                raise
            return self._open_media(content)
        return self._blocks_of_parts

    def _measure(self, found: Found) -> None:
        """Set rate and channels, which all parts must share, and the total length."""
        lengths: list[int] = []
        for part in found.parts:
            with _ForwardFile(part) as file:
                if lengths and (file.samplerate, file.channels) != (self.rate, self.channels):
                    raise BrokenFileError(
                        f"expected {self.channels} channels at {self.rate} Hz throughout, got {file.channels} at "
                        f"{file.samplerate} Hz from byte {part.start}; split it there"
                    )
                self.rate, self.channels, self.lossy = file.samplerate, file.channels, file.subtype in LOSSY
                lengths.append(len(file))
        self._parts = found.parts
        self.parts = [(part.spec, length) for part, length in zip(found.parts, lengths, strict=True)]
        self.num_samples = sum(lengths) if max(lengths) < UNKNOWN_LENGTH else None
        if found.promised and self.num_samples:
            there = self.num_samples / self.rate
            self.remarks.add(missing(there * found.promised / max(1, found.there), there))

    def _open_media(self, content: Bytes) -> Callable[[], Iterator[np.ndarray]]:
        """Read with PyAV what libsndfile does not read."""
        try:
            file = media.MediaFile(content, self.remarks)
        except BrokenFileError as error:
            raise BrokenFileError(f"not readable as audio ({error}); give {FORMATS}") from error
        self.rate, self.channels, self.num_samples = file.rate, file.channels, file.num_samples
        self.lossy, self.exact = True, False
        return file.blocks

    def _blocks_of_parts(self) -> Iterator[np.ndarray]:
        for part in self._parts:
            with _ForwardFile(part) as file:
                read = 0
                while len(block := file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
                    yield block
                    read += len(block)
                if part.error is not None:
                    raise part.error
                if read < len(file) < UNKNOWN_LENGTH:
                    self.remarks.add(missing(len(file) / self.rate, read / self.rate))

    def _raw_blocks_of(self, file: BinaryIO) -> Callable[[], Iterator[np.ndarray]]:
        self.repeatable = file.seekable()
        start = file.tell() if self.repeatable else 0
        read = getattr(file, "read1", file.read)  # what is available, instead of waiting for a full block

        def blocks() -> Iterator[np.ndarray]:
            if self.repeatable and file.tell() != start:
                file.seek(start)
            rest = b""
            while data := read(2 * self.channels * BLOCK_SAMPLES):
                data = rest + data
                whole = len(data) // (2 * self.channels) * 2 * self.channels
                rest = data[whole:]
                if whole:
                    yield np.frombuffer(data[:whole], "<i2").reshape(-1, self.channels).astype(np.float32) / 32768
            if rest:
                raise AudioError(
                    f"{self.name}: expected whole 16-bit samples of {self.channels} channels, "
                    "got part of one at the end"
                )

        return blocks

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Convert errors of reading to opensnac's."""
        try:
            yield
        except OSError as error:
            raise AudioError(f"{self.name}: cannot be read: {error.strerror or error}") from error
        except BrokenFileError as error:
            raise AudioError(f"{self.name}: {error}") from error
        except LimitError as error:
            raise LimitError(f"{self.name}: {error}") from error
        except soundfile.SoundFileError as error:
            reason = str(getattr(error, "error_string", error)).rstrip(". ")
            raise AudioError(f"{self.name}: not readable as audio ({reason}); give {FORMATS}{_or_install()}") from error


class _ForwardFile(soundfile.SoundFile):
    """A recording that libsndfile reads sequentially.

    Otherwise soundfile seeks after every block, MP3 decoders lose part of their state, and blocks do not join.
    """

    def __init__(self, view: View) -> None:
        view.seek(0)
        super().__init__(view)

    def seekable(self) -> bool:
        """Always false, so that soundfile does not seek."""
        return False


def _or_install() -> str:
    return "" if media.available() else f", or pip install '{media.EXTRA}' for M4A, AAC, WebM, WMA, AMR and video files"


def check_rate(rate: int, name: str) -> None:
    """AudioError unless `rate` (Hz) is plausible for a recording."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(f"{name}: expected a rate of {LOWEST_RATE} to {HIGHEST_RATE} Hz, got {rate} Hz")


def _opened(source: str | Path | BinaryIO, closing: ExitStack) -> BinaryIO:
    return closing.enter_context(open(source, "rb")) if isinstance(source, str | Path) else source


def stream_name(stream: str | Path | BinaryIO) -> str:
    """The name of a file or an open stream in messages."""
    if isinstance(stream, str | Path):
        return str(stream)
    standard = {getattr(sys.stdin, "buffer", None): "standard input"}
    standard[getattr(sys.stdout, "buffer", None)] = "standard output"
    return standard.get(stream, "stream")
