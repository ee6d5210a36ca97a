"""The command-line application that the commands register with."""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Annotated, Any

import typer
import typer.core

from opensnac import __version__
from opensnac.cli.reporting import TERMINATED

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

CODE, CORPORA, ELSEWHERE, TRAIN, MEASURE = "Code", "Corpora", "Serve and export", "Train", "Measure"

MODELS = "speech (default), music (music and other sound), another model's name or hub id, or a folder."
Model = Annotated[str | None, typer.Option(help=MODELS)]


class Command(typer.core.TyperCommand):
    """A command that prints an example when called without arguments."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer does; where a required argument is missing and none was given, the error shows the example."""
        given = bool(args)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            if not given and self.epilog:
                error.message = re.sub(r"\[/?bold\]", "", self.epilog)
            raise


def command(panel: str, example: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a command, with the panel of the help that lists it and an example of its use."""
    return app.command(cls=Command, rich_help_panel=panel, epilog=f"Example: [bold]{example}[/bold]")


def main() -> None:
    """The `opensnac` command."""
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where the shell has it ignored
        signal.signal(signal.SIGINT, _stop)
    # OpenMP's waiting threads sleep: spinning, they hold up the work they wait for on a busy machine. PyTorch reads it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()


def _stop(number: int, frame: FrameType | None) -> None:
    """Unwind, to clean up temporary files; a little later within soundfile's callbacks, which swallow exceptions."""
    while frame is not None:
        if frame.f_code.co_name.startswith("vio_") and frame.f_code.co_filename.endswith("soundfile.py"):
            again = functools.partial(signal.raise_signal, number)
            if hasattr(signal, "pthread_kill"):  # wakes this thread too, should it wait in a system call by then
                again = functools.partial(signal.pthread_kill, threading.get_ident(), number)
            threading.Timer(0.01, again).start()
            return
        frame = frame.f_back
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(TERMINATED)


@app.callback(invoke_without_command=True)
def opensnac(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """opensnac, a neural audio codec: speech at one kilobit a second, music at two.

    Exit codes: 0 success, 1 some inputs failed and are listed (the others are done), 2 wrong usage.
    OPENSNAC_DEBUG=1 in the environment prints the traceback of an unexpected error.
    """
    if version:
        print(f"opensnac {__version__}")
        raise typer.Exit
