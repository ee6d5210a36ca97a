"""Means over clips with the interval that other clips of their kind would leave them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BOOTSTRAP_ROUNDS = 2000


def mean_with_interval(values: Sequence[float]) -> dict[str, Any] | None:
    """mean; low, high: its 95 % bootstrap interval, None for one value; count. None for no values."""
    if not values:
        return None
    low, high = bootstrap_interval(values) or (None, None)
    return {"mean": float(np.mean(values)), "low": low, "high": high, "count": len(values)}


def paired_difference(values: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, Any] | None:
    """Mean of `values` minus `baseline` over the clips (keys) that both have, as `mean_with_interval`; None for none.

    Clips differ far more than codecs do: pairing takes that out, so the interval is narrower than those of the means.
    """
    return mean_with_interval([values[clip] - baseline[clip] for clip in values if clip in baseline])


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile interval of the mean when clips are drawn anew; None for fewer than two values."""
    if len(values) < 2:
        return None
    drawn = np.random.default_rng(seed).integers(len(values), size=(BOOTSTRAP_ROUNDS, len(values)))
    low, high = np.percentile(np.asarray(values)[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
