"""The layers of SNAC, time-major: every activation is (batch, time, channels).

Parameters keep the published names and shapes (those of 1-D convolutions), only the arithmetic differs: a 1x1
convolution is a matrix product over the last axis, a strided or transposed convolution is two of them on blocks of
`stride` steps, a depthwise convolution is a sum of shifted products. docs/architecture.md says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from opensnac import kernels
from opensnac.model import operators

KERNEL_SIZE = kernels.TAPS


def infers(x: Tensor) -> bool:
    """Whether the kernels without gradients can work on x."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()
    return plain and not torch.compiler.is_compiling() and kernels.level() is not None


Signal = Float[Tensor, "batch _time _channels"]  # _: of any size, so that one name serves both ends of a layer


class Windowed(nn.Module):
    """A layer that sees neighbouring steps, and zeros beyond a signal's ends.

    `forward` takes a whole signal. A signal that comes in pieces goes through `valid`, with `keep` older steps in front
    of each piece.
    """

    rate = Fraction(1)  # steps out for a step in

    def plan(self, offset: int) -> tuple[int, int]:
        """(keep, offset of the output) when pieces begin at step `offset` of the input, modulo their length."""
        raise NotImplementedError

    def newest(self, step: int) -> int:
        """The newest step of the input that step `step` of the output depends on."""
        raise NotImplementedError

    def valid(self, x: Signal) -> Signal:
        """All that x (batch, keep + piece, channels) is enough for: as many steps as the piece stands for."""
        raise NotImplementedError


class Grouped(Windowed):
    """Works on whole groups of `group` steps, each by itself."""

    group: int

    def plan(self, offset: int) -> tuple[int, int]:
        keep = offset % self.group
        return keep, offset - keep

    def newest(self, step: int) -> int:
        return step // self.group * self.group + self.group - 1

    def valid(self, x: Signal) -> Signal:
        return self.forward(x[:, : x.shape[1] // self.group * self.group])


class Groups(Grouped):
    """Passes steps on, but only whole groups of them."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Signal) -> Signal:
        return x


class Centred(Windowed):
    """Sees `reach` steps on both sides."""

    reach: int

    def plan(self, offset: int) -> tuple[int, int]:
        return 2 * self.reach, offset - self.reach

    def newest(self, step: int) -> int:
        return step + self.reach


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha with one learned alpha per channel (arXiv 2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Signal) -> Signal:
        return operators.snake(x, self.vector())

    def vector(self) -> Tensor:
        """Alpha, one a channel."""
        return self.alpha.view(-1)


class Kernel(nn.Module):
    """A weight-normalised kernel of published shape (dim 0, dim 1, taps), initialised as PyTorch's convolutions are."""

    one_product = False  # of its input as it comes

    def __init__(self, shape: tuple[int, int, int], out_channels: int, fan_in: int, bias: bool = True) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in)
        self.weight_shape = shape
        self._reduced = False
        self.weight: Tensor
        self.register_parameter("weight", nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))
        self.bias: Tensor  # None without a bias, which only Pointwise is ever made
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None
        )
        weight_norm(self)
        self._kept: dict[str, Kept] = {}

    @property
    def reduced(self) -> bool:
        """Whether the C kernels may multiply in bfloat16."""
        return self._reduced

    @reduced.setter
    def reduced(self, value: bool) -> None:
        if value != self._reduced:
            self._kept.clear()
        self._reduced = value

    def infers(self, x: Signal) -> bool:
        """Whether the C kernels can work on x without gradients, or on x already cut to bfloat16 for them."""
        return infers(x) or (self.narrow and x.dtype == torch.bfloat16)

    @property
    def narrow(self) -> bool:
        """Whether its input may come in bfloat16, which is what it would be cut to."""
        return self.one_product and self._reduced and self.weight.dtype == torch.float32 and kernels.has_bfloat16()

    def arranged(self, name: str, matrix: Callable[[], Tensor]) -> Tensor:
        """A tensor for the C kernels made from the parameters, kept as long as these stay the same."""
        return kept(self, self._kept, name, matrix)


@dataclass(frozen=True)
class Kept:
    """Something made from parameters: who they were, how often they had been changed, and what was made."""

    parameters: list[Tensor]  # held, so that no later one can lie at the same address
    versions: list[int]
    made: Tensor

    def stands_for(self, parameters: list[Tensor]) -> bool:
        """Whether the parameters are the same as then."""
        same = zip(self.parameters, self.versions, parameters, strict=True)
        return all(was.data_ptr() == now.data_ptr() and version == now._version for was, version, now in same)


