"""One small class per codec behind one interface: a clip goes to real bytes and comes back.

What counts as a codec's bytes is what a receiver needs to decode, without the container's own overhead:

- opensnac: the whole `.snac` file, header and checksums included, for the format has no other form.
- Opus: the packets inside the Ogg file. Pages and comments are not in `num_bytes` but in `file_bytes`.
- Codec2: the raw frames, which c2enc writes without any container.

Times include writing and reading files, and starting the program where the codec is one.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import soundfile

from opensnac import __version__, audio, bitstream
from opensnac.errors import OpensnacError

if TYPE_CHECKING:
    from opensnac import SNAC

DEFAULT_CODECS = ("opensnac", "opus:6", "codec2:1200")


class Coded(NamedTuple):
    """One clip after a codec: float32 (samples,), as long and as fast as the original and aligned to it.

    `num_bytes` is None for what is not coded. `codes` (coarse to fine) and `codebook_size` are there for
    codecs that show them.
    """

    audio: np.ndarray
    num_bytes: int | None
    file_bytes: int | None
    encode_seconds: float
    decode_seconds: float
    codes: list[np.ndarray] | None = None
    codebook_size: int | None = None


class Codec(ABC):
    """A codec by its name on the command line; `missing`, then `version`, then calls."""

    name: str
    counted: str  # what `num_bytes` counts

    @abstractmethod
    def missing(self) -> str | None:
        """None when the codec can run here, else what is missing and how to install it."""

    @abstractmethod
    def version(self) -> str:
        """What was run: enough to tell two runs apart that may differ."""

    @abstractmethod
    def __call__(self, clip: np.ndarray, sample_rate: int) -> Coded:
        """Code and decode a clip: float32 (samples,), rate in Hz."""


class Original(Codec):
    """The clip itself: the ceiling of every metric."""

    name = "original"
    counted = "not coded"

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return "not coded"

    def __call__(self, clip: np.ndarray, sample_rate: int) -> Coded:
        return Coded(clip, None, None, 0.0, 0.0)


class Opensnac(Codec):
    """A model of this package through a `.snac` file: a bundled name, folder or hub id; None: the default."""

    counted = "the whole .snac file"

    def __init__(self, model: str | None = None) -> None:
        self.name = "opensnac" if model is None else f"opensnac:{model}"
        self._model_name = model

    @functools.cached_property
    def model(self) -> SNAC:
        """The model, loaded on first use."""
        from opensnac import SNAC  # imports torch

        return SNAC.from_pretrained(self._model_name).fold_weight_norm()

    def missing(self) -> str | None:
        try:
            _ = self.model
        except OpensnacError as error:
            return str(error)
        return None

    def version(self) -> str:
        return f"opensnac {__version__}, {self.model.name} {self.model.fingerprint[:16]}"

    def __call__(self, clip: np.ndarray, sample_rate: int) -> Coded:
        from opensnac import transcode  # imports torch

        with tempfile.TemporaryDirectory() as folder:
            original, coded, decoded = (Path(folder) / name for name in ("in.wav", "coded.snac", "out.wav"))
            audio.write(original, clip[None], sample_rate)
            start = time.perf_counter()
            transcode.encode_file(original, coded, self.model)
            middle = time.perf_counter()
            transcode.decode_file(coded, decoded, self.model)
            end = time.perf_counter()
            with open(coded, "rb") as file:
                codes = bitstream.read(file).codes
            size = coded.stat().st_size
            return Coded(
                audio=_fit(audio.read(decoded)[0][0], len(clip)),
                num_bytes=size,
                file_bytes=size,
                encode_seconds=middle - start,
                decode_seconds=end - middle,
                codes=[scale.ravel() for scale in codes],
                codebook_size=self.model.config.codebook_size,
            )


class Opus(Codec):
    """Opus by opusenc and opusdec, tuned for low rates: speech hint, 60 ms packets, variable rate.

    opusdec drops the encoder's look-ahead (pre-skip), so the audio comes back aligned.
    """

    counted = "Opus packets, without Ogg pages"
    rate = 48_000

    def __init__(self, kilobits: str) -> None:
        self.name = f"opus:{kilobits}"
        self._kilobits = kilobits
        if not 6 <= float(kilobits) <= 256:
            raise OpensnacError(f"opus at {kilobits} kb/s; opusenc codes at 6 to 256 kb/s, as in opus:6")

    def missing(self) -> str | None:
        return _missing_programs("opusenc", "opusdec", debian_package="opus-tools")

    def version(self) -> str:
        return _first_line(["opusenc", "--version"])

    def __call__(self, clip: np.ndarray, sample_rate: int) -> Coded:
        with tempfile.TemporaryDirectory() as folder:
            original, coded, decoded = (Path(folder) / name for name in ("in.wav", "coded.opus", "out.wav"))
            audio.write(original, audio.resample(clip[None], sample_rate, self.rate), self.rate)
            options = ["--bitrate", self._kilobits, "--speech", "--framesize", "60", "--padding", "0"]
            encode_seconds = _run(["opusenc", "--quiet", *options, str(original), str(coded)])
            back = ["--float", "--rate", str(self.rate)]  # float: no dither
            decode_seconds = _run(["opusdec", "--quiet", *back, str(coded), str(decoded)])
            stream = coded.read_bytes()
            samples = audio.resample(audio.read(decoded)[0], self.rate, sample_rate)
        return Coded(
            audio=_fit(samples[0], len(clip)),
            num_bytes=sum(ogg_packet_sizes(stream)[2:]),  # the first two are OpusHead and OpusTags
            file_bytes=len(stream),
            encode_seconds=encode_seconds,
            decode_seconds=decode_seconds,
        )


def ogg_packet_sizes(stream: bytes) -> list[int]:
    """Sizes in bytes of the packets of an Ogg stream (RFC 3533), pages and their headers left out."""
    sizes, size, position = [], 0, 0
    while position < len(stream):
        if stream[position : position + 4] != b"OggS":
            raise OpensnacError(f"no Ogg page at byte {position} of {len(stream)}; run the encoder again")
        num_segments = stream[position + 26]
        segments = stream[position + 27 : position + 27 + num_segments]
        for segment in segments:
            size += segment
            if segment < 255:  # the last piece of a packet
                sizes.append(size)
                size = 0
        position += 27 + num_segments + sum(segments)
    return sizes


class Codec2(Codec):
    """Codec2, a speech vocoder at 8 kHz, by c2enc and c2dec.

    Its decoder answers late. Envelopes of decoded and original speech correlate best, and the intelligibility
    of the decoded is highest, when it is shifted by 20 ms, at the two lowest rates by 30 ms: so is done here.
    """

    counted = "Codec2 frames, which have no container"
    rate = 8_000
    delays: ClassVar = dict.fromkeys(("3200", "2400", "1600", "1400", "1300", "1200"), 160) | {  # samples
        "700C": 240,
        "450": 240,
    }
    longest_frame = 320  # samples; c2enc drops what does not fill a frame

    def __init__(self, mode: str) -> None:
        self.name = f"codec2:{mode}"
        self._mode = "700C" if mode == "700" else mode
        if self._mode not in self.delays:
            modes = ", ".join(self.delays)
            raise OpensnacError(f"codec2 at {mode} b/s; its rates are {modes}, as in codec2:1200")

    def missing(self) -> str | None:
        return _missing_programs("c2enc", "c2dec", debian_package="codec2")

    def version(self) -> str:
        return _debian_version("codec2") or "unknown version"  # the programs do not tell

    def __call__(self, clip: np.ndarray, sample_rate: int) -> Coded:
        delay = self.delays[self._mode]
        samples = audio.resample(clip[None], sample_rate, self.rate)[0]
        padded = np.pad(samples, (0, -(len(samples) + delay) % self.longest_frame + delay))
        with tempfile.TemporaryDirectory() as folder:
            original, coded, decoded = (Path(folder) / name for name in ("in.raw", "coded.bin", "out.raw"))
            soundfile.write(original, padded, self.rate, "PCM_16", "LITTLE", "RAW")
            encode_seconds = _run(["c2enc", self._mode, str(original), str(coded)])
            decode_seconds = _run(["c2dec", self._mode, str(coded), str(decoded)])
            size = coded.stat().st_size
            late, _ = soundfile.read(
                decoded, dtype="float32", samplerate=self.rate, channels=1, format="RAW", subtype="PCM_16"
            )
        return Coded(
            audio=_fit(audio.resample(late[None, delay:], self.rate, sample_rate)[0], len(clip)),
            num_bytes=size,
            file_bytes=size,
            encode_seconds=encode_seconds,
            decode_seconds=decode_seconds,
        )


def by_name(name: str) -> Codec:
    """The codec called `name`, such as opensnac, opensnac:FOLDER, opus:6 or codec2:1200; loads nothing yet.

    Raises OpensnacError, which lists the forms, for any other name.
    """
    family, _, choice = name.partition(":")
    if name == "original":
        return Original()
    if family == "opensnac":
        return Opensnac(choice or None)
    if family == "opus" and re.fullmatch(r"\d+(\.\d+)?", choice):
        return Opus(choice)
    if family == "codec2" and choice:
        return Codec2(choice)
    raise OpensnacError(
        f"no codec {name!r}; use opensnac, opensnac:NAME_OR_FOLDER, opus:KILOBITS (such as opus:6) "
        "or codec2:BITS (such as codec2:1200)"
    )


def _fit(samples: np.ndarray, num_samples: int) -> np.ndarray:
    """Exactly `num_samples`: cut, or filled up with silence."""
    return np.pad(samples[:num_samples], (0, max(0, num_samples - len(samples)))).astype(np.float32)


def _missing_programs(*programs: str, debian_package: str) -> str | None:
    absent = [program for program in programs if shutil.which(program) is None]
    if not absent:
        return None
    return f"{', '.join(absent)} not found; run: apt-get install {debian_package}"


def _run(command: list[str]) -> float:
    """Run a program to its end; the seconds it took. Raises OpensnacError with its last words if it fails."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise OpensnacError(f"{command[0]} failed with exit code {done.returncode}: {words}")
    return time.perf_counter() - start


def _first_line(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.partition("\n")[0]


def _debian_version(package: str) -> str | None:
    if shutil.which("dpkg-query") is None:
        return None
    query = ["dpkg-query", "--show", "--showformat", f"{package} ${{Version}}", package]
    return _first_line(query) or None
