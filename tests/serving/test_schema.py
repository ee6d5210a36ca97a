"""Schemathesis against the HTTP part: whatever it sends is answered as the OpenAPI document says."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from running import Running

NOT_SAID = "positive_data_acceptance"  # which bytes are a recording no document can say


@pytest.mark.skipif(find_spec("schemathesis") is None, reason="pip install schemathesis")
def test_schemathesis_finds_nothing(server: Running, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--no-color"]
    command += ["--exclude-checks", NOT_SAID, "--max-examples", "4", "--seed", "1", "--generation-database", "none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tested: 6" in done.stdout
