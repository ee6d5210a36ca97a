"""Strided and transposed convolutions: matrix products on pairs of neighbouring blocks, with gradients.

On the C kernels this is one operator: both products at once, on rows that overlap in memory, without copies.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from opensnac import kernels
from opensnac.kernels.library import check, check_strided
from opensnac.model.operators import kernels_support, refuse_double_backward

Blocks = Float[Tensor, "batch blocks values"]
Matrix = Float[Tensor, "columns values"]


def neighbours(x: Blocks, first: Matrix, second: Matrix, bias: Tensor) -> Float[Tensor, "batch blocks-1 columns"]:
    """For each pair of neighbouring blocks: the earlier one times `first` plus the later one times `second`."""
    if torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu") and kernels_support(x, first, second, bias):
        return torch.ops.opensnac.neighbours(x, first, second, bias)
    return F.linear(x[:, :-1], first, bias) + F.linear(x[:, 1:], second)


torch.library.define("opensnac::neighbours", "(Tensor x, Tensor first, Tensor second, Tensor bias) -> Tensor")
torch.library.define(
    "opensnac::neighbours_backward",
    "(Tensor dy, Tensor x, Tensor first, Tensor second, bool of_weights) -> (Tensor, Tensor[])",
)


@torch.library.impl("opensnac::neighbours", "CPU")
def _neighbours(x: Tensor, first: Tensor, second: Tensor, bias: Tensor) -> Tensor:
    x = check("x", x, (None, None, None))
    columns = first.shape[0]
    first, second = (check_strided("matrix", matrix, (columns, x.shape[2])) for matrix in (first, second))
    matrix = torch.cat([kernels.packed(first), kernels.packed(second)], dim=1)
    return kernels.linear(x, matrix, columns, bias, rows=max(0, x.shape[1] - 1)).contiguous()


@torch.library.impl("opensnac::neighbours_backward", "CPU")
def _neighbours_backward(
    dy: Tensor, x: Tensor, first: Tensor, second: Tensor, of_weights: bool
) -> tuple[Tensor, list[Tensor]]:
    x = check("x", x, (None, None, None))
    (batch, blocks, values), columns = x.shape, first.shape[0]
    dy = check("dy", dy, (batch, max(0, blocks - 1), columns))
    # All clips end to end, with a zero row before the first clip and after each one.
    row = dy.new_empty(1 + batch * blocks, columns)
    clips = row[1:].view(batch, blocks, columns)
    row[0], clips[:, -1:], clips[:, :-1] = 0, 0, dy
    matrix = torch.cat([kernels.packed(second.T), kernels.packed(first.T)], dim=1)
    dx = kernels.linear(row[None], matrix, values, rows=batch * blocks).contiguous().view(x.shape)
    later, flat = row[1:], x.flatten(0, 1)
    return dx, [later.T @ flat, later[:-1].T @ flat[1:], later.sum(0)] if of_weights else []


@torch.library.register_fake("opensnac::neighbours")
def _fake(x: Tensor, first: Tensor, second: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], max(0, x.shape[1] - 1), first.shape[0])


@torch.library.register_fake("opensnac::neighbours_backward")
def _fake_gradients(
    dy: Tensor, x: Tensor, first: Tensor, second: Tensor, of_weights: bool
) -> tuple[Tensor, list[Tensor]]:
    shapes = (first.shape, first.shape, first.shape[:1]) if of_weights else ()
    return x.new_empty(x.shape), [x.new_empty(shape) for shape in shapes]


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    refuse_double_backward()
    of_weights = any(ctx.needs_input_grad[1:])
    dx, gradients = torch.ops.opensnac.neighbours_backward(dy, *ctx.saved_tensors, of_weights)
    return dx, *(gradients or (None,) * 3)


torch.library.register_autograd("opensnac::neighbours", _gradients, setup_context=_setup_context)
