"""Files of samples in, files of samples out, and the resampling between: numpy only, no torch.

Audio is float32 of shape (channels, samples), full scale at ±1.
"""

from __future__ import annotations

import shutil
import struct
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from opensnac.errors import AudioError
from opensnac.files import OutputFile, whole_file
from opensnac.recordings import media
from opensnac.recordings.containers import BrokenFileError, Found, examine
from opensnac.recordings.remarks import RecordingWarning, Remarks, missing
from opensnac.recordings.views import Bytes, View

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000  # Hz; beyond these a header is damaged rather than daring
BLOCK_SAMPLES = 1 << 16  # samples a channel that are read, resampled or written at a time
LARGEST_WAV = 0xFFFF_0000  # bytes of samples that its 32-bit counts leave room for
# The endings that folders are searched for; a file given by name may have any ending that soundfile reads.
READABLE = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".caf", ".w64")
FORMATS = "a WAV, FLAC, OGG, Opus or MP3 file"
LOSSY = ("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III")  # whose samples may exceed ±1 a little
UNKNOWN_LENGTH = 1 << 62  # samples; libsndfile says about this for a stream without an end
WRITABLE = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}


class Source:
    """A recording opened for reading in blocks: `rate` (Hz), `channels`, `num_samples` as its header has it, or None.

    `source` is a file name or an open binary stream; one that cannot seek is spooled to disk first. With `raw`, a rate
    and a number of channels, it holds headerless 16-bit little-endian samples, which are read as they arrive.
    `remarks` has a line for whatever is odd about the recording: what is missing of it, what of the file was not read.
    Raises AudioError for what is no audio, and with `strict` instead of every remark.
    """

    def __init__(self, source: str | Path | BinaryIO, raw: tuple[int, int] | None = None, strict: bool = False) -> None:
        self.name = stream_name(source)
        self.num_samples: int | None = None
        self.lossy = False
        self.exact = True  # whether `num_samples` is what will come, where nothing is missing
        self.repeatable = True  # whether `blocks` can be asked for more than once
        self.remarks = Remarks(self.name, strict)
        self._parts: list[View] = []
        with ExitStack() as closing, self._readable():
            if raw is not None:
                self.rate, self.channels = raw
                self._begin = self._raw_blocks_of(_opened(source, closing))
            elif isinstance(source, str | Path) and Path(source).suffix.lower() == ".raw":
                raise AudioError(f"{self.name}: headerless samples have no known rate; give it with --raw")
            else:
                self._begin = self._open(Bytes(_seekable(source, closing)))
            check_rate(self.rate, self.name)
            self._closing = closing.pop_all()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def blocks(self) -> Iterator[np.ndarray]:
        """The samples: float32 of shape (channels, up to BLOCK_SAMPLES or a little more).

        Samples keep the file's scale: integers are divided by their full scale, floats are taken as they are and may
        exceed ±1. Raises AudioError for NaN or infinity, and where no sample comes. A cut FLAC is refused; others are
        read as far as they go, with a remark.
        """
        length = 0
        blocks = self._begin()
        while True:
            with self._readable():
                block = next(blocks, None)
            if block is None:
                break
            if not np.isfinite(block).all():
                raise AudioError(f"{self.name}: holds NaN or infinity near sample {length}; repair the recording")
            yield block.T
            length += len(block)
        if length == 0:
            raise AudioError(f"{self.name}: holds no samples; at least one is needed")

    def _open(self, content: Bytes) -> Callable[[], Iterator[np.ndarray]]:
        """Look into the file; what begins to read it."""
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
        """Rate, channels and length, which all parts must share and add up to."""
        lengths: list[int] = []
        for part in found.parts:
            with _ForwardFile(part) as file:
                if lengths and (file.samplerate, file.channels) != (self.rate, self.channels):
                    raise BrokenFileError(
                        f"changes from {self.channels} channels at {self.rate} Hz to {file.channels} at "
                        f"{file.samplerate} Hz at byte {part.start}; split it there"
                    )
                self.rate, self.channels, self.lossy = file.samplerate, file.channels, file.subtype in LOSSY
                lengths.append(len(file))
        self._parts = found.parts
        self.num_samples = sum(lengths) if max(lengths) < UNKNOWN_LENGTH else None
        if found.promised and self.num_samples:
            there = self.num_samples / self.rate
            self.remarks.add(missing(there * found.promised / max(1, found.there), there))

    def _open_media(self, content: Bytes) -> Callable[[], Iterator[np.ndarray]]:
        """Let PyAV read what libsndfile does not; libsndfile's own words where it cannot either."""
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
        read = getattr(file, "read1", file.read)  # what is there now, rather than a full block later

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
                    f"{self.name}: ends inside of a sample; 16-bit samples of {self.channels} channels were needed"
                )

        return blocks

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Put what goes wrong with reading into our words."""
        try:
            yield
        except OSError as error:
            raise AudioError(f"{self.name}: cannot be read: {error.strerror or error}") from error
        except BrokenFileError as error:
            raise AudioError(f"{self.name}: {error}") from error
        except soundfile.SoundFileError as error:
            reason = str(getattr(error, "error_string", error)).rstrip(". ")
            raise AudioError(f"{self.name}: not readable as audio ({reason}); give {FORMATS}{_or_install()}") from error


class _ForwardFile(soundfile.SoundFile):
    """A recording that libsndfile reads from its beginning to its end.

    Where it may seek, soundfile does so after every block, and MP3 decoders lose some of their state on the way: blocks
    would not fit together.
    """

    def __init__(self, view: View) -> None:
        view.seek(0)
        super().__init__(view)

    def seekable(self) -> bool:
        """Not for us."""
        return False


def _or_install() -> str:
    return "" if media.available() else f", or pip install '{media.EXTRA}' for M4A, AAC, WebM, WMA, AMR and films"


def read(source: str | Path | BinaryIO, strict: bool = False) -> tuple[np.ndarray, int]:
    """Read a whole recording: float32 of shape (channels, samples), and its rate in Hz. Errors as in Source.

    What is odd about it is a RecordingWarning.
    """
    samples = np.empty((0, 0), np.float32)
    length = 0
    with Source(source, strict=strict) as recording:
        for block in recording.blocks():  # grown block by block: a header may promise more than memory holds
            if length + block.shape[1] > len(samples):  # realloc in place: no second copy of an hour of audio
                grown = max(2 * len(samples), length + block.shape[1], BLOCK_SAMPLES)
                samples.resize((grown, recording.channels), refcheck=False)
            samples[length : length + block.shape[1]] = block.T
            length += block.shape[1]
        samples.resize((length, recording.channels), refcheck=False)
        for remark in recording.remarks:
            warnings.warn(f"{recording.name}: {remark}", RecordingWarning, stacklevel=2)
        return samples.T, recording.rate


class Sink:
    """A recording written block by block: WAV or FLAC (16 bit) or OGG (Vorbis), by the ending of the name.

    A named file appears whole when the `with` block ends well, or not at all; an existing one is replaced only with
    `force`. An open binary stream takes `ending` (".wav" unless told; ".raw" is headerless 16-bit samples); WAV and
    raw samples are passed on at once, a WAV's header knowing its length where the stream can seek.
    `at_most` samples, if known, decide whether a WAV needs RF64. Samples beyond ±1 are clipped.
    Raises AudioError for an unknown ending, NaN, or a rate or channel count that the format cannot hold.
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
            self._put = self._closing.enter_context(self._passing_on(self._target))
        else:
            self._put = self._closing.enter_context(self._by_soundfile())
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._closing.__exit__(*error)

    def write(self, block: np.ndarray) -> None:
        """Append (channels, samples)."""
        if block.ndim != 2 or len(block) != self.channels:
            raise AudioError(f"{self.name}: a block came in shape {block.shape}; ({self.channels}, samples) was needed")
        if not np.isfinite(block).all():
            raise AudioError(f"{self.name}: audio to write holds NaN or infinity near sample {self.num_samples}")
        self._put(np.ascontiguousarray(np.clip(block, -1, 1).T))
        self.num_samples += block.shape[1]

    @contextmanager
    def _passing_on(self, stream: BinaryIO) -> Iterator[Callable[[np.ndarray], None]]:
        start = stream.tell() if self._ending == ".wav" and stream.seekable() else None

        def put(block: np.ndarray) -> None:
            stream.write(_as_int16(block).astype("<i2").tobytes())
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
                unfinished = stack.enter_context(whole_file(Path(self._target), self._force))
                place = stack.enter_context(OutputFile(unfinished, self._target))
            else:  # a header holds the length, so soundfile must be able to seek back to it
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                place = stack.enter_context(OutputFile(Path(folder) / "spooled", "the folder of temporary files"))
            with self._writable(container, place):
                file = soundfile.SoundFile(_ForC(place), "w", self.rate, self.channels, subtype, format=container)
            stack.callback(file.close)

            def put(block: np.ndarray) -> None:
                with self._writable(container, place):
                    for start in range(0, len(block), BLOCK_SAMPLES):  # a huge OGG block overflows the stack
                        part = block[start : start + BLOCK_SAMPLES]
                        file.write(_as_int16(part) if subtype == "PCM_16" else part)

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
            raise place.error or AudioError(f"{self.name}: could not be written to its end") from error
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


