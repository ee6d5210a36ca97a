"""A killed run resumes exactly; a slim checkpoint continues a run elsewhere."""

from __future__ import annotations

import signal
import time
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest
import torch
from miniature import config_of, entries, untimed, values_of, write_corpus

from opensnac import SNAC
from opensnac.errors import ConfigError, ModelError
from opensnac.training import checkpoint, loop
from opensnac.training.config import TrainConfig, to_toml

STAGES = {"quantize_from": 6, "discriminate_from": 10, "adversarial_from": 12}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return loop.train(config_of(corpus, 24, **STAGES, log_every=3, checkpoint_every=4, validate_every=8), out)


def test_a_run_killed_at_any_moment_resumes_exactly(
    corpus: Path, finished: Path, tmp_path: Path, forks: BaseContext
) -> None:
    """Repeated SIGKILL at different points; the log and the weights are those of the uninterrupted run."""
    values = values_of(corpus, 24, **STAGES, log_every=3, checkpoint_every=4, validate_every=8)
    config, out = tmp_path / "run.toml", tmp_path / "killed"
    config.write_text(to_toml(values))
    for lines in (2, 5):  # after that many lines of the log; between steps, in a step or during a write
        process = forks.Process(target=loop.train_from_file, args=(config, out, True))
        process.start()
        while process.is_alive() and (not (log := out / "log.jsonl").exists() or _lines(log) < lines):
            time.sleep(0.005)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    (out / ".checkpoint.pt.0123.part").write_bytes(b"what a kill may leave")
    loop.train(TrainConfig.from_dict(values), out, resume=True)
    assert untimed(out) == untimed(finished)
    whole, killed = (torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (finished, out))
    for part in checkpoint.PARTS:
        assert all(torch.equal(value, killed[part][name]) for name, value in whole[part].items()), part
    for folder in ("best", "last"):
        models = [SNAC.from_pretrained(run / folder) for run in (out, finished)]
        assert models[0].fingerprint == models[1].fingerprint
    assert not list(out.rglob("*.part"))


def _lines(log: Path) -> int:
    return log.read_bytes().count(b"\n")


def test_a_slim_checkpoint_is_resumed(corpus: Path, finished: Path, tmp_path: Path) -> None:
    """A quarter of the bytes; the run continues with quantised weights, and the optimizer's moments warm up again."""
    slim, full = finished / checkpoint.SLIM, finished / checkpoint.CHECKPOINT
    assert slim.stat().st_size < full.stat().st_size / 4
    values = values_of(corpus, 36, **STAGES, log_every=4) | {"init": str(slim)}
    values["optimizer"] = values["optimizer"] | {"warmup_steps": 12}
    out = loop.train(TrainConfig.from_dict(values), tmp_path / "on")
    log = [entry for entry in entries(out) if "mel" in entry]
    assert [entry["step"] for entry in log] == [28, 32, 36]
    before = [entry for entry in entries(finished) if "mel" in entry][-1]["mel"]
    assert log[0]["mel"] < 1.15 * before  # nothing was lost
    assert "codebook" in log[0]
    assert log[0]["learning_rate"] < log[1]["learning_rate"]  # the warm-up
    trained = checkpoint.average_of(slim)
    last = SNAC.from_pretrained(finished / "last")
    for name, value in last.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], value, rtol=2**-8, atol=1e-6)


def test_a_slim_checkpoint_of_another_model_or_none_is_refused(corpus: Path, finished: Path, tmp_path: Path) -> None:
    slim = finished / checkpoint.SLIM
    values = values_of(corpus, 40)
    other = values | {"init": str(slim), "model": values["model"] | {"codebook_size": 64}}
    with pytest.raises(ModelError, match="expected the configuration's .model."):
        loop.train(TrainConfig.from_dict(other), tmp_path / "a")
    model = finished / "best" / "model.safetensors"
    with pytest.raises(ModelError, match=r"expected a slim checkpoint, slim\.safetensors"):
        loop.train(TrainConfig.from_dict(values | {"init": str(model)}), tmp_path / "b")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(slim.read_bytes()[:5000])
    with pytest.raises(ModelError, match="expected a readable slim checkpoint"):
        loop.train(TrainConfig.from_dict(values | {"init": str(cut)}), tmp_path / "c")


def test_fine_tuning_with_frozen_ends_keeps_the_codes(corpus: Path, finished: Path, tmp_path: Path) -> None:
    """From any model: the decoder learns, discriminators included, and all codes stay the same."""
    values = values_of(corpus, 4, quantize_from=2, discriminate_from=1, adversarial_from=2)
    values["codebooks"] = {"revive_every": 2, "patience": 1}
    model = SNAC.from_pretrained(finished / "last")
    audio = 0.2 * torch.randn(1, 1, 8000, generator=torch.Generator().manual_seed(0))
    for freeze in ((), ("encoder", "codebooks")):
        run = TrainConfig.from_dict(values | {"init": str(finished / "last"), "freeze": freeze})
        tuned = SNAC.from_pretrained(loop.train(run, tmp_path / f"run{len(freeze)}") / "last")
        same = [torch.equal(a, b) for a, b in zip(model.encode(audio), tuned.encode(audio), strict=True)]
        assert all(same) == bool(freeze)
        before, after = (m.decode(model.encode(audio)) for m in (model, tuned))
        assert not torch.equal(before, after)
    with pytest.raises(ModelError, match="expected freeze ="):
        loop.train(TrainConfig.from_dict(values), tmp_path / "run2", resume=True)


def test_mismatched_checkpoints_are_refused(corpus: Path, tmp_path: Path) -> None:
    values = values_of(corpus, 4)
    with pytest.raises(ModelError, match="expected that of .model., got sampling_rate 24000"):
        loop.train(TrainConfig.from_dict(values | {"init": "speech_24khz_tiny"}), tmp_path)
    with pytest.raises(ConfigError, match="freeze: expected init with it, got encoder"):
        TrainConfig.from_dict(values | {"freeze": ["encoder"]})
    with pytest.raises(ConfigError, match="freeze: expected encoder or codebooks, got 'decoder'"):
        TrainConfig.from_dict(values | {"freeze": ["decoder"], "init": "x"})
