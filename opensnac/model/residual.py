"""A residual unit, x + pointwise(snake(depthwise(snake(x)))), as one operator where the C kernels run.

It goes along the signal in tiles that stay in the cache, keeps x alone for its gradients, and computes the rest anew.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from opensnac import kernels
from opensnac.kernels.library import ask, call, check, table, threads
from opensnac.model.operators import Signal, once, positive, signal

Vector = Float[Tensor, " channels"]


class Unit(NamedTuple):
    """What a unit is made of: alpha is the first Snake's, beta the second one's."""

    alpha: Vector
    taps: Float[Tensor, "taps channels"]
    taps_bias: Vector
    beta: Vector
    matrix: Float[Tensor, "channels channels"]
    bias: Vector


def residual(x: Signal, unit: Unit, dilation: int) -> Signal:
    """The unit's output; float32 on a CPU with kernels."""
    return torch.ops.opensnac.residual(x, *unit, dilation)


WEIGHTS = "Tensor alpha, Tensor taps, Tensor taps_bias, Tensor beta, Tensor matrix"
torch.library.define("opensnac::residual", f"(Tensor x, {WEIGHTS}, Tensor bias, int dilation) -> Tensor")
torch.library.define(
    "opensnac::residual_backward",
    f"(Tensor dy, Tensor x, {WEIGHTS}, int dilation)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


@torch.library.impl("opensnac::residual", "CPU")
def _residual(
    x: Tensor, alpha: Tensor, taps: Tensor, taps_bias: Tensor, beta: Tensor, matrix: Tensor, bias: Tensor, dilation: int
) -> Tensor:
    x, weights = signal("x", x), _checked(x, alpha, taps, taps_bias, beta, matrix)
    bias, y = check("bias", bias, x.shape[2:]), torch.empty_like(x)
    _run("residual_forward", x, *weights[:-1], kernels.packed(weights[-1]), bias, y, *x.shape, positive(dilation), *[None] * 4)
    return y


@torch.library.impl("opensnac::residual_backward", "CPU")
def _residual_backward(
    dy: Tensor, x: Tensor, alpha: Tensor, taps: Tensor, taps_bias: Tensor, beta: Tensor, matrix: Tensor, dilation: int
) -> tuple[Tensor, ...]:
    x, weights = signal("x", x), _checked(x, alpha, taps, taps_bias, beta, matrix)
    dy, dilation = check("dy", dy, x.shape), positive(dilation)
    (batch, time, channels), middle, dx = x.shape, torch.empty_like(x), torch.empty_like(x)
    partial = x.new_empty(batch * ask("residual_jobs", time, channels), channels + kernels.TAPS + 4, channels)
    given = (x, *weights[:-1], kernels.packed(weights[-1].T), None, None, *x.shape, dilation)
    _run("residual_backward", *given, dy, middle, dx, partial)
    dmatrix, dtaps, *vectors = partial.sum(0).split([channels, kernels.TAPS, 1, 1, 1, 1])
    dtaps_bias, dbeta, dbias, dalpha = (vector[0].clone() for vector in vectors)
    return dx, dalpha, dtaps.clone(), dtaps_bias, dbeta, dmatrix.clone(), dbias


def _checked(x: Tensor, alpha: Tensor, taps: Tensor, taps_bias: Tensor, beta: Tensor, matrix: Tensor) -> list[Tensor]:
    vector = x.shape[2:]
    wanted = {"alpha": vector, "taps": (kernels.TAPS, *vector), "taps_bias": vector, "beta": vector}
    wanted["matrix"] = vector * 2
    given = (alpha, taps, taps_bias, beta, matrix)
    return [check(name, tensor, shape) for tensor, (name, shape) in zip(given, wanted.items(), strict=True)]


def _run(name: str, x: Tensor, *rest: Tensor | int | None) -> None:
    """Call the kernel on what C reads as a struct, with room for each thread."""
    dilation = rest[10]
    room = ask("residual_scratch", x.shape[2], dilation)
    call(name, table((x, *rest)), x.new_empty(threads(), room), room)


@torch.library.register_fake("opensnac::residual")
def _fake_residual(x: Tensor, *weights: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.register_fake("opensnac::residual_backward")
def _fake_gradients(dy: Tensor, x: Tensor, *weights: Any) -> tuple[Tensor, ...]:
    alpha, taps, taps_bias, beta, matrix, _ = weights
    parameters = (alpha, taps, taps_bias, beta, matrix, taps_bias)
    return _fake_residual(x), *(parameter.new_empty(parameter.shape) for parameter in parameters)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _, ctx.dilation = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    once()
    return *torch.ops.opensnac.residual_backward(dy, *ctx.saved_tensors, ctx.dilation), None


torch.library.register_autograd("opensnac::residual", _gradients, setup_context=_keep)
