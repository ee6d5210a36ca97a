"""A residual unit, x + pointwise(snake(depthwise(snake(x)))).

On the C kernels it is one operator, which works in tiles that stay in the cache, saves only x for the backward pass and
recomputes the rest. Elsewhere it is the four layers in sequence.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from opensnac import kernels
from opensnac.kernels.library import call, check, query, threads, word_array
from opensnac.model.operators import (
    Signal,
    check_dilation,
    check_signal,
    depthwise,
    kernels_apply,
    refuse_double_backward,
    snake,
)

Vector = Float[Tensor, " channels"]


class UnitWeights(NamedTuple):
    """A unit's parameters: alpha is the first Snake's, beta the second one's."""

    alpha: Vector
    taps: Float[Tensor, "taps channels"]
    taps_bias: Vector
    beta: Vector
    matrix: Float[Tensor, "channels channels"]
    bias: Vector


def residual(x: Signal, unit: UnitWeights, dilation: int) -> Signal:
    """The unit's output."""
    if kernels_apply(x, *unit) and not torch.is_autocast_enabled("cpu"):
        return torch.ops.opensnac.residual(x, *unit, dilation)
    y = depthwise(snake(x, unit.alpha), unit.taps, unit.taps_bias, dilation)
    return x + F.linear(snake(y, unit.beta), unit.matrix, unit.bias)


WEIGHTS = "Tensor alpha, Tensor taps, Tensor taps_bias, Tensor beta, Tensor matrix"
torch.library.define("opensnac::residual", f"(Tensor x, {WEIGHTS}, Tensor bias, int dilation) -> Tensor")
torch.library.define(
    "opensnac::residual_backward",
    f"(Tensor dy, Tensor x, {WEIGHTS}, int dilation, bool of_weights) -> (Tensor, Tensor[])",
)


@torch.library.impl("opensnac::residual", "CPU")
def _residual(
    x: Tensor, alpha: Tensor, taps: Tensor, taps_bias: Tensor, beta: Tensor, matrix: Tensor, bias: Tensor, dilation: int
) -> Tensor:
    x = check_signal("x", x)
    unit = _checked(x, UnitWeights(alpha, taps, taps_bias, beta, matrix, bias))
    y = torch.empty_like(x)
    _run("residual_forward", x, unit, kernels.packed(unit.matrix), dilation, (y, None, None, None, None))
    return y


@torch.library.impl("opensnac::residual_backward", "CPU")
def _residual_backward(
    dy: Tensor,
    x: Tensor,
    alpha: Tensor,
    taps: Tensor,
    taps_bias: Tensor,
    beta: Tensor,
    matrix: Tensor,
    dilation: int,
    of_weights: bool,
) -> tuple[Tensor, list[Tensor]]:
    x = check_signal("x", x)
    dy, unit = check("dy", dy, x.shape), _checked(x, UnitWeights(alpha, taps, taps_bias, beta, matrix, taps_bias))
    (batch, time, channels), middle, dx = x.shape, torch.empty_like(x), torch.empty_like(x)
    jobs, partial = batch * query("residual_jobs", time, channels), None
    if of_weights:
        partial = x.new_empty(jobs, channels + kernels.TAPS + 4, channels)
    signals = (None, dy, middle, dx, partial)
    _run("residual_backward", x, unit, kernels.packed(unit.matrix.T), dilation, signals)
    if partial is None:
        return dx, []
    dmatrix, dtaps, *vectors = (part.clone() for part in partial.sum(0).split([channels, kernels.TAPS, 1, 1, 1, 1]))
    dtaps_bias, dbeta, dbias, dalpha = (vector[0] for vector in vectors)
    return dx, [dalpha, dtaps, dtaps_bias, dbeta, dmatrix, dbias]


def _checked(x: Tensor, unit: UnitWeights) -> UnitWeights:
    vector = tuple(x.shape[2:])
    shapes = (vector, (kernels.TAPS, *vector), vector, vector, vector * 2, vector)
    named = zip(UnitWeights._fields, unit, shapes, strict=True)
    return UnitWeights(*(check(name, tensor, shape) for name, tensor, shape in named))


def _run(
    name: str, x: Tensor, unit: UnitWeights, packed: Tensor, dilation: int, signals: tuple[Tensor | None, ...]
) -> None:
    """Call the kernel on a C struct of the output and, for backward, the further signals."""
    y, *behind = signals
    room = query("residual_scratch", x.shape[2], check_dilation(dilation))
    run = word_array((x, *unit[:4], packed, unit.bias, y, *x.shape, dilation, *behind))
    call(name, run, x.new_empty(threads(), room), room)


@torch.library.register_fake("opensnac::residual")
def _fake_residual(x: Tensor, *weights: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.register_fake("opensnac::residual_backward")
def _fake_gradients(dy: Tensor, x: Tensor, *others: Any) -> tuple[Tensor, list[Tensor]]:
    alpha, taps, taps_bias, beta, matrix, _, of_weights = others
    parameters = (alpha, taps, taps_bias, beta, matrix, taps_bias) if of_weights else ()
    return _fake_residual(x), [parameter.new_empty(parameter.shape) for parameter in parameters]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _, ctx.dilation = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    refuse_double_backward()
    of_weights = any(ctx.needs_input_grad[1:])
    dx, gradients = torch.ops.opensnac.residual_backward(dy, *ctx.saved_tensors, ctx.dilation, of_weights)
    return dx, *(gradients or (None,) * len(UnitWeights._fields)), None


torch.library.register_autograd("opensnac::residual", _gradients, setup_context=_setup_context)
