"""A corpus and a run small enough for tests: eight seconds of gliding tones, 60,000 parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from opensnac.training.config import TrainConfig

RATE, SECONDS = 8000, 2


def write_corpus(folder: Path) -> Path:
    """Write recordings to learn from: gliding tones with a little noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, time = np.random.default_rng(0), np.arange(SECONDS * RATE) / RATE
    for i in range(4):
        glide = np.sin(2 * np.pi * (200 * (i + 1) * time + 60 * np.sin(2 * np.pi * time)))
        soundfile.write(folder / f"{i}.wav", 0.3 * glide + 0.01 * rng.standard_normal(len(time)), RATE)
    return folder


def values_of(corpus: Path, steps: int, **schedule: int) -> dict[str, Any]:
    """A run's configuration as values from TOML."""
    return {
        "name": "miniature",
        "device": "cpu",
        "model": {
            "sampling_rate": RATE, "encoder_dim": 16, "encoder_rates": [4, 4], "decoder_dim": 64,
            "decoder_rates": [4, 4], "attn_window_size": False, "codebook_size": 32, "vq_strides": [2, 1],
        },
        "data": {
            "train": [str(corpus)], "valid": [str(corpus / f"{i}.wav") for i in (0, 3)],
            "crop_seconds": 0.256, "batch_size": 4,
        },
        "discriminator": {"periods": [2, 3], "period_channels": [4, 8], "windows": [256], "window_channels": 4},
        "codebooks": {"revive_every": 10},
        "optimizer": {
            "learning_rate": 2e-3, "matrix_learning_rate": 2e-3, "discriminator_learning_rate": 2e-3,
            "warmup_steps": 5,
        },
        "schedule": {"steps": steps, "quantize_from": 30, "quantize_below": 99.0, "discriminate_from": 60,
                     "adversarial_from": 70, "log_every": 10, "validate_every": 1000,
                     "checkpoint_every": 1000} | schedule,
    }  # fmt: skip


def config_of(corpus: Path, steps: int, **schedule: int) -> TrainConfig:
    """The same as a TrainConfig."""
    return TrainConfig.from_dict(values_of(corpus, steps, **schedule))


def entries(out: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def untimed(out: Path) -> list[dict[str, Any]]:
    """The lines of a run's log without what depends on the clock."""
    timed = ("minutes", "audio_seconds_per_second", "data_wait_seconds")
    return [{key: value for key, value in entry.items() if key not in timed} for entry in entries(out)]
