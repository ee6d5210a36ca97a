"""Refusals of the kernels, their behaviour in threads and forks, and signals beyond 2^31 elements."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from opensnac import kernels, processor
from opensnac.errors import ConfigError, TensorError
from opensnac.kernels import library

PACKED = (40, 48)  # columns and depth of a small product


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch):
    """Loads the kernels that a value of the variable selects."""

    def choose(value: str) -> str | None:
        monkeypatch.setenv("OPENSNAC_KERNELS", value)
        library.loaded.cache_clear()
        processor.best_level.cache_clear()
        return kernels.level()

    yield choose
    monkeypatch.undo()
    library.loaded.cache_clear()
    processor.best_level.cache_clear()


def test_a_level_can_be_forced(chosen, monkeypatch: pytest.MonkeyPatch) -> None:
    best = kernels.level()
    assert chosen("") == chosen(best) == best
    assert chosen("0") is None
    assert kernels.why_none() is None
    with pytest.raises(ConfigError, match="expected compiled kernels, got none: OPENSNAC_KERNELS is 0"):
        kernels.noise([1], [0], 5)
    with pytest.raises(ConfigError, match="OPENSNAC_KERNELS: expected .* or 0, got 'sse9'"):
        chosen("sse9")
    monkeypatch.setattr(processor, "runs", lambda level: False)
    with pytest.raises(ConfigError, match="expected nothing or 0, got .*, which this CPU does not support"):
        chosen(best)
    monkeypatch.setattr(processor, "is_built", lambda level: False)
    with pytest.raises(ConfigError, match="expected nothing or 0, got .*, which this installation does not have"):
        chosen(best)
    assert chosen("") is None
    assert "without its compiled kernels" in str(kernels.why_none())


def test_mismatched_arguments_are_refused() -> None:
    x, weight, bias = torch.randn(1, 30, 48), kernels.packed(torch.randn(PACKED)), torch.randn(40)
    refused = {
        r"x: expected float32 or bfloat16 \(any, any, any\) on cpu|x: expected": [
            lambda: kernels.linear(x.double(), weight, 40),
            lambda: kernels.linear(x.to("meta"), weight, 40),
            lambda: kernels.linear(x[0], weight, 40),
        ],
        r"bias: expected float32 \(40\) on cpu": [
            lambda: kernels.linear(x, weight, 40, bias.double()),
            lambda: kernels.linear(x, weight, 40, bias.to("meta")),
            lambda: kernels.linear(x, weight, 40, bias[:8]),
        ],
        r"weight: expected float32": [lambda: kernels.linear(x, weight, 400)],
        r"x: expected enough steps for 31 rows of 48 values": [lambda: kernels.linear(x, weight, 40, rows=31)],
        r"weight: expected whole steps of 48 channels": [lambda: kernels.single(x, bias, bias[:1])],
        r"units: expected at least one, got none": [lambda: kernels.UnitStack([])],
        r"size: expected at least 1 entry, got 0": [lambda: kernels.nearest(x, weight, 0)],
        r"expected a start for each of 2 keys": [lambda: kernels.noise([1, 2], [0], 5)],
        r"without gradients": [lambda: kernels.linear(x.clone().requires_grad_(), weight, 40)],
    }
    for message, attempts in refused.items():
        for attempt in attempts:
            with pytest.raises(TensorError, match=message):
                attempt()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_default_dtype_and_device_change_nothing(dtype: torch.dtype) -> None:
    x, weight = torch.randn(1, 30, 48), kernels.packed(torch.randn(PACKED))
    expected = kernels.linear(x, weight, 40), kernels.noise([1], [2], 30)
    try:
        torch.set_default_dtype(dtype)
        with torch.device("meta"):
            ours = kernels.linear(x, weight, 40), kernels.noise([1], [2], 30)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_new_threads_keep_the_number_of_threads() -> None:
    counts = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        thread = threading.Thread(target=lambda: counts.append(library.threads()))
        thread.start()
        thread.join()
    assert counts == [1, 2, 3]


FORK = """
import os, signal, warnings, torch
from opensnac import kernels
torch.set_num_threads(2)
x, weight = torch.randn(1, 5000, 96), kernels.packed(torch.randn(80, 96))
y = kernels.linear(x, weight, 80)
torch.exp(torch.randn(2000000))
if os.fork() == 0:
    signal.alarm(30)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        same = torch.equal(kernels.linear(x, weight, 80), y) and torch.equal(kernels.linear(x, weight, 80), y)
    torch.exp(torch.randn(2000000))
    said = [str(warning.message) for warning in caught]
    os._exit(not (same and torch.get_num_threads() == 1 and len(said) == 1 and "was forked" in said[0]))
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
"""


def test_a_fork_does_not_hang() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=120)


def test_beyond_two_to_the_31() -> None:
    """Rows so far apart that offsets need 64 bits; memory that is never written takes no room."""
    far = 2**27 + 5
    x = torch.from_numpy(np.zeros((1, far + 1, 16), np.float32))
    x[0, -1] = torch.arange(16.0)
    y = kernels.linear(x, kernels.packed(torch.eye(16)), 16, rows=2, step=far)
    assert torch.equal(y[0], torch.stack([torch.zeros(16), torch.arange(16.0)]))


def test_the_same_bits_beside_any_neighbours() -> None:
    """One row's result does not depend on the rows that are computed with it: chunks and batches stay exact."""
    x, weight = torch.randn(1, 700, 96), kernels.packed(torch.randn(80, 96))
    scale, add = torch.randn(1, 700), torch.randn(1, 700, 80)
    whole = kernels.linear(x, weight, 80, scale=scale, add=add)
    for start, stop in ((0, 1), (0, 14), (5, 18), (13, 700)):
        cut = slice(start, stop)
        here = kernels.linear(x[:, cut], weight, 80, scale=scale[:, cut], add=add[:, cut])
        assert torch.equal(here, whole[:, cut])
