"""A terminated run of `evaluate` stops immediately and keeps its measurements."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from opensnac.errors import OpensnacError
from opensnac.evaluation.workers import map_in_processes
from opensnac.recordings import audio


def deaf(seconds: float) -> int:
    """A task that ignores signals, as a C extension does."""
    if seconds:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        time.sleep(seconds)
    return os.getpid()


def dying(code: int) -> None:
    os._exit(code)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_unresponsive_workers_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opensnac.evaluation.workers.GRACE_SECONDS", 0.2)
    results = map_in_processes(deaf, [0, 60, 60], jobs=2)
    worker = next(results)
    assert alive(worker)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 5
    assert not alive(worker)


def test_a_dead_worker_is_reported() -> None:
    with pytest.raises(OpensnacError, match="a worker process was killed, perhaps out of memory"):
        list(map_in_processes(dying, [1], jobs=1))


QUICK = """# the command, with one metric
from opensnac import cli
from opensnac.evaluation.metrics import METRICS
for name in {*METRICS} - {"si_sdr"}:
    del METRICS[name]
cli.main()
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with an `opusenc` that runs for a minute and writes down its process id."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("opusenc", "opusdec"):
        (folder / name).write_text(f"""#!/bin/sh
            case "$1" in -[vV]*|--version) exit;; esac
            touch "$TMPDIR/left"
            echo $$ > {tmp_path}/begun
            exec sleep 60
        """)
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_the_clip_in_progress(tmp_path: Path, programs: Path, sent: signal.Signals, code: int) -> None:
    audio.write(tmp_path / "clips/a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, (1, 24000)), 24000)
    (tmp_path / "scratch").mkdir()
    command = [sys.executable, "-c", QUICK, "evaluate", "clips", "--codec", "opus:6", "--out", "out", "--players", "0"]
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(tmp_path / "scratch")}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    begun, store = tmp_path / "begun", tmp_path / "out/clips.jsonl"
    while not (begun.exists() and begun.read_text() and store.exists() and "scores" in store.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    start = time.monotonic()
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal does
    else:
        process.send_signal(sent)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - start < 5
    assert process.returncode == code, said
    assert b"Traceback" not in said
    assert not alive(int(begun.read_text()))
    assert list((tmp_path / "scratch").iterdir()) == []
    assert sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file()) == ["clips.jsonl"]
    records = [json.loads(line) for line in store.read_text().split("\n") if line]
    assert [record["codec"] for record in records if "scores" in record] == ["original"]
