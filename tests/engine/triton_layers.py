"""Compares an engine's layers in Triton with those in PyTorch, in Triton's interpreter, or on a GPU if there is one.

A program of its own: Triton decides at its import whether it interprets.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

from opensnac import SNAC, Engine  # noqa: E402
from opensnac.engine import fused, layers, span  # noqa: E402
from opensnac.engine.span import ENDLESS, DeviceSpan  # noqa: E402

CONFIG = {
    "sampling_rate": 16000,
    "encoder_dim": 12,
    "encoder_rates": [2, 3],
    "decoder_dim": 40,
    "decoder_rates": [3, 2],
    "attn_window_size": None,
    "codebook_size": 16,
    "codebook_dim": 4,
    "vq_strides": [2, 1],
}
SEEDS = {"each its own": [1, 2**40 + 3, 0], "none": [0, 0, 0]}


def model() -> SNAC:
    """Random weights, and alphas that differ by channel."""
    torch.manual_seed(0)
    made = SNAC(**CONFIG).eval()
    for name, parameter in made.named_parameters():
        if name.endswith("alpha"):
            parameter.data.uniform_(0.3, 2)
    return made


def counts(seeds: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Streams at a start, near an end, and far along."""
    hop = 6 * 4
    rows = [[0, 3 * hop, 2**33 * hop], [ENDLESS, 5 * hop, ENDLESS], seeds, [int(seed > 0) for seed in seeds]]
    samples, ends, seeds_, noisy = torch.tensor(rows, device=DEVICE).unbind()
    return samples, ends, seeds_, noisy


def steps(engine: Engine, decoder: bool, seeds: list[int], fusing: bool, dtype: torch.dtype) -> list[Tensor]:
    """Outputs and contexts of three pieces in a row."""
    layers.triton_applies = span.triton_applies = lambda x: fusing  # type: ignore[attr-defined]
    stack = engine.decoder_stack() if decoder else engine.encoder_stack()
    channels, length = (engine.latent_dim, 4) if decoder else (1, 24)
    x = torch.randn(3, 3 * length, channels, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)
    tails = stack.start([None] * 3, [None] * 3, x[:, :0]).tails
    samples, ends, seeds_, noisy = counts(seeds)
    found = []
    for piece in x.split(length, dim=1):
        y, tails = stack.step(piece, tails, DeviceSpan(samples, ends, seeds_, noisy if any(seeds) else None))
        samples = samples + length * stack.tick
        found += [y, *tails]
    return found


def main() -> None:
    for dtype, tolerance in ((torch.float32, 2e-5), (torch.float16, 2e-2)):
        engine = model().freeze(backend="torch", device=DEVICE, dtype=dtype, graphs=False)
        for decoder in (False, True):
            for name, seeds in SEEDS.items():
                plain, ours = (steps(engine, decoder, seeds, fusing, dtype) for fusing in (False, True))
                pairs = [(a, b) for a, b in zip(plain, ours, strict=True) if a.numel()]
                worst = max(float((a - b).abs().max() / (1 + a.abs().max())) for a, b in pairs)
                print(f"{'decoder' if decoder else 'encoder'}, {dtype}, noise {name}: {worst:.1e}")
                assert worst <= tolerance, worst
    empty = torch.zeros(0, 3, 16, device=DEVICE)
    one = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    assert fused.join(empty, empty, DeviceSpan(one, one, one, None))[0].shape == (0, 6, 16)
    print("done")


if __name__ == "__main__":
    main()
