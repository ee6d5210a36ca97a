"""Compares the triton backend with PyTorch's, in Triton's interpreter, or on a GPU if there is one.

A program of its own: the shape checks that the tests put around every function cannot be compiled.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import configs  # noqa: E402

from opensnac.engine import fused, layers  # noqa: E402
from opensnac.engine.span import DeviceSpan, Span  # noqa: E402

MODEL = configs.TINY | {"encoder_dim": 20, "encoder_rates": [2], "decoder_dim": 48, "decoder_rates": [2]}


def close(name: str, ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    """Print the difference, and exit if it is too large."""
    error = float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max())
    print(f"{name}: {error:.1e}")
    if not error <= tolerance:
        sys.exit(f"{name}: expected at most {tolerance}")


def unit(channels: int, dilation: int, dtype: torch.dtype, tolerance: float) -> None:
    """A unit on streams in the middle, of other lengths, or not yet begun."""
    torch.manual_seed(0)
    conv = layers.Depthwise(torch.randn(7, channels) / 3, torch.randn(channels), dilation)
    alpha, beta = torch.rand(2, channels) + 0.3
    matrix, bias = torch.randn(channels, channels) / channels**0.5, torch.randn(channels)
    plain = layers.Unit(alpha, conv, beta, matrix, bias)
    taps, shift, *rest = (v.to(DEVICE, dtype) for v in (conv.taps, conv.bias, alpha, beta, matrix, bias))
    ours = layers.Unit(rest[0], layers.Depthwise(taps, shift, dilation), *rest[1:])
    x, tail = torch.randn(2, 70, channels), torch.randn(2, 6 * dilation, channels)
    for starts, lengths in (([100, 100], [None, None]), ([-9, 5], [50, 60])):
        span = Span(starts, lengths, [None, None])
        truth = plain.apply(span.mask(torch.cat((tail, x), dim=1), tail.shape[1]))
        places = DeviceSpan.of(span, torch.device(DEVICE))
        found = fused.unit_of(ours, x.to(DEVICE, dtype), tail.to(DEVICE, dtype), places).cpu()
        close(f"{channels} channels, {dtype}", found, truth, tolerance)


if __name__ == "__main__":
    unit(20, 3, torch.float32, 1e-5)
    unit(16, 1, torch.float16, 3e-3)
    model = configs.model_of(MODEL)
    plain = model.freeze(backend="torch", device=DEVICE)
    ours = model.freeze(backend="triton", device=DEVICE, graphs=DEVICE == "cuda")
    audio, lengths = 0.3 * torch.randn(2, 1, 40, generator=torch.Generator().manual_seed(0)).to(DEVICE), [40, 13]
    codes = plain.encode(audio, lengths)
    if not all(torch.equal(a, b) for a, b in zip(codes, ours.encode(audio, lengths), strict=True)):
        sys.exit("other codes")
    close("audio", ours.decode(codes, seed=3).cpu(), plain.decode(codes, seed=3).cpu(), 1e-5)
