"""A trained model's modules to inference layers: weight norm folded, weights cast and moved to the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opensnac.engine import layers as run
from opensnac.engine.scales import Scale
from opensnac.model import attention, layers
from opensnac.model.codec import Codec
from opensnac.model.quantizer import VectorQuantizer

Place = Callable[[Tensor], Tensor]  # casts a weight and moves it to the engine's device


def encoder_layers(model: Codec, place: Place) -> list[run.Layer]:
    """The encoder's layers; the output comes in whole groups of frames."""
    return [*_packed(model.encoder.layers(), place), run.Groups(model.config.frame_multiple, model.latent_dim)]


def decoder_layers(model: Codec, place: Place) -> list[run.Layer]:
    """The decoder's layers."""
    return [*_packed(model.decoder.layers(), place)]


def scales(model: Codec, place: Place) -> list[Scale]:
    """The quantiser's scales, coarse to fine."""
    return [_scale(scale, place) for scale in model.quantizer.scales]


def _scale(scale: VectorQuantizer, place: Place) -> Scale:
    codebook = place(scale.codebook.weight)
    precise = torch.promote_types(codebook.dtype, torch.float32)
    return Scale(
        scale.stride,
        place(scale.in_proj.weight[:, :, 0]),
        place(scale.in_proj.bias),
        place(scale.out_proj.weight[:, :, 0]),
        place(scale.out_proj.bias),
        codebook,
        F.normalize(scale.codebook.weight.detach().to(codebook.device, precise), dim=-1),
    )


def _packed(modules: Iterable[nn.Module], place: Place) -> Iterator[run.Layer]:
    """Modules to layers, in order; noise, residual units and the Snake after them become one layer."""
    noise: run.Noise | None = None
    units: list[run.Unit] = []
    for module in chain(modules, [None]):
        if isinstance(module, layers.Noise):
            noise = run.Noise(place(module.linear.weight[:, :, 0]), module.layer)
        elif isinstance(module, layers.ResidualUnit):
            units.append(_unit(module, place))
        else:
            closing = place(module.alpha.view(-1)) if units and isinstance(module, layers.Snake) else None
            if units:
                yield run.Units(units, noise, closing)
                noise, units = None, []
            if module is not None and closing is None:
                yield _layer(module, place)


def _unit(module: layers.ResidualUnit, place: Place) -> run.Unit:
    first, conv, second, pointwise = (cast(Any, layer) for layer in module.block)
    return run.Unit(
        place(first.alpha.view(-1)),
        cast(run.Depthwise | run.Convolution, _layer(conv, place)),
        place(second.alpha.view(-1)),
        place(pointwise.weight[:, :, 0]),
        place(pointwise.bias),
    )


def _layer(module: nn.Module, place: Place) -> run.Layer:
    """A layer outside the residual units."""
    match module:
        case layers.Snake():
            return run.Snake(place(module.alpha.view(-1)))
        case layers.Pointwise():
            return run.Pointwise(place(module.weight[:, :, 0]), place(module.bias))
        case layers.Depthwise():
            return run.Depthwise(place(module.weight[:, 0, :].T), place(module.bias), module.dilation)
        case layers.Convolution():
            return run.Convolution(place(module.weight), place(module.bias), module.dilation)
        case layers.Downsample():
            return run.Downsample(place(module.weight.transpose(1, 2).flatten(1)), place(module.bias), module.stride)
        case layers.Upsample():
            later, earlier = module.weight.permute(2, 1, 0).flatten(0, 1).chunk(2)
            matrix, bias = torch.cat((earlier, later), dim=1), module.bias.repeat(module.stride)
            return run.Upsample(place(matrix), place(bias), module.stride)
        case attention.LocalAttention():
            norm = (place(module.norm.weight), place(module.norm.bias), module.norm.eps)
            matrices = place(module.to_qkv.weight), place(module.to_out.weight)
            precise = module.rel_pos.inv_freq.detach().float().to(matrices[0].device)
            return run.Attention(module.window_size, norm, *matrices, precise)
        case nn.Tanh():
            return run.Tanh()
    raise TypeError(f"expected a layer of the codec, got {type(module).__name__}")
