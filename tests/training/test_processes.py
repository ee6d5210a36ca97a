"""Two processes train the weights that one trains with the same batch; parts of a batch add up to the whole."""

from __future__ import annotations

from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
import poisoned_run
import pytest
import torch
from miniature import config_of, untimed, values_of, write_corpus
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from opensnac.errors import ConfigError
from opensnac.training import loop
from opensnac.training.config import TrainConfig, to_toml
from opensnac.training.processes import Processes
from opensnac.training.step import Trainer

STEPS, POISONED_STEP = 7, 5
STAGES = {"quantize_from": 2, "discriminate_from": 3, "adversarial_from": 4, "log_every": 2}
# Sums over clips are taken in another order. Where a last bit chooses another code, the runs part; so these compute in
# 64 bits, where it does not happen, and come out alike to the ninth digit at least.
TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_two_processes_train_the_weights_of_one(corpus: Path, tmp_path: Path, forks: BaseContext) -> None:
    """Codebooks are initialised, updated and revived, a step is skipped due to one process's clip, all is logged."""
    values = values_of(corpus, STEPS, validate_every=4, checkpoint_every=4, **STAGES)
    values |= {"losses": {"complex": 1.0, "tones": 1.0}, "codebooks": {"revive_every": 3, "patience": 2}}
    config = tmp_path / "run.toml"
    config.write_text(to_toml(values))
    poisoned = 4 * POISONED_STEP + 3  # the last clip of that step: the second process's
    alone = forks.Process(target=poisoned_run.train, args=(config, tmp_path / "one", poisoned))
    alone.start()
    # As torchrun --standalone --nproc_per_node=2 does.
    both = LaunchConfig(1, 1, 2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method="forkserver")
    elastic_launch(both, poisoned_run.train)(config, tmp_path / "two", poisoned)
    alone.join()
    assert alone.exitcode == 0
    for name in ("one", "two"):
        assert (tmp_path / name / "said_0.txt").read_text().count("codebooks initialised from data") == 1
    assert "in 2 processes" in (tmp_path / "two/said_0.txt").read_text()
    assert (tmp_path / "two/said_1.txt").read_text() == ""  # only the first process prints
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("one", "two")]
    assert [state["skipped"] for state in states] == [1, 1]
    for part in ("generator", "ema", "discriminators"):
        for name, value in states[0][part].items():
            torch.testing.assert_close(states[1][part][name], value, atol=TOLERANCE, rtol=TOLERANCE, msg=name)
    assert any(sum(entry.get("revived", [])) for entry in untimed(tmp_path / "one"))
    assert_logs_close(untimed(tmp_path / "one"), untimed(tmp_path / "two"))


def assert_logs_close(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    """Equal entries, numbers equal to four of the five digits written."""
    assert [entry["step"] for entry in one] == [entry["step"] for entry in two]
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            np.testing.assert_allclose(b[name], value, rtol=1e-4, err_msg=f"{name} of step {a['step']}")


def test_a_batch_in_parts_is_the_batch(corpus: Path) -> None:
    """Losses and gradients of one step, whole and in four parts."""
    values = values_of(corpus, 9, quantize_from=0, discriminate_from=0, adversarial_from=0)
    values["losses"] = {"complex": 1.0}
    audio = 0.1 * torch.randn(4, 1, 2048, generator=torch.Generator().manual_seed(0))
    audio[2:] *= 0.1  # levels that differ between the parts
    results = []
    for parts in (1, 4):
        torch.manual_seed(0)
        config = TrainConfig.from_dict(values | {"data": values["data"] | {"accumulate": parts}})
        trainer = Trainer(config, Processes("cpu"))
        report = trainer.training_step(audio, torch.arange(4), 0.0)
        parameters = (*trainer.generator_parameters, *trainer.discriminator_parameters)
        gradients = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        results.append((report, gradients, trainer.health.counts[0]))
    for name, value in results[0][0].items():
        torch.testing.assert_close(results[1][0][name], value, rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-3, atol=1e-5)
    assert torch.equal(results[1][2], results[0][2])


def test_invalid_batches_and_devices_are_refused(corpus: Path, tmp_path: Path) -> None:
    values = values_of(corpus, 2)
    with pytest.raises(ConfigError, match="batch_size: expected a multiple of 3, 1 processes with 3 parts each, got 4"):
        loop.train(TrainConfig.from_dict(values | {"data": values["data"] | {"accumulate": 3}}), tmp_path)
    with pytest.raises(ConfigError, match="device: expected .*, got 'abacus'"):
        loop.train(TrainConfig.from_dict(values | {"device": "abacus"}), tmp_path)


def test_half_precision_trains_close_to_full(corpus: Path, tmp_path: Path) -> None:
    """Products in bf16 have three digits: the first steps' losses agree to two."""
    values = values_of(corpus, 6, **STAGES)
    for precision in ("fp32", "mixed", "bf16"):
        loop.train(TrainConfig.from_dict(values | {"precision": precision}), tmp_path / precision)
    full, mixed, half = (untimed(tmp_path / precision) for precision in ("fp32", "mixed", "bf16"))
    for other in (mixed, half):
        assert other[0]["mel"] == pytest.approx(full[0]["mel"], rel=0.02)
        assert other[-1]["valid_mel"] == pytest.approx(full[-1]["valid_mel"], rel=0.1)
    assert half[0] != full[0]
    assert mixed[0] == full[0]  # tf32 is for GPUs, and the discriminators had not begun
    assert mixed != full
    state = torch.load(tmp_path / "bf16" / "checkpoint.pt", weights_only=True)
    assert all(value.dtype == torch.float32 for value in state["generator"].values())
    assert config_of(corpus, 2).precision == "fp32"
