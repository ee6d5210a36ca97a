"""The layers of SNAC, time-major: every activation is (batch, time, channels).

Parameters keep the published names and shapes (those of 1-D convolutions), only the arithmetic differs: a 1x1
convolution is a matrix product over the last axis, a strided or transposed convolution is two of them on blocks of
`stride` steps, a depthwise convolution is a sum of shifted products. docs/architecture.md says why.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from opensnac.model import kernels
from opensnac.model.noise import position_noise

KERNEL_SIZE = kernels.TAPS

Signal = Float[Tensor, "batch _time _channels"]  # _: of any size, so that one name serves both ends of a layer
Seed = int | Int[Tensor, " batch"] | None  # of the noise: one for all clips or one each; None leaves it out


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha with one learned alpha per channel (arXiv 2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Signal) -> Signal:
        return kernels.snake(x, self.alpha.view(-1))


class _Convolution(nn.Module):
    """A weight-normalised kernel of published shape (dim 0, dim 1, taps), initialised as PyTorch's convolutions are."""

    def __init__(self, shape: tuple[int, int, int], out_channels: int, fan_in: int, bias: bool = True) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in)
        self.weight: Tensor
        self.register_parameter("weight", nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))
        self.bias: Tensor  # None without a bias, which only Pointwise is ever made
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None
        )
        weight_norm(self)


class Pointwise(_Convolution):
    """1x1 convolution: one matrix product over the channels."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__((out_channels, in_channels, 1), out_channels, in_channels, bias)

    def forward(self, x: Signal) -> Signal:
        return F.linear(x, self.weight[:, :, 0], self.bias)


class Depthwise(_Convolution):
    """Centred convolution of each channel with its own seven taps, `dilation` steps apart."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__((channels, 1, KERNEL_SIZE), channels, KERNEL_SIZE)
        self.dilation = dilation

    def forward(self, x: Signal) -> Signal:
        return kernels.depthwise(x, self.weight[:, 0, :].T, self.bias, self.dilation)


class Convolution(_Convolution):
    """Centred convolution that mixes channels: seven taps, `dilation` steps apart."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        shape = (out_channels, in_channels, KERNEL_SIZE)
        super().__init__(shape, out_channels, in_channels * KERNEL_SIZE)
        self.dilation = dilation
        self.out_channels = out_channels

    def forward(self, x: Signal) -> Signal:
        reach = self.dilation * (KERNEL_SIZE // 2)
        if self.out_channels == 1:  # products first: seven numbers a step to shift instead of all channels
            products = F.pad(F.linear(x, self.weight[0].T), (0, 0, reach, reach))
            return self.bias + torch.cat(
                [window[..., k : k + 1] for k, window in enumerate(self._windows(products))], dim=-1
            ).sum(-1, keepdim=True)
        windows = self._windows(F.pad(x, (0, 0, reach, reach)))
        return F.linear(torch.cat(windows, dim=-1), self.weight.transpose(1, 2).flatten(1), self.bias)

    def _windows(self, padded: Signal) -> list[Signal]:
        """What each tap sees of the padded signal."""
        time = padded.shape[1] - self.dilation * (KERNEL_SIZE - 1)
        return [padded[:, k * self.dilation : k * self.dilation + time] for k in range(KERNEL_SIZE)]


class Downsample(_Convolution):
    """Convolution of kernel 2s and stride s: each output frame sees two neighbouring blocks of s steps."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__((out_channels, in_channels, 2 * stride), out_channels, in_channels * 2 * stride)
        self.stride = stride

    def forward(self, x: Signal) -> Signal:
        s, left = self.stride, math.ceil(self.stride / 2)
        blocks = F.pad(x, (0, 0, left, s - left)).unflatten(1, (-1, s)).flatten(2)
        first, second = self.weight.transpose(1, 2).flatten(1).chunk(2, dim=1)
        return F.linear(blocks[:, :-1], first, self.bias) + F.linear(blocks[:, 1:], second)


class Upsample(_Convolution):
    """Transposed convolution of kernel 2s and stride s: each frame makes 2s steps, halves of neighbours overlap."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        # PyTorch takes a transposed convolution's fan-in from dim 1 of its weight.
        super().__init__((in_channels, out_channels, 2 * stride), out_channels, out_channels * 2 * stride)
        self.stride = stride

    def forward(self, x: Signal) -> Signal:
        s, left = self.stride, math.ceil(self.stride / 2)
        first, second = self.weight.permute(2, 1, 0).flatten(0, 1).chunk(2)
        blocks = F.linear(F.pad(x, (0, 0, 0, 1)), first) + F.linear(F.pad(x, (0, 0, 1, 0)), second)
        steps = blocks.unflatten(2, (s, -1)).flatten(1, 2)
        return steps[:, left : left + x.shape[1] * s] + self.bias


class Noise(nn.Module):
    """Adds h(x) * e, e ~ N(0, 1) one value a step shared by the channels.

    e is a pure function of (seed, layer, absolute position), `start` being the position of the first step. Without a
    start it is drawn afresh, as training wants it; without a seed it is left out.
    """

    def __init__(self, channels: int, layer: int) -> None:
        super().__init__()
        self.linear = Pointwise(channels, channels, bias=False)
        self.layer = layer

    def forward(self, x: Signal, seed: Seed, start: int | None) -> Signal:
        if start is None:
            noise = torch.randn(x.shape[:2], device=x.device, dtype=x.dtype)[:, :, None]
        elif seed is None:
            return x
        else:
            noise = position_noise(seed, self.layer, start, x.shape[1], x.device).to(x.dtype)[..., None]
        return x + noise * self.linear(x)


class ResidualUnit(nn.Module):
    """x + (Snake, dilated convolution, Snake, 1x1 convolution)."""

    def __init__(self, channels: int, dilation: int, depthwise: bool) -> None:
        super().__init__()
        mix = Depthwise(channels, dilation) if depthwise else Convolution(channels, channels, dilation)
        self.block = nn.Sequential(Snake(channels), mix, Snake(channels), Pointwise(channels, channels))

    def forward(self, x: Signal) -> Signal:
        return x + self.block(x)
