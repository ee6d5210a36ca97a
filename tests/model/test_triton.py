"""The operators that a GPU uses, in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from opensnac.model import operators


def test_triton_s_operators_and_gradients_equal_pytorch_s() -> None:
    pytest.importorskip("triton", reason="pip install triton")
    script = Path(__file__).parent / "triton_operators.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "done"


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton may run here")
def test_a_triton_that_cannot_run_is_reported_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.delenv("OPENSNAC_KERNELS", raising=False)
    with pytest.warns(UserWarning, match="Triton does not run on cuda:0 .*: PyTorch is used"):
        assert not operators._triton_runs.__wrapped__(torch.device("cuda:0"))
    monkeypatch.setenv("OPENSNAC_KERNELS", "0")
    assert not operators._triton_runs.__wrapped__(torch.device("cuda:0"))
