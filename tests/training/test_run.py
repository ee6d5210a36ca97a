"""A whole miniature run: losses fall, codes live, a run that was cut goes on exactly, bad configurations are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from opensnac import SNAC
from opensnac.errors import ConfigError, ModelError, OpensnacError
from opensnac.training import checkpoint, loop
from opensnac.training.config import TrainConfig
from opensnac.training.step import Trainer

SHIPPED = sorted((Path(loop.__file__).parent / "configs").glob("*.toml"))
SECONDS = 6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Something to learn: gliding tones with a little noise."""
    folder = tmp_path_factory.mktemp("corpus")
    rng, time = np.random.default_rng(0), np.arange(SECONDS * 8000) / 8000
    for i in range(4):
        glide = np.sin(2 * np.pi * (200 * (i + 1) * time + 60 * np.sin(2 * np.pi * time)))
        soundfile.write(folder / f"{i}.wav", 0.3 * glide + 0.01 * rng.standard_normal(len(time)), 8000)
    return folder


def config_of(corpus: Path, steps: int, **schedule: int) -> TrainConfig:
    return TrainConfig.from_dict(
        {
            "name": "miniature",
            "model": {
                "sampling_rate": 8000, "encoder_dim": 16, "encoder_rates": [4, 4], "decoder_dim": 64,
                "decoder_rates": [4, 4], "attn_window_size": False, "codebook_size": 32, "vq_strides": [2, 1],
            },
            "data": {"train": [str(corpus)], "valid": [str(corpus)], "crop_seconds": 0.256, "batch_size": 4},
            "discriminator": {
                "periods": [2, 3], "period_channels": [4, 8], "windows": [256], "window_channels": 4
            },
            "codebooks": {"revive_every": 10},
            "optimizer": {"learning_rate": 2e-3, "warmup_steps": 5},
            "schedule": {"steps": steps, "quantize_from": 30, "discriminate_from": 60, "adversarial_from": 70,
                         "log_every": 10, "validate_every": 1000, "checkpoint_every": 1000} | schedule,
        }
    )  # fmt: skip


def entries(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_run_learns_and_leaves_a_model(corpus: Path, tmp_path: Path) -> None:
    out = loop.train(config_of(corpus, 150), tmp_path / "run")
    log = [entry for entry in entries(out) if "mel" in entry]
    assert log[-1]["mel"] < 0.6 * log[0]["mel"]
    assert min(log[-1]["codes_used"]) > 0.5
    assert 0.2 < log[-1]["discriminator"] < 6.5  # three adversaries: neither blind (about 3 x 2) nor perfect (0)
    assert {"adversarial", "feature", "codebook", "commitment", "gradient_norm"} <= log[-1].keys()
    assert log[-1]["skipped"] == 0
    validation = [entry for entry in entries(out) if "valid_mel" in entry]
    assert len(validation) == 1
    for name in ("best", "last"):
        model = SNAC.from_pretrained(out / name)
        audio = torch.zeros(1, 1, 1000)
        assert model.decode(model.encode(audio), 1000).shape == audio.shape


def test_a_cut_run_goes_on_exactly(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut at step 30 and gone on from step 20, the losses are those of a run that was not cut."""
    config = config_of(corpus, 40, quantize_from=10, discriminate_from=15, adversarial_from=25, checkpoint_every=20)
    loop.train(config, tmp_path / "whole")

    write = loop.Log.write

    def write_or_die(log: loop.Log, trainer: Trainer, elapsed: float) -> None:
        if trainer.step == 30:
            raise KeyboardInterrupt
        write(log, trainer, elapsed)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Log, "write", write_or_die)
        with pytest.raises(KeyboardInterrupt):
            loop.train(config, tmp_path / "cut")
    loop.train(config, tmp_path / "cut", resume=True)

    names = ("mel", "codebook", "discriminator", "adversarial", "feature", "gradient_norm", "perplexity")
    whole, cut = (
        {entry["step"]: [entry.get(name) for name in names] for entry in entries(tmp_path / run) if "mel" in entry}
        for run in ("whole", "cut")
    )
    assert set(whole) == {10, 20, 30, 40}
    assert cut == whole


def test_a_run_is_not_overwritten(corpus: Path, tmp_path: Path) -> None:
    config = config_of(corpus, 2)
    loop.train(config, tmp_path)
    with pytest.raises(OpensnacError, match="checkpoint.pt exists: go on with --resume"):
        loop.train(config, tmp_path)


def test_a_damaged_or_other_checkpoint_is_refused(corpus: Path, tmp_path: Path) -> None:
    config = config_of(corpus, 2)
    trainer, rng = Trainer(config, torch.device("cpu")), np.random.default_rng(0)
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, trainer, rng, 1.0, 2.0)
    assert checkpoint.load(path, trainer, rng) == (1.0, 2.0)
    values = config.to_dict() | {"model": config.model.to_dict() | {"codebook_size": 64}}
    other = Trainer(TrainConfig.from_dict(values), torch.device("cpu"))
    with pytest.raises(ModelError, match="another model than the configuration asks for"):
        checkpoint.load(path, other, rng)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be read as a checkpoint"):
        checkpoint.load(path, trainer, rng)


def test_a_step_that_is_not_finite_changes_nothing(corpus: Path) -> None:
    trainer = Trainer(config_of(corpus, 10), torch.device("cpu"))
    before = {name: value.clone() for name, value in trainer.generator.state_dict().items()}
    trainer.training_step(torch.full((2, 1, 2048), float("nan")), 0.0)
    assert trainer.skipped == 1
    assert all(torch.equal(value, before[name]) for name, value in trainer.generator.state_dict().items())
    assert all(torch.isfinite(value).all() for value in trainer.ema.state_dict().values())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_configuration_builds(path: Path) -> None:
    config = TrainConfig.from_toml(path)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in SNAC.from_config(config.model).parameters())
    assert parameters > 100_000
    assert config.name == path.stem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 'x'\n[model]\n[schedule]\nstep = 3", r"'step' in \[schedule\]; known: steps"),
        ("name = 'x'\n[model]\nrate = 3", "unknown configuration key 'rate'"),
        ("name = 'x'", "at least `name` and a section"),
        ("name = 'x'\n[model]\n[models]", "'models' in the top level"),
        ("name = ", "cannot be read as TOML"),
    ],
)
def test_wrong_configurations_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_toml(path)
