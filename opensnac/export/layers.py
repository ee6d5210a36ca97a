"""The codec's layers as data: kind, name of the weights in a state dict, and context.

`tests/export/test_layers.py` compares them with the model and the engine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from opensnac.config import CodecConfig

TAPS = 7  # of every convolution that keeps the rate
DILATIONS = (1, 3, 9)  # of the three residual units of a block

Pads = tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """A layer, pointwise unless overridden; `name` is the prefix of its weights."""

    name: str = ""

    @property
    def up(self) -> int:
        """Steps out for each step in."""
        return 1

    @property
    def down(self) -> int:
        """Steps in for each step out."""
        return 1

    def context(self, offset: int) -> tuple[int, int]:
        """(steps of input kept between chunks, first step of output) if chunks begin at step `offset`."""
        return 0, offset

    def last_input(self, step: int) -> int:
        """The last step of the input that step `step` of the output depends on."""
        return step


@dataclass(frozen=True)
class Kernel(Layer):
    """A convolution, and the Snake before it, if any."""

    snake: str = ""

    @property
    def whole(self) -> Pads:
        """Padding of a whole signal; for a transposed convolution the steps cut off its ends."""
        return 0, 0

    @property
    def piece(self) -> Pads:
        """The same for a chunk with its context in front."""
        return 0, 0


@dataclass(frozen=True)
class Pointwise(Kernel):
    """1x1."""


@dataclass(frozen=True)
class Convolution(Kernel):
    """Centred, seven taps."""

    dilation: int = 1
    depthwise: bool = False

    @property
    def reach(self) -> int:
        """Context in steps on each side."""
        return self.dilation * (TAPS // 2)

    @property
    def whole(self) -> Pads:
        return self.reach, self.reach

    def context(self, offset: int) -> tuple[int, int]:
        return 2 * self.reach, offset - self.reach

    def last_input(self, step: int) -> int:
        return step + self.reach


@dataclass(frozen=True)
class Strided(Kernel):
    """A convolution with a kernel twice its stride."""

    stride: int = 1

    @property
    def lead(self) -> int:
        """How many steps before a frame its receptive field begins."""
        return math.ceil(self.stride / 2)

    @property
    def whole(self) -> Pads:
        return self.lead, self.stride - self.lead


@dataclass(frozen=True)
class Downsample(Strided):
    """Strided convolution: each frame depends on two neighbouring blocks of steps."""

    @property
    def down(self) -> int:
        return self.stride

    def context(self, offset: int) -> tuple[int, int]:
        keep = self.stride + (offset + self.lead) % self.stride
        return keep, (offset - keep + self.lead) // self.stride

    def last_input(self, step: int) -> int:
        return (step + 2) * self.stride - 1 - self.lead


@dataclass(frozen=True)
class Upsample(Strided):
    """Transposed convolution: each block of steps depends on two neighbouring frames."""

    @property
    def up(self) -> int:
        return self.stride

    @property
    def piece(self) -> Pads:
        return self.stride, self.stride

    def context(self, offset: int) -> tuple[int, int]:
        return 1, offset * self.stride - self.lead

    def last_input(self, step: int) -> int:
        return (step + self.lead) // self.stride


@dataclass(frozen=True)
class Unit(Layer):
    """x + pointwise(conv(x)), a Snake before each of the two."""

    conv: Convolution = Convolution()
    pointwise: Pointwise = Pointwise()

    def context(self, offset: int) -> tuple[int, int]:
        return self.conv.context(offset)

    def last_input(self, step: int) -> int:
        return self.conv.last_input(step)


@dataclass(frozen=True)
class Noise(Layer):
    """x + (matrix x) * e, with e per step from the noise sequence `number`."""

    number: int = 0


@dataclass(frozen=True)
class Groups(Layer):
    """Passes on whole groups of `group` steps."""

    group: int = 1

    def context(self, offset: int) -> tuple[int, int]:
        return offset % self.group, offset - offset % self.group

    def last_input(self, step: int) -> int:
        return step // self.group * self.group + self.group - 1


@dataclass(frozen=True)
class Attention(Groups):
    """Self-attention inside each group."""


@dataclass(frozen=True)
class Tanh(Layer):
    """The last layer of the decoder."""


def encoder_layers(config: CodecConfig) -> list[Layer]:
    """From samples to latent frames, in whole groups."""
    layers: list[Layer] = [Convolution("encoder.block.0")]
    for block, stride in enumerate(config.encoder_rates, start=1):
        name = f"encoder.block.{block}.block"
        layers += _units(name, 0, config.depthwise)
        layers.append(Downsample(f"{name}.4", f"{name}.3", stride))
    block = len(config.encoder_rates) + 1
    if config.attn_window_size is not None:
        layers.append(Attention(f"encoder.block.{block}", config.attn_window_size))
        block += 1
    layers.append(Convolution(f"encoder.block.{block}", depthwise=config.depthwise))
    return [*layers, Groups(group=config.frame_multiple)]


def decoder_layers(config: CodecConfig) -> list[Layer]:
    """From latent frames to samples."""
    layers: list[Layer] = [Convolution("decoder.model.0", depthwise=config.depthwise)]
    if config.depthwise:
        layers.append(Pointwise("decoder.model.1"))
    if config.attn_window_size is not None:
        layers.append(Attention(f"decoder.model.{len(layers)}", config.attn_window_size))
    block = len(layers)
    for number, stride in enumerate(config.decoder_rates):
        name = f"decoder.model.{block}.block"
        layers.append(Upsample(f"{name}.1", f"{name}.0", stride))
        if config.noise:
            layers.append(Noise(f"{name}.2.linear", number))
        layers += _units(name, 3 if config.noise else 2, config.depthwise)
        block += 1
    return [*layers, Convolution(f"decoder.model.{block + 1}", f"decoder.model.{block}"), Tanh()]


def _units(block: str, first: int, depthwise: bool) -> list[Layer]:
    names = [f"{block}.{first + i}.block" for i in range(len(DILATIONS))]
    return [
        Unit(name, Convolution(f"{name}.1", f"{name}.0", dilation, depthwise), Pointwise(f"{name}.3", f"{name}.2"))
        for name, dilation in zip(names, DILATIONS, strict=True)
    ]
