"""Initialise a wider model from a narrower, trained one: the same audio and codes, with more capacity.

After Net2Net (Chen et al., arXiv 1511.05641): channels are copied in turn until the wider layer is full, and the
weights that read a channel are divided among its copies. Equal copies would get equal gradients, so the divisions
differ: random numbers that sum to zero over a channel's copies are added, which leaves the output unchanged and gives
each copy its own gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from opensnac.config import CodecConfig
from opensnac.engine.codec import SNAC
from opensnac.errors import ModelError
from opensnac.model.layers import Kernel, Snake, Upsample

WIDTHS = ("encoder_dim", "decoder_dim")
DIFFERENCE = 0.5  # RMS of the random differences between copies' weights, relative to the weights


def can_widen(narrow: CodecConfig, wide: CodecConfig) -> bool:
    """Whether two configurations differ only in their widths, and those of `wide` are large enough.

    With attention they must be whole multiples: its layer norm wants as many copies of each channel.
    """
    came, wanted = narrow.to_dict(), wide.to_dict()
    same = all(came[key] == wanted[key] for key in came if key not in (*WIDTHS, "latent_dim"))
    even = narrow.attn_window_size is None or all(wanted[key] % came[key] == 0 for key in WIDTHS)
    return same and even and all(wanted[key] >= came[key] for key in WIDTHS)


@torch.no_grad()
def widen(model: SNAC, config: CodecConfig, random: torch.Generator) -> SNAC:
    """A model of `config` that computes what `model` does; the random differences are drawn from `random`.

    ModelError unless the configurations differ only in encoder_dim and decoder_dim, which must not be smaller, and with
    attention whole multiples.
    """
    if not can_widen(model.config, config):
        least = "at least" if model.config.attn_window_size is None else "whole multiples of"
        raise ModelError(
            f"widen: expected {least} {_widths(model.config)} and otherwise the same configuration, "
            f"got {_widths(config)}"
        )
    wide = SNAC.from_config(config)
    for name, layer in wide.named_modules():
        before = cast(Any, model.get_submodule(name))  # of the same kind
        if isinstance(layer, Kernel):
            _widen_kernel(before, layer, random)
        elif isinstance(layer, nn.Linear):
            parts = 3 if name.endswith("to_qkv") else 1  # queries, keys and values are stacked
            blocks = [
                _divided(old, new.shape, 1, random)
                for old, new in zip(before.weight.chunk(parts), layer.weight.chunk(parts), strict=True)
            ]
            layer.weight.copy_(torch.cat(blocks))
        elif isinstance(layer, Snake | nn.LayerNorm | nn.Embedding):
            for key, value in layer.named_parameters(recurse=False):
                value.copy_(_copies(before.get_parameter(key), value.shape))
    return wide


def _widths(config: CodecConfig) -> str:
    return " and ".join(f"{key} {getattr(config, key)}" for key in WIDTHS)


def _widen_kernel(before: Kernel, layer: Kernel, random: torch.Generator) -> None:
    """Widen a kernel; its direction keeps its RMS, so that it changes as fast as before."""
    incoming = 0 if isinstance(layer, Upsample) else 1
    weight = _divided(before.weight, layer.weight.shape, incoming, random)
    layer.assign(weight)
    direction, old = (kernel.get_parameter("parametrizations.weight.original1") for kernel in (layer, before))
    direction.mul_(old.square().mean().sqrt() / weight.square().mean().sqrt().clamp(min=1e-12))
    if layer.bias is not None:
        layer.bias.copy_(_copies(before.bias, layer.bias.shape))


def _copies(values: Tensor, shape: Sequence[int]) -> Tensor:
    """The values repeated in each dimension until they fill the shape."""
    for dimension, (new, old) in enumerate(zip(shape, values.shape, strict=True)):
        values = values.index_select(dimension, torch.arange(new) % old)
    return values


def _divided(weight: Tensor, shape: Sequence[int], incoming: int, random: torch.Generator) -> Tensor:
    """A weight over copies of its channels, divided unequally among the copies along dimension `incoming`."""
    new, old = shape[incoming], weight.shape[incoming]
    shared = _copies(weight, shape)
    if new == old:
        return shared
    place = torch.arange(new) % old
    counts = torch.bincount(place).view([-1 if d == incoming else 1 for d in range(len(shape))])
    others = torch.randn(shape, generator=random)
    sums = torch.zeros_like(others.narrow(incoming, 0, old)).index_add_(incoming, place, others)
    others -= (sums / counts).index_select(incoming, place)
    shared = shared / counts.index_select(incoming, place)
    return shared + others * (DIFFERENCE * shared.square().mean().sqrt())
