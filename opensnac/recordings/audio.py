"""Whole recordings in memory: float32 of shape (channels, samples), full scale at ±1."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np

from opensnac.errors import AudioError
from opensnac.recordings.remarks import RecordingWarning
from opensnac.recordings.resampling import Resampler
from opensnac.recordings.sink import Sink
from opensnac.recordings.source import BLOCK_SAMPLES, Source, stream_name


def read(source: str | Path | BinaryIO, strict: bool = False) -> tuple[np.ndarray, int]:
    """Read a whole recording: float32 of shape (channels, samples), and its rate in Hz. Errors as in Source.

    Anything unusual about it is a RecordingWarning.
    """
    samples = np.empty((0, 0), np.float32)
    length = 0
    with Source(source, strict=strict) as recording:
        for block in recording.blocks():  # grown block by block: a header may declare more than fits in memory
            if length + block.shape[1] > len(samples):  # realloc in place: no second copy of an hour of audio
                grown = max(2 * len(samples), length + block.shape[1], BLOCK_SAMPLES)
                samples.resize((grown, recording.channels), refcheck=False)
            samples[length : length + block.shape[1]] = block.T
            length += block.shape[1]
        samples.resize((length, recording.channels), refcheck=False)
        for remark in recording.remarks:
            warnings.warn(f"{recording.name}: {remark}", RecordingWarning, stacklevel=2)
        return samples.T, recording.rate


def write(
    target: str | Path | BinaryIO,
    audio: np.ndarray,
    rate: int,
    ending: str | None = None,
    force: bool = False,
) -> None:
    """Write a whole recording, (channels, samples); otherwise as Sink."""
    if audio.ndim != 2 or audio.shape[1] == 0:
        raise AudioError(f"{stream_name(target)}: expected audio of shape (channels, samples), got {audio.shape}")
    with Sink(target, len(audio), rate, ending, force, at_most=audio.shape[1]) as sink:
        for start in range(0, audio.shape[1], BLOCK_SAMPLES):
            sink.write(audio[:, start : start + BLOCK_SAMPLES])


def resample(audio: np.ndarray, from_rate: int, to_rate: int, num_samples: int | None = None) -> np.ndarray:
    """Resample a whole signal, (channels, samples), to `num_samples` if given; otherwise as Resampler."""
    resampler = Resampler(from_rate, to_rate, len(audio))
    starts = range(0, audio.shape[1], BLOCK_SAMPLES)
    blocks = [resampler.push(audio[:, start : start + BLOCK_SAMPLES]) for start in starts]
    resampled = np.concatenate([*blocks, resampler.finish(num_samples)], axis=1)
    return resampled if num_samples is None else resampled[:, :num_samples]
