"""The trainable layers of SNAC. Activations are time-major: (batch, time, channels).

Parameters have the published names and shapes, those of 1-D convolutions. The arithmetic differs: a 1x1 convolution is
a matrix product over the last axis, a strided or transposed convolution two of them on blocks of `stride` steps, a
depthwise convolution a sum of shifted products. docs/architecture.md says why.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from opensnac.model.blocks import neighbours
from opensnac.model.operators import depthwise, snake
from opensnac.model.residual import UnitWeights, residual

TAPS = 7  # of every convolution without stride


Signal = Float[Tensor, "batch _time _channels"]  # _: any size, so that a layer's input and output can share the name


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha with one learned alpha per channel (arXiv 2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Signal) -> Signal:
        return snake(x, self.alpha.view(-1))


class WeightNorm(nn.Module):
    """A weight's gain and direction (arXiv 1602.07868), named as in PyTorch's parametrization."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.original0 = nn.Parameter(_norm(weight))
        self.original1 = nn.Parameter(weight)

    def forward(self) -> Tensor:
        return torch._weight_norm(self.original1, self.original0, 0)

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Set to `weight`: its direction, and its norm as the gain."""
        self.original0.copy_(_norm(weight))
        self.original1.copy_(weight)


def _norm(weight: Tensor) -> Tensor:
    """Over all axes but the first, shape (dim 0, 1, 1)."""
    if weight.is_meta:  # PyTorch would import its compiler just for the shape, 1.5 s
        return weight.new_empty(len(weight), 1, 1)
    return torch.norm_except_dim(weight.detach(), 2, 0)


def _uniform(shape: tuple[int, ...], bound: float) -> Tensor:
    values = torch.empty(shape)
    return values if values.is_meta else values.uniform_(-bound, bound)  # slow on the meta device: in Python


class Kernel(nn.Module):
    """A weight-normalised kernel (dim 0, dim 1, taps) of published shape, initialised as in PyTorch's convolutions."""

    parametrizations: nn.ModuleDict

    def __init__(self, shape: tuple[int, int, int], out_channels: int, fan_in: int, bias: bool = True) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in)
        weight = _uniform(shape, bound)
        self.bias: Tensor  # None for a Pointwise without bias
        self.register_parameter("bias", nn.Parameter(_uniform((out_channels,), bound)) if bias else None)
        self.parametrizations = nn.ModuleDict({"weight": WeightNorm(weight)})

    @property
    def weight(self) -> Tensor:
        """The kernel: gain times direction, or the folded weight."""
        folded = self._parameters.get("weight")
        return self._norm() if folded is None else folded

    def assign(self, weight: Tensor) -> None:
        """Replace the kernel's values."""
        self._norm.assign(weight)

    def fold(self) -> None:
        """Replace gain and direction by the kernel."""
        if self.folded:
            return
        weight = nn.Parameter(self.weight.detach(), requires_grad=self._norm.original1.requires_grad)
        del self.parametrizations
        self._parameters["weight"] = weight

    @property
    def _norm(self) -> WeightNorm:
        return cast(WeightNorm, self.parametrizations["weight"])

    @property
    def folded(self) -> bool:
        """Whether gain and direction have been folded."""
        return "weight" in self._parameters


class Pointwise(Kernel):
    """1x1 convolution: a matrix product over the channels."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__((out_channels, in_channels, 1), out_channels, in_channels, bias)

    @property
    def matrix(self) -> Float[Tensor, "out_channels in_channels"]:
        """The kernel as a matrix."""
        return self.weight.flatten(1)

    def forward(self, x: Signal) -> Signal:
        return F.linear(x, self.matrix, self.bias)


class Depthwise(Kernel):
    """Centred convolution of each channel with its own seven taps, `dilation` steps apart."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__((channels, 1, TAPS), channels, TAPS)
        self.dilation = dilation

    @property
    def taps(self) -> Float[Tensor, "taps channels"]:
        """The kernel in the operator's layout."""
        return self.weight.flatten(1).T

    def forward(self, x: Signal) -> Signal:
        return depthwise(x, self.taps, self.bias, self.dilation)