class _ForC:
    """An output for libsndfile, which calls through C, where exceptions are lost; the file keeps its first error."""

    def __init__(self, file: OutputFile) -> None:
        self.tell, self.seek, self.read, self._file = file.tell, file.seek, file.read, file

    def write(self, data: bytes) -> int:
        """Write all, or nothing more than an error."""
        try:
            return self._file.write(data)
        except OSError:
            return 0


def write(
    target: str | Path | BinaryIO,
    audio: np.ndarray,
    rate: int,
    ending: str | None = None,
    force: bool = False,
) -> None:
    """Write (channels, samples) at once; the rest is as in Sink."""
    if audio.ndim != 2 or audio.shape[1] == 0:
        raise AudioError(
            f"{stream_name(target)}: audio to write has shape {audio.shape}; (channels, samples) is needed"
        )
    with Sink(target, len(audio), rate, ending, force, at_most=audio.shape[1]) as sink:
        for start in range(0, audio.shape[1], BLOCK_SAMPLES):
            sink.write(audio[:, start : start + BLOCK_SAMPLES])


def writable_ending(target: str | Path, ending: str | None = None) -> str:
    """The ending that decides how `target` is written. AudioError, listing them, for an unknown one."""
    found = (ending or Path(target).suffix).lower()
    if found not in WRITABLE:
        raise AudioError(
            f"{target}: cannot write {f'the ending {found!r}' if found else 'a name without ending'}; "
            f"use one of {', '.join(WRITABLE)}"
        )
    return found


