"""Metrics of decoded audio against its original, one function each.

Every metric takes (reference, decoded, sample_rate): float32 of shape (samples,), equally long and aligned
in time, full scale at ±1, rate in Hz. It resamples to the rate it is defined for. A metric that does not
apply to a clip (too short, silent, too low a rate) is None, never zero.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from opensnac.errors import OpensnacError
from opensnac.evaluation.spectral import bandwidth, log_spectral_distance, mel_distance, silent, stft_distance
from opensnac.recordings import audio

LONGEST_PESQ = 60.0  # seconds; the library has room for 50 utterances and overruns beyond
SHORTEST_STOI = 0.45  # seconds; one segment of 30 frames, with margin for silence that the library drops
SHORTEST_VISQOL = 1.0  # seconds; one patch of its spectrogram
SHORTEST_DISTILL_MOS = 0.25  # seconds; it pads to 7.68 s, and rates a syllable in that much silence as noise
NOT_SPEECH = ("music", "environment")  # labels: PESQ scored 4.5 for rumble that a codec had invented
SI_SDR_LIMIT = 100.0  # dB; a perfect copy would be infinite, and spoil the mean


@dataclass(frozen=True)
class Metric:
    """A metric with what a report needs to show it."""

    name: str
    label: str
    digits: int
    higher_is_better: bool
    measure: Callable[[np.ndarray, np.ndarray, int], float | None]
    packages: tuple[str, ...] = ()
    of_speech: bool = False  # made for speech only, and meaningless for clips labelled otherwise
    install: str = "'opensnac[evaluate]'"  # arguments of pip install

    def applies_to(self, label: str) -> bool:
        """Whether the metric is meaningful for clips of this label; True for unknown labels."""
        return not (self.of_speech and label in NOT_SPEECH)

    def missing(self) -> str | None:
        """None when the metric can be measured, else what is missing and how to install it."""
        absent = [package for package in self.packages if package_version(package) is None]
        if not absent:
            return None
        return f"{', '.join(absent)} not installed; run: pip install {self.install}"


def package_version(package: str) -> str | None:
    """Version of an installed package, None when there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def require(*packages: str) -> None:
    """Raise OpensnacError, with how to install them, unless all `packages` are installed."""
    if absent := [package for package in packages if package_version(package) is None]:
        raise OpensnacError(f"{', '.join(absent)} not installed; run: pip install 'opensnac[evaluate]'")


