"""Training steps of two implementations give the same losses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from miniature import config_of, write_corpus
from typer.testing import CliRunner

from opensnac.cli import app
from opensnac.errors import ConfigError
from opensnac.kernels import library
from opensnac.training.against import HERE, compare
from opensnac.training.benchmark import stage
from opensnac.training.processes import Processes


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


def losses_of(corpus: Path) -> list[dict[str, float]]:
    """Of a few steps with adversaries and all losses."""
    config = config_of(corpus, 10)
    torch.manual_seed(0)
    trainer = stage(config, Processes("cpu"), discriminators=True)
    reports = []
    for _ in range(4):
        clips = 0.1 * torch.randn(4, 1, 2048)
        reports.append(trainer.training_step(clips, torch.arange(4), 0.5))
    return [{name: float(value) for name, value in report.items()} for report in reports]


def test_losses_are_those_of_plain_pytorch(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = losses_of(corpus)
    monkeypatch.setenv("OPENSNAC_KERNELS", "0")
    library.loaded.cache_clear()
    try:
        plain = losses_of(corpus)
    finally:
        monkeypatch.undo()
        library.loaded.cache_clear()
    assert len(ours[0]) >= 8
    for a, b in zip(ours, plain, strict=True):
        assert a == pytest.approx(b, rel=1e-3)


def test_against_itself_nothing_differs(corpus: Path) -> None:
    report = compare(config_of(corpus, 10), HERE, rounds=1)
    assert re.search(r"processor time: [\d.]+ s there, [\d.]+ s here, [\d.]+ times as fast", report)
    assert re.search(r"losses: \d+ values, largest relative difference 0.0e\+00", report)


def test_a_folder_that_is_no_checkout_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a checkout of opensnac, got a folder without opensnac"):
        compare(config_of(corpus, 10), tmp_path)
    result = CliRunner().invoke(app, ["train", "smoke", "--against", str(tmp_path)])
    assert result.exit_code != 0
    assert "expected --benchmark too" in result.output
