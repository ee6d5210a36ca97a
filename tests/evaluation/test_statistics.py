"""Means and paired differences with bootstrap intervals."""

import numpy as np
import pytest

from opensnac.evaluation.statistics import bootstrap_interval, mean_with_interval, paired_difference


def test_the_bootstrap_interval_holds_the_mean_and_narrows_with_more_clips():
    values = np.random.default_rng(0).normal(3, 1, 400)
    few, many = bootstrap_interval(values[:25]), bootstrap_interval(values)
    assert few[0] < values[:25].mean() < few[1]
    assert many[1] - many[0] == pytest.approx(2 * 1.96 / 20, rel=0.15)  # of a normal mean: ±1.96 s / √n
    assert few[1] - few[0] > 2 * (many[1] - many[0])
    assert bootstrap_interval([3.0]) is None


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        low, high = bootstrap_interval(generator.exponential(1, 40), seed)
        covered += low <= 1 <= high
    assert 0.88 <= covered / 200 <= 0.98


def test_without_values_there_is_no_mean():
    assert mean_with_interval([]) is None
    assert mean_with_interval([2.0]) == {"mean": 2.0, "low": None, "high": None, "count": 1}


def test_pairing_removes_the_variance_between_clips():
    generator = np.random.default_rng(0)
    baseline = {str(clip): value for clip, value in enumerate(generator.normal(0, 10, 50))}
    better = {clip: value + 1 + generator.normal(0, 0.1) for clip, value in baseline.items()}
    difference = paired_difference(better, baseline)
    assert difference["mean"] == pytest.approx(1, abs=0.05)
    assert difference["high"] - difference["low"] < 0.1
    means = mean_with_interval([*better.values()])
    assert means["high"] - means["low"] > 2


def test_only_clips_that_both_have_are_compared():
    assert paired_difference({"a": 3, "b": 9}, {"a": 1, "c": 5}) == {"mean": 2, "low": None, "high": None, "count": 1}
    assert paired_difference({"a": 3}, {"b": 1}) is None
