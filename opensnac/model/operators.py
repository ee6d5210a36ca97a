"""Snake and depthwise convolution, the codec's arithmetic besides matrix products.

On the C kernels (float32 on a CPU, a multiple of 16 channels) they are custom operators with gradients; elsewhere, and
inside torch.compile and torch.export, plain PyTorch, which can be differentiated more than once.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from opensnac import kernels
from opensnac.errors import TensorError
from opensnac.kernels.library import call, check, query

Signal = Float[Tensor, "batch time channels"]


def snake(x: Signal, alpha: Float[Tensor, " channels"]) -> Signal:
    """x + sin^2(alpha x) / alpha."""
    if kernels_apply(x, alpha):
        return torch.ops.opensnac.snake(x, alpha)
    if triton_applies(x):
        from opensnac.model import triton

        return triton.Snake.apply(x, alpha)
    return x + torch.sin(alpha * x).square() * (1 / (alpha + 1e-9))


def depthwise(
    x: Signal, taps: Float[Tensor, "taps channels"], bias: Float[Tensor, " channels"], dilation: int
) -> Signal:
    """Each channel convolved with its own seven taps, `dilation` steps apart, centred, zeros outside."""
    if kernels_apply(x, taps, bias):
        return torch.ops.opensnac.depthwise(x, taps, bias, dilation)
    if triton_applies(x):
        from opensnac.model import triton

        return triton.Depthwise.apply(x, taps, bias, dilation)
    if x.device.type == "cpu" and not torch.compiler.is_exporting() and not torch.jit.is_tracing():
        return _shifted_sum(x, taps, bias, dilation)
    # As an image one pixel high this is channels-last, which libraries take without a copy.
    image, weight = x.mT[:, :, None], taps.T[:, None, None]
    padding = (0, dilation * (kernels.TAPS // 2))
    return F.conv2d(image, weight, bias, padding=padding, dilation=(1, dilation), groups=x.shape[2])[:, :, 0].mT


def triton_applies(x: Tensor) -> bool:
    """Whether Triton's kernels take x: on a GPU, unless it is being traced or compiled."""
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return x.is_cuda and x.dim() == 3 and x.dtype != torch.float64 and not recorded and _triton_runs(x.device)


@functools.cache
def _triton_runs(device: torch.device) -> bool:
    """Whether Triton is there and can compile for a GPU, for which it needs a C compiler; warns once if it cannot."""
    if importlib.util.find_spec("triton") is None or os.environ.get("OPENSNAC_KERNELS") == "0":
        return False
    try:
        from opensnac.model import triton

        triton.snake(torch.zeros(1, 1, kernels.WIDTH, device=device), torch.ones(kernels.WIDTH, device=device))
    except Exception as error:  # whatever Triton raises, PyTorch does the work
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        warnings.warn(f"Triton does not run on {device} ({reason}): PyTorch is used, which is slower", stacklevel=2)
        return False
    return True


