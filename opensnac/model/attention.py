"""Local attention: latent frames attend to the frames of their own window."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opensnac.config import HEAD_CHANNELS
from opensnac.model.layers import Signal

ROTARY_BASE = 10000.0


class RotaryPosition(nn.Module):
    """Rotary embedding (arXiv 2104.09864) over positions inside one window; halves of a head are rotated."""

    inv_freq: Tensor

    def __init__(self) -> None:
        super().__init__()
        inv_freq = torch.empty(HEAD_CHANNELS // 2)
        if not inv_freq.is_meta:  # there PyTorch would import its compiler to compute nothing
            exponents = torch.arange(0, HEAD_CHANNELS, 2).float() / HEAD_CHANNELS
            inv_freq = 1.0 / ROTARY_BASE**exponents
        self.register_buffer("inv_freq", inv_freq)

    def forward(self, x: Tensor) -> Tensor:
        """Rotate x (..., window, head channels) by its positions 0 .. window - 1."""
        return rotate(x, self.inv_freq)


def rotate(x: Tensor, inv_freq: Tensor) -> Tensor:
    """Rotary embedding of x (..., window, head channels); angles are computed in float32 or better."""
    precise = torch.promote_types(inv_freq.dtype, torch.float32)
    angles = torch.arange(x.shape[-2], device=x.device, dtype=precise)[:, None] * inv_freq.to(precise)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attend(qkv: Tensor, window: int, inv_freq: Tensor) -> Signal:
    """Self-attention inside windows; `qkv` holds queries, keys and values: (batch, time, 3 x channels)."""
    heads = qkv.shape[2] // (3 * HEAD_CHANNELS)
    q, k, v = (
        part.reshape(-1, window, heads, HEAD_CHANNELS).transpose(1, 2)  # (batch x windows, heads, window, head)
        for part in qkv.chunk(3, dim=-1)
    )
    y = F.scaled_dot_product_attention(rotate(q, inv_freq), rotate(k, inv_freq), v)
    return y.transpose(1, 2).reshape(*qkv.shape[:2], qkv.shape[2] // 3)


class LocalAttention(nn.Module):
    """LayerNorm, multi-head self-attention inside non-overlapping windows, residual.

    The time axis must be a multiple of `window_size`, which the codec pads to.
    """

    def __init__(self, channels: int, window_size: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.norm = nn.LayerNorm(channels)
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.rel_pos = RotaryPosition()
        self.to_out = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Signal) -> Signal:
        qkv = self.to_qkv(self.norm(x))
        return x + self.to_out(attend(qkv, self.window_size, self.rel_pos.inv_freq))
