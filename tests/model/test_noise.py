"""The noise is standard normal, white, and a function of only seed, layer and absolute position."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from opensnac.model.noise import position_noise


def drawn(seed: int | torch.Tensor, layer: int, start: int, length: int) -> torch.Tensor:
    return position_noise(seed, layer, torch.arange(start, start + length))


@given(
    seed=st.integers(0, 2**63 - 1),
    layer=st.integers(0, 7),
    start=st.integers(0, 2**40),
    cut=st.integers(0, 50),
)
def test_noise_does_not_depend_on_chunks(seed: int, layer: int, start: int, cut: int) -> None:
    whole = drawn(seed, layer, start, 50)
    pieces = [drawn(seed, layer, start, cut), drawn(seed, layer, start + cut, 50 - cut)]
    assert torch.equal(whole, torch.cat(pieces))


def test_a_seed_per_clip_equals_single_clips() -> None:
    seeds = torch.tensor([0, 7, 2**40 + 3])
    together = drawn(seeds, 1, 5, 50)
    assert torch.equal(together, torch.stack([drawn(int(seed), 1, 5, 50) for seed in seeds]))


def test_distribution_is_standard_normal() -> None:
    noise = drawn(0, 0, 0, 200_000).double()
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.var()) - 1) < 0.01
    assert abs(float((noise**4).mean()) - 3) < 0.06
    for threshold in (-2.0, -0.5, 0.0, 1.0, 3.0):
        expected = 0.5 * (1 + math.erf(threshold / math.sqrt(2)))
        assert abs(float((noise < threshold).double().mean()) - expected) < 0.004


def test_white_and_independent_between_layers_and_seeds() -> None:
    noise = drawn(1, 2, 0, 100_000)
    others = [noise.roll(lag) for lag in (1, 2, 3, 64, 512)]
    others += [drawn(1, 3, 0, 100_000), drawn(2, 2, 0, 100_000)]
    others += [drawn(1, 2, 100_000, 100_000), drawn(1 + 2**32, 2, 0, 100_000)]
    for other in others:
        assert abs(float((noise * other).mean())) < 0.015


def test_values_never_change() -> None:
    """The noise never changes, so that files always decode to the same audio."""
    assert [round(float(v), 5) for v in drawn(0, 0, 0, 4)] == GOLDEN


GOLDEN = [-1.97981, -0.03635, 0.0342, -0.73767]
