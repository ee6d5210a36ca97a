"""The benchmark of the server: its search, its reading of WebSocket messages, and a small run of all of it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="pip install 'opensnac[serve]'")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serving.py"
specification = importlib.util.spec_from_file_location("serving_benchmark", SCRIPT)
serving = importlib.util.module_from_spec(specification)
sys.modules["serving_benchmark"] = serving  # where its dataclasses look for themselves
specification.loader.exec_module(serving)


@pytest.mark.parametrize("capacity", [0, 1, 2, 3, 31, 32, 33, 99, 100, 250])
def test_the_largest_number_is_found(capacity: int) -> None:
    tried = []

    def holds(number: int) -> bool:
        tried.append(number)
        return number <= capacity

    found = serving.largest(holds, most=100)
    assert min(capacity, 100) - max(1, capacity // 33) < found <= min(capacity, 100)
    assert len(tried) <= 15
    assert max(tried) <= 100


@pytest.mark.parametrize(("size", "width"), [(0, 1), (1, 1), (125, 1), (126, 2), (65_535, 2), (65_536, 8)])
def test_messages_are_found_in_pieces(size: int, width: int) -> None:
    length = {1: b"", 2: b"\x7e", 8: b"\x7f"}[width] + size.to_bytes(width)
    stream = b"\x82" + length + bytes(size) + b"\x81\x02{}"
    buffer, found = bytearray(), []
    for start in range(0, len(stream), 1000):
        buffer += stream[start : start + 1000]
        found += serving._frames(buffer)
    assert found == [(2, bytes(size)), (1, b"{}")]


def test_both_ways_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "WORK", 5)
    serving.main(["--quick", "--out", str(tmp_path / "serving.json")])
    (ways,) = json.loads((tmp_path / "serving.json").read_text())["results"].values()
    for alone in (found["alone"] for found in ways.values()):
        assert alone["streams"] == 1
        assert 0 < alone["wait_median"] <= alone["wait_p99"] <= alone["wait_longest"]
    *usual, ours = (found["alone"]["first_sound"] for found in ways.values())
    assert min(usual) > 3 * 2048 / 24_000, "the usual way waits for four coarse frames"
    assert ours > 2048 / 24_000
    assert "| speech_24khz_tiny | opensnac |" in capsys.readouterr().out
