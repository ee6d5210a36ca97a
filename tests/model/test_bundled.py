"""The bundled weights: present, small, described, and of the expected quality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from opensnac import SNAC, bitstream, kernels
from opensnac.evaluation.metrics import METRICS
from opensnac.models import DEFAULT_MODEL, bundled_models
from opensnac.recordings import audio

EXAMPLES = Path(__file__).parents[2] / "examples"
LARGEST_BYTES = 15_000_000
BFLOAT16 = pytest.mark.skipif(not kernels.has_bfloat16(), reason="the kernels here do not multiply in bfloat16")
STOI_FLOOR = {"lj_speech.flac": 0.88, "thorsten.flac": 0.848}  # a little below the weights' scores


def test_the_default_is_bundled_and_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)
    assert DEFAULT_MODEL in bundled_models()
    model = SNAC.from_pretrained()
    assert model.name == DEFAULT_MODEL
    assert SNAC.from_pretrained(DEFAULT_MODEL).fingerprint == model.fingerprint


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_models_are_small_and_described(name: str) -> None:
    folder = bundled_models()[name]
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (folder / "model.safetensors").stat().st_size <= LARGEST_BYTES
    card = (folder / "README.md").read_text(encoding="utf-8")
    for word in ("Licence", "Data", "steps", "STOI", "PESQ", f"{SNAC.from_pretrained(name).bits_per_second:.0f} b/s"):
        assert word in card, word


@BFLOAT16
@torch.inference_mode()
def test_reduced_precision_stays_close() -> None:
    model = SNAC.from_pretrained()
    reduced = model.freeze(dtype=torch.bfloat16)
    samples, _ = audio.read(EXAMPLES / "lj_speech.flac")
    recording = torch.from_numpy(np.array(samples))[:, None]
    codes = model.encode(recording)
    exact, close = model.decode(codes), reduced.decode(codes)
    error = float((close - exact).square().sum() / exact.square().sum())
    assert error < 10**-3.5  # 35 dB below
    assert error > 0


@BFLOAT16
@pytest.mark.parametrize("example", STOI_FLOOR)
@torch.inference_mode()
def test_a_reduced_encoder_changes_codes_and_is_as_intelligible(example: str) -> None:
    model = SNAC.from_pretrained()
    reduced = model.freeze(dtype=torch.bfloat16)
    samples, rate = audio.read(EXAMPLES / example)
    recording = torch.from_numpy(np.array(samples))[:, None]
    codes, others = model.encode(recording), reduced.encode(recording)
    same = [float((a == b).float().mean()) for a, b in zip(codes, others, strict=True)]
    assert all(0.5 < share < 1 for share in same)
    decoded = [model.decode(each, samples.shape[1])[0, 0].numpy() for each in (codes, others)]
    exact, close = (METRICS["stoi"].measure(samples[0], each, rate) for each in decoded)
    assert abs(exact - close) < 0.01


@pytest.mark.parametrize("example", STOI_FLOOR)
@torch.inference_mode()
def test_the_default_keeps_speech_intelligible(example: str) -> None:
    model = SNAC.from_pretrained()
    samples, rate = audio.read(EXAMPLES / example)
    assert rate == model.config.sampling_rate
    decoded = model.decode(model.encode(torch.from_numpy(np.array(samples))[:, None]), samples.shape[1])
    score = METRICS["stoi"].measure(samples[0], decoded[0, 0].numpy(), rate)
    assert score is not None
    assert score > STOI_FLOOR[example]


@pytest.mark.parametrize("example", STOI_FLOOR)
@torch.inference_mode()
def test_what_a_visitor_hears_is_what_the_default_decodes(example: str) -> None:
    """examples/decoded/ was made by these weights, to the step of 16 bits."""
    model, stored = SNAC.from_pretrained(), EXAMPLES / "decoded" / example
    with stored.with_suffix(".snac").open("rb") as file:
        recording = bitstream.read(file)
    assert model.fingerprint.startswith(recording.header.weights_hash)
    decoded = model.decode([torch.from_numpy(codes) for codes in recording.codes], recording.num_samples)
    heard, _ = audio.read(stored)
    np.testing.assert_allclose(decoded[0].numpy(), heard, atol=1.01 / 2**15)
