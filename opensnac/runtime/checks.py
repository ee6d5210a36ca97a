"""Checks of audio and codes given to the codec."""

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
        raise AudioError(f"audio: expected an array {expected}, got {type(audio).__name__}")
    if audio.ndim != dimensions or (dimensions == 3 and audio.shape[1] != 1):
        raise AudioError(f"audio: expected shape {expected}, got {audio.shape}")
    if not np.issubdtype(audio.dtype, np.floating):
        raise AudioError(
            f"audio: expected floating-point samples in [-1, 1], got {audio.dtype} "
            "(16-bit integers: audio.astype('float32') / 32768)"
        )
    if not np.isfinite(audio).all():
        raise AudioError("audio: expected finite values, got NaN or infinity: repair or cut the recording")
    return np.ascontiguousarray(audio, dtype=np.float32)


def checked_codes(codes: Any, config: CodecConfig, multiple: int) -> tuple[list[NDArray[np.int64]], int]:
    """Codes as int64, one array per scale, and the number of frames they stand for, a multiple of `multiple`.

    CodesError for codes that do not fit the model.
    """
    strides = config.vq_strides
    if not isinstance(codes, Sequence) or len(codes) != len(strides):
        got = f"{len(codes)} arrays" if isinstance(codes, Sequence) else type(codes).__name__
        raise CodesError(f"codes: expected a list of {len(strides)}, one per scale, coarse to fine, got {got}")
    for scale, code in enumerate(codes):
        got = f"shape {code.shape}, {code.dtype}" if isinstance(code, np.ndarray) else type(code).__name__
        if not isinstance(code, np.ndarray) or code.ndim != 2 or not np.issubdtype(code.dtype, np.integer):
            raise CodesError(f"codes of scale {scale}: expected an integer array (batch, codes), got {got}")
        if not code.size:
            raise CodesError(f"codes of scale {scale}: expected at least one frame, got {got}")
        if code.min() < 0 or code.max() >= config.codebook_size:
            raise CodesError(
                f"codes of scale {scale}: expected 0 to {config.codebook_size - 1}, got {code.min()} to {code.max()}: "
                "subtract the vocabulary's offsets, or use the model that made them"
            )
    frames = codes[0].shape[1] * strides[0]
    shapes = [code.shape for code in codes]
    if shapes != [(shapes[0][0], frames // stride) for stride in strides] or frames % multiple:
        raise CodesError(
            f"codes: expected (batch, frames / stride) for strides {list(strides)}, frames a multiple of {multiple}, "
            f"got shapes {', '.join(map(str, shapes))}"
        )
    return [np.ascontiguousarray(code, dtype=np.int64) for code in codes], frames
