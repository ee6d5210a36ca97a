"""The tests of the kernels need them, unless somebody switched them off."""

import os

import pytest

from opensnac import kernels


@pytest.fixture(autouse=True)
def _kernels_are_there() -> None:
    if os.environ.get("OPENSNAC_KERNELS") == "0":
        pytest.skip("the kernels are switched off")
    assert kernels.level() is not None, kernels.why_none()
