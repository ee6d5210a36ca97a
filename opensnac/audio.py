"""Files of samples in, files of samples out, and the resampling between: numpy only, no torch.

Audio is float32 of shape (channels, samples), full scale at ±1.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from opensnac.errors import AudioError
from opensnac.files import whole_file

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000  # Hz; beyond these a header is damaged rather than daring
BLOCK_SAMPLES = 1 << 16  # samples a channel that are read, resampled or written at a time
# The endings that folders are searched for; a file given by name may have any ending that soundfile reads.
READABLE = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".caf", ".w64")
WRITABLE = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}


def read(source: str | Path | BinaryIO) -> tuple[np.ndarray, int]:
    """Read a whole recording: float32 of shape (channels, samples), and its sampling rate in Hz.

    `source` is a file name or an open binary stream, which need not be seekable. Samples keep the file's
    scale: integers are divided by their full scale, floats are taken as they are and may exceed ±1.
    Raises AudioError for what is no audio, has no samples, or holds NaN or infinity. A cut FLAC is refused; a
    cut WAV or OGG, which may be a stream of no known end, is read as far as it goes.
    """
    name = stream_name(source)
    try:
        with soundfile.SoundFile(_seekable(source)) as file:
            check_rate(file.samplerate, name)
            samples = _read_samples(file, name)
            rate = file.samplerate
    except OSError as error:
        raise AudioError(f"{name}: cannot be read: {error.strerror or error}") from error
    except TypeError as error:  # soundfile's answer to a name that ends in .raw
        raise AudioError(f"{name}: headerless samples have no known rate; make it a WAV first") from error
    except soundfile.SoundFileError as error:
        reason = str(getattr(error, "error_string", error)).rstrip(". ")
        raise AudioError(
            f"{name}: not readable as audio ({reason}); give a WAV, FLAC, OGG, Opus or MP3 file"
        ) from error
    if len(samples) == 0:
        raise AudioError(f"{name}: holds no samples; at least one is needed")
    return samples.T, rate


def _read_samples(file: soundfile.SoundFile, name: str) -> np.ndarray:
    """All samples, (samples, channels). Grown block by block: a header may promise more than memory holds."""
    samples = np.empty((0, file.channels), np.float32)
    length = 0
    while True:
        block = file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)
        if len(block) == 0:
            break
        if not np.isfinite(block).all():
            raise AudioError(f"{name}: holds NaN or infinity near sample {length}; repair the recording")
        if length + len(block) > len(samples):  # realloc in place: no second copy of an hour of audio
            samples.resize((max(2 * len(samples), BLOCK_SAMPLES), file.channels), refcheck=False)
        samples[length : length + len(block)] = block
        length += len(block)
    samples.resize((length, file.channels), refcheck=False)
    return samples


def write(
    target: str | Path | BinaryIO,
    audio: np.ndarray,
    rate: int,
    ending: str | None = None,
    force: bool = False,
) -> None:
    """Write (channels, samples) as WAV or FLAC (16 bit) or OGG (Vorbis), by the ending of the name.

    An open binary stream, which need not be seekable, takes `ending` (".wav" unless told). Samples beyond ±1
    are clipped to it. A named file appears whole or not at all, and an existing one is replaced only with
    `force`. Raises AudioError for an unknown ending, NaN, or a rate or channel count the format cannot hold.
    """
    name = stream_name(target)
    if audio.ndim != 2 or audio.shape[1] == 0:
        raise AudioError(f"{name}: audio to write has shape {audio.shape}; (channels, samples) is needed")
    if isinstance(target, str | Path):
        container = _container(audio, writable_ending(target, ending))
        with whole_file(Path(target), force) as path:
            _write_samples(path, audio, rate, container, name)
    else:
        buffer = io.BytesIO()  # a header holds the length, so soundfile must be able to seek back to it
        _write_samples(buffer, audio, rate, _container(audio, ending or ".wav"), name)
        target.write(buffer.getbuffer())


def writable_ending(target: str | Path, ending: str | None = None) -> str:
    """The ending that decides how `target` is written. AudioError, listing them, for an unknown one."""
    found = (ending or Path(target).suffix).lower()
    if found not in WRITABLE:
        raise AudioError(
            f"{target}: cannot write {f'the ending {found!r}' if found else 'a name without ending'}; "
            f"use one of {', '.join(WRITABLE)}"
        )
    return found


def _container(audio: np.ndarray, ending: str) -> tuple[str, str]:
    container, subtype = WRITABLE[ending]
    if container == "WAV" and 2 * audio.size > 0xFFFF_0000:  # WAV counts bytes in 32 bits; RF64 is its heir
        container = "RF64"
    return container, subtype


def _write_samples(
    target: Path | BinaryIO, audio: np.ndarray, rate: int, container: tuple[str, str], name: str
) -> None:
    try:
        with soundfile.SoundFile(target, "w", rate, len(audio), container[1], format=container[0]) as file:
            for start in range(0, audio.shape[1], BLOCK_SAMPLES):  # a huge OGG overflows the stack
                block = audio[:, start : start + BLOCK_SAMPLES]
                if not np.isfinite(block).all():
                    raise AudioError(f"{name}: audio to write holds NaN or infinity near sample {start}")
                file.write(np.ascontiguousarray(np.clip(block, -1, 1).T))
    except soundfile.SoundFileError as error:
        reason = str(getattr(error, "error_string", error)).rstrip(". ")
        raise AudioError(
            f"{name}: {container[0]} cannot hold {len(audio)} channels at {rate} Hz ({reason}); "
            f"use another of {', '.join(WRITABLE)}"
        ) from error
    except AssertionError as error:  # soundfile's answer to a short write
        raise AudioError(f"{name}: could not be written to its end; is the disk full?") from error


def resample(audio: np.ndarray, from_rate: int, to_rate: int, num_samples: int | None = None) -> np.ndarray:
    """Resample (channels, samples) with soxr's very high quality; float32.

    The result has `num_samples` samples, by default `resampled_length(N, from_rate, to_rate)` for the N that
    came; beyond their end there is silence. That length is rounded up: any rate and back keeps all N samples.
    """
    channels, length = audio.shape
    length = resampled_length(length, from_rate, to_rate) if num_samples is None else num_samples
    if from_rate == to_rate and length <= audio.shape[1]:
        return audio[:, :length]
    resampled = np.zeros((length, channels), np.float32)
    stream = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality="VHQ")
    silence = np.zeros((from_rate // to_rate + 2, channels), np.float32)  # soxr rounds down: one more sample
    filled = 0
    for start in range(0, audio.shape[1], BLOCK_SAMPLES):
        block = np.ascontiguousarray(audio[:, start : start + BLOCK_SAMPLES].T, np.float32)
        filled += _fill(resampled, filled, stream.resample_chunk(block))
    _fill(resampled, filled, stream.resample_chunk(silence, last=True))
    return resampled.T


def _fill(target: np.ndarray, start: int, block: np.ndarray) -> int:
    taken = min(len(block), len(target) - start)
    target[start : start + taken] = block[:taken]
    return taken


def resampled_length(num_samples: int, from_rate: int, to_rate: int) -> int:
    """Samples that `num_samples` at `from_rate` become at `to_rate`: the ratio, rounded up."""
    return -(-num_samples * to_rate // from_rate)


def check_rate(rate: int, name: str) -> None:
    """Raise AudioError unless `rate` (Hz) is one that recordings have."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(f"{name}: the rate is {rate} Hz; {LOWEST_RATE} to {HIGHEST_RATE} Hz are possible")


def _seekable(source: str | Path | BinaryIO) -> str | BinaryIO:
    """What soundfile can seek in: the file's name, or for a pipe all its bytes in memory."""
    if isinstance(source, str | Path):
        with open(source, "rb") as file:  # before soundfile, for the system's own words on what is missing
            return str(source) if file.seekable() else io.BytesIO(file.read())
    return source if source.seekable() else io.BytesIO(source.read())


def stream_name(stream: str | Path | BinaryIO) -> str:
    """What to call a file or an open stream in a message."""
    if isinstance(stream, str | Path):
        return str(stream)
    standard = {getattr(sys.stdin, "buffer", None): "standard input"}
    standard[getattr(sys.stdout, "buffer", None)] = "standard output"
    return standard.get(stream, "stream")
