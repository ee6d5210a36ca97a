"""Help: commands are grouped, and a command without arguments shows an example."""

from __future__ import annotations

import os
import sys

import pytest
import typer
from commands import run

from opensnac import cli

COMMANDS = typer.main.get_group(cli.app).commands  # type: ignore[attr-defined]
NEEDY = [
    *(["listen", name] for name, command in COMMANDS["listen"].commands.items()),
    *([name] for name, command in COMMANDS.items() if name != "listen" and any(p.required for p in command.params)),
]


def test_every_command_is_in_a_group() -> None:
    groups = {command.rich_help_panel for command in COMMANDS.values()}
    assert groups == {"Code", "Corpora", "Serve and export", "Measure", "Train"}


@pytest.mark.parametrize("words", NEEDY, ids=" ".join)
def test_a_command_without_arguments_shows_an_example(words: list[str]) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert f"Example: opensnac {' '.join(words)}" in " ".join(result.output.replace("│", " ").split())


def test_a_command_with_wrong_arguments_does_not() -> None:
    assert "Example:" not in run("encode", "--no-such-option").output


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_sleep(monkeypatch: pytest.MonkeyPatch, given: str | None, expected: str) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr(sys, "argv", ["opensnac", "--version"])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit):
        cli.main()
    assert os.environ["OMP_WAIT_POLICY"] == expected
