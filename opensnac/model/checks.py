"""What the codec refuses, and what it says then. NumPy arrays are taken where tensors are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opensnac.config import CodecConfig
from opensnac.errors import AudioError, CodesError


def checked_audio(audio: Any, dtype: torch.dtype, device: torch.device, finite: bool = True) -> Tensor:
    """Audio as a tensor (batch, 1, samples) of `dtype` on `device`; AudioError, saying what to do, for anything else.

    A NumPy array of floats is converted, a tensor has to be right. `finite` looks for NaN and infinite values, which
    waits for a GPU unless the audio came as an array.
    """
    if is_array := isinstance(audio, np.ndarray):
        audio = torch.from_numpy(np.ascontiguousarray(audio))
        audio = audio.to(dtype) if audio.is_floating_point() else audio
    if not isinstance(audio, Tensor):
        raise AudioError(f"audio came as {type(audio).__name__}, expected a tensor or array (batch, 1, samples)")
    shape = tuple(audio.shape)
    if audio.ndim != 3:
        hint = "audio[None, None]" if audio.ndim == 1 else "audio[:, None] for a batch of mono clips"
        raise AudioError(f"audio came in shape {shape}, expected (batch, 1, samples): use {hint}")
    if audio.shape[1] != 1:
        raise AudioError(
            f"audio came with {audio.shape[1]} channels, shape {shape}, expected (batch, 1, samples): code each "
            "channel by itself with audio.reshape(-1, 1, audio.shape[-1]), or mix down with audio.mean(1, keepdim=True)"
        )
    if audio.shape[0] == 0 or audio.shape[2] == 0:
        raise AudioError(f"audio is empty, shape {shape}, expected at least one clip of one sample")
    if audio.dtype != dtype:
        raise AudioError(
            f"audio came as {audio.dtype}, expected {dtype} in [-1, 1], as the model's weights are: "
            "convert it (16-bit integers: audio.float() / 32768)"
        )
    if audio.device != device and not is_array:
        raise AudioError(f"audio came on {audio.device} and the model is on {device}: use audio.to({str(device)!r})")
    if finite and not torch.isfinite(audio).all():
        raise AudioError("audio holds NaN or infinite values, expected finite ones: repair or cut the recording")
    return audio.to(device)


def checked_codes(
    codes: Any, config: CodecConfig, device: torch.device, multiple: int, in_range: bool = True
) -> tuple[list[Tensor], int]:
    """Codes as int64 tensors, one a scale, and the frames they stand for, a multiple of `multiple`.

    CodesError for codes that do not fit the model. `in_range` looks at every code, which waits for a GPU unless they
    came as arrays; else codes beyond the range become the nearest in it.
    """
    strides = config.vq_strides
    if not isinstance(codes, list | tuple) or len(codes) != len(strides):
        came = f"{len(codes)} tensors" if isinstance(codes, list | tuple) else type(codes).__name__
        raise CodesError(f"codes came as {came}, expected a list of {len(strides)}, one per scale, coarse to fine")
    scales = [_checked_scale(scale, code, device).long() for scale, code in enumerate(codes)]
    shapes = [tuple(code.shape) for code in scales]
    frames = shapes[0][1] * strides[0]
    expected = [(shapes[0][0], frames // stride) for stride in strides]
    if shapes != expected or frames % multiple:
        raise CodesError(
            f"codes came in shapes {', '.join(map(str, shapes))}; for strides {list(strides)} each scale must hold "
            f"frames / stride codes of the same batch, frames being a multiple of {multiple}"
        )
    if in_range:
        _check_range(scales, config.codebook_size)
    else:
        scales = [scale.clamp(0, config.codebook_size - 1) for scale in scales]
    return [scale.to(device) for scale in scales], frames


def _checked_scale(scale: int, code: Any, device: torch.device) -> Tensor:
    if (is_array := isinstance(code, np.ndarray)) and code.dtype != object:
        code = torch.from_numpy(np.ascontiguousarray(code))
    came = f"shape {tuple(code.shape)}, {code.dtype}" if isinstance(code, Tensor) else type(code).__name__
    if not isinstance(code, Tensor) or code.ndim != 2 or code.is_floating_point() or code.dtype == torch.bool:
        raise CodesError(f"codes of scale {scale} came as {came}, expected an integer tensor or array (batch, codes)")
    if code.numel() == 0:
        raise CodesError(f"codes of scale {scale} are empty ({came}), expected at least one frame")
    if code.device != device and not is_array:
        raise CodesError(
            f"codes of scale {scale} came on {code.device} and the model is on {device}: "
            f"use [scale.to({str(device)!r}) for scale in codes]"
        )
    return code


def _check_range(scales: Sequence[Tensor], codebook_size: int) -> None:
    extremes = [torch.stack([code.min(), code.max()]).to(scales[0].device) for code in scales]
    bounds = torch.stack(extremes).tolist()  # waits once
    for scale, (low, high) in enumerate(bounds):
        if low < 0 or high >= codebook_size:
            raise CodesError(
                f"codes of scale {scale} run from {low} to {high}, expected 0 to {codebook_size - 1}: "
                "subtract the vocabulary's offsets, or use the model that made them"
            )
