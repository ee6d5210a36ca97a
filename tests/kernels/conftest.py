"""The tests of the kernels require them, unless they are switched off."""

import os

import pytest

from opensnac import kernels


@pytest.fixture(autouse=True)
def _kernels_are_there() -> None:
    if os.environ.get("OPENSNAC_KERNELS") == "0":
        pytest.skip("the kernels are switched off")
    assert kernels.level() is not None, kernels.why_none()
