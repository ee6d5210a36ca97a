"""Miniature runs: what they keep, refuse and put off; bad configurations are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from miniature import config_of, entries, values_of, write_corpus

from opensnac.errors import ConfigError, ModelError, OpensnacError
from opensnac.training import checkpoint, loop
from opensnac.training.config import TrainConfig
from opensnac.training.processes import Processes
from opensnac.training.step import Trainer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_a_run_is_not_overwritten(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(corpus, 2)
    loop.train(config, tmp_path)
    assert "ended before its codebooks were initialised" in capsys.readouterr().out
    with pytest.raises(OpensnacError, match="checkpoint.pt exists: continue with --resume"):
        loop.train(config, tmp_path)


def test_a_damaged_or_other_checkpoint_is_refused(corpus: Path, tmp_path: Path) -> None:
    config = config_of(corpus, 2)
    trainer = Trainer(config, Processes("cpu"))
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, trainer, 1.0, 2.0, {})
    assert checkpoint.load(path, trainer) == (1.0, 2.0, {})
    plain = config.to_dict() | {"model": config.model.to_dict()}
    for section, change in (("model", {"codebook_size": 64}), ("discriminator", {"window_channels": 8})):
        other = Trainer(TrainConfig.from_dict(plain | {section: plain[section] | change}), Processes("cpu"))
        with pytest.raises(ModelError, match=rf"expected the configuration\'s \[{section}\]"):
            checkpoint.load(path, other)
    without = Trainer(TrainConfig.from_dict(plain | {"optimizer": {}}), Processes("cpu"))
    with pytest.raises(ModelError, match="expected the configuration's matrix_learning_rate, got a run"):
        checkpoint.load(path, without)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "foreign.pt")
    with pytest.raises(ModelError, match="expected a checkpoint of a training run"):
        checkpoint.load(tmp_path / "foreign.pt", trainer)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="expected a readable checkpoint"):
        checkpoint.load(path, trainer)


def test_a_step_that_is_not_finite_changes_nothing(corpus: Path) -> None:
    config = config_of(corpus, 10, quantize_from=0, discriminate_from=0, adversarial_from=0)
    trainer = Trainer(config, Processes("cpu"))
    trainer.training_step(0.1 * torch.randn(2, 1, 2048), torch.arange(2), 0.0)
    models = (trainer.generator, trainer.ema, trainer.discriminators)
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
    pools = [pool.clone() for pool in trainer.health.pools]
    trainer.training_step(torch.full((2, 1, 2048), float("nan")), torch.arange(2), 0.0)
    assert (trainer.step, trainer.skipped) == (2, 1)
    for model, old in zip(models, before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(trainer.health.pools, pools, strict=True))


def test_a_run_without_finite_gradients_stops(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MAX_SKIPPED", 2)
    monkeypatch.setattr(loop.Crops, "draw", lambda *_: torch.full((4, 1, 2048), float("nan")))
    with pytest.raises(OpensnacError, match="got 3 steps without; stopped at step 3"):
        loop.train(config_of(corpus, 10), tmp_path)


@pytest.mark.parametrize(("below", "first_entry"), [(0.0, 18), (99.0, 6)])
def test_codebooks_wait_for_the_mel_loss(corpus: Path, tmp_path: Path, below: float, first_entry: int) -> None:
    """Checked every third step from step 4 to step 15, at most four times as long. Also when resumed."""
    values = values_of(corpus, 7, quantize_from=4, log_every=3, validate_every=3)
    values["schedule"] |= {"quantize_below": below}
    loop.train(TrainConfig.from_dict(values), tmp_path / "run")
    values["schedule"] |= {"steps": 18}
    out = loop.train(TrainConfig.from_dict(values), tmp_path / "run", resume=True)
    for name in ("codebook", "perplexity", "valid_mel"):
        assert min(entry["step"] for entry in entries(out) if name in entry) == first_entry


def test_short_validation_files_and_runs_without_any(corpus: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "blip.wav", np.full(5, 0.1), 8000)
    values = config_of(corpus, 4, quantize_from=2).to_dict()
    for valid in ([str(tmp_path / "blip.wav")], []):
        out = tmp_path / f"run{len(valid)}"
        data = values["data"] | {"valid": valid}
        loop.train(TrainConfig.from_dict(values | {"data": data, "model": config_of(corpus, 4).model.to_dict()}), out)
        assert (out / "best").exists() == bool(valid)
        assert (out / "last").exists()


def test_crops_shorter_than_a_window_are_refused(corpus: Path, tmp_path: Path) -> None:
    values = config_of(corpus, 4).to_dict()
    values |= {"data": values["data"] | {"crop_seconds": 0.1}, "model": config_of(corpus, 4).model.to_dict()}
    with pytest.raises(ConfigError, match="more than 1024 samples.*got 800"):
        loop.train(TrainConfig.from_dict(values), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 'x'\n[model]\n[schedule]\nstep = 3", r"'step' in \[schedule\]; expected steps"),
        ("name = 'x'\n[model]\nrate = 3", "unknown configuration key 'rate'"),
        ("name = 'x'", "at least `name` and a section"),
        ("name = 'x'\n[model]\n[models]", "'models' in the top level"),
        ("name = ", "expected TOML, got"),
        ("name = 'x'\nmodel = 3", r"\[model\]: expected a section.*, got 3"),
        ("name = 'x'\ndata = 3\n[model]", r"\[data\]: expected a section.*, got 3"),
        ("name = 'x'\n[model]\n[data]\ntrain = '/here'", r"train in \[data\]: expected a list.*, got '/here'"),
        ("name = 'x'\n[model]\n[data]\nin_memory = 'no'", "in_memory in .*: expected true or false, got 'no'"),
        ("name = 'x'\n[model]\n[data]\nbatch_size = 2.5", "batch_size in .*: expected an integer, got 2.5"),
        ("name = 'x'\n[model]\n[data]\ngain_db = [1]", r"gain_db in .*: expected 2 values, got \[1\]"),
        ("name = 'x'\n[model]\n[data]\ntrain = ['a']\nbatch_size = 0", "batch_size: expected at least 1, got 0"),
        ("name = 'x'\n[model]\n[losses]\nmel = true", "mel in .*: expected a number, got True"),
        ("name = 'x'\n[model]\n[schedule]\nadversarial_from = 1", "must learn before they train the generator"),
        ("name = 'x'\n[model]", "train: expected folders"),
    ],
)
def test_wrong_configurations_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_toml(path)
