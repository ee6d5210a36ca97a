"""Writing recordings block by block: to a file, atomically, or to a stream, immediately."""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from opensnac.errors import AudioError
from opensnac.files import OutputFile, atomic_file
from opensnac.recordings.source import BLOCK_SAMPLES, stream_name

LARGEST_WAV = 0xFFFF_0000  # bytes of samples that WAV's 32-bit sizes allow
WRITABLE = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
}


class Sink:
    """Writes a recording block by block: WAV or FLAC (16 bit), OGG (Vorbis) or Opus, by the file name's extension.

    A named file appears complete if the `with` block succeeds, or not at all; an existing one is replaced only with
    `force`. For an open binary stream `ending` sets the format (default ".wav"; ".raw" is headerless 16-bit PCM); WAV
    and raw samples are written immediately, and a WAV header gets its length if the stream can seek. `at_most`, the
    largest number of samples if known, decides whether a WAV needs RF64. Samples beyond ±1 are clipped.
    AudioError for an unknown extension, NaN, or a rate or number of channels that the format does not support.
    """

    def __init__(
        self,
        target: str | Path | BinaryIO,
        channels: int,
        rate: int,
        ending: str | None = None,
        force: bool = False,
        at_most: int | None = None,
    ) -> None:
        self.name = stream_name(target)
        self.channels, self.rate, self.num_samples = channels, rate, 0
        self._target, self._force, self._at_most = target, force, at_most
        self._ending = writable_ending(target, ending) if isinstance(target, str | Path) else ending or ".wav"
        self._closing = ExitStack()

    def __enter__(self) -> Sink:
        if not isinstance(self._target, str | Path) and self._ending in (".wav", ".raw"):
            self._put = self._closing.enter_context(self._forwarding(self._target))
        else:
            self._put = self._closing.enter_context(self._by_soundfile())
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._closing.__exit__(*error)

    def write(self, block: np.ndarray) -> None:
        """Append (channels, samples)."""
        if block.ndim != 2 or len(block) != self.channels:
            raise AudioError(f"{self.name}: expected a block ({self.channels}, samples), got shape {block.shape}")
        if not np.isfinite(block).all():
            raise AudioError(f"{self.name}: expected finite samples, got NaN or infinity near {self.num_samples}")
        self._put(np.ascontiguousarray(np.clip(block, -1, 1).T))
        self.num_samples += block.shape[1]

    @contextmanager
    def _forwarding(self, stream: BinaryIO) -> Iterator[Callable[[np.ndarray], None]]:
        start = stream.tell() if self._ending == ".wav" and stream.seekable() else None

        def put(block: np.ndarray) -> None:
            stream.write(as_int16(block).astype("<i2").tobytes())
            stream.flush()

        if self._ending == ".wav":
            stream.write(_wav_header(self.channels, self.rate, None))
        yield put
        if start is not None:
            end = stream.tell()
            stream.seek(start)
            stream.write(_wav_header(self.channels, self.rate, self.num_samples))
            stream.seek(end)

    @contextmanager
    def _by_soundfile(self) -> Iterator[Callable[[np.ndarray], None]]:
        container, subtype = _container(self._ending, self.channels * (self._at_most or 0))
        with ExitStack() as stack:
            if isinstance(self._target, str | Path):
                unfinished = stack.enter_context(atomic_file(Path(self._target), self._force))
                place = stack.enter_context(OutputFile(unfinished, self._target))
            else:  # a header holds the length, so soundfile must be able to seek back to it
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                place = stack.enter_context(OutputFile(Path(folder) / "spooled", "the folder of temporary files"))
            with self._writable(container, place):
                file = soundfile.SoundFile(
                    _FileForLibsndfile(place), "w", self.rate, self.channels, subtype, format=container
                )
            stack.callback(file.close)

            def put(block: np.ndarray) -> None:
                with self._writable(container, place):
                    for start in range(0, len(block), BLOCK_SAMPLES):  # a huge OGG block overflows the stack
                        part = block[start : start + BLOCK_SAMPLES]
                        file.write(as_int16(part) if subtype == "PCM_16" else part)

            yield put
            with self._writable(container, place):
                file.close()
            if not isinstance(self._target, str | Path):
                place.seek(0)
                shutil.copyfileobj(place, self._target)

    @contextmanager
    def _writable(self, container: str, place: OutputFile) -> Iterator[None]:
        try:
            yield
        except AssertionError as error:  # soundfile's answer to a short write
            raise place.error or AudioError(f"{self.name}: could not be written completely") from error
        except soundfile.SoundFileError as error:
            if place.error is not None:
                raise place.error from error
            reason = str(getattr(error, "error_string", error)).rstrip(". ")
            raise AudioError(
                f"{self.name}: {container} cannot hold {self.channels} channels at {self.rate} Hz ({reason}); "
                f"use another of {', '.join(WRITABLE)}"
            ) from error
        if place.error is not None:
            raise place.error


class _FileForLibsndfile:
    """An output for libsndfile, whose C callbacks lose exceptions; the file keeps its first error."""

    def __init__(self, file: OutputFile) -> None:
        self.tell, self.seek, self.read, self._file = file.tell, file.seek, file.read, file

    def write(self, data: bytes) -> int:
        """Write all of `data`; 0 after an error."""
        try:
            return self._file.write(data)
        except OSError:
            return 0


def writable_ending(target: str | Path, ending: str | None = None) -> str:
    """The extension that decides the format of `target`. AudioError, with a list, for an unknown one."""
    found = (ending or Path(target).suffix).lower()
    if found not in WRITABLE:
        raise AudioError(f"{target}: expected a name that ends in {', '.join(WRITABLE)}, got {found or 'no extension'}")
    return found


def _container(ending: str, values: int) -> tuple[str, str]:
    container, subtype = WRITABLE[ending]
    if container == "WAV" and 2 * values > LARGEST_WAV:  # WAV has 32-bit sizes, RF64 64-bit ones
        container = "RF64"
    return container, subtype


def as_int16(block: np.ndarray) -> np.ndarray:
    """Rounded to int16, where soundfile would truncate; the largest value is one step below 1."""
    return np.clip((block * np.float32(32768)).round(), -32768, 32767).astype(np.int16)


def _wav_header(channels: int, rate: int, num_samples: int | None) -> bytes:
    """The 44-byte header of 16-bit samples; an unknown or too large length is written as the largest one."""
    size = LARGEST_WAV if num_samples is None else min(2 * channels * num_samples, LARGEST_WAV)
    form = struct.pack("<HHIIHH", 1, channels, rate, 2 * channels * rate, 2 * channels, 16)
    return struct.pack("<4sI8sI", b"RIFF", 36 + size, b"WAVEfmt ", 16) + form + struct.pack("<4sI", b"data", size)
