"""Recordings for the tests of corpora, and helpers to inspect the results."""

from __future__ import annotations

import hashlib
import multiprocessing
from pathlib import Path

import numpy as np
import soundfile

TINY = {
    "sampling_rate": 8000,
    "encoder_dim": 4,
    "encoder_rates": [4, 8],
    "decoder_dim": 16,
    "decoder_rates": [8, 4],
    "attn_window_size": None,
    "codebook_size": 64,
    "vq_strides": [4, 2, 1],
}


def sing(path: Path, seconds: float, rate: int = 8000, channels: int = 1, seed: int = 0) -> Path:
    """Noise of varying loudness, different for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    envelope = 0.1 + 0.3 * np.sin(3 * time + seed)[:, None] ** 2
    soundfile.write(path, envelope * random.uniform(-1, 1, (len(time), channels)), rate)
    return path


def files(folder: Path) -> dict[str, str]:
    """Every file below a folder and its digest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def children() -> list[int]:
    """Running processes that Python has started."""
    return [process.pid for process in multiprocessing.active_children() if process.pid is not None]
