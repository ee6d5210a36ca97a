"""Compares Triton's operators and their gradients with float64, in Triton's interpreter, or on a GPU if there is one.

A program of its own: Triton decides at its import whether it interprets.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

from opensnac.engine import layers  # noqa: E402
from opensnac.model import operators, triton  # noqa: E402

TOLERANCES = {torch.float32: 2e-6, torch.float16: 2e-3}
ENORMOUS = 1e4  # in radians


def compare(
    name: str, ours: Callable[..., Tensor], plain: Callable[..., Tensor], inputs: list[Tensor], dtype: torch.dtype
) -> None:
    """Values and the gradients of all inputs, relative to the largest; the first input is the signal."""
    inputs[0] = inputs[0].to(dtype)
    exact = [x.double().requires_grad_() for x in inputs]
    given = [x.to(DEVICE).detach().requires_grad_() for x in inputs]
    y, y_hat = plain(*exact), ours(*given)
    weights = torch.randn(y.shape)
    wanted = [y, *torch.autograd.grad((y * weights).sum(), exact)]
    found = [y_hat, *torch.autograd.grad((y_hat * weights.to(DEVICE)).sum(), given)]
    for part, a, b in zip(("value", "x", "weights", "bias"), wanted, found, strict=False):
        error = float((a - b.cpu()).detach().abs().max() / a.detach().abs().max())
        print(f"{name}, {part}, {dtype}: {error:.1e}")
        if not error <= TOLERANCES[dtype]:
            sys.exit(f"{name}, {part}: expected at most {TOLERANCES[dtype]}, got {error}")


def main() -> None:
    torch.manual_seed(0)
    for dtype in TOLERANCES:
        for batch, time, channels, dilation in ((2, 70, 20, 3), (1, 45, 32, 1), (3, 40, 96, 9)):
            x, alpha = torch.randn(batch, time, channels), torch.rand(channels) + 0.3
            compare("snake", triton.Snake.apply, operators.snake, [x, alpha], dtype)
            taps, bias = torch.randn(7, channels) / 3, torch.randn(channels)
            compare(
                f"depthwise, dilation {dilation}",
                lambda x, taps, bias, d=dilation: triton.Depthwise.apply(x, taps, bias, d),
                lambda x, taps, bias, d=dilation: operators._shifted_sum(x, taps, bias, d),
                [x, taps, bias],
                dtype,
            )
            joined = layers.Depthwise(taps, bias, 1)
            inside = triton.depthwise(x.to(DEVICE), taps.to(DEVICE), bias.to(DEVICE), 1).cpu()
            torch.testing.assert_close(inside, joined.apply(x), atol=1e-5, rtol=0)
    angles, alpha = torch.linspace(-ENORMOUS, ENORMOUS, 6400).view(1, 400, 16), torch.ones(16)
    wrong = triton.snake(angles.to(DEVICE), alpha.to(DEVICE)).cpu() - operators.snake(angles.double(), alpha.double())
    print(f"snake of up to {ENORMOUS} radians: {float(wrong.abs().max()):.1e}")
    if not wrong.abs().max() <= 2e-3:
        sys.exit("snake of large angles")
    for shape in ((0, 5, 16), (2, 0, 16)):
        empty = torch.zeros(shape, device=DEVICE)
        assert triton.snake(empty, alpha.to(DEVICE)).shape == shape
        assert triton.depthwise(empty, torch.ones(7, 16, device=DEVICE), alpha.to(DEVICE), 1, lead=3).shape == shape
    print("done")


if __name__ == "__main__":
    main()
