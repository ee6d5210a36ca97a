"""Commands as a user types them, run in this process or in a fork."""

from __future__ import annotations

import io
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import soundfile
from typer.testing import CliRunner, Result

from opensnac import cli

TINY = {
    "sampling_rate": 24000,
    "encoder_dim": 2,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 16,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "codebook_size": 4096,
    "codebook_dim": 8,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}


def run(*arguments: str | Path, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], input=stdin)


def succeed(*arguments: str | Path, stdin: bytes = b"") -> Result:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""  # no progress output unless stderr is a terminal
    return result


def refuse(code: int, *arguments: str | Path, stdin: bytes = b"") -> str:
    """Run a command that must fail with `code`; returns its one line of output."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert result.stderr.startswith("opensnac: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def say_into(file: Path, words: list[str]) -> None:
    """The command, in a process of its own, with its standard error in a file."""
    with file.open("wb") as opened:
        os.dup2(opened.fileno(), 2)
    sys.argv = words
    cli.main()


def between_pipes(source: Connection, words: list[str], target: Connection) -> None:
    """The command, in a process of its own, with its standard input and output at two pipes."""
    for place, pipe in enumerate((source, target)):
        os.dup2(pipe.fileno(), place)
        pipe.close()
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.argv = words
    cli.main()


def record(path: Path, num_samples: int = 3000, rate: int = 16000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (num_samples, channels))
    soundfile.write(path, samples, rate)
    return path


def wav_bytes() -> bytes:
    content = io.BytesIO()
    soundfile.write(content, np.random.default_rng(0).uniform(-0.5, 0.5, 3000), 16000, format="WAV")
    return content.getvalue()


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
