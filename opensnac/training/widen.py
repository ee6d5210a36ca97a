"""A wider model that begins as a narrower, trained one: the same audio and codes, with room to learn more.

After Net2Net (Chen et al., arXiv 1511.05641): every channel is there several times, and what listens to it listens to
each copy by a share. Copies that stayed alike would learn alike, so the shares differ: random numbers that sum to zero
over a channel's copies are added to them, which changes nothing that is heard and gives each copy gradients of its own.
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
DIFFERENCE = 0.5  # of the shares of a channel's copies, beside the shares themselves (root mean square)


def can_widen(narrow: CodecConfig, wide: CodecConfig) -> bool:
    """Whether two configurations differ in their widths alone, and those of `wide` are whole multiples."""
    came, wanted = narrow.to_dict(), wide.to_dict()
    same = all(came[key] == wanted[key] for key in came if key not in (*WIDTHS, "latent_dim"))
    return same and all(wanted[key] % came[key] == 0 for key in WIDTHS)


@torch.no_grad()
def widen(model: SNAC, config: CodecConfig, random: torch.Generator) -> SNAC:
    """A model of `config` with the function of `model`; its new directions are drawn from `random`.

    ModelError where the configurations differ in more than encoder_dim and decoder_dim, or these are no multiples.
    """
    if not can_widen(model.config, config):
        raise ModelError(
            f"a model of widths {_widths(model.config)} cannot be made one of {_widths(config)}: expected whole "
            "multiples, and else the same configuration"
        )
    wide = SNAC.from_config(config)
    for name, layer in wide.named_modules():
        before = cast(Any, model.get_submodule(name))  # of the same kind
        if isinstance(layer, Kernel):
            _widen_kernel(before, layer, random)
        elif isinstance(layer, nn.Linear):
            parts = 3 if name.endswith("to_qkv") else 1  # queries, keys and values are stacked
            blocks = [
                _listening(old, new.shape, 1, random)
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
    """The kernel before, over copies of its channels; its direction keeps its size, so that it turns as readily."""
    incoming = 0 if isinstance(layer, Upsample) else 1
    weight = _listening(before.weight, layer.weight.shape, incoming, random)
    layer.assign(weight)
    direction, old = (kernel.get_parameter("parametrizations.weight.original1") for kernel in (layer, before))
    direction.mul_(old.square().mean().sqrt() / weight.square().mean().sqrt().clamp(min=1e-12))
    if layer.bias is not None:
        layer.bias.copy_(_copies(before.bias, layer.bias.shape))


def _copies(values: Tensor, shape: Sequence[int]) -> Tensor:
    """All channels, and all of them again, until the shape is filled."""
    return values.repeat([new // old for new, old in zip(shape, values.shape, strict=True)])


def _listening(weight: Tensor, shape: Sequence[int], incoming: int, random: torch.Generator) -> Tensor:
    """A weight over copies of its channels: those of dimension `incoming` are listened to by unequal shares."""
    count = shape[incoming] // weight.shape[incoming]
    shared = _copies(weight, shape) / count
    if count == 1:
        return shared
    others = torch.randn(shape, generator=random).unflatten(incoming, (count, -1))
    others = (others - others.mean(incoming, keepdim=True)).flatten(incoming, incoming + 1)
    return shared + others * (DIFFERENCE * shared.square().mean().sqrt())
