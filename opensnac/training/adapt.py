"""Start a model from a trained one of another layout: other rates, scales or sampling rate, attention, fewer channels.

Much of what a codec has learned (pitch, phase, how to upsample without steps) serves other sound and other rates too.
The result is a start for training, not a codec: it computes something near to what the trained model does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from opensnac.config import CodecConfig
from opensnac.engine.codec import SNAC
from opensnac.errors import ModelError
from opensnac.model.attention import LocalAttention
from opensnac.model.layers import Kernel, Snake

SAME = ("depthwise", "noise", "codebook_size", "codebook_dim")  # what both configurations must share
Strongest = dict[int, Tensor]  # the channels of each width, those that are read with the largest weights first


@torch.no_grad()
def adapt(model: SNAC, config: CodecConfig) -> SNAC:
    """A model of `config` with the weights of `model`, layer by layer, as far as they fit.

    Strided kernels lose or gain taps at both ends, channels that are too many are left out, the weakest first, scales
    are paired from the finest on, and further scales copy the coarsest. New attention adds nothing at first. Codebooks
    are copied too, but are better initialised from data. ModelError if the two differ in SAME or in the number of
    rates, or if `config` is wider.
    """
    trained = model.config
    _check(trained, config)
    adapted = SNAC.from_config(config)
    strongest = _strongest(_parts(nn.ModuleList([model.encoder, model.quantizer])))
    for old, new in ((model.encoder, adapted.encoder), (model.decoder, adapted.decoder)):
        _fit_all(old, new, strongest)
        _attend(old, new)
    scales = model.quantizer.scales
    for index, scale in enumerate(reversed(adapted.quantizer.scales), start=1):
        before = scales[-min(index, len(scales))]
        _fit_all(before, scale, strongest)
        scale.codebook.weight.copy_(before.codebook.weight)
    return adapted


def _check(trained: CodecConfig, config: CodecConfig) -> None:
    came, wanted = config.to_dict(), trained.to_dict()
    differ = [f"{key} {wanted[key]}" for key in SAME if came[key] != wanted[key]]
    differ += [f"{key} of at most {wanted[key]}" for key in ("encoder_dim", "decoder_dim") if came[key] > wanted[key]]
    if len(config.encoder_rates) != len(trained.encoder_rates):
        differ.append(f"{len(trained.encoder_rates)} rates")
    if differ:
        raise ModelError(f"adapt: expected {', '.join(differ)}, as the trained model has, got {config}")


def _parts(module: nn.Module) -> Iterator[Kernel | Snake]:
    """The layers that hold weights, in order; attention is not among them."""
    return (part for part in module.modules() if isinstance(part, Kernel | Snake))


def _strongest(parts: Iterable[nn.Module]) -> Strongest:
    """By the norms of the weights that read each channel."""
    norms: dict[int, Tensor] = {}
    for part in parts:
        if isinstance(part, Kernel) and part.weight.shape[1] > 1:
            read = part.weight.square().sum((0, 2))
            norms[len(read)] = norms.get(len(read), torch.zeros_like(read)) + read
    return {width: total.argsort(descending=True) for width, total in norms.items()}


def _fit_all(old: nn.Module, new: nn.Module, strongest: Strongest) -> None:
    for before, layer in zip(_parts(old), _parts(new), strict=True):
        if isinstance(layer, Snake):
            layer.alpha.copy_(_cut(cast(Snake, before).alpha, layer.alpha.shape, strongest))
            continue
        kernel = cast(Kernel, before)
        layer.assign(_cut(kernel.weight, layer.weight.shape, strongest))
        if layer.bias is not None:
            layer.bias.copy_(_cut(kernel.bias, layer.bias.shape, strongest))


def _cut(values: Tensor, shape: torch.Size, strongest: Strongest) -> Tensor:
    """Values of that shape: the strongest of the channels, the middle of the taps or zeros around them."""
    for axis, size in enumerate(shape):
        had = values.shape[axis]
        if axis == 2 and size > had:
            lead = (size - had) // 2
            values = nn.functional.pad(values, (lead, size - had - lead))
        elif axis == 2:
            values = values.narrow(2, (had - size) // 2, size)
        elif size < had:
            values = values.index_select(axis, strongest[had][:size].sort().values)
    return values


def _attend(old: nn.Module, new: nn.Module) -> None:
    """Attention of the same width is copied; other attention is new, and its output zero."""
    before = [part for part in old.modules() if isinstance(part, LocalAttention)]
    for index, layer in enumerate(part for part in new.modules() if isinstance(part, LocalAttention)):
        if index < len(before) and before[index].to_out.weight.shape == layer.to_out.weight.shape:
            layer.load_state_dict(before[index].state_dict())
        else:
            layer.to_out.weight.zero_()
