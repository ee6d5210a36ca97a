"""Variants trained and measured in the same way, in one table; nothing is trained twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from miniature import values_of, write_corpus

from opensnac.errors import ConfigError, OpensnacError
from opensnac.training import ablate
from opensnac.training.config import to_toml

RECIPE = """
base = "{base}"
seeds = [0, 1]
[set]
"schedule.steps" = 4
[variants.plain]
[variants.one_scale]
"model.vq_strides" = [1]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    values = values_of(write_corpus(tmp_path / "corpus"), 99, quantize_from=1, discriminate_from=2, adversarial_from=3)
    (tmp_path / "base.toml").write_text(to_toml(values))
    (tmp_path / "recipe.toml").write_text(RECIPE.format(base=tmp_path / "base.toml"))
    return tmp_path / "recipe.toml"


def test_a_small_ablation(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = ablate.ablate(recipe, tmp_path / "out")
    lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.read_text().splitlines()]
    headings = ["variant", "seeds", "b/s", "mel", "STFT", "SI-SDR, dB"]
    assert lines[0][:6] == headings
    assert [line[:3] for line in lines[2:]] == [["plain", "2 of 2", "3750"], ["one_scale", "2 of 2", "2500"]]
    assert all("±" in line[3] for line in lines[2:])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    mels = [figures["mel"] for figures in results["plain"]]
    assert mels[0] != mels[1]  # the seeds differ
    assert 0 < results["plain"][0]["codes_used"] <= 1
    monkeypatch.setattr(ablate.loop, "train", lambda *_, **__: pytest.fail("trained again"))
    assert ablate.ablate(recipe, tmp_path / "out").read_text() == table.read_text()
    with pytest.raises(OpensnacError, match="expected this configuration's result"):
        ablate.ablate(recipe, tmp_path / "out", ["schedule.steps=7"])


def test_mean_and_spread_by_hand() -> None:
    results = {
        "a": [{"mel": 1.0, "bits_per_second": 984.4}, {"mel": 2.0, "bits_per_second": 984.4}],
        "b": [{"mel": 3.0}],
    }
    assert ablate.table(results, 2).splitlines() == [
        "| variant | seeds | b/s | mel |",
        "| --- | ---: | ---: | ---: |",
        "| a | 2 of 2 | 984 | 1.500 ± 0.707 |",
        "| b | 1 of 2 | - | 3.000 |",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bases = 'x'", "expected base, seeds.*got unknown key bases"),
        ("base = 'smoke'", r"no base or no \[variants.NAME\]"),
        ("base = 'smoke'\n[variants.a]\n'model.noise' = 3", "variant a: noise: expected true or false, got 3"),
        ("base = 'smoke'\n[variants.a]\n'schedule.minutes' = 3", "equal budgets need steps"),
    ],
)
def test_wrong_recipes_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        ablate.ablate(tmp_path / "recipe.toml", tmp_path / "out")


def test_an_unknown_variant_is_named(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected variants of plain, one_scale.*, got nonsense"):
        ablate.ablate(recipe, tmp_path / "out", only=["nonsense"])
