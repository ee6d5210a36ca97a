"""How far each end of the codec sees: what must surround a piece so that it comes out as in the whole.

Every convolution is centred and pads with zeros, so a piece with enough real neighbours on both sides gives exactly
the whole signal's values once the neighbours' share is cut away.
"""

from __future__ import annotations

import math

from opensnac.config import CodecConfig
from opensnac.model.encoder import DILATIONS
from opensnac.model.layers import KERNEL_SIZE

CONVOLUTION_REACH = KERNEL_SIZE // 2
RESIDUAL_REACH = CONVOLUTION_REACH * sum(DILATIONS)


def encoder_reach(config: CodecConfig) -> tuple[int, int]:
    """Samples before and after a frame's first sample that its latent depends on, attention left aside."""
    left = right = CONVOLUTION_REACH
    scale = 1  # samples in a step of the current layer
    for stride in config.encoder_rates:
        padding = math.ceil(stride / 2)
        left += scale * (RESIDUAL_REACH + padding)
        right += scale * (RESIDUAL_REACH + 2 * stride - 1 - padding)
        scale *= stride
    return left + scale * CONVOLUTION_REACH, right + scale * CONVOLUTION_REACH


def decoder_reach(config: CodecConfig) -> tuple[int, int]:
    """Frames before and after its own that a frame's samples depend on, attention left aside."""
    left = right = CONVOLUTION_REACH  # walk back from the output, in steps of the current layer
    for stride in reversed(config.decoder_rates):
        padding = math.ceil(stride / 2)
        left, right = left + RESIDUAL_REACH, right + RESIDUAL_REACH
        left, right = 1 + math.ceil((left - padding) / stride), (stride - 1 + right + padding) // stride
    return left + CONVOLUTION_REACH, right + CONVOLUTION_REACH


def encoder_context(config: CodecConfig) -> int:
    """Frames, a multiple of `frame_multiple`, to put on both sides of a piece that is encoded by itself."""
    left, right = encoder_reach(config)
    frames = math.ceil(max(left, right - config.hop_length + 1) / config.hop_length)
    return _with_attention(config, frames - CONVOLUTION_REACH, CONVOLUTION_REACH)


def decoder_context(config: CodecConfig) -> int:
    """Frames, a multiple of `frame_multiple`, to put on both sides of a piece that is decoded by itself."""
    return _with_attention(config, CONVOLUTION_REACH, max(decoder_reach(config)) - CONVOLUTION_REACH)


def _with_attention(config: CodecConfig, before: int, after: int) -> int:
    """Reach in frames of convolutions around attention, whose every window counts whole."""
    if config.attn_window_size is not None:
        after = math.ceil(after / config.attn_window_size) * config.attn_window_size
    return math.ceil((before + after) / config.frame_multiple) * config.frame_multiple