def kept(module: nn.Module, store: dict[str, Kept], name: str, make: Callable[[], Tensor]) -> Tensor:
    """What `make` makes from a module's parameters, made again when one of them was changed or replaced."""
    parameters: list[Tensor] = list(module.parameters(recurse=True))
    if any(parameter.is_inference() for parameter in parameters):  # these do not count their changes
        return make()
    found = store.get(name)
    if found is None or len(found.parameters) != len(parameters) or not found.stands_for(parameters):
        held = [parameter.detach() for parameter in parameters]
        found = store[name] = Kept(held, [parameter._version for parameter in parameters], make().detach())
    return found.made


class Pointwise(Kernel):
    """1x1 convolution: one matrix product over the channels."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__((out_channels, in_channels, 1), out_channels, in_channels, bias)

    def forward(self, x: Signal) -> Signal:
        if infers(x):
            return kernels.linear(x, self.matrix(), self.weight_shape[0], self.bias)
        return F.linear(x, self.weight[:, :, 0], self.bias)

    def matrix(self) -> Tensor:
        """The weight as the C kernels read it."""
        return self.arranged("matrix", lambda: kernels.packed(self.weight[:, :, 0], self.reduced))


class Depthwise(Kernel, Centred):
    """Centred convolution of each channel with its own seven taps, `dilation` steps apart."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__((channels, 1, KERNEL_SIZE), channels, KERNEL_SIZE)
        self.dilation = dilation
        self.reach = dilation * (KERNEL_SIZE // 2)

    def forward(self, x: Signal) -> Signal:
        return operators.depthwise(x, self.weight[:, 0, :].T, self.bias, self.dilation)

    def valid(self, x: Signal) -> Signal:
        return self.forward(x)[:, self.reach : -self.reach]

    def taps(self) -> Tensor:
        """(taps, channels), as the C kernels read them."""
        return self.arranged("taps", lambda: self.weight[:, 0, :].T.contiguous())


class Convolution(Kernel, Centred):
    """Centred convolution that mixes channels: seven taps, `dilation` steps apart."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        shape = (out_channels, in_channels, KERNEL_SIZE)
        super().__init__(shape, out_channels, in_channels * KERNEL_SIZE)
        self.dilation = dilation
        self.out_channels = out_channels
        self.reach = dilation * (KERNEL_SIZE // 2)

    def forward(self, x: Signal) -> Signal:
        return self.valid(F.pad(x, (0, 0, self.reach, self.reach)))

    def valid(self, x: Signal) -> Signal:
        if infers(x) and self.dilation == 1:
            if self.out_channels == 1:
                return kernels.single(x, self.arranged("taps", lambda: self._matrix()[0].contiguous()), self.bias)
            matrix = self.arranged("matrix", lambda: kernels.packed(self._matrix(), self.reduced))
            return kernels.linear(x, matrix, self.out_channels, self.bias, rows=x.shape[1] - 2 * self.reach)
        if self.out_channels == 1:  # products first: seven numbers a step to shift instead of all channels
            shifted = self._windows(F.linear(x, self.weight[0].T))
            taps = [window[..., k : k + 1] for k, window in enumerate(shifted)]
            return self.bias + torch.cat(taps, dim=-1).sum(-1, keepdim=True)
        return F.linear(torch.cat(self._windows(x), dim=-1), self._matrix(), self.bias)

    def _matrix(self) -> Tensor:
        """(channels out, taps x channels in)"""
        return self.weight.transpose(1, 2).flatten(1)

    def _windows(self, padded: Signal) -> list[Signal]:
        """What each tap sees of the padded signal."""
        time = padded.shape[1] - 2 * self.reach
        return [padded[:, k * self.dilation : k * self.dilation + time] for k in range(KERNEL_SIZE)]


class Downsample(Kernel, Windowed):
    """Convolution of kernel 2s and stride s: each output frame sees two neighbouring blocks of s steps."""

    one_product = True

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__((out_channels, in_channels, 2 * stride), out_channels, in_channels * 2 * stride)
        self.stride = stride
        self.rate = Fraction(1, stride)
        self.lead = math.ceil(stride / 2)  # an output frame begins so many steps before its own block

    def plan(self, offset: int) -> tuple[int, int]:
        keep = self.stride + (offset + self.lead) % self.stride
        return keep, (offset - keep + self.lead) // self.stride

    def newest(self, step: int) -> int:
        return (step + 2) * self.stride - 1 - self.lead

    def forward(self, x: Signal) -> Signal:
        return self.valid(F.pad(x, (0, 0, self.lead, self.stride - self.lead)))

    def valid(self, x: Signal) -> Signal:
        if self.infers(x):
            matrix = self.arranged(
                "matrix", lambda: kernels.packed(self.weight.transpose(1, 2).flatten(1), self.reduced)
            )
            rows = x.shape[1] // self.stride - 1
            return kernels.linear(x, matrix, self.weight_shape[0], self.bias, rows=rows, step=self.stride)
        blocks = x[:, : x.shape[1] // self.stride * self.stride].unflatten(1, (-1, self.stride)).flatten(2)
        first, second = self.weight.transpose(1, 2).flatten(1).chunk(2, dim=1)
        return F.linear(blocks[:, :-1], first, self.bias) + F.linear(blocks[:, 1:], second)


class Upsample(Kernel, Windowed):
    """Transposed convolution of kernel 2s and stride s: each frame makes 2s steps, halves of neighbours overlap."""

    one_product = True

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        # PyTorch takes a transposed convolution's fan-in from dim 1 of its weight.
        super().__init__((in_channels, out_channels, 2 * stride), out_channels, out_channels * 2 * stride)
        self.stride = stride
        self.rate = Fraction(stride)
        self.lead = math.ceil(stride / 2)  # a frame's steps begin so many before its own block

    def plan(self, offset: int) -> tuple[int, int]:
        return 1, offset * self.stride - self.lead

    def newest(self, step: int) -> int:
        return (step + self.lead) // self.stride

    def forward(self, x: Signal) -> Signal:
        return self.valid(F.pad(x, (0, 0, 1, 1)))[:, self.lead : self.lead + x.shape[1] * self.stride]

    def valid(self, x: Signal) -> Signal:
        if self.infers(x):
            matrix = self.arranged("matrix", lambda: kernels.packed(self._matrix_of_neighbours(), self.reduced))
            bias = self.arranged("bias", lambda: self.bias.repeat(self.stride))
            steps = kernels.linear(x, matrix, len(bias), bias, rows=x.shape[1] - 1)
            return steps.unflatten(2, (self.stride, -1)).flatten(1, 2)
        first, second = self.weight.permute(2, 1, 0).flatten(0, 1).chunk(2)
        blocks = F.linear(x[:, 1:], first) + F.linear(x[:, :-1], second)
        return blocks.unflatten(2, (self.stride, -1)).flatten(1, 2) + self.bias

    def _matrix_of_neighbours(self) -> Tensor:
        """(stride x channels out, 2 x channels in): what the frame before and the frame itself add to a block."""
        first, second = self.weight.permute(2, 1, 0).flatten(0, 1).chunk(2)
        return torch.cat((second, first), dim=1)


class Noise(nn.Module):
    """Adds h(x) * e, e ~ N(0, 1) one value a step shared by the channels: (batch or 1, time), or None for no noise."""

    def __init__(self, channels: int, layer: int) -> None:
        super().__init__()
        self.linear = Pointwise(channels, channels, bias=False)
        self.layer = layer

    def forward(self, x: Signal, e: Tensor | None) -> Signal:
        if e is None:
            return x
        if infers(x):
            return kernels.linear(x, self.linear.matrix(), x.shape[2], scale=e, add=x)
        return x + e.to(x.dtype)[:, :, None] * self.linear(x)


class ResidualUnit(Centred):
    """x + (Snake, dilated convolution, Snake, 1x1 convolution)."""

    def __init__(self, channels: int, dilation: int, depthwise: bool) -> None:
        super().__init__()
        mix = Depthwise(channels, dilation) if depthwise else Convolution(channels, channels, dilation)
        self.block = nn.Sequential(Snake(channels), mix, Snake(channels), Pointwise(channels, channels))
        self.reach = mix.reach

    def forward(self, x: Signal) -> Signal:
        return x + self.block(x)

    def valid(self, x: Signal) -> Signal:
        first, mix, second, pointwise = (cast(Any, layer) for layer in self.block)
        y = mix.valid(first(x))
        return x[:, self.reach : -self.reach] + pointwise(second(y))

    def unit(self) -> kernels.Unit:
        """The unit as the C kernels take it."""
        first, mix, second, pointwise = (cast(Any, layer) for layer in self.block)
        return kernels.Unit(
            first.vector(),
            mix.taps(),
            mix.bias,
            second.vector(),
            pointwise.matrix(),
            pointwise.bias,
            mix.dilation,
        )

    @property
    def in_c(self) -> bool:
        """Whether the C kernels know such units."""
        first, mix, *_ = self.block
        return isinstance(mix, Depthwise) and cast(Snake, first).alpha.numel() % kernels.WIDTH == 0