class Convolution(Kernel):
    """Centred convolution that mixes channels: seven taps, `dilation` steps apart."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        super().__init__((out_channels, in_channels, TAPS), out_channels, in_channels * TAPS)
        self.dilation = dilation

    def forward(self, x: Signal) -> Signal:
        reach = self.dilation * (TAPS // 2)
        return convolve(F.pad(x, (0, 0, reach, reach)), self.weight, self.bias, self.dilation)


def convolve(padded: Signal, weight: Tensor, bias: Tensor, dilation: int) -> Signal:
    """Convolution of a padded signal (batch, time, channels) with a kernel of published shape.

    Where matrices are contiguous decides how PyTorch multiplies in their gradients: three times as fast like this.
    """
    time = padded.shape[1] - (TAPS - 1) * dilation
    windows = [slice(k * dilation, k * dilation + time) for k in range(TAPS)]
    if weight.shape[0] == 1:  # products first: shifts seven values per step instead of all channels
        products = F.linear(padded, weight[0].T.contiguous())
        shifted = [products[:, window, k : k + 1] for k, window in enumerate(windows)]
        return bias + torch.cat(shifted, -1).sum(-1, keepdim=True)
    shifted = [padded[:, window] for window in windows]
    matrix = weight.permute(2, 1, 0).contiguous().flatten(0, 1)
    return F.linear(torch.cat(shifted, dim=-1), matrix.T, bias)


class Downsample(Kernel):
    """Convolution of kernel 2s and stride s: each output frame sees two neighbouring blocks of s steps."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__((out_channels, in_channels, 2 * stride), out_channels, in_channels * 2 * stride)
        self.stride = stride

    def forward(self, x: Signal) -> Signal:
        lead = math.ceil(self.stride / 2)  # steps by which an output frame begins before its own block
        first, second = self.weight.transpose(1, 2).flatten(1).chunk(2, dim=1)
        return downsample(F.pad(x, (0, 0, lead, self.stride - lead)), first, second, self.bias)


def downsample(x: Signal, first: Tensor, second: Tensor, bias: Tensor) -> Signal:
    """One frame per pair of neighbouring blocks of x; the matrices are (channels out, block x channels in)."""
    stride = first.shape[1] // x.shape[2]
    blocks = x[:, : x.shape[1] // stride * stride].unflatten(1, (-1, stride)).flatten(2)
    return neighbours(blocks, first, second, bias)


class Upsample(Kernel):
    """Transposed convolution of kernel 2s and stride s: each frame gives 2s steps, and neighbours overlap by half."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        # PyTorch computes a transposed convolution's fan-in from dim 1 of its weight.
        super().__init__((in_channels, out_channels, 2 * stride), out_channels, out_channels * 2 * stride)
        self.stride = stride

    def forward(self, x: Signal) -> Signal:
        lead = math.ceil(self.stride / 2)  # steps by which a frame's output begins before its own block
        by_channel = self.weight.flatten(1).T.contiguous().view(len(self.bias), 2 * self.stride, -1)
        first, second = by_channel.transpose(0, 1).flatten(0, 1).chunk(2)  # two copies, quicker than one by permute
        y = upsample(F.pad(x, (0, 0, 1, 1)), first, second, self.bias)
        return y[:, lead : lead + x.shape[1] * self.stride]


def upsample(x: Signal, first: Tensor, second: Tensor, bias: Tensor) -> Signal:
    """One block of steps per pair of neighbouring frames of x; the matrices are (block x channels out, channels in)."""
    blocks = neighbours(x, second, first, bias.repeat(len(first) // len(bias)))
    return blocks.unflatten(2, (-1, len(bias))).flatten(1, 2)


class Noise(nn.Module):
    """x + h(x) * e, with e ~ N(0, 1) one value per step shared by the channels: (batch or 1, time); None: no noise."""

    def __init__(self, channels: int, layer: int) -> None:
        super().__init__()
        self.linear = Pointwise(channels, channels, bias=False)
        self.layer = layer

    def forward(self, x: Signal, e: Tensor | None) -> Signal:
        return x if e is None else x + e.to(x.dtype)[:, :, None] * self.linear(x)


class ResidualUnit(nn.Module):
    """x + (Snake, dilated convolution, Snake, 1x1 convolution)."""

    def __init__(self, channels: int, dilation: int, depthwise: bool) -> None:
        super().__init__()
        conv = Depthwise(channels, dilation) if depthwise else Convolution(channels, channels, dilation)
        self.block = nn.Sequential(Snake(channels), conv, Snake(channels), Pointwise(channels, channels))

    def forward(self, x: Signal) -> Signal:
        if not isinstance(self.block[1], Depthwise):
            return x + self.block(x)
        first, conv, second, out = cast(tuple[Snake, Depthwise, Snake, Pointwise], tuple(self.block))
        alpha, beta = first.alpha.view(-1), second.alpha.view(-1)
        unit = UnitWeights(alpha, conv.taps, conv.bias, beta, out.matrix, out.bias)
        return residual(x, unit, conv.dilation)
