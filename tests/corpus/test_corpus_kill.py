"""Killed at any moment, a run goes on and ends with the files of an undisturbed one; a worker that dies is replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from recordings_of import files, sing, spawned

from opensnac.corpus import local
from opensnac.corpus.settings import Settings
from opensnac.corpus.tokenize import tokenize
from opensnac.errors import OpensnacError

Make = Callable[..., Settings]


@pytest.fixture
def many(here: Path) -> Path:
    """Recordings for a few seconds of work."""
    for n in range(16):
        sing(here / "many" / f"{n:02d}.wav", 0.5, seed=n)
    return here / "many"


def command(model_folder: Path, out: str, *more: str) -> list[str]:
    words = [sys.executable, "-m", "opensnac", "tokenize", "many", "-o", out, "--model", str(model_folder)]
    return [*words, "--shard-megabytes", "0.02", *more]


@pytest.mark.parametrize("form", ["parquet", "bin"])
def test_a_killed_run_ends_as_an_undisturbed_one(
    many: Path, here: Path, settings: Make, model_folder: Path, form: str
) -> None:
    tokenize("whole", settings("many", format=form, shard_megabytes=0.02), workers=0)
    kills = 0
    for more in (1, 2):  # shards beyond those that are there already
        before = len(list((here / "out/work").glob("*.json")))
        run = subprocess.Popen(command(model_folder, "out", "--format", form, "--workers", "2"))
        while run.poll() is None and len(list((here / "out/work").glob("*.json"))) < before + more:
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        kills += run.wait() == -signal.SIGKILL
    assert kills
    done = subprocess.run(command(model_folder, "out", "--format", form), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert files(here / "out") == files(here / "whole")


def test_orphans_of_a_killed_run_end(many: Path, here: Path, model_folder: Path) -> None:
    run = subprocess.Popen(command(model_folder, "out", "--workers", "1"), start_new_session=True)
    while run.poll() is None and not list((here / "out/work").glob("*.json")):
        time.sleep(0.01)
    run.kill()
    run.wait()
    for _ in range(1000):
        try:
            os.killpg(run.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGKILL)
    pytest.fail("workers outlive their run")


def test_a_worker_that_dies_is_replaced(many: Path, here: Path, settings: Make) -> None:
    own = settings("many", shard_megabytes=0.02)
    tokenize("whole", own, workers=0)
    said, killed = [], []

    def on(event: str, value: object) -> None:
        if event == "shard" and not killed:
            killed.append(os.getpid())
            os.kill(spawned()[0], signal.SIGKILL)
        if event == "died":
            said.append(value)

    tokenize("out", own, workers=2, on=on)
    assert len(said) == 1
    assert "(SIGKILL); its shard is made again" in said[0]
    assert files(here / "out") == files(here / "whole")


def test_a_recording_that_kills_is_left_out_the_third_time() -> None:
    deaths = local._Deaths(count=1, blamed={3: 1})
    assert deaths.skip() == {}
    deaths.blamed[3] += 1
    assert deaths.skip() == {3: "kills the process that reads it (2 times)"}


def test_workers_that_die_of_nothing_known_stop_the_run(
    many: Path, here: Path, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_work", _die)
    with pytest.raises(
        OpensnacError, match=r"a worker died at shard 0 \(exit code 3\) for the 4th time; is there enough"
    ):
        tokenize("out", settings("many"), workers=1)


def _die(job: object, pipe: object) -> None:
    os._exit(3)
