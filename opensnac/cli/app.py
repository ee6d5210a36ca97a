"""The command itself: what all of its commands hang on."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from opensnac import __version__
from opensnac.cli.reporting import TERMINATED

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[str | None, typer.Option(help="A bundled model's name, a folder, or a hub id.")]


def main() -> None:
    """The `opensnac` command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # unwind, so that nothing half-written stays
    app()


@app.callback(invoke_without_command=True)
def opensnac(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """opensnac, a neural audio codec: speech at about one kilobit a second.

    Exit codes: 0 all done, 1 something failed and is listed (the rest was done), 2 wrong use.
    OPENSNAC_DEBUG=1 in the environment shows where an unexpected error came from.
    """
    if version:
        print(f"opensnac {__version__}")
        raise typer.Exit
