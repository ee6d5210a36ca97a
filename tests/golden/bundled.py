"""Writes bundled.npz: codes of a recording by each bundled model, and half a second of what they decode to.

    python tests/golden/bundled.py

Run it when bundled weights change, and only then: tests/engine/test_golden.py holds every backend to this file.
"""

from pathlib import Path

import numpy as np
import torch

from opensnac import SNAC
from opensnac.models import bundled_models
from opensnac.recordings import audio

FOLDER = Path(__file__).parent
RECORDING = FOLDER.parents[1] / "examples" / "lj_speech.flac"
SECONDS, SAMPLES, SEED = 2, 12_000, 3

if __name__ == "__main__":
    samples, rate = audio.read(RECORDING)
    recording = torch.from_numpy(samples[None, :1, : SECONDS * rate].copy())
    golden = {}
    for name in bundled_models():
        model = SNAC.from_pretrained(name)
        codes = model.encode(recording)
        decoded = model.decode(codes, seed=SEED)[0, 0, -SAMPLES:]
        golden |= {f"{name}.codes.{i}": scale[0].numpy().astype(np.uint16) for i, scale in enumerate(codes)}
        golden |= {f"{name}.audio": decoded.numpy(), f"{name}.fingerprint": np.array(model.fingerprint)}
    np.savez(FOLDER / "bundled.npz", **golden)
