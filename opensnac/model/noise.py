"""Gaussian noise that is a pure function of (seed, layer, absolute position).

A counter-based generator: each position is hashed independently, so any piece of a signal and any batch draw the same
numbers (on any device, up to rounding of logarithm and cosine), and there is no state between calls.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

IntOrTensor = TypeVar("IntOrTensor", int, Tensor)

_MASK = 0xFFFFFFFF
_FACTORS = (0x7FEB352D, 0x846CA68B - 2**32)  # the second is negative so that no product leaves 64 bits


def position_noise(
    seed: int | Int[Tensor, " clips"], layer: int, position: Int[Tensor, "*_clips steps"]
) -> Float[Tensor, "*clips steps"]:
    """N(0, 1) values, float32, at int64 positions of the sequence of (seed, layer).

    With a seed per clip the noise is (clips, steps), and positions are shared, (steps,), or per clip, (clips, steps).
    """
    key = noise_key(seed[:, None], layer) if isinstance(seed, Tensor) else noise_key(seed, layer)
    first = _mix(_mix(position & _MASK) ^ (position >> 32) ^ key)
    second = _mix(first ^ 0x9E3779B9)
    # Box-Muller on two uniforms of 24 bits, the first one never zero.
    radius = torch.sqrt(-2 * torch.log(((first >> 8).float() + 1) / 2**24))
    return radius * torch.cos((second >> 8).float() * (2 * math.pi / 2**24))


def noise_key(seed: IntOrTensor, layer: int) -> IntOrTensor:
    """The 32-bit key that positions are hashed with."""
    return _mix(_mix(seed & _MASK) ^ (seed >> 32 & _MASK) ^ _mix(layer + 1))


def _mix(x: IntOrTensor) -> IntOrTensor:
    """A 32-bit hash with full avalanche, of ints or of int64 tensors that hold 32-bit values ("lowbias32")."""
    x = ((x ^ (x >> 16)) * _FACTORS[0]) & _MASK
    x = ((x ^ (x >> 15)) * _FACTORS[1]) & _MASK
    return x ^ (x >> 16)
