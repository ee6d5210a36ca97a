"""What the codec refuses, and what it says then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opensnac.config import CodecConfig
from opensnac.errors import AudioError, CodesError


def checked_audio(audio: Any, expected: str, dimensions: int) -> NDArray[np.float32]:
    """Audio as float32; AudioError for anything but finite floating-point samples of the `expected` shape."""
    if not isinstance(audio, np.ndarray):
        raise AudioError(f"audio came as {type(audio).__name__}, expected an array {expected}")
    if audio.ndim != dimensions or (dimensions == 3 and audio.shape[1] != 1):
        raise AudioError(f"audio came in shape {audio.shape}, expected {expected}")
    if not np.issubdtype(audio.dtype, np.floating):
        raise AudioError(
            f"audio came as {audio.dtype}, expected floating-point samples in [-1, 1] "
            "(16-bit integers: audio.astype('float32') / 32768)"
        )
    if not np.isfinite(audio).all():
        raise AudioError("audio holds NaN or infinite values, expected finite ones: repair or cut the recording")
    return np.ascontiguousarray(audio, dtype=np.float32)


def checked_codes(codes: Any, config: CodecConfig, multiple: int) -> tuple[list[NDArray[np.int64]], int]:
    """Codes as int64, one array a scale, and the frames they stand for, a multiple of `multiple`.

    CodesError for codes that do not fit the model.
    """
    strides = config.vq_strides
    if not isinstance(codes, Sequence) or len(codes) != len(strides):
        came = f"{len(codes)} arrays" if isinstance(codes, Sequence) else type(codes).__name__
        raise CodesError(f"codes came as {came}, expected a list of {len(strides)}, one per scale, coarse to fine")
    for scale, code in enumerate(codes):
        came = f"shape {code.shape}, {code.dtype}" if isinstance(code, np.ndarray) else type(code).__name__
        if not isinstance(code, np.ndarray) or code.ndim != 2 or not np.issubdtype(code.dtype, np.integer):
            raise CodesError(f"codes of scale {scale} came as {came}, expected an integer array (batch, codes)")
        if not code.size:
            raise CodesError(f"codes of scale {scale} are empty ({came}), expected at least one frame")
        if code.min() < 0 or code.max() >= config.codebook_size:
            raise CodesError(
                f"codes of scale {scale} run from {code.min()} to {code.max()}, expected 0 to "
                f"{config.codebook_size - 1}: subtract the vocabulary's offsets, or use the model that made them"
            )
    frames = codes[0].shape[1] * strides[0]
    shapes = [code.shape for code in codes]
    if shapes != [(shapes[0][0], frames // stride) for stride in strides] or frames % multiple:
        raise CodesError(
            f"codes came in shapes {', '.join(map(str, shapes))}; for strides {list(strides)} each scale must hold "
            f"frames / stride codes of the same batch, frames being a multiple of {multiple}"
        )
    return [np.ascontiguousarray(code, dtype=np.int64) for code in codes], frames
