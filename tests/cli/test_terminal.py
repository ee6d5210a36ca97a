"""The command in its own process: start-up time, pipes, signals, and the text of its help."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from commands import record, say_into, succeed, tree, wav_bytes

from opensnac import __version__, processor
from opensnac.cli.app import _stop


def start(*arguments: str | Path, **options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from opensnac.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload,no-any-return]


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom opensnac.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print([name for name in ('torch', 'numpy', 'soundfile', 'huggingface_hub') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "encode" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


def test_info_does_without_torch(here: Path, model: list[str]) -> None:
    (here / "a.snac").write_bytes(succeed("encode", "-", *model, stdin=wav_bytes()).stdout_bytes)
    script = (
        "import sys\nfrom opensnac.cli import app\n"
        "for more in (['--json'], []):\n    app(['info', 'a.snac', *more], standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    facts, *shown = result.stdout.splitlines()
    assert json.loads(facts)["num_samples"] == 3000
    assert shown[-1] == f"Backend on this CPU: {processor.backend()}."


def test_a_closed_pipe_is_handled(here: Path, model: list[str]) -> None:
    record(here / "a.wav", 100_000)
    succeed("encode", "a.wav", *model)
    process = start("decode", "a.snac", "-o", "-", *model, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.communicate()[1] == b""
    assert process.returncode == 1


@pytest.mark.parametrize(("sent", "code", "jobs"), [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 1)])
def test_signals_leave_no_partial_files(
    here: Path, model: list[str], sent: signal.Signals, code: int, jobs: int, forks: BaseContext
) -> None:
    record(here / "in/0.wav")
    for name in ("in/1.wav", "in/2.wav"):
        record(here / name, 24000 * 600, 24000)
    said = here / "said.txt"
    command = ["opensnac", "encode", "in", "-o", "out", "--jobs", str(jobs), *model]
    process = forks.Process(target=say_into, args=(said, command))
    process.start()
    while not (here / "out/0.snac").exists():
        assert process.is_alive(), said.read_text()
        time.sleep(0.05)
    os.kill(process.pid, sent)
    process.join(timeout=60)
    assert process.exitcode == code, said.read_text()
    assert "Traceback" not in said.read_text()
    assert tree(here / "out") == ["0.snac"]


@pytest.mark.parametrize("arguments", [["--help"], ["encode", "--help"], ["decode", "-h"], ["info", "--help"]])
def test_help_reads_well(arguments: list[str]) -> None:
    shown = succeed(*arguments).stdout
    assert "Usage" in shown
    assert len(arguments) == 1 or "Example: opensnac" in shown


@pytest.mark.parametrize("command", ["encode", "decode", "info", "models", "train", "ablate", "evaluate", "demo"])
def test_every_command_shows_an_example(command: str) -> None:
    assert f"Example: opensnac {command}" in succeed(command, "--help").stdout


def test_the_version() -> None:
    assert succeed("--version").stdout == f"opensnac {__version__}\n"


@pytest.mark.parametrize(("sent", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_while_libsndfile_reads_is_not_lost(sent: signal.Signals, raised: type[BaseException]) -> None:
    """Its callbacks swallow what is raised in them."""
    content = io.BytesIO()
    soundfile.write(content, np.zeros(100_000), 8000, format="WAV")

    class Interrupted(io.BytesIO):
        reads = 0

        def readinto(self, buffer: Any) -> int:
            self.reads += 1
            if self.reads == 5:
                os.kill(os.getpid(), sent)
            return super().readinto(buffer)

    def work() -> None:
        with soundfile.SoundFile(Interrupted(content.getvalue())) as file:
            file.read()
        time.sleep(10)

    before, began = signal.signal(sent, _stop), time.monotonic()
    try:
        with pytest.raises(raised):
            work()
        assert time.monotonic() - began < 5  # the sleep was cut short
    finally:
        signal.signal(sent, before)
