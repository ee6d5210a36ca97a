"""Compares steps of the encoder and the decoder with what torch.compile makes of them; any graph break raises.

    python compiled_step.py [BACKEND]

A program of its own: the shape checks that the tests put around every function cannot be compiled.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import configs

from opensnac import Engine
from opensnac.engine.graph import Step
from opensnac.engine.span import Span

STEPS, STREAMS, TOLERANCE = 4, 2, 1e-5


def outputs(engine: Engine, part: str, compiler: str | None) -> torch.Tensor:
    """What some steps on the same noise give."""
    row = engine.encoder_row() if part == "encoder" else engine.decoder_row()
    channels = 1 if part == "encoder" else engine.latent_dim
    x, generator = torch.zeros(STREAMS, row.multiple, channels), torch.Generator().manual_seed(0)
    step = Step(row, [x], row.multiple, engine.nothing(STREAMS, channels), compiler=compiler)
    step.begin(slice(1, 2), Span([0], [None], [5]))
    heard = []
    for _ in range(STEPS):
        x.copy_(torch.randn(x.shape, generator=generator))
        heard.append(step.advance()[0].clone())
    return torch.cat(heard, dim=1)


if __name__ == "__main__":
    compiler = sys.argv[1] if len(sys.argv) > 1 else "aot_eager"
    engine = configs.model_of(configs.TINY).freeze(backend="torch")
    for part in ("encoder", "decoder"):
        plain, compiled = (outputs(engine, part, name) for name in (None, compiler))
        error = float((plain - compiled).abs().max())
        print(f"{part}: one graph by {compiler}, largest difference {error:.1e}")
        if not error < TOLERANCE:
            sys.exit(f"{part}: expected at most {TOLERANCE}")
