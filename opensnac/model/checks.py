"""Checks of audio and codes given to the codec. NumPy arrays are accepted wherever tensors are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opensnac.config import CodecConfig
from opensnac.errors import AudioError, CodesError


def checked_audio(audio: Any, dtype: torch.dtype, device: torch.device, finite: bool = True) -> Tensor:
    """Audio as a tensor (batch, 1, samples) of `dtype` on `device`; AudioError, with a hint, for anything else.

    A NumPy array of floats is converted; a tensor must have the right type and device. `finite` checks for NaN and
    infinity, which synchronises with a GPU unless the audio is an array.
    """
    if is_array := isinstance(audio, np.ndarray):
        audio = torch.from_numpy(np.ascontiguousarray(audio))
        audio = audio.to(dtype) if audio.is_floating_point() else audio
    if not isinstance(audio, Tensor):
        raise AudioError(f"audio: expected a tensor or array (batch, 1, samples), got {type(audio).__name__}")
    shape = tuple(audio.shape)
    if audio.ndim != 3:
        hint = "audio[None, None]" if audio.ndim == 1 else "audio[:, None] for a batch of mono clips"
        raise AudioError(f"audio: expected shape (batch, 1, samples), got {shape}: use {hint}")
    if audio.shape[1] != 1:
        raise AudioError(
            f"audio: expected shape (batch, 1, samples), got {shape} with {audio.shape[1]} channels: encode them "
            "separately with audio.reshape(-1, 1, audio.shape[-1]), or mix down with audio.mean(1, keepdim=True)"
        )
    if audio.shape[0] == 0 or audio.shape[2] == 0:
        raise AudioError(f"audio: expected at least one clip of one sample, got shape {shape}")
    if audio.dtype != dtype:
        raise AudioError(
            f"audio: expected {dtype} in [-1, 1], the type of the model's weights, got {audio.dtype}: "
            "convert it (16-bit integers: audio.float() / 32768)"
        )
    if audio.device != device and not is_array:
        raise AudioError(f"audio: expected the model's device {device}, got {audio.device}: use .to({str(device)!r})")
    if finite and not torch.isfinite(audio).all():
        raise AudioError("audio: expected finite values, got NaN or infinity: repair or cut the recording")
    return audio.to(device)


def checked_codes(
    codes: Any, config: CodecConfig, device: torch.device, multiple: int, in_range: bool = True
) -> tuple[list[Tensor], int]:
    """Codes as int64 tensors, one per scale, and the number of frames they stand for, a multiple of `multiple`.

    CodesError for codes that do not fit the model. `in_range` checks every code, which synchronises with a GPU unless
    the codes are arrays; without it codes out of range are clamped.
    """
    strides = config.vq_strides
    if not isinstance(codes, list | tuple) or len(codes) != len(strides):
        got = f"{len(codes)} tensors" if isinstance(codes, list | tuple) else type(codes).__name__
        raise CodesError(f"codes: expected a list of {len(strides)}, one per scale, coarse to fine, got {got}")
    scales = [_checked_scale(scale, code, device).long() for scale, code in enumerate(codes)]
    shapes = [tuple(code.shape) for code in scales]
    frames = shapes[0][1] * strides[0]
    expected = [(shapes[0][0], frames // stride) for stride in strides]
    if shapes != expected or frames % multiple:
        raise CodesError(
            f"codes: expected (batch, frames / stride) for strides {list(strides)}, frames a multiple of {multiple}, "
            f"got shapes {', '.join(map(str, shapes))}"
        )
    if in_range:
        _check_range(scales, config.codebook_size)
    else:
        scales = [scale.clamp(0, config.codebook_size - 1) for scale in scales]
    return [scale.to(device) for scale in scales], frames


def _checked_scale(scale: int, code: Any, device: torch.device) -> Tensor:
    if (is_array := isinstance(code, np.ndarray)) and code.dtype != object:
        code = torch.from_numpy(np.ascontiguousarray(code))
    got = f"shape {tuple(code.shape)}, {code.dtype}" if isinstance(code, Tensor) else type(code).__name__
    if not isinstance(code, Tensor) or code.ndim != 2 or code.is_floating_point() or code.dtype == torch.bool:
        raise CodesError(f"codes of scale {scale}: expected an integer tensor or array (batch, codes), got {got}")
    if code.numel() == 0:
        raise CodesError(f"codes of scale {scale}: expected at least one frame, got {got}")
    if code.device != device and not is_array:
        raise CodesError(
            f"codes of scale {scale}: expected the model's device {device}, got {code.device}: "
            f"use [scale.to({str(device)!r}) for scale in codes]"
        )
    return code


def _check_range(scales: Sequence[Tensor], codebook_size: int) -> None:
    extremes = [torch.stack([code.min(), code.max()]).to(scales[0].device) for code in scales]
    bounds = torch.stack(extremes).tolist()  # one synchronisation for all scales
    for scale, (low, high) in enumerate(bounds):
        if low < 0 or high >= codebook_size:
            raise CodesError(
                f"codes of scale {scale}: expected 0 to {codebook_size - 1}, got {low} to {high}: "
                "subtract the vocabulary's offsets, or use the model that made them"
            )
