"""AMR-WB (3GPP TS 26.190) by the libraries vo-amrwbenc and opencore-amrwb, called through ctypes."""

from __future__ import annotations

import ctypes
import time
from typing import ClassVar

import numpy as np

from opensnac.errors import OpensnacError
from opensnac.evaluation.codecs.base import Codec, Coded, debian_version, fit
from opensnac.recordings import audio

ENCODER, DECODER = "libvo-amrwbenc.so.0", "libopencore-amrwb.so.0"
PACKAGES = ("libvo-amrwbenc0", "libopencore-amrwb0")
FRAME = 320  # samples at 16 kHz
LONGEST_FRAME = 61  # bytes, of the highest mode


class AmrWb(Codec):
    """AMR-WB at one of its nine rates, 16 kHz, without discontinuous transmission."""

    counted = "AMR-WB frames in storage format, a byte of header each"
    rate = 16_000
    modes: ClassVar = ("6.6", "8.85", "12.65", "14.25", "15.85", "18.25", "19.85", "23.05", "23.85")  # kb/s
    delay = 95  # samples, of encoder and decoder together; measured
    in_process: ClassVar = True

    def __init__(self, kilobits: str) -> None:
        self.name = f"amrwb:{kilobits}"
        if kilobits not in self.modes:
            raise OpensnacError(
                f"amrwb: expected a rate of {', '.join(self.modes)} kb/s, as in amrwb:6.6, got {kilobits}"
            )
        self._mode = self.modes.index(kilobits)

    def missing(self) -> str | None:
        absent = [library for library in (ENCODER, DECODER) if _library(library) is None]
        if not absent:
            return None
        return f"{', '.join(absent)} not found; run: apt-get install {' '.join(PACKAGES)}"

    def version(self) -> str:
        return ", ".join(debian_version(package) or f"{package} of unknown version" for package in PACKAGES)

    def __call__(self, clip: np.ndarray, sample_rate: int) -> Coded:
        samples = audio.resample(clip[None], sample_rate, self.rate)[0]
        padded = np.pad(samples, (0, -(len(samples) + self.delay) % FRAME + self.delay))
        pcm = np.round(np.clip(padded, -1, 1) * 32767).astype(np.int16)
        start = time.perf_counter()
        frames = self._encode(pcm)
        middle = time.perf_counter()
        late = self._decode(frames)
        end = time.perf_counter()
        size = sum(map(len, frames))
        return Coded(
            audio=fit(audio.resample(late[None, self.delay :], self.rate, sample_rate)[0], len(clip)),
            num_bytes=size,
            file_bytes=size + len(b"#!AMR-WB\n"),  # RFC 4867, section 5
            encode_seconds=middle - start,
            decode_seconds=end - middle,
        )

    def _encode(self, pcm: np.ndarray) -> list[bytes]:
        library = _library(ENCODER)
        assert library is not None, "missing() comes first"
        library.E_IF_init.restype = ctypes.c_void_p
        state = ctypes.c_void_p(library.E_IF_init())
        coded = ctypes.create_string_buffer(LONGEST_FRAME)
        try:
            frames = []
            for frame in pcm.reshape(-1, FRAME):
                size = library.E_IF_encode(state, self._mode, np.ascontiguousarray(frame).ctypes, coded, 0)
                frames.append(coded.raw[:size])
            return frames
        finally:
            library.E_IF_exit(state)

    def _decode(self, frames: list[bytes]) -> np.ndarray:
        library = _library(DECODER)
        assert library is not None, "missing() comes first"
        library.D_IF_init.restype = ctypes.c_void_p
        state = ctypes.c_void_p(library.D_IF_init())
        samples = np.empty((len(frames), FRAME), np.int16)
        try:
            for frame, target in zip(frames, samples, strict=True):
                library.D_IF_decode(state, frame, target.ctypes, 0)
        finally:
            library.D_IF_exit(state)
        return samples.ravel().astype(np.float32) / 32768


def _library(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None
