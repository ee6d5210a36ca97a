"""Fingerprint of a model's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def fingerprint(state: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256, 64 hexadecimal digits, over every array's name, shape and float32 values, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        values = np.ascontiguousarray(state[name], dtype=np.float32)
        digest.update(f"{name} {list(state[name].shape)}\n".encode())
        digest.update(values.ravel().data)
    return digest.hexdigest()
