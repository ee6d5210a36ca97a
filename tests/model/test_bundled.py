"""The bundled weights: present, small, described, and of the expected quality."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from opensnac import SNAC, bitstream, kernels
from opensnac.evaluation.metrics import METRICS
from opensnac.models import DEFAULT_MODEL, SHORT_NAMES, bundled_models, locate
from opensnac.recordings import audio

EXAMPLES = Path(__file__).parents[2] / "examples"
LARGEST_BYTES = 30_000_000
BFLOAT16 = pytest.mark.skipif(not kernels.has_bfloat16(), reason="the kernels here do not multiply in bfloat16")
STOI_FLOOR = {"lj_speech.flac": 0.9, "thorsten.flac": 0.878}  # a little below the weights' scores


def test_the_default_is_bundled_and_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)
    assert DEFAULT_MODEL in bundled_models()
    model = SNAC.from_pretrained()
    assert model.name == DEFAULT_MODEL
    assert SNAC.from_pretrained(DEFAULT_MODEL).fingerprint == model.fingerprint


def test_short_names_say_what_a_model_is_for() -> None:
    names = {short: locate(short) for short in SHORT_NAMES}
    assert names == {short: (bundled_models()[name], name) for short, name in SHORT_NAMES.items()}
    assert SNAC.from_pretrained("music").config.sampling_rate == 32_000


@torch.inference_mode()
def test_the_music_model_is_better_at_music() -> None:
    samples, rate = audio.read(EXAMPLES / "music/ivory.flac")
    samples = samples[:, 3 * rate : 6 * rate]
    scores = {}
    for name in ("speech", "music"):
        model = SNAC.from_pretrained(name)
        there = torch.from_numpy(audio.resample(samples, rate, model.sampling_rate))[:, None]
        decoded = model.decode(model.encode(there), there.shape[-1])[:, 0].numpy()
        back = audio.resample(decoded, model.sampling_rate, rate)
        scores[name] = METRICS["mel_distance"].measure(samples[0], back[0, : samples.shape[1]], rate)
    assert scores["music"] < 0.9 * scores["speech"]


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_models_are_small_and_described(name: str) -> None:
    folder = bundled_models()[name]
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (folder / "model.safetensors").stat().st_size <= LARGEST_BYTES
    card = (folder / "README.md").read_text(encoding="utf-8")
    for word in ("Licence", "Data", "steps", "STOI", "PESQ", f"{SNAC.from_pretrained(name).bits_per_second:.0f} b/s"):
        assert word in card, word


@dataclass
class Coded:
    """An example, and what the default model makes of it."""

    samples: np.ndarray
    rate: int
    codes: list[torch.Tensor]
    decoded: torch.Tensor

    @property
    def recording(self) -> torch.Tensor:
        return torch.from_numpy(self.samples)[:, None]

    def stoi(self, decoded: torch.Tensor) -> float:
        return METRICS["stoi"].measure(self.samples[0], decoded[0, 0].numpy(), self.rate)


@cache
def coded(example: str) -> Coded:
    model = SNAC.from_pretrained()
    samples, rate = audio.read(EXAMPLES / example)
    codes = model.encode(torch.from_numpy(samples)[:, None])
    return Coded(samples, rate, codes, model.decode(codes, samples.shape[1]))


@BFLOAT16
def test_reduced_precision_stays_close_and_as_intelligible() -> None:
    exact, reduced = coded("thorsten.flac"), SNAC.from_pretrained().freeze(dtype=torch.bfloat16)
    close = reduced.decode(exact.codes, exact.samples.shape[1])
    error = float((close - exact.decoded).square().sum() / exact.decoded.square().sum())
    assert 0 < error < 10**-3.5  # 35 dB below
    others = reduced.encode(exact.recording)
    same = [float((a == b).float().mean()) for a, b in zip(exact.codes, others, strict=True)]
    assert all(0.5 < share < 1 for share in same)
    decoded = SNAC.from_pretrained().decode(others, exact.samples.shape[1])
    assert abs(exact.stoi(exact.decoded) - exact.stoi(decoded)) < 0.01


@pytest.mark.parametrize("example", STOI_FLOOR)
def test_the_default_keeps_speech_intelligible(example: str) -> None:
    assert coded(example).rate == SNAC.from_pretrained().config.sampling_rate
    assert coded(example).stoi(coded(example).decoded) > STOI_FLOOR[example]


@pytest.mark.parametrize(
    ("example", "name"), [*((each, "speech") for each in STOI_FLOOR), ("music/ivory.flac", "music")]
)
@torch.inference_mode()
def test_what_a_visitor_hears_is_what_the_bundled_models_decode(example: str, name: str) -> None:
    """examples/decoded/ was made by these weights, to the step of 16 bits."""
    model, stored = SNAC.from_pretrained(name), EXAMPLES / "decoded" / example
    with stored.with_suffix(".snac").open("rb") as file:
        recording = bitstream.read(file)
    assert model.fingerprint.startswith(recording.header.weights_hash)
    decoded = model.decode([torch.from_numpy(codes) for codes in recording.codes], recording.num_samples)
    heard, _ = audio.read(stored)
    np.testing.assert_allclose(decoded[0].numpy(), heard, atol=1.01 / 2**15)
