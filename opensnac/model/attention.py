"""Local attention: each window of latent frames attends to itself alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opensnac import kernels
from opensnac.config import HEAD_CHANNELS
from opensnac.model.layers import Grouped, Kept, Signal, infers, kept

ROTARY_BASE = 10000.0


class RotaryPosition(nn.Module):
    """Rotary embedding (arXiv 2104.09864) over positions inside one window; halves of a head are rotated."""

    inv_freq: Tensor

    def __init__(self) -> None:
        super().__init__()
        exponents = torch.arange(0, HEAD_CHANNELS, 2).float() / HEAD_CHANNELS
        self.register_buffer("inv_freq", 1.0 / ROTARY_BASE**exponents)

    def forward(self, x: Tensor) -> Tensor:
        """Rotate x (..., window, head channels) by its positions 0 .. window - 1."""
        angles = torch.arange(x.shape[-2], device=x.device, dtype=self.inv_freq.dtype)[:, None] * self.inv_freq
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Mixing(nn.Linear):
    """A matrix product over the channels, by the C kernels where these infer."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, bias=False)
        self.reduced = False
        self._kept: dict[str, Kept] = {}

    def forward(self, x: Signal) -> Signal:
        if not infers(x):
            return super().forward(x)
        name = "reduced" if self.reduced else "matrix"
        matrix = kept(self, self._kept, name, lambda: kernels.packed(self.weight, self.reduced))
        return kernels.linear(x, matrix, self.out_features)


class LocalAttention(Grouped):
    """LayerNorm, multi-head self-attention inside non-overlapping windows, residual.

    The time axis must be a multiple of `window_size`; the codec pads so that it is.
    """

    def __init__(self, channels: int, window_size: int) -> None:
        super().__init__()
        self.group = window_size
        self.heads = channels // HEAD_CHANNELS
        self.norm = nn.LayerNorm(channels)
        self.to_qkv = Mixing(channels, 3 * channels)
        self.rel_pos = RotaryPosition()
        self.to_out = Mixing(channels, channels)

    def forward(self, x: Signal) -> Signal:
        q, k, v = (self._split(part) for part in self.to_qkv(self.norm(x)).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(self.rel_pos(q), self.rel_pos(k), v)
        return x + self.to_out(y.transpose(1, 2).flatten(2).view(x.shape))

    def _split(self, x: Signal) -> Tensor:
        """(batch, time, channels) -> (batch x windows, heads, window, head channels)."""
        return x.reshape(-1, self.group, self.heads, HEAD_CHANNELS).transpose(1, 2)
