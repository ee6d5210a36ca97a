"""A run killed at any moment resumes and ends with the files of an undisturbed one; a worker that dies is replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from recordings_of import children, files, sing

from opensnac import cli
from opensnac.corpus import local
from opensnac.corpus.settings import Settings
from opensnac.corpus.tokenize import tokenize
from opensnac.errors import OpensnacError

Make = Callable[..., Settings]


@pytest.fixture
def many(here: Path) -> Path:
    """Recordings for some shards of work, one of them broken."""
    for n in range(12):
        sing(here / "many" / f"{n:02d}.wav", 0.3, seed=n)
    (here / "many" / "05.wav").write_bytes(b"no recording")
    return here / "many"


def test_a_killed_run_resumes_to_the_same_files(
    many: Path, here: Path, settings: Make, model_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["tokenize", "many", "-o", "out", "--model", str(model_folder), "--shard-megabytes", "0.01"]
    words = [sys.executable, "-m", "opensnac", *command, "--workers", "1", "--readers", "1"]
    run = subprocess.Popen(words, start_new_session=True)
    while run.poll() is None and not list((here / "out/work").glob("*.json")):
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    _require_end_of_group(run.pid)
    assert not (here / "out/corpus.json").exists()
    capfd.readouterr()
    assert cli.app([*command, "--workers", "0"], standalone_mode=False) == 1
    *_, said = capfd.readouterr().err.splitlines()
    assert said == "opensnac: 1 recording failed; out/failed.parquet says why"
    tokenize("whole", settings("many", shard_megabytes=0.01), workers=0)
    assert files(here / "out") == files(here / "whole")


def _require_end_of_group(group: int) -> None:
    """Require that workers end shortly after their run."""
    for _ in range(1000):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("workers outlive their run")


def test_a_dying_worker_does_not_change_the_files(many: Path, here: Path, settings: Make, forks: object) -> None:
    own = settings("many", shard_megabytes=0.01)
    tokenize("whole", own, workers=0)
    said, killed = [], []

    def on(event: str, value: object) -> None:
        if event == "shard" and not killed:
            killed.append(children()[0])
            os.kill(killed[0], signal.SIGKILL)
        if event == "died":
            said.append(value)

    totals = tokenize("out", own, workers=2, on=on)
    assert (totals.recordings, totals.failed) == (12, 1)
    assert len(said) == 1
    assert "(SIGKILL); the shard is made again" in said[0]
    assert files(here / "out") == files(here / "whole")


def test_a_recording_that_kills_workers_is_skipped_the_third_time() -> None:
    deaths = local._Deaths(count=1, blamed={3: 1})
    assert deaths.skip() == {}
    deaths.blamed[3] += 1
    assert deaths.skip() == {3: "kills the process that reads it (2 times)"}


def test_workers_that_die_without_a_cause_stop_the_run(
    many: Path, here: Path, settings: Make, monkeypatch: pytest.MonkeyPatch, forks: object
) -> None:
    monkeypatch.setattr(local, "_work", _die)
    monkeypatch.setattr(local, "MAX_DEATHS", 0)
    with pytest.raises(OpensnacError, match=r"a worker died at shard 0 \(exit code 3\) 1 times; is there enough"):
        tokenize("out", settings("many"), workers=1)


def _die(job: object, pipe: object) -> None:
    os._exit(3)
