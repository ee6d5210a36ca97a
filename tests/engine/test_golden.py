"""The bundled weights give the stored codes, and audio to 1e-5, on every backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from opensnac import SNAC, kernels
from opensnac.models import bundled_models
from opensnac.recordings import audio

ROOT = Path(__file__).parents[2]
GOLDEN = dict(np.load(ROOT / "tests/golden/bundled.npz"))  # made by tests/golden/bundled.py
SECONDS, SEED = 2, 3


@pytest.fixture(scope="module")
def recording() -> torch.Tensor:
    samples, rate = audio.read(ROOT / "examples/lj_speech.flac")
    return torch.from_numpy(samples[None, :1, : SECONDS * rate].copy())


@pytest.mark.parametrize("backend", ["torch", "c"])
@pytest.mark.parametrize("name", bundled_models())
def test_golden_codes_and_audio(name: str, backend: str, recording: torch.Tensor) -> None:
    if backend == "c" and kernels.level() is None:
        pytest.skip("the kernels are not there or are switched off")
    engine = SNAC.from_pretrained(name).freeze(backend=backend)
    assert engine.fingerprint == str(GOLDEN[f"{name}.fingerprint"])
    codes = engine.encode(recording)
    for scale, code in enumerate(codes):
        assert np.array_equal(code[0].numpy(), GOLDEN[f"{name}.codes.{scale}"])
    expected = GOLDEN[f"{name}.audio"]
    decoded = engine.decode(codes, seed=SEED)[0, 0, -len(expected) :].numpy()
    assert np.abs(decoded - expected).max() < 1e-5
    assert np.abs(expected).max() > 0.1