def _container(ending: str, values: int) -> tuple[str, str]:
    container, subtype = WRITABLE[ending]
    if container == "WAV" and 2 * values > LARGEST_WAV:  # WAV counts bytes in 32 bits; RF64 is its heir
        container = "RF64"
    return container, subtype


def _as_int16(block: np.ndarray) -> np.ndarray:
    """Rounded, where soundfile would cut off; the loudest value is one step short of 1."""
    return np.clip((block * np.float32(32768)).round(), -32768, 32767).astype(np.int16)


def _wav_header(channels: int, rate: int, num_samples: int | None) -> bytes:
    """The 44 bytes before 16-bit samples; a length that is not known, or too long, is the largest there is."""
    size = LARGEST_WAV if num_samples is None else min(2 * channels * num_samples, LARGEST_WAV)
    form = struct.pack("<HHIIHH", 1, channels, rate, 2 * channels * rate, 2 * channels, 16)
    return struct.pack("<4sI8sI", b"RIFF", 36 + size, b"WAVEfmt ", 16) + form + struct.pack("<4sI", b"data", size)


class Resampler:
    """Resamples a signal that comes in blocks with soxr's very high quality; float32 (channels, samples).

    N samples become `resampled_length(N, from_rate, to_rate)`, or as many as `finish` is told. That length is rounded
    up: any rate and back keeps all N samples.
    """

    def __init__(self, from_rate: int, to_rate: int, channels: int) -> None:
        self._rates, self._channels = (from_rate, to_rate), channels
        self._came = self._given = 0
        self._stream = None
        if from_rate != to_rate:
            self._stream = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality="VHQ")

    def push(self, block: np.ndarray) -> np.ndarray:
        """Take the next samples; what they make certain."""
        self._came += block.shape[1]
        if self._stream is not None:
            block = self._stream.resample_chunk(np.ascontiguousarray(block.T, np.float32)).T
        self._given += block.shape[1]
        return block

    def finish(self, num_samples: int | None = None) -> np.ndarray:
        """The rest, so that there are `num_samples` in all; beyond the signal's end there is silence."""
        from_rate, to_rate = self._rates
        length = resampled_length(self._came, from_rate, to_rate) if num_samples is None else num_samples
        rest = np.zeros((self._channels, max(0, length - self._given)), np.float32)
        if self._stream is not None:
            silence = np.zeros((from_rate // to_rate + 2, self._channels), np.float32)  # soxr rounds down: one more
            last = self._stream.resample_chunk(silence, last=True).T[:, : rest.shape[1]]
            rest[:, : last.shape[1]] = last
        return rest


def resample(audio: np.ndarray, from_rate: int, to_rate: int, num_samples: int | None = None) -> np.ndarray:
    """Resample (channels, samples) at once, to `num_samples` if given; the rest is as in Resampler."""
    resampler = Resampler(from_rate, to_rate, len(audio))
    starts = range(0, audio.shape[1], BLOCK_SAMPLES)
    blocks = [resampler.push(audio[:, start : start + BLOCK_SAMPLES]) for start in starts]
    resampled = np.concatenate([*blocks, resampler.finish(num_samples)], axis=1)
    return resampled if num_samples is None else resampled[:, :num_samples]


def resampled_length(num_samples: int, from_rate: int, to_rate: int) -> int:
    """Samples that `num_samples` at `from_rate` become at `to_rate`: the ratio, rounded up."""
    return -(-num_samples * to_rate // from_rate)


def check_rate(rate: int, name: str) -> None:
    """Raise AudioError unless `rate` (Hz) is one that recordings have."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(f"{name}: the rate is {rate} Hz; {LOWEST_RATE} to {HIGHEST_RATE} Hz are possible")


def _opened(source: str | Path | BinaryIO, closing: ExitStack) -> BinaryIO:
    return closing.enter_context(open(source, "rb")) if isinstance(source, str | Path) else source


def _seekable(source: str | Path | BinaryIO, closing: ExitStack) -> BinaryIO:
    """A file that can seek: a pipe's bytes are put on disk."""
    file = _opened(source, closing)
    if file.seekable():
        return file
    spooled = tempfile.TemporaryFile()  # noqa: SIM115
    closing.callback(spooled.close)
    shutil.copyfileobj(file, spooled)
    return spooled


def stream_name(stream: str | Path | BinaryIO) -> str:
    """What to call a file or an open stream in a message."""
    if isinstance(stream, str | Path):
        return str(stream)
    standard = {getattr(sys.stdin, "buffer", None): "standard input"}
    standard[getattr(sys.stdout, "buffer", None)] = "standard output"
    return standard.get(stream, "stream")