def _shifted_sum(x: Tensor, taps: Tensor, bias: Tensor, dilation: int) -> Tensor:
    """Depthwise convolution as shifted products: on a CPU faster than the library's, gradients included."""
    time, reach = x.shape[1], dilation * (kernels.TAPS // 2)
    padded = F.pad(x, (0, 0, reach, reach))
    y = bias + padded[:, :time] * taps[0]
    for k in range(1, kernels.TAPS):
        y = y + padded[:, k * dilation : k * dilation + time] * taps[k]
    return y


def kernels_apply(x: Tensor, *parameters: Tensor) -> bool:
    """Whether the kernels take these tensors; others go to PyTorch, which reports shapes that do not fit."""
    fits = x.dim() == 3 and x.shape[2] % kernels.WIDTH == 0 and all(p.shape[-1] == x.shape[2] for p in parameters)
    return fits and kernels_support(x, *parameters)


def kernels_support(*tensors: Tensor) -> bool:
    """Whether tensors have the kernels' type and device and are not being traced or compiled."""
    plain = all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return plain and not recorded and kernels.level() is not None


torch.library.define("opensnac::snake", "(Tensor x, Tensor alpha) -> Tensor")
torch.library.define("opensnac::snake_backward", "(Tensor dy, Tensor x, Tensor alpha) -> (Tensor, Tensor)")
torch.library.define("opensnac::depthwise", "(Tensor x, Tensor taps, Tensor? bias, int dilation) -> Tensor")
torch.library.define(
    "opensnac::depthwise_backward", "(Tensor dy, Tensor x, Tensor taps, int dilation) -> (Tensor, Tensor, Tensor)"
)


@torch.library.impl("opensnac::snake", "CPU")
def _snake(x: Tensor, alpha: Tensor) -> Tensor:
    x = check_signal("x", x)
    alpha = check("alpha", alpha, x.shape[2:])
    y = torch.empty_like(x)
    call("snake_forward", x, alpha, y, x.shape[0] * x.shape[1], x.shape[2])
    return y


@torch.library.impl("opensnac::snake_backward", "CPU")
def _snake_backward(dy: Tensor, x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    x = check_signal("x", x)
    dy, alpha = check("dy", dy, x.shape), check("alpha", alpha, x.shape[2:])
    rows, channels = x.shape[0] * x.shape[1], x.shape[2]
    dx, partial = torch.empty_like(x), x.new_empty(query("tiles", rows), channels)
    call("snake_backward", x, alpha, dy, dx, partial, rows, channels)
    return dx, partial.sum(0)


@torch.library.impl("opensnac::depthwise", "CPU")
def _depthwise(x: Tensor, taps: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    x = check_signal("x", x)
    taps = check("taps", taps, (kernels.TAPS, x.shape[2]))
    bias = None if bias is None else check("bias", bias, x.shape[2:])
    y = torch.empty_like(x)
    call("depthwise_forward", x, taps, bias, y, *x.shape, check_dilation(dilation))
    return y


@torch.library.impl("opensnac::depthwise_backward", "CPU")
def _depthwise_backward(dy: Tensor, x: Tensor, taps: Tensor, dilation: int) -> tuple[Tensor, Tensor, Tensor]:
    x = check_signal("x", x)
    dy, taps = check("dy", dy, x.shape), check("taps", taps, (kernels.TAPS, x.shape[2]))
    dx, partial = (
        torch.empty_like(x),
        x.new_empty(x.shape[0] * query("tiles", x.shape[1]), kernels.TAPS + 1, x.shape[2]),
    )
    call("depthwise_forward", dy, taps.flip(0), None, dx, *x.shape, check_dilation(dilation))
    call("depthwise_weight_gradient", x, dy, partial, *x.shape, dilation)
    gradient = partial.sum(0)
    return dx, gradient[: kernels.TAPS].clone(), gradient[kernels.TAPS].clone()


def check_signal(name: str, x: Tensor) -> Tensor:
    """The tensor, contiguous; TensorError unless the kernels take it."""
    x = check(name, x, (None, None, None))
    if x.shape[2] % kernels.WIDTH:
        raise TensorError(f"{name}: expected a multiple of {kernels.WIDTH} channels, got {x.shape[2]}")
    return x


def check_dilation(dilation: int) -> int:
    """The dilation; TensorError unless it is at least 1."""
    if dilation < 1:
        raise TensorError(f"dilation: expected at least 1, got {dilation}")
    return dilation


@torch.library.register_fake("opensnac::snake")
@torch.library.register_fake("opensnac::depthwise")
def _fake_signal(x: Tensor, *parameters: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.register_fake("opensnac::snake_backward")
def _fake_snake_gradients(dy: Tensor, x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    return _fake_signal(x), torch.empty_like(alpha)


@torch.library.register_fake("opensnac::depthwise_backward")
def _fake_depthwise_gradients(dy: Tensor, x: Tensor, taps: Tensor, dilation: int) -> tuple[Tensor, Tensor, Tensor]:
    return _fake_signal(x), taps.new_empty(taps.shape), taps.new_empty(taps.shape[1])


def _setup_snake(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _setup_depthwise(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, int], output: Tensor) -> None:
    x, taps, bias, ctx.dilation = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, taps)


def refuse_double_backward() -> None:
    """TensorError where second derivatives are requested."""
    if torch.is_grad_enabled():
        raise TensorError("the kernels have no second derivatives: expected create_graph=False, got True")


def _gradients_of_snake(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
    refuse_double_backward()
    return torch.ops.opensnac.snake_backward(dy, *ctx.saved_tensors)


def _gradients_of_depthwise(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
    refuse_double_backward()
    dx, dtaps, dbias = torch.ops.opensnac.depthwise_backward(dy, *ctx.saved_tensors, ctx.dilation)
    return dx, dtaps, dbias if ctx.has_bias else None, None


torch.library.register_autograd("opensnac::snake", _gradients_of_snake, setup_context=_setup_snake)
torch.library.register_autograd("opensnac::depthwise", _gradients_of_depthwise, setup_context=_setup_depthwise)
