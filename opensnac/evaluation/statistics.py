"""Means over clips with bootstrap confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BOOTSTRAP_ROUNDS = 2000


def mean_with_interval(values: Sequence[float], weights: Sequence[float] | None = None) -> dict[str, Any] | None:
    """mean; low, high: its 95 % bootstrap interval, None for one value; count. None for no values.

    `weights` are above 0: an error rate weighted by words is the rate over all words.
    """
    if not values:
        return None
    low, high = bootstrap_interval(values, weights=weights) or (None, None)
    return {"mean": float(np.average(values, weights=weights)), "low": low, "high": high, "count": len(values)}


def paired_difference(
    values: Mapping[str, float], baseline: Mapping[str, float], weights: Mapping[str, float] | None = None
) -> dict[str, Any] | None:
    """Mean of `values` minus `baseline` over the clips (keys) in both, as `mean_with_interval`; None if there are none.

    Clips differ more than codecs: pairing removes that, so the interval is narrower than those of the means.
    """
    both = [clip for clip in values if clip in baseline]
    differences = [values[clip] - baseline[clip] for clip in both]
    return mean_with_interval(differences, None if weights is None else [weights[clip] for clip in both])


def bootstrap_interval(
    values: Sequence[float], seed: int = 0, weights: Sequence[float] | None = None
) -> tuple[float, float] | None:
    """95 % percentile interval of the mean under resampling of clips; None for fewer than two values."""
    if len(values) < 2:
        return None
    drawn = np.random.default_rng(seed).integers(len(values), size=(BOOTSTRAP_ROUNDS, len(values)))
    share = np.ones(len(values)) if weights is None else np.asarray(weights)
    means = (np.asarray(values) * share)[drawn].sum(axis=1) / share[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
