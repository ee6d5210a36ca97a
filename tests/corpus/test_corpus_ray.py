"""A Ray of its own with two workers, one of which is killed: the files are those of a local run. `make test-ray`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from recordings_of import files, sing

from opensnac.corpus.settings import Settings
from opensnac.corpus.tokenize import tokenize

pytestmark = pytest.mark.skipif("OPENSNAC_TEST_RAY" not in os.environ, reason="half a minute: make test-ray")


def test_ray_makes_the_files_of_a_local_run(here: Path, settings: Callable[..., Settings], model_folder: Path) -> None:
    pytest.importorskip("ray")
    for n in range(24):
        sing(here / "many" / f"{n:02d}.wav", 1.5, seed=n)
    tokenize("local", settings("many", shard_megabytes=0.06), workers=0)
    words = [sys.executable, "-m", "opensnac", "tokenize", "many", "-o", "ray", "--engine", "ray", "--workers", "2"]
    words += ["--model", str(model_folder), "--shard-megabytes", "0.06"]
    run = subprocess.Popen(words, env=os.environ | {"RAY_AUTH_MODE": "disabled"})
    killed = False
    while run.poll() is None and not killed:
        time.sleep(0.01)
        if list((here / "ray/work").glob("*.json")):
            actor = next(iter(_actors()), None)
            if actor is not None:
                os.kill(actor, signal.SIGKILL)
                killed = True
    assert run.wait(timeout=300) == 0
    assert killed
    assert files(here / "ray") == files(here / "local")


def _actors() -> list[int]:
    """Processes of Ray that hold a model."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::") and b"MapWorker" in name:
            found.append(int(folder.name))
    return found
