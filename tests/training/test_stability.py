"""A whole miniature run: losses fall, codes stay in use, adversaries stay in balance, a model is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from miniature import entries, values_of, write_corpus
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from opensnac import SNAC
from opensnac.training import loop
from opensnac.training.config import TrainConfig

STEPS, ADVERSARIAL = 80, 30


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stability")
    stages = {"quantize_from": 15, "discriminate_from": 20, "adversarial_from": ADVERSARIAL}
    values = values_of(write_corpus(folder / "corpus"), STEPS, log_every=10, validate_every=40, **stages)
    values["data"] |= {"valid": values["data"]["train"], "batch_size": 2, "in_memory": True}
    values["codebooks"] |= {"ema_rate": 0.4}  # the encoder moves quickly at such rates
    values["losses"] = {"commitment": 1.0}
    return loop.train(TrainConfig.from_dict(values), folder / "run")


def test_losses_fall(out: Path) -> None:
    log = [entry for entry in entries(out) if "mel" in entry]
    assert log[-1]["mel"] < 0.6 * log[0]["mel"]
    valid = [entry["valid_mel"] for entry in entries(out) if "valid_mel" in entry]
    assert valid[-1] < valid[0]
    assert log[-1]["skipped"] == 0
    assert {"adversarial", "feature", "codebook", "commitment", "gradient_norm"} <= log[-1].keys()


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_model_is_written(out: Path, name: str) -> None:
    model, audio = SNAC.from_pretrained(out / name), torch.zeros(1, 1, 1000)
    assert model.decode(model.encode(audio), 1000).shape == audio.shape


def test_every_scale_uses_its_codes(out: Path) -> None:
    last = [entry for entry in entries(out) if "codes_used" in entry][-1]
    assert min(last["codes_used"]) > 0.7
    assert min(last["perplexity"]) > 8  # of 32
    assert max(last["codebook"], last["commitment"]) < 1  # 5 and rising if the encoder diverges from its codes


def test_the_discriminators_neither_win_nor_die(out: Path) -> None:
    """Three of them: the loss is 3 if blind, 1.5 if undecided, 0 if perfect; and the generator reacts to them."""
    log = [entry for entry in entries(out) if "adversarial" in entry and entry["step"] > ADVERSARIAL + 20]
    assert all(0.3 < entry["discriminator"] < 2.9 for entry in log)
    assert all(0.1 < entry["adversarial"] < 3.2 for entry in log)
    assert all(entry["discriminator_gradient_norm"] > 1e-3 for entry in log)


def test_curves_pictures_and_sound(out: Path) -> None:
    board = EventAccumulator(str(out / "tensorboard"), size_guidance={"images": 0, "audio": 0}).Reload()
    curves = {"mel", "perplexity/0", "codes_used/1", "gradient_norm", "data_wait_seconds"}
    curves |= {"valid_stft_distance", "valid_si_sdr"}
    assert curves <= set(board.Tags()["scalars"])
    assert [event.step for event in board.Scalars("mel")] == list(range(10, STEPS + 1, 10))
    assert [event.step for event in board.Images("clip_0/original_above")] == [40, 80]
    assert {f"clip_{i}" for i in range(4)} == set(board.Tags()["audio"])
    assert board.Audio("clip_0")[0].sample_rate == 8000
