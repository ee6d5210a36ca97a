"""Models with random weights, built once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from opensnac import SNAC

sys.path.insert(0, str(Path(__file__).parent))

import configs


@pytest.fixture(scope="session")
def tiny() -> SNAC:
    torch.manual_seed(0)
    return SNAC(**configs.TINY).eval()


@pytest.fixture(scope="session", params=configs.SMALL)
def small(request: pytest.FixtureRequest) -> SNAC:
    torch.manual_seed(0)
    return SNAC(**configs.SMALL[request.param]).eval()
