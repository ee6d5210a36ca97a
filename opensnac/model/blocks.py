"""Strided and transposed convolutions: products on each two neighbouring blocks of a signal, with their gradients.

Where the C kernels run, as one operator: both products at once, on rows that overlap in memory, and nothing copied to
make them rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from opensnac import kernels
from opensnac.kernels.library import check, look_at
from opensnac.model.operators import on_kernels, once

Blocks = Float[Tensor, "batch blocks values"]
Matrix = Float[Tensor, "columns values"]


def neighbours(x: Blocks, first: Matrix, second: Matrix, bias: Tensor) -> Float[Tensor, "batch blocks-1 columns"]:
    """Of each two neighbouring blocks, the earlier one times `first` and the later one times `second`, summed up."""
    if torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu") and on_kernels(x, first, second, bias):
        return torch.ops.opensnac.neighbours(x, first, second, bias)
    return F.linear(x[:, :-1], first, bias) + F.linear(x[:, 1:], second)


torch.library.define("opensnac::neighbours", "(Tensor x, Tensor first, Tensor second, Tensor bias) -> Tensor")
torch.library.define(
    "opensnac::neighbours_backward",
    "(Tensor dy, Tensor x, Tensor first, Tensor second) -> (Tensor, Tensor, Tensor, Tensor)",
)


@torch.library.impl("opensnac::neighbours", "CPU")
def _neighbours(x: Tensor, first: Tensor, second: Tensor, bias: Tensor) -> Tensor:
    x = check("x", x, (None, None, None))
    columns = first.shape[0]
    first, second = (look_at("matrix", matrix, (columns, x.shape[2])) for matrix in (first, second))
    matrix = torch.cat([kernels.packed(first), kernels.packed(second)], dim=1)
    return kernels.linear(x, matrix, columns, bias, rows=max(0, x.shape[1] - 1)).contiguous()


@torch.library.impl("opensnac::neighbours_backward", "CPU")
def _neighbours_backward(dy: Tensor, x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
    x = check("x", x, (None, None, None))
    (batch, blocks, values), columns = x.shape, first.shape[0]
    dy = check("dy", dy, (batch, max(0, blocks - 1), columns))
    # All clips in a row, with a zero before the first row and behind every clip's last.
    row = dy.new_zeros(1 + batch * blocks, columns)
    row[1:].view(batch, blocks, columns)[:, :-1] = dy
    matrix = torch.cat([kernels.packed(second.T), kernels.packed(first.T)], dim=1)
    dx = kernels.linear(row[None], matrix, values, rows=batch * blocks)
    later, flat = row[1:], x.flatten(0, 1)
    return dx.contiguous().view(x.shape), later.T @ flat, later[:-1].T @ flat[1:], later.sum(0)


@torch.library.register_fake("opensnac::neighbours")
def _fake(x: Tensor, first: Tensor, second: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], max(0, x.shape[1] - 1), first.shape[0])


@torch.library.register_fake("opensnac::neighbours_backward")
def _fake_gradients(dy: Tensor, x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
    matrix = x.new_empty(first.shape)
    return x.new_empty(x.shape), matrix, torch.empty_like(matrix), x.new_empty(first.shape[:1])


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
    once()
    return torch.ops.opensnac.neighbours_backward(dy, *ctx.saved_tensors)


torch.library.register_autograd("opensnac::neighbours", _gradients, setup_context=_keep)
