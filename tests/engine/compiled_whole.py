"""Compares encode and decode with their compiled forms; any graph break raises. Before, no compiler is imported.

    python compiled_whole.py [COMPILER]

A program of its own: the shape checks that the tests put around every function cannot be compiled.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import configs

MODEL = configs.TINY | {
    "encoder_dim": 32,
    "encoder_rates": [2],
    "decoder_dim": 64,
    "decoder_rates": [2],
    "attn_window_size": 8,
    "vq_strides": [2, 1],
}
TOLERANCE = 1e-6

if __name__ == "__main__":
    compiler = sys.argv[1] if len(sys.argv) > 1 else "eager"
    for config in (configs.TINY, MODEL):  # without attention and with it
        engine = configs.model_of(config).freeze()
        engine.decode(engine.encode(torch.zeros(1, 1, 3000)))
    if "torch._dynamo" in sys.modules:
        sys.exit("expected a first decode without PyTorch's compiler, which is slow to import")
    model = configs.model_of(MODEL)
    plain = model.freeze(backend="torch", dtype=torch.float64)
    compiled = model.freeze(backend="torch", dtype=torch.float64, graphs=compiler)
    audio = 0.3 * torch.randn(3, 1, 700, generator=torch.Generator().manual_seed(0))
    codes = plain.encode(audio)
    if not all(torch.equal(a, b) for a, b in zip(codes, compiled.encode(audio), strict=True)):
        sys.exit("other codes")
    error = float((plain.decode(codes, seed=3) - compiled.decode(codes, seed=3)).abs().max())
    print(f"one graph each by {compiler}, largest difference {error:.1e}")
    if not error < TOLERANCE:
        sys.exit(f"expected at most {TOLERANCE}")
