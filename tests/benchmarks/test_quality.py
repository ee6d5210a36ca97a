"""The regression check: worse scores and weights without scores fail; scores change only with weights."""

import importlib.util
import json
from pathlib import Path

import pytest

from opensnac.errors import OpensnacError

REPOSITORY = Path(__file__).parent.parent.parent
SCORES = {"pesq_wb": 1.2, "stoi": 0.8, "visqol_audio": 3.0, "dnsmos": 2.0, "mel_distance": 8.0}


@pytest.fixture
def quality(tmp_path, monkeypatch):
    specification = importlib.util.spec_from_file_location("quality", REPOSITORY / "benchmarks" / "quality.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "STORED", tmp_path / "quality.json")
    module.store("weights 1", None, lambda: SCORES)
    return module


@pytest.fixture
def stored(quality) -> dict:
    return json.loads(quality.STORED.read_text())


def never() -> dict:
    raise AssertionError("measured for nothing")


def test_equal_and_better_scores_pass(quality, stored, capsys):
    quality.compare("weights 1", stored, lambda: SCORES)
    quality.compare("weights 1", stored, lambda: SCORES | {"pesq_wb": 4.0, "mel_distance": 1.0})
    assert "LOST" not in capsys.readouterr().out


@pytest.mark.parametrize(("name", "worse"), [("pesq_wb", 1.1), ("stoi", 0.79), ("mel_distance", 8.2)])
def test_a_score_below_its_margin_fails(quality, stored, name, worse):
    with pytest.raises(OpensnacError, match=f"expected scores within the margins, got worse ones: {name}$"):
        quality.compare("weights 1", stored, lambda: SCORES | {name: worse})


def test_within_its_margin_a_score_passes(quality, stored):
    quality.compare("weights 1", stored, lambda: SCORES | {"pesq_wb": 1.16, "mel_distance": 8.05})


@pytest.mark.parametrize("there", [True, False])
def test_weights_without_figures_fail_and_say_what_to_run(quality, stored, there):
    with pytest.raises(OpensnacError, match="run `make quality-update`, review the changes"):
        quality.compare("weights 2", stored if there else None, never)


def test_scores_change_only_with_the_weights(quality, stored):
    with pytest.raises(
        OpensnacError, match="expected scores of other weights, got those of weights 1, which has scores"
    ):
        quality.store("weights 1", stored, never)
    quality.store("weights 2", stored, lambda: SCORES | {"stoi": 0.5})
    assert json.loads(quality.STORED.read_text()) == {"weights": "weights 2", "scores": SCORES | {"stoi": 0.5}}


def test_the_stored_figures_have_every_metric_of_the_check(quality):
    figures = json.loads((REPOSITORY / "benchmarks" / "quality.json").read_text())
    assert figures["scores"].keys() == quality.MARGINS.keys()
