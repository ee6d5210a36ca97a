"""Distances between spectra of decoded audio and its original, and the bandwidth of decoded audio.

Signals are as the metrics take them: float32 (samples,), equally long. Magnitudes are those of a Hann window scaled so
that a full-scale sine is 0 dB, floored at -100 dB; the hop is a quarter of the window.
"""

from __future__ import annotations

import functools

import numpy as np

from opensnac.spectra import mel

MEL_RESOLUTIONS = ((2048, 150), (512, 40))  # samples in the window, mel bands
STFT_WINDOWS = (2048, 1024, 512)  # samples
FLOOR = 1e-5  # -100 dB below a full-scale sine
SILENCE = 1e-6  # peak below which a signal counts as silent
BANDWIDTH_WINDOW = 2048  # samples
BANDWIDTH_BINS = 17  # averaged for the comparison of powers: 200 Hz at 24 kHz
LOST_DB = 20.0  # below the original, from which on a band counts as lost
HEARD_DB = 70.0  # below the original's loudest band, from which on bands are ignored


def silent(signal: np.ndarray) -> bool:
    """Whether a signal counts as silent."""
    return bool(np.abs(signal).max(initial=0) < SILENCE)


def mel_distance(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> float | None:
    """Mean absolute difference of mel spectra in dB, over two resolutions, up to half the sampling rate."""
    distances = []
    for window, bands in MEL_RESOLUTIONS:
        filters = _mel_filters(window, bands, sample_rate)
        original, copy = (_decibels(_magnitudes(signal, window) @ filters) for signal in (reference, decoded))
        distances.append(np.abs(original - copy).mean())
    return float(np.mean(distances))


def stft_distance(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> float | None:
    """Multi-resolution STFT distance (Yamamoto et al. 2020): spectral convergence plus log-magnitude difference.

    Mean over three windows; natural logarithms. None for a silent original.
    """
    if silent(reference):
        return None
    distances = []
    for window in STFT_WINDOWS:
        original, copy = (_magnitudes(signal, window) for signal in (reference, decoded))
        convergence = np.linalg.norm(original - copy) / np.linalg.norm(original)
        logarithms = [np.log(np.maximum(magnitudes, FLOOR)) for magnitudes in (original, copy)]
        distances.append(convergence + np.abs(logarithms[0] - logarithms[1]).mean())
    return float(np.mean(distances))


def log_spectral_distance(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> float | None:
    """Root mean square over frequency of the difference in dB, then the mean over frames of 2048 samples."""
    original, copy = (_decibels(_magnitudes(signal, STFT_WINDOWS[0])) for signal in (reference, decoded))
    return float(np.sqrt(((original - copy) ** 2).mean(axis=1)).mean())


def bandwidth(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> float | None:
    """Frequency in kHz up to which the mean spectrum of decoded audio is less than 20 dB below the original's.

    The highest such one: gaps below it do not count, nor do bands of the original 70 dB below its loudest.
    """
    if silent(reference) or silent(decoded):
        return None
    original, copy = (10 * np.log10(_mean_power(signal) + 1e-20) for signal in (reference, decoded))
    kept = (original > original.max() - HEARD_DB) & (copy > original - LOST_DB)
    if not kept.any():
        return None
    return float(np.flatnonzero(kept)[-1] * sample_rate / BANDWIDTH_WINDOW / 1000)


def _mean_power(signal: np.ndarray) -> np.ndarray:
    """Long-term power by frequency, smoothed: (BANDWIDTH_WINDOW / 2 + 1,).

    Over frames wholly inside the signal, if any: a cut-off end is a click, which spreads over all frequencies.
    """
    frames = _magnitudes(signal, BANDWIDTH_WINDOW)
    power = ((frames[2:-2] if len(frames) > 4 else frames) ** 2).mean(axis=0)
    padded = np.pad(power, BANDWIDTH_BINS // 2, mode="edge")
    return np.convolve(padded, np.ones(BANDWIDTH_BINS) / BANDWIDTH_BINS, mode="valid")


def _decibels(magnitudes: np.ndarray) -> np.ndarray:
    return 20 * np.log10(np.maximum(magnitudes, FLOOR))


def _magnitudes(signal: np.ndarray, window: int) -> np.ndarray:
    """Magnitudes (frames, window / 2 + 1) from the first sample to the last."""
    hann = np.hanning(window + 1)[:-1]
    padded = np.pad(signal, window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[:: window // 4]
    return np.abs(np.fft.rfft(frames * hann)) * (2 / hann.sum())


@functools.cache
def _mel_filters(window: int, bands: int, sample_rate: int) -> np.ndarray:
    return mel.triangles(mel.HTK, sample_rate, window, bands)
