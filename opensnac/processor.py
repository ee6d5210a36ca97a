"""Which compiled kernels this CPU runs, without PyTorch."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from opensnac.errors import ConfigError

FOLDER = Path(__file__).parent / "kernels"
LEVELS = {"x86_64": ("avx512bf16", "avx512", "avx2"), "aarch64": ("neon",)}.get(platform.machine(), ())  # best first
VARIABLE = "OPENSNAC_KERNELS"


@functools.cache
def best_level() -> str | None:
    """The level that `OPENSNAC_KERNELS` selects, else the best one built and supported here, or None."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "0":
        return None
    if wanted and wanted not in LEVELS:
        raise ConfigError(f"{VARIABLE}: expected {_one_of(LEVELS)} or 0, got {wanted!r}")
    found = [level for level in LEVELS if is_built(level) and runs(level)]
    if wanted and wanted not in found:
        reason = "this CPU does not support" if is_built(wanted) else "this installation does not have"
        raise ConfigError(f"{VARIABLE}: expected {_one_of(found)} or 0, got {wanted!r}, which {reason}")
    return wanted or next(iter(found), None)


def why_none() -> str | None:
    """Why there are no kernels; None where there are some, or they are switched off."""
    if best_level() is not None or os.environ.get(VARIABLE) == "0":
        return None
    if not LEVELS:
        return f"opensnac has no kernels for {platform.system()} on {platform.machine()}"
    if not any(map(is_built, LEVELS)):
        return "opensnac was installed without its compiled kernels (from source, without a C compiler?)"
    return f"this CPU supports none of {', '.join(LEVELS)}"


def backend() -> str:
    """A short description of the default backend, for people."""
    if find_spec("torch") is None:
        return "ONNX Runtime"
    level = best_level()
    return f"C kernels, {level}" if level else f"PyTorch ({why_none() or 'kernels switched off'})"


def file_of(name: str) -> Path:
    """The library of a level, or of the probe."""
    return FOLDER / f"_{name}.so"


def is_built(level: str) -> bool:
    """Whether this installation has a level's kernels."""
    return file_of(level).exists()


def runs(level: str) -> bool:
    """Whether this CPU and its system support a level."""
    return bool(getattr(ctypes.CDLL(str(file_of("probe"))), level)())


def _one_of(levels: Sequence[str]) -> str:
    return ", ".join(levels) or "nothing"
