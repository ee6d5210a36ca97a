"""`opensnac train` and `opensnac ablate` as a user types them."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from miniature import entries, values_of, write_corpus
from typer.testing import CliRunner, Result

from opensnac import cli
from opensnac.training import benchmark, loop
from opensnac.training.config import TrainConfig, to_toml


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    values = values_of(write_corpus(tmp_path / "corpus"), 6, quantize_from=2, discriminate_from=3, adversarial_from=4)
    (tmp_path / "run.toml").write_text(to_toml(values))
    return tmp_path / "run.toml"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_train_with_changes_then_resume_then_tune(config: Path, tmp_path: Path) -> None:
    done = run("train", config, "--set", "schedule.steps=4", "--set", "schedule.log_every=2", "--set", "name=other")
    assert done.exit_code == 0, done.output
    out = tmp_path / "runs" / "other"
    assert [entry["step"] for entry in entries(out) if "mel" in entry] == [2, 4]
    assert "left 0:00:00" in done.output  # plain lines: this is no terminal
    assert run("train", config, "--out", out).exit_code == 1
    assert run("train", config, "--out", out, "--resume").exit_code == 0
    assert entries(out)[-1]["step"] == 6
    tuned = run("train", config, "-o", "tuned", "--init", out / "last", "--freeze", "encoder", "--freeze", "codebooks")
    assert tuned.exit_code == 0, tuned.output
    again = run("train", config, "-o", "again", "--init", out / "slim.safetensors", "--set", "schedule.steps=8")
    assert again.exit_code == 0, again.output
    assert entries(tmp_path / "again")[-1]["step"] == 8


def test_dry_run_and_benchmark_leave_nothing(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "run_benchmark", partial(benchmark.run_benchmark, rounds=1))
    before = sorted(tmp_path.rglob("*"))
    shown = run("train", config, "--dry-run", "--set", "data.batch_size=2")
    assert shown.exit_code == 0, shown.output
    assert "batch_size = 2" in shown.output
    assert "# bitrate" in shown.output
    timed = run("train", config, "--benchmark", "--set", "data.batch_size=1")
    assert timed.exit_code == 0, timed.output
    assert "audio seconds per second" in timed.output
    assert sorted(tmp_path.rglob("*")) == before


def test_shipped_configurations_go_by_name(config: Path, tmp_path: Path) -> None:
    sources = [f"data.{part}={json.dumps([str(tmp_path / 'corpus')])}" for part in ("train", "valid")]
    shown = run("train", "speech_24khz_tiny", "--dry-run", "--set", sources[0], "--set", sources[1])
    assert shown.exit_code == 0, shown.output
    assert "# bitrate         984 b/s" in shown.output


def test_ablate_prints_the_table(config: Path, tmp_path: Path) -> None:
    text = f"base = '{config}'\n[variants.plain]\n[variants.other]\n'model.noise' = false\n"
    (tmp_path / "recipe.toml").write_text(text)
    done = run("ablate", "recipe.toml", "--out", "out", "--only", "other")
    assert done.exit_code == 0, done.output
    assert done.output.endswith((tmp_path / "out" / "table.md").read_text())
    assert "| other | 1 of 1 | 3750 |" in done.output
    missing = run("ablate", "nothing")
    assert missing.exit_code == 2
    assert "expected a TOML file or a shipped recipe's name" in missing.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("steps", "expected a change section.key=value, got 'steps'"),
        ("a.b.c=1", "expected a change section.key=value, got 'a.b.c=1'"),
        ("name.x=1", "name is not a section"),
        ("schedule.step=1", "unknown key 'step' in [schedule]"),
        ("schedule.best_by=taste", "best_by: expected mel or stft_distance or pesq_wb or stoi, got 'taste'"),
        ("precision=fp8", "precision: expected fp32 or tf32 or mixed or bf16, got 'fp8'"),
        ("data.workers=-1", "[data] workers: expected 0 or more, got -1"),
        ("augment.mix=2", "[augment] mix: expected a probability, got 2.0"),
        ("augment.speed_range=[0.5, 9]", "speed_range: expected speeds from 0.25 to 4, got 0.5 to 9.0"),
        ('data.train=[{path="a", weight=0}]', "weight of a: expected more than 0, got 0.0"),
        ("data.train=[{weight=1}]", "got one without path"),
    ],
)
def test_wrong_changes_are_named(config: Path, change: str, message: str) -> None:
    result = run("train", config, "--set", change)
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())


def test_changes_are_read_as_toml(config: Path) -> None:
    changes = ["precision=bf16", "schedule.minutes=2", 'data.valid=["a b"]', "data.in_memory=true", "augment.mix=0.5"]
    changed = TrainConfig.from_toml(config, changes)
    assert (changed.precision, changed.schedule.minutes, changed.augment.mix) == ("bf16", 2.0, 0.5)
    assert [source.path for source in changed.data.valid] == ["a b"]
    assert TrainConfig.from_toml(config, ["schedule.minutes=false"]).schedule.minutes is None


def test_missing_packages_are_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "accelerate" else find(name))
    result = run("train", config)
    assert result.exit_code == 1
    assert "accelerate is not installed; run: pip install 'opensnac[train]'" in result.stderr


def test_a_terminal_gets_a_progress_line(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    loop.train(TrainConfig.from_toml(config, ["schedule.log_every=2"]), tmp_path / "out")
    shown = screen.getvalue()
    assert "step 6  mel " in shown
    assert "audio s/s" in shown
    assert "\x1b[2K" in shown  # the line is redrawn
    assert "codebooks initialised from data" in shown
    assert "learning_rate" not in shown  # that is for log.jsonl


def test_the_module_is_the_command() -> None:
    """As torchrun and accelerate launch start it: -m opensnac.cli."""
    done = subprocess.run([sys.executable, "-m", "opensnac.cli", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("opensnac ")
