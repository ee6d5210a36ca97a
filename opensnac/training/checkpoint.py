"""Checkpoints: whole or not at all, and tensors and plain values only, so that none is ever unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from opensnac.errors import ModelError
from opensnac.files import whole_file
from opensnac.training.step import Trainer


def save(path: Path, trainer: Trainer, rng: np.random.Generator, elapsed: float, best: float) -> None:
    """Write everything that the next step depends on; `elapsed` seconds trained so far, `best` validation."""
    state: dict[str, Any] = {
        "step": trainer.step,
        "skipped": trainer.skipped,
        "elapsed": elapsed,
        "best": best,
        "config": json.dumps(trainer.config.to_dict()),
        "generator": trainer.generator.state_dict(),
        "ema": trainer.ema.state_dict(),
        "discriminators": trainer.discriminators.state_dict(),
        "generator_optimizers": {name: part.state_dict() for name, part in trainer.generator_optimizers.items()},
        "discriminator_optimizer": trainer.discriminator_optimizer.state_dict(),
        "codebook_health": trainer.health.state_dict(),
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state() if trainer.device.type == "cuda" else None,
        "data_rng": json.dumps(rng.bit_generator.state),
    }
    with whole_file(path, force=True) as unfinished:
        torch.save(state, unfinished)


def load(path: Path, trainer: Trainer, rng: np.random.Generator) -> tuple[float, float]:
    """Bring a trainer back to where `save` left it; returns (elapsed, best)."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(state, dict) or "codebook_health" not in state:
        raise ModelError(f"{path} is no checkpoint of a training run; use another output folder")
    came, wanted = json.loads(state["config"]), json.loads(json.dumps(trainer.config.to_dict()))
    for section in ("model", "discriminator"):
        if came[section] != wanted[section]:
            raise ModelError(
                f"{path} holds another {section} than the configuration asks for; use another output folder"
            )
    if set(state["generator_optimizers"]) != set(trainer.generator_optimizers):
        raise ModelError(
            f"{path} was trained {'with' if came['optimizer']['matrix_learning_rate'] else 'without'} a "
            "matrix_learning_rate, unlike the configuration; use another output folder"
        )
    trainer.step, trainer.skipped = state["step"], state["skipped"]
    trainer.generator.load_state_dict(state["generator"])
    trainer.ema.load_state_dict(state["ema"])
    trainer.discriminators.load_state_dict(state["discriminators"])
    for name, part in trainer.generator_optimizers.items():
        part.load_state_dict(state["generator_optimizers"][name])
    trainer.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])
    trainer.health.load_state_dict(state["codebook_health"])
    torch.set_rng_state(state["torch_rng"])
    if state["cuda_rng"] is not None and trainer.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda_rng"])
    rng.bit_generator.state = json.loads(state["data_rng"])
    return state["elapsed"], state["best"]
