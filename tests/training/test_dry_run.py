"""Checks before a run: the dry run with its memory estimate, and the speed of a step."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch
from miniature import config_of, values_of, write_corpus

from opensnac import kernels
from opensnac.engine.codec import SNAC
from opensnac.training import dry_run
from opensnac.training.benchmark import PARTS, run_benchmark
from opensnac.training.config import TrainConfig
from opensnac.training.discriminators import Discriminators

CROP = 2048


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_the_dry_run_prints_the_configuration_and_derived_values(corpus: Path) -> None:
    (corpus / "broken.wav").write_bytes(b"RIFF")
    values = values_of(corpus, 150)
    values["data"]["valid"] = values["data"]["train"]
    config = TrainConfig.from_dict(values)
    text = dry_run.describe(config)
    assert TrainConfig.from_dict(tomllib.loads(text)) == config
    for line in (
        "# training data   4 recordings, 0.00 h",
        "# left out        2 broken files",
        "# generator       62,690 parameters",
        "# bitrate         3750 b/s: 250.0, 500.0 codes per second of 5 bits",
        "# step            4 clips of 0.256 s (2048 samples), 1.0 s of audio",
        "# length          150 steps, 19.2 passes over the data",
        "# memory          about ",
    ):
        assert line in text
    (corpus / "broken.wav").unlink()


def test_the_estimated_memory_is_that_of_autograd_graphs(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted on meta tensors, and on real ones in plain PyTorch."""
    monkeypatch.setattr(kernels, "level", lambda: None)
    config = config_of(corpus, 150)
    with torch.device("meta"):
        models = SNAC.from_config(config.model), Discriminators(config.discriminator)
    foreseen = dry_run.activation_bytes(config, *models, 4, CROP)
    real = SNAC.from_config(config.model), Discriminators(config.discriminator)
    counted = dry_run.activation_bytes(config, *real, 4, CROP)
    assert foreseen == pytest.approx(counted, rel=0.05)
    assert 1e6 < foreseen < 1e9


def test_the_benchmark_measures_both_ways_and_all_parts(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speeds = run_benchmark(config_of(corpus, 150), rounds=1)
    alone, both = speeds["generator alone"], speeds["with discriminators"]
    assert alone.parts["discriminators"] < 0.001 < both.parts["discriminators"]
    for speed in speeds.values():
        assert tuple(speed.parts) == PARTS
        assert speed.audio_seconds_per_second == pytest.approx(4 * 0.256 / speed.step_seconds)
    said = capsys.readouterr().out
    assert all(part in said for part in ("audio seconds per second", *PARTS))
