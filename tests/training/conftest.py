"""Whole runs go unchecked by jaxtyping: the tests of single steps, losses and discriminators check the same calls."""

import jaxtyping
import pytest

RUNS = ("adapt", "checkpoint", "processes", "run", "stability", "train_command", "widen")


@pytest.fixture(scope="module", autouse=True)
def _unchecked_runs(request):
    """Checks cost a run of hundreds of steps an eighth of its time."""
    jaxtyping.config.update("jaxtyping_disable", request.path.stem.removeprefix("test_") in RUNS)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
