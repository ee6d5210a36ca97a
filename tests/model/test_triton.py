"""The operators that a GPU uses, in Triton's interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def test_triton_s_operators_and_gradients_equal_pytorch_s() -> None:
    pytest.importorskip("triton", reason="pip install triton")
    script = Path(__file__).parent / "triton_operators.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "done"