def pesq_wideband(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> float | None:
    """PESQ, ITU-T P.862.2 (wideband, 16 kHz): 1.04 to 4.64. Needs 1/4 s to 60 s of speech."""
    from pesq import BufferTooShortError, NoUtterancesError, pesq

    too_long = len(reference) > LONGEST_PESQ * sample_rate
    if sample_rate < 16_000 or too_long or silent(reference) or silent(decoded):
        return None
    try:
        return float(pesq(16_000, *_both_at(16_000, reference, decoded, sample_rate), "wb"))
    except (BufferTooShortError, NoUtterancesError):
        return None


def stoi(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> float | None:
    """Short-time objective intelligibility (Taal et al. 2011), at 10 kHz: at most 1."""
    return _intelligibility(reference, decoded, sample_rate, extended=False)


def estoi(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> float | None:
    """Extended short-time objective intelligibility (Jensen and Taal 2016), at 10 kHz: at most 1."""
    return _intelligibility(reference, decoded, sample_rate, extended=True)


def _intelligibility(reference: np.ndarray, decoded: np.ndarray, sample_rate: int, extended: bool) -> float | None:
    from pystoi import stoi as measure

    if sample_rate < 10_000 or len(reference) < SHORTEST_STOI * sample_rate or silent(reference):
        return None
    if silent(decoded):
        return 0.0  # the library would correlate noise that it adds
    original, copy = _both_at(10_000, reference, decoded, sample_rate)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Not enough STFT frames")  # it would return a meaningless 1e-5
        try:
            return float(measure(original, copy, 10_000, extended=extended))
        except RuntimeWarning:
            return None


def visqol_audio(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> float | None:
    """ViSQOL v3 (Chinen et al. 2020) in audio mode, at 48 kHz: 1 to 4.73, the score of a perfect copy."""
    return _visqol(reference, decoded, sample_rate, "audio", 48_000)


def visqol_speech(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> float | None:
    """ViSQOL v3 in speech mode with its lattice, at 16 kHz: 1 to 5; a perfect copy scores about 4.5."""
    return _visqol(reference, decoded, sample_rate, "speech", 16_000)


def _visqol(reference: np.ndarray, decoded: np.ndarray, sample_rate: int, mode: str, rate: int) -> float | None:
    if len(reference) < SHORTEST_VISQOL * sample_rate or silent(reference) or silent(decoded):
        return None
    original, copy = _both_at(rate, reference, decoded, sample_rate)
    try:
        return float(_visqol_model(mode).measure_from_arrays(original, copy, rate).moslqo)
    except IndexError:  # the speech mode's voice detector found nothing to compare
        return None


@functools.cache
def _visqol_model(mode: str) -> Any:
    from visqol import VisqolApi

    model = VisqolApi()
    model.create(mode=mode, use_lattice_model=mode == "speech")
    return model


def dnsmos(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> float | None:
    """DNSMOS P.835 overall (Reddy et al. 2022), 1 to 5: rates the decoded audio alone, at 16 kHz."""
    if silent(reference) or silent(decoded):
        return None
    _, copy = _both_at(16_000, reference, decoded, sample_rate)
    return float(_dnsmos_model()(np.clip(copy, -1, 1), 16_000, is_personalized_MOS=False)["ovrl_mos"])


@functools.cache
def _dnsmos_model() -> Any:
    """The package's model in one thread: its own threads would busy-wait while clips are measured in parallel."""
    from onnxruntime import InferenceSession, SessionOptions
    from speechmos import dnsmos as package

    folder, options = Path(package.__file__).parent / "dnsmos_models", SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    overall, p808 = str(folder / "sig_bak_ovr.onnx"), str(folder / "model_v8.onnx")
    model = package.DNSMOS(overall, p808)
    model.onnx_sess, model.p808_onnx_sess = (InferenceSession(path, options) for path in (overall, p808))
    return model


def distill_mos(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> float | None:
    """Distill-MOS (Stahl and Gamper 2025), 1 to 5: rates the decoded audio alone, at 16 kHz."""
    import torch

    if len(reference) < SHORTEST_DISTILL_MOS * sample_rate or silent(reference) or silent(decoded):
        return None
    _, copy = _both_at(16_000, reference, decoded, sample_rate)
    with torch.inference_mode():
        return float(_distill_mos_model()(torch.from_numpy(copy)[None]))


@functools.cache
def _distill_mos_model() -> Any:
    """The package's model. torchaudio, needed only by its command line, fails to load with a different torch."""
    absent = "torchaudio" not in sys.modules
    sys.modules.setdefault("torchaudio", ModuleType("torchaudio"))
    try:
        from distillmos import ConvTransformerSQAModel

        with contextlib.redirect_stdout(io.StringIO()):  # it prints the path of its weights
            return ConvTransformerSQAModel().eval()
    finally:
        if absent:
            del sys.modules["torchaudio"]


def si_sdr(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> float | None:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019) in dB, means removed, clamped to ±100."""
    original = reference.astype(np.float64) - reference.mean(dtype=np.float64)
    copy = decoded.astype(np.float64) - decoded.mean(dtype=np.float64)
    if silent(original) or silent(copy):
        return None
    target = original * (copy @ original) / (original @ original)
    signal, distortion = target @ target, (copy - target) @ (copy - target)
    if distortion == 0 or signal == 0:
        return SI_SDR_LIMIT if distortion == 0 else -SI_SDR_LIMIT
    return float(np.clip(10 * math.log10(signal / distortion), -SI_SDR_LIMIT, SI_SDR_LIMIT))


@dataclass(frozen=True)
class CodebookUse:
    """How evenly a set of codes uses one scale's codebook.

    `share` is the fraction of entries that occur, `share_if_uniform` the expected fraction for `count` codes if all
    were equally likely. `entropy_bits` is the entropy of one code, `perplexity` 2 to its power.
    """

    count: int
    share: float
    share_if_uniform: float
    entropy_bits: float
    perplexity: float


def codebook_use(codes: np.ndarray, codebook_size: int) -> CodebookUse:
    """Use of a codebook by `codes`: integers of any shape, 0 to codebook_size - 1, at least one."""
    counts = np.bincount(codes.ravel(), minlength=codebook_size)
    frequencies = counts[counts > 0] / codes.size
    entropy = -(frequencies * np.log2(frequencies)).sum()
    return CodebookUse(
        count=codes.size,
        share=len(frequencies) / codebook_size,
        share_if_uniform=1 - (1 - 1 / codebook_size) ** codes.size,
        entropy_bits=float(entropy),
        perplexity=float(2**entropy),
    )


def _both_at(rate: int, reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> np.ndarray:
    """Both signals at `rate`: (2, samples)."""
    return audio.resample(np.stack([reference, decoded]).astype(np.float32), sample_rate, rate)


_SPEECHMOS = ("speechmos", "onnxruntime", "librosa", "requests")  # it imports packages that it does not require
_DISTILL_MOS = ("distillmos", "xls-r-sqa")
_METRICS = (
    Metric("pesq_wb", "PESQ-WB", 2, True, pesq_wideband, ("pesq",), of_speech=True),
    Metric("stoi", "STOI", 3, True, stoi, ("pystoi",), of_speech=True),
    Metric("estoi", "ESTOI", 3, True, estoi, ("pystoi",), of_speech=True),
    Metric("visqol_audio", "ViSQOL audio", 2, True, visqol_audio, ("visqol-python",)),
    Metric(
        "visqol_speech", "ViSQOL speech", 2, True, visqol_speech, ("visqol-python", "ai-edge-litert"), of_speech=True
    ),
    Metric("dnsmos", "DNSMOS", 2, True, dnsmos, _SPEECHMOS, of_speech=True),
    Metric(
        "distill_mos",
        "Distill-MOS",
        2,
        True,
        distill_mos,
        _DISTILL_MOS,
        of_speech=True,
        install=f"--no-deps {' '.join(_DISTILL_MOS)}",
    ),
    Metric("si_sdr", "SI-SDR, dB", 1, True, si_sdr),
    Metric("mel_distance", "Mel distance, dB", 2, False, mel_distance),
    Metric("stft_distance", "STFT distance", 3, False, stft_distance),
    Metric("log_spectral_distance", "LSD, dB", 2, False, log_spectral_distance),
    Metric("bandwidth", "Bandwidth, kHz", 1, True, bandwidth),
)
METRICS = {metric.name: metric for metric in _METRICS}
