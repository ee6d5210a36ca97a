"""Every shipped configuration and variant is built, and trained for two steps at a small width."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from opensnac.engine.codec import SNAC
from opensnac.training.ablate import RECIPES, Ablation
from opensnac.training.config import CONFIGS, TrainConfig
from opensnac.training.loop import crop_samples
from opensnac.training.processes import Processes
from opensnac.training.step import Trainer

TRAINING_PAGE = Path(__file__).parents[2] / "docs" / "training.md"
SHIPPED = sorted(CONFIGS.glob("*.toml"))
RECIPE = RECIPES / "speech_24khz.toml"
MINIATURE = [
    "device=cpu", "precision=fp32", "model.encoder_dim=4", "model.decoder_dim=64", "data.batch_size=1",
    "data.crop_seconds=0.09", "data.accumulate=1", "discriminator.periods=[2]", "discriminator.period_channels=[4, 4]",
    "discriminator.windows=[1024]", "discriminator.window_channels=2", "optimizer.warmup_steps=0",
    "schedule.quantize_from=0", "schedule.discriminate_from=0", "schedule.adversarial_from=0",
]  # fmt: skip
MULTI, SINGLE = "multi_scale_4421", "single_scale_"


def train_two_steps(config: TrainConfig) -> None:
    torch.manual_seed(0)
    trainer = Trainer(config, Processes("cpu"))
    before = [parameter.clone() for parameter in trainer.generator_parameters]
    audio = 0.1 * torch.randn(1, 1, crop_samples(config))
    for _ in range(2):
        report = trainer.training_step(audio, torch.arange(1), 0.0)
        assert all(torch.isfinite(value) for value in report.values())
        assert {"mel", "codebook", "adversarial", "discriminator"} <= report.keys()
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.generator_parameters, strict=True)]
    assert all(moved)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_configuration_trains(path: Path) -> None:
    config = TrainConfig.from_toml(path)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in SNAC.from_config(config.model).parameters())
    assert config.name == path.stem
    row = rf"\| `{path.name}` \| {parameters / 1e6:.1f} M \|"
    assert re.search(row, TRAINING_PAGE.read_text(encoding="utf-8")), f"docs/training.md has no row {row}"
    train_two_steps(TrainConfig.from_toml(path, MINIATURE))


def test_the_shipped_configurations() -> None:
    speech = {"speech_24khz", *(f"speech_24khz_{size}" for size in ("medium", "small", "tiny"))}
    assert {path.stem for path in SHIPPED} == {*speech, "music_32khz", "music_32khz_small", "music_44khz", "smoke"}


@pytest.mark.parametrize("variant", Ablation.from_toml(RECIPE).variants)
def test_every_variant_trains(variant: str) -> None:
    train_two_steps(Ablation.from_toml(RECIPE, MINIATURE).config(variant, 0))


def test_single_scales_have_the_bitrate_of_multi_scale() -> None:
    recipe = Ablation.from_toml(RECIPE)
    configs = {name: recipe.config(name, 1) for name in recipe.variants}
    single = [name for name in configs if name.startswith(SINGLE)]
    assert len(single) == 4
    for name in single:
        stride = int(name.removeprefix(SINGLE))
        assert set(configs[name].model.vq_strides) == {stride}
        assert configs[name].model.bits_per_second == configs[MULTI].model.bits_per_second
        assert configs[name].model.codebook_size == configs[MULTI].model.codebook_size
    assert len({crop_samples(config) for config in configs.values()}) == 1  # equal receptive fields
    assert {config.seed for config in configs.values()} == {1}


def test_keys_of_older_runs_are_read() -> None:
    config = TrainConfig.from_toml(CONFIGS / "smoke.toml")
    older = config.to_dict()
    older["codebooks"] = {"follow": 0.4}
    older["losses"] = {"offset": 300.0}
    read = TrainConfig.from_dict(older)
    assert (read.codebooks.ema_rate, read.losses.dc) == (0.4, 300.0)
