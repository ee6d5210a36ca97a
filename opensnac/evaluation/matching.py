"""Aligns decoded audio with its original in time and loudness, so that metrics measure neither a delay nor a gain."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from opensnac.evaluation.spectral import silent

LARGEST_SHIFT = 0.03  # seconds; known delays are already removed by the codecs
MIN_LIKENESS = 0.5  # correlation below which no delay can be inferred: a vocoder does not keep phases
MIN_GAIN = 0.02  # in correlation that a shift must bring, else it is chance
LOUDNESS_BLOCK = 0.4  # seconds, ITU-R BS.1770


class Matched(NamedTuple):
    """Decoded audio (samples,), shifted `shift` samples earlier and amplified by `gain_db`."""

    audio: np.ndarray
    shift: int
    gain_db: float


def match(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> Matched:
    """Align `decoded` with `reference` in time, then in loudness; both are float32 (samples,)."""
    shift = delay(reference, decoded, int(LARGEST_SHIFT * sample_rate))
    moved = np.roll(decoded, -shift)
    if shift > 0:
        moved[-shift:] = 0
    elif shift < 0:
        moved[:-shift] = 0
    gain_db = loudness(reference, sample_rate) - loudness(moved, sample_rate)
    if not np.isfinite(gain_db) or silent(moved):
        return Matched(moved, shift, 0.0)
    return Matched((moved * 10 ** (gain_db / 20)).astype(np.float32), shift, float(gain_db))


def delay(reference: np.ndarray, decoded: np.ndarray, largest: int) -> int:
    """Samples by which `decoded` is late, within ±`largest`; 0 if the waveforms correlate too little."""
    energies = np.linalg.norm(reference) * np.linalg.norm(decoded)
    if energies == 0:
        return 0
    size = 1 << (len(reference) + largest).bit_length()
    spectrum = np.fft.rfft(decoded, size) * np.conj(np.fft.rfft(reference, size))
    correlation = np.roll(np.fft.irfft(spectrum, size), largest)[: 2 * largest + 1] / energies
    best = int(np.argmax(correlation))
    if correlation[best] < MIN_LIKENESS or correlation[best] < correlation[largest] + MIN_GAIN:
        return 0
    return best - largest


def loudness(signal: np.ndarray, sample_rate: int) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770-4); power in dB for a signal too short or too quiet for its gates."""
    if len(signal) >= LOUDNESS_BLOCK * sample_rate and not silent(signal):
        import pyloudnorm

        with np.errstate(divide="ignore", invalid="ignore"):  # for silent blocks
            integrated = pyloudnorm.Meter(sample_rate).integrated_loudness(signal.astype(np.float64))
        if np.isfinite(integrated):
            return float(integrated)
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(np.mean(np.square(signal, dtype=np.float64))))
