"""Distances of spectra: multi-scale mel, complex STFT, and steady tones."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

from opensnac.spectra import mel

MEL_WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)
MEL_BANDS = (5, 10, 20, 40, 80, 160, 320)
MEL_FLOOR = 1e-5
POINTS_OF_A_BIN = 64  # in the shortest windows bands are narrower than bins
COMPLEX_WINDOWS = (256, 512, 1024)
TONE_WINDOW, TONE_NEIGHBOURS = 2048, 41  # samples; bins in the moving average that a line is compared with
TONE_MARGIN_DB = 3.0  # about the error of a mean over one batch
COMPLEX_FLOOR = 1e-2  # of the mean magnitude that differences are relative to, for silent batches

Audio = Float[Tensor, "batch 1 _samples"]
Spectrum = Complex[Tensor, "batch bins frames"]


class Spectra:
    """Audio and its cached spectra by window length: Hann, hop = window / 4. Losses share them."""

    def __init__(self, audio: Audio) -> None:
        self.audio = audio
        self._known: dict[int, Spectrum] = {}

    @classmethod
    def of(cls, audio: Audio | Spectra) -> Spectra:
        """The spectra of audio; spectra are returned unchanged."""
        return audio if isinstance(audio, Spectra) else cls(audio)

    def __getitem__(self, window: int) -> Spectrum:
        if window not in self._known:
            hann = torch.hann_window(window, device=self.audio.device)
            samples = self.audio[:, 0].float()
            self._known[window] = torch.stft(samples, window, window // 4, window=hann, return_complex=True)
        return self._known[window]


Sound = Audio | Spectra


@functools.cache
@torch.inference_mode(False)  # cached for training too, whoever calls first
def mel_filters(sample_rate: int, window: int, bands: int, device: torch.device | str = "cpu") -> Tensor:
    """Triangular filters (bins, bands), equal steps on the mel scale of Slaney's Auditory Toolbox, area 1."""
    filters = mel.triangles(mel.SLANEY, sample_rate, window, bands, points=POINTS_OF_A_BIN)
    return torch.from_numpy(mel.normalise_area(filters, mel.SLANEY, sample_rate)).float().to(device)


def log_mel(audio: Sound, sample_rate: int, window: int, bands: int) -> Float[Tensor, "batch bands frames"]:
    """log10 of mel magnitudes, Hann window, hop = window / 4, floor 1e-5."""
    spectrum = Spectra.of(audio)[window]
    filters = mel_filters(sample_rate, window, bands, spectrum.device)
    # sqrt of the power with a floor: the plain magnitude has no gradient at zero
    magnitude = (spectrum.real.square() + spectrum.imag.square()).clamp(min=1e-12).sqrt()
    # In this order MKL sums a frame alike whatever the batch and the number of threads.
    return (magnitude.mT @ filters).clamp(min=MEL_FLOOR).log10().mT


def mel_loss(audio_hat: Sound, audio: Sound, sample_rate: int) -> Tensor:
    """Sum over seven window lengths of the mean absolute difference of log mel magnitudes (arXiv 2306.06546)."""
    audio_hat, audio = Spectra.of(audio_hat), Spectra.of(audio)
    total = audio.audio.new_zeros(())
    for window, bands in zip(MEL_WINDOWS, MEL_BANDS, strict=True):
        with torch.no_grad():
            target = log_mel(audio, sample_rate, window, bands)
        total = total + F.l1_loss(log_mel(audio_hat, sample_rate, window, bands), target)
    return total


def complex_loss(audio_hat: Sound, audio: Sound, levels: Float[Tensor, " windows"] | None = None) -> Tensor:
    """Distance of complex spectra, with magnitudes compressed to their square roots (arXiv 1804.03619).

    Mean absolute difference of real and imaginary parts relative to `levels` (complex_levels of the whole batch, by
    default of `audio`), summed over three windows. Mel losses ignore phase; this one gives the decoder a waveform
    target early in training.
    """
    audio_hat, audio = Spectra.of(audio_hat), Spectra.of(audio)
    total = audio.audio.new_zeros(())
    for i, window in enumerate(COMPLEX_WINDOWS):
        with torch.no_grad():
            target = _compressed(audio[window])
            level = target.abs().mean() if levels is None else levels[i]
        total = total + (_compressed(audio_hat[window]) - target).abs().mean() / level.clamp(min=COMPLEX_FLOOR)
    return total


@torch.no_grad()
def complex_levels(audio: Sound) -> Float[Tensor, " windows"]:
    """The mean magnitude of each window's compressed spectrum."""
    spectra = Spectra.of(audio)
    return torch.stack([_compressed(spectra[window]).abs().mean() for window in COMPLEX_WINDOWS])


def _compressed(spectrum: Spectrum) -> Float[Tensor, "batch bins frames 2"]:
    parts = torch.view_as_real(spectrum)
    return parts * (parts.square().sum(-1, keepdim=True) + 1e-8) ** -0.25


def mean_power(audio: Sound) -> Float[Tensor, " bins"]:
    """The long-term power spectrum, with windows of 2048 samples, averaged over clips and frames."""
    spectrum = Spectra.of(audio)[TONE_WINDOW]
    return (spectrum.real.square() + spectrum.imag.square()).mean((0, 2))


def tone_loss(power_hat: Float[Tensor, " bins"], power: Float[Tensor, " bins"]) -> Tensor:
    """Lines in the long-term spectrum that the original does not have: mean square of their excess over 3 dB.

    A mel loss cannot tell a steady tone from noise, as it sees only a band's energy in a frame; this one sees that the
    tone persists. It is invariant to the overall level, and so is its gradient.
    """
    excess = _above_neighbours(power_hat) - _above_neighbours(power) - TONE_MARGIN_DB
    return excess.clamp(min=0).square().mean()


def _above_neighbours(power: Float[Tensor, " bins"]) -> Float[Tensor, " bins"]:
    """Each bin's level above the mean of the 41 bins around it, in dB."""
    level = 10 * power.clamp(min=1e-10).log10()[None, None]
    half = TONE_NEIGHBOURS // 2
    around = F.avg_pool1d(F.pad(level, (half, half), mode="reflect"), TONE_NEIGHBOURS, stride=1)
    return (level - around)[0, 0]
