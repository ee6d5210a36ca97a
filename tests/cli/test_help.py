"""Help that helps: commands in groups, and one called with nothing says what to try."""

from __future__ import annotations

import pytest
import typer
from commands import run

from opensnac import cli

COMMANDS = typer.main.get_group(cli.app).commands  # type: ignore[attr-defined]
NEEDY = [
    *(["listen", name] for name, command in COMMANDS["listen"].commands.items()),
    *([name] for name, command in COMMANDS.items() if name != "listen" and any(p.required for p in command.params)),
]


def test_every_command_stands_in_a_group() -> None:
    groups = {command.rich_help_panel for command in COMMANDS.values()}
    assert groups == {"Code", "Corpora", "Serve and export", "Measure", "Train"}


@pytest.mark.parametrize("words", NEEDY, ids=" ".join)
def test_a_command_called_with_nothing_shows_an_example(words: list[str]) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert f"Example: opensnac {' '.join(words)}" in " ".join(result.output.replace("│", " ").split())


def test_one_called_with_something_wrong_does_not() -> None:
    assert "Example:" not in run("encode", "--no-such-option").output
