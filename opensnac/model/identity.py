"""Fingerprint of a model's weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from opensnac import identity


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """identity.fingerprint of tensors."""
    arrays = {name: value.detach().to("cpu", torch.float32).numpy() for name, value in state.items()}
    return identity.fingerprint(arrays)
