"""Codecs run as programs: Opus, Speex and Codec2.

Bytes counted: for Opus and Speex the packets inside the Ogg file, whose pages and comments count only in
`file_bytes`; for Codec2 the raw frames, which c2enc writes without a container.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import soundfile

from opensnac.errors import OpensnacError
from opensnac.evaluation.codecs.base import (
    Codec,
    Coded,
    ProgramRun,
    debian_version,
    first_line,
    fit,
    missing_programs,
    run_program,
    split_choice,
)
from opensnac.recordings import audio


class Opus(Codec):
    """Opus by opusenc and opusdec, tuned for low rates: variable rate, 60 ms packets; `opus:12@music` for music.

    opusdec drops the encoder's look-ahead (pre-skip), so the audio comes back aligned.
    """

    counted = "Opus packets, without Ogg pages"
    rate = 48_000

    def __init__(self, choice: str) -> None:
        self.name = f"opus:{choice}"
        kilobits, material = split_choice(choice)
        self._kilobits, self._material = kilobits, material or "speech"
        if not 6 <= float(kilobits) <= 256:
            raise OpensnacError(f"opus: expected a rate from 6 to 256 kb/s, as in opus:6, got {kilobits}")

    def missing(self) -> str | None:
        return missing_programs("opusenc", "opusdec", debian_package="opus-tools")

    def version(self) -> str:
        return first_line(["opusenc", "--version"])

    def __call__(self, clip: np.ndarray, sample_rate: int) -> Coded:
        with tempfile.TemporaryDirectory() as folder:
            original, coded, decoded = (Path(folder) / name for name in ("in.wav", "coded.opus", "out.wav"))
            audio.write(original, audio.resample(clip[None], sample_rate, self.rate), self.rate)
            options = ["--bitrate", self._kilobits, f"--{self._material}", "--framesize", "60", "--padding", "0"]
            encoding = run_program(["opusenc", "--quiet", *options, str(original), str(coded)])
            back = ["--float", "--rate", str(self.rate)]  # float: no dither
            decoding = run_program(["opusdec", "--quiet", *back, str(coded), str(decoded)])
            stream = coded.read_bytes()
            samples = audio.resample(audio.read(decoded)[0], self.rate, sample_rate)
        return Coded(
            audio=fit(samples[0], len(clip)),
            num_bytes=sum(ogg_packet_sizes(stream)[2:]),  # the first two are OpusHead and OpusTags
            file_bytes=len(stream),
            encode_seconds=encoding.seconds,
            decode_seconds=decoding.seconds,
            peak_bytes=_peak_of(encoding, decoding),
        )


def ogg_packet_sizes(stream: bytes) -> list[int]:
    """Sizes in bytes of the packets of an Ogg stream (RFC 3533), without page headers."""
    sizes, size = [], 0
    for segments in _ogg_pages(stream):
        for segment in segments:
            size += segment
            if segment < 255:  # the last piece of a packet
                sizes.append(size)
                size = 0
    return sizes


def _ogg_pages(stream: bytes) -> Iterator[bytes]:
    """The segment sizes of each page."""
    position = 0
    while position < len(stream):
        if stream[position : position + 4] != b"OggS":
            raise OpensnacError(
                f"expected an Ogg page at byte {position} of {len(stream)}, got other data; run the encoder again"
            )
        num_segments = stream[position + 26]
        segments = stream[position + 27 : position + 27 + num_segments]
        yield segments
        position += 27 + num_segments + sum(segments)


class Codec2(Codec):
    """Codec2, a speech vocoder at 8 kHz, by c2enc and c2dec.

    Its output is late: envelopes of decoded and original speech correlate best, and intelligibility is highest, after
    a shift by 20 ms, at the two lowest rates by 30 ms, which is applied here.
    """

    counted = "Codec2 frames, which have no container"
    rate = 8_000
    delays: ClassVar = dict.fromkeys(("3200", "2400", "1600", "1400", "1300", "1200"), 160) | {  # samples
        "700C": 240,
        "450": 240,
    }
    longest_frame = 320  # samples; c2enc drops an incomplete last frame

    def __init__(self, mode: str) -> None:
        self.name = f"codec2:{mode}"
        self._mode = "700C" if mode == "700" else mode
        if self._mode not in self.delays:
            modes = ", ".join(self.delays)
            raise OpensnacError(f"codec2: expected a rate of {modes} b/s, as in codec2:1200, got {mode}")

    def missing(self) -> str | None:
        return missing_programs("c2enc", "c2dec", debian_package="codec2")

    def version(self) -> str:
        return debian_version("codec2") or "unknown version"  # the programs do not report it

    def __call__(self, clip: np.ndarray, sample_rate: int) -> Coded:
        delay = self.delays[self._mode]
        samples = audio.resample(clip[None], sample_rate, self.rate)[0]
        padded = np.pad(samples, (0, -(len(samples) + delay) % self.longest_frame + delay))
        with tempfile.TemporaryDirectory() as folder:
            original, coded, decoded = (Path(folder) / name for name in ("in.raw", "coded.bin", "out.raw"))
            soundfile.write(original, padded, self.rate, "PCM_16", "LITTLE", "RAW")
            encoding = run_program(["c2enc", self._mode, str(original), str(coded)])
            decoding = run_program(["c2dec", self._mode, str(coded), str(decoded)])
            size = coded.stat().st_size
            late, _ = soundfile.read(
                decoded, dtype="float32", samplerate=self.rate, channels=1, format="RAW", subtype="PCM_16"
            )
        return Coded(
            audio=fit(audio.resample(late[None, delay:], self.rate, sample_rate)[0], len(clip)),
            num_bytes=size,
            file_bytes=size,
            encode_seconds=encoding.seconds,
            decode_seconds=decoding.seconds,
            peak_bytes=_peak_of(encoding, decoding),
        )


class Speex(Codec):
    """Speex by speexenc and speexdec, wideband (16 kHz), at a maximum bitrate.

    speexdec drops the look-ahead at the start of a file, but at the end of a file with a single page of audio.
    """

    counted = "Speex packets, without Ogg pages"
    rate = 16_000
    frame = 320  # samples
    look_ahead = 223  # samples

    def __init__(self, kilobits: str) -> None:
        self.name = f"speex:{kilobits}"
        self._kilobits = kilobits
        if not 3.95 <= float(kilobits) <= 42.2:
            raise OpensnacError(f"speex: expected a rate from 3.95 to 42.2 kb/s, as in speex:6, got {kilobits}")

    def missing(self) -> str | None:
        return missing_programs("speexenc", "speexdec", debian_package="speex")

    def version(self) -> str:
        return first_line(["speexenc", "--version"])

    def __call__(self, clip: np.ndarray, sample_rate: int) -> Coded:
        samples = audio.resample(clip[None], sample_rate, self.rate)
        samples = np.pad(
            samples, ((0, 0), (0, self.frame + self.look_ahead))
        )  # speexenc drops an incomplete last frame
        with tempfile.TemporaryDirectory() as folder:
            original, coded, decoded = (Path(folder) / name for name in ("in.wav", "coded.spx", "out.wav"))
            audio.write(original, samples, self.rate)
            rate = ["--bitrate", f"{1000 * float(self._kilobits):.0f}"]
            encoding = run_program(["speexenc", "--wideband", "--comp", "10", *rate, str(original), str(coded)])
            decoding = run_program(["speexdec", str(coded), str(decoded)])
            stream = coded.read_bytes()
            late = audio.read(decoded)[0]
        delay = self.look_ahead if len(list(_ogg_pages(stream))) == 3 else 0  # header, comments, audio
        return Coded(
            audio=fit(audio.resample(late[:, delay:], self.rate, sample_rate)[0], len(clip)),
            num_bytes=sum(ogg_packet_sizes(stream)[2:]),  # the first two are the header and the comments
            file_bytes=len(stream),
            encode_seconds=encoding.seconds,
            decode_seconds=decoding.seconds,
            peak_bytes=_peak_of(encoding, decoding),
        )


def _peak_of(*runs: ProgramRun) -> int | None:
    return max((run.peak_bytes for run in runs if run.peak_bytes is not None), default=None)
