"""Two processes train the weights that one trains with the same batch; parts of a batch add up to the whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from miniature import config_of, untimed, values_of, write_corpus

from opensnac.errors import ConfigError
from opensnac.training import loop
from opensnac.training.config import TrainConfig, to_toml

STEPS, POISONED_STEP = 24, 18
STAGES = {"quantize_from": 6, "discriminate_from": 8, "adversarial_from": 10, "log_every": 4}
SCRIPT = Path(__file__).with_name("poisoned_run.py")
# Sums over clips are taken in another order; what 24 steps make of the last bits of that, codes that flip included.
TOLERANCE = 2e-3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_two_processes_train_the_weights_of_one(corpus: Path, tmp_path: Path) -> None:
    """Codebooks start, follow and are revived, a step is skipped because of one process's clip, and all is logged."""
    values = values_of(corpus, STEPS, validate_every=12, checkpoint_every=12, **STAGES)
    values["losses"] = {"complex": 1.0}
    config = tmp_path / "run.toml"
    config.write_text(to_toml(values))
    poison = str(4 * POISONED_STEP + 3)  # the last clip of that step: the second process's
    commands = {
        "one": [sys.executable, str(SCRIPT)],
        "two": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(SCRIPT)],
    }
    for name, command in commands.items():
        done = subprocess.run([*command, str(config), str(tmp_path / name), poison], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("codebooks started from data") == 1  # the first process alone speaks
    assert "in 2 processes" in done.stdout
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in commands]
    assert [state["skipped"] for state in states] == [1, 1]
    for part in ("generator", "ema", "discriminators"):
        for name, value in states[0][part].items():
            torch.testing.assert_close(states[1][part][name], value, atol=TOLERANCE, rtol=TOLERANCE, msg=name)
    assert_logs_close(untimed(tmp_path / "one"), untimed(tmp_path / "two"))


def assert_logs_close(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    """Equal entries, numbers within 1 %, counts of codes within one code."""
    assert [entry["step"] for entry in one] == [entry["step"] for entry in two]
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            loose = 1 if name in ("revived", "valid_codes") else 1 / 16 if name == "codes_used" else 0
            np.testing.assert_allclose(b[name], value, rtol=0.01, atol=loose, err_msg=f"{name} of {a['step']}")


def test_a_batch_in_parts_is_the_batch(corpus: Path, tmp_path: Path) -> None:
    values = values_of(corpus, 14, **STAGES) | {"losses": {"complex": 1.0}}
    for parts in (1, 4):
        data = values["data"] | {"accumulate": parts}
        loop.train(TrainConfig.from_dict(values | {"data": data}), tmp_path / f"{parts}")
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("1", "4")]
    for part in ("generator", "discriminators"):
        for name, value in states[0][part].items():
            torch.testing.assert_close(states[1][part][name], value, atol=TOLERANCE, rtol=TOLERANCE, msg=name)


def test_what_cannot_be_shared_or_used_is_refused(corpus: Path, tmp_path: Path) -> None:
    values = values_of(corpus, 2)
    with pytest.raises(ConfigError, match="batch_size is 4; a multiple of 3 was needed, 1 processes with 3 parts"):
        loop.train(TrainConfig.from_dict(values | {"data": values["data"] | {"accumulate": 3}}), tmp_path)
    with pytest.raises(ConfigError, match="device is 'abacus', which cannot be used"):
        loop.train(TrainConfig.from_dict(values | {"device": "abacus"}), tmp_path)


def test_half_precision_trains_close_to_full(corpus: Path, tmp_path: Path) -> None:
    """Products in bf16 have three digits: the first steps' losses agree to two."""
    values = values_of(corpus, 12, **STAGES)
    for precision in ("fp32", "bf16"):
        loop.train(TrainConfig.from_dict(values | {"precision": precision}), tmp_path / precision)
    full, half = (untimed(tmp_path / precision) for precision in ("fp32", "bf16"))
    assert half[0]["mel"] == pytest.approx(full[0]["mel"], rel=0.02)
    assert half[-1]["mel"] == pytest.approx(full[-1]["mel"], rel=0.1)
    assert half[0]["mel"] != full[0]["mel"]
    state = torch.load(tmp_path / "bf16" / "checkpoint.pt", weights_only=True)
    assert all(value.dtype == torch.float32 for value in state["generator"].values())
    assert config_of(corpus, 2).precision == "fp32"
