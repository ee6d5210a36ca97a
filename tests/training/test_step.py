"""The precision of products in a training step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from miniature import values_of, write_corpus

from opensnac.training.benchmark import stage
from opensnac.training.config import TrainConfig
from opensnac.training.processes import Processes


@pytest.mark.parametrize(("precision", "products"), [("fp32", "highest"), ("tf32", "high")])
def test_models_use_the_set_precision_and_losses_full_precision(tmp_path: Path, precision: str, products: str) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    config = TrainConfig.from_dict(values_of(corpus, 10) | {"precision": precision})
    trainer = stage(config, Processes("cpu"), discriminators=True)
    seen: dict[str, str] = {}

    def note(name: str):
        return lambda *_: seen.__setitem__(name, torch.get_float32_matmul_precision())

    trainer.generator.encoder.register_forward_hook(note("encoder"))
    trainer.generator.quantizer.register_forward_hook(note("quantizer"))
    trainer.discriminators.register_forward_hook(note("discriminators"))
    trainer.mark = lambda part: note(f"after {part}")()
    trainer.training_step(0.1 * torch.randn(4, 1, 2048), torch.arange(4), 0.5)
    assert seen["encoder"] == seen["discriminators"] == products
    assert seen["quantizer"] == seen["after losses"] == "highest"
    assert torch.get_float32_matmul_precision() == "highest"


def test_gradients_have_the_precision_of_the_forward_pass(tmp_path: Path) -> None:
    config = TrainConfig.from_dict(values_of(write_corpus(tmp_path / "corpus"), 10) | {"precision": "tf32"})
    trainer = stage(config, Processes("cpu"), discriminators=False)
    seen: list[str] = []
    weight = next(trainer.generator.encoder.parameters())
    weight.register_hook(lambda gradient: seen.append(torch.get_float32_matmul_precision()))
    trainer.training_step(0.1 * torch.randn(4, 1, 2048), torch.arange(4), 0.5)
    assert seen == ["high"]
