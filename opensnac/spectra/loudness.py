"""Loudness loss after PESQ's perceptual model (ITU-T P.862, P.862.2): differences in points of its score.

A clip's power is summed in bands of equal width in Bark, converted to loudness, and compared: differences below a
quarter of the loudness are masked, and added sound costs more than missing sound. PESQ also aligns time, level and
spectrum, and weights the worst frames most; the loss does neither.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Audio = Float[Tensor, "batch 1 _samples"]
Bands = Float[Tensor, "batch bands frames"]

WINDOW_SECONDS = 0.032  # the hop is half of it
BARK = 0.435  # width of a band: 49 bands up to 8 kHz
TOP_HZ = 8000.0
LISTENING_DB = 85.0  # playback level of a clip
QUIETEST = 1e-5  # lowest power that is raised to the playback level; quieter clips stay quieter
SONE = 0.1866  # loudness at the threshold's scale; calibration of P.862.2
SYMMETRIC, ASYMMETRIC = 0.1, 0.0309  # points of the score for each unit of disturbance


class AuditoryModel(NamedTuple):
    """The hearing model: bands, thresholds and exponents."""

    members: Float[Tensor, "bins bands"]  # 1 where a bin, from 0 Hz on, belongs to a band
    threshold: Float[Tensor, "bands 1"]  # power that can just be heard
    exponent: Float[Tensor, "bands 1"]  # of loudness in power


@functools.cache
@torch.inference_mode(False)
def auditory_model(sample_rate: int, window: int, device: torch.device | str = "cpu") -> AuditoryModel:
    """Bands in Bark (Zwicker and Terhardt 1980), threshold in quiet (Terhardt 1979), exponents of P.862."""
    hz = torch.arange(window // 2 + 1) * (sample_rate / window)
    hz = hz[hz < TOP_HZ]
    bark = 13 * torch.atan(7.6e-4 * hz) + 3.5 * torch.atan((hz / 7500).square())
    members = torch.nn.functional.one_hot((bark / BARK).long()).float()
    inhabited = members.sum(0) > 0
    members, center = members[:, inhabited], (torch.arange(len(inhabited))[inhabited] + 0.5) * BARK
    khz = ((members * hz[:, None]).sum(0) / members.sum(0)).clamp(min=20) / 1000
    decibels = 3.64 * khz**-0.8 - 6.5 * torch.exp(-0.6 * (khz - 3.3).square()) + 1e-3 * khz**4
    exponent = 0.23 * torch.where(center < 4, 6 / (center + 2), 1.0).clamp(max=2) ** 0.15
    threshold = 10 ** (decibels / 10)
    return AuditoryModel(members.to(device), threshold[:, None].to(device), exponent[:, None].to(device))


def loudness(audio: Audio, gain: Float[Tensor, "batch 1 1"], sample_rate: int) -> tuple[Bands, Bands]:
    """Power per band, and its loudness in sone, of `audio` times `gain`."""
    window = round(WINDOW_SECONDS * sample_rate)
    heard = auditory_model(sample_rate, window, audio.device)
    hann = torch.hann_window(window, device=audio.device)
    spectrum = torch.stft((audio * gain)[:, 0].float(), window, window // 2, window=hann, return_complex=True)
    bins = spectrum[:, : len(heard.members)]
    # A Hann window has 3/8 of the power, and one-sided spectra half of it.
    power = (((bins.real.square() + bins.imag.square()) / (window**2 * 3 / 16)).mT @ heard.members).mT
    above = (0.5 + 0.5 * power / heard.threshold).clamp(min=1)
    return power, SONE * (2 * heard.threshold) ** heard.exponent * (above**heard.exponent - 1)


def loudness_loss(audio_hat: Audio, audio: Audio, sample_rate: int) -> Tensor:
    """Loss of PESQ's raw score due to loudness disturbances, in points, averaged over frames and clips."""
    gain = (10 ** (LISTENING_DB / 10) / audio.square().mean(-1, keepdim=True).clamp(min=QUIETEST)).sqrt()
    with torch.no_grad():
        power, wanted = loudness(audio, gain, sample_rate)
    power_hat, got = loudness(audio_hat, gain, sample_rate)
    difference = ((got - wanted).abs() - 0.25 * torch.minimum(got, wanted)).clamp(min=0) * BARK
    # Added power is weighted by its ratio to the power of 1.2; below 3, not at all.
    added = ((power_hat + 50) / (power + 50)) ** 1.2
    added = torch.where(added < 3, 0.0, added.clamp(max=12))
    width = difference.shape[1] * BARK
    symmetric = (difference.square().sum(1) / width + 1e-6).sqrt() * width
    asymmetric = (difference * added).sum(1)
    importance = ((power.sum(1) + 1e5) / 1e7) ** 0.04
    return ((SYMMETRIC * symmetric + ASYMMETRIC * asymmetric) / importance).mean()
