"""Each kernel gives what its lines of numpy in docs/kernels.md give."""

from __future__ import annotations

import inspect
import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from page import documented

from opensnac import kernels
from opensnac.errors import TensorError
from opensnac.model import operators
from opensnac.model.noise import noise_key, position_noise
from opensnac.model.residual import UnitWeights, residual

TIGHT = 3e-6  # of the largest value


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def double(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()


def assert_near(ours: torch.Tensor, truth: np.ndarray, tolerance: float = TIGHT) -> None:
    assert tuple(ours.shape) == truth.shape
    assert np.abs(double(ours) - truth).max(initial=0) <= tolerance * np.abs(truth).max(initial=1)


def test_the_pages_code_is_short() -> None:
    for name in ("snake", "depthwise", "linear", "single", "units", "nearest", "noise", "symmetric"):
        assert len(inspect.signature(getattr(documented, name)).parameters) > 1
    assert len(vars(documented)) == 11  # these, mix, np and the builtins


@pytest.mark.parametrize("dilation", [1, 3, 9])
@pytest.mark.parametrize(
    ("batch", "time", "channels"), [(2, 1500, 16), (1, 1, 32), (3, 20, 48), (0, 9, 16), (2, 0, 16)]
)
def test_snake_and_depthwise(batch: int, time: int, channels: int, dilation: int) -> None:
    x, alpha = 3 * torch.randn(batch, time, channels), 0.3 + 2 * torch.rand(channels)
    taps, bias = torch.randn(7, channels), torch.randn(channels)
    assert_near(operators.snake(x, alpha), documented.snake(double(x), double(alpha)))
    truth = documented.depthwise(double(x), double(taps), double(bias), dilation)
    assert_near(operators.depthwise(x, taps, bias, dilation), truth)


@pytest.mark.parametrize("columns", [1, 16, 32, 40, 96])
@pytest.mark.parametrize(("rows", "step", "depth"), [(1, 1, 7), (400, 1, 24), (33, 4, 40), (5, 1, 1100), (0, 1, 8)])
def test_linear(columns: int, rows: int, step: int, depth: int) -> None:
    channels = 5 if depth % 5 == 0 else 1
    x = torch.randn(2, max(0, rows - 1) * step + depth // channels, channels)
    matrix, bias = torch.randn(columns, depth), torch.randn(columns)
    scale, add = torch.randn(2, rows), torch.randn(2, rows, columns)
    packed, exact = kernels.packed(matrix), (double(x), double(matrix))
    assert_near(
        kernels.linear(x, packed, columns, rows=rows, step=step), documented.linear(*exact, rows=rows, step=step)
    )
    for factor in (scale, scale[:1]):
        ours = kernels.linear(x, packed, columns, bias, rows=rows, step=step, scale=factor, add=add)
        extras = (double(bias), double(factor)[..., None], double(add))
        assert_near(ours, documented.linear(*exact, *extras, rows, step))


@pytest.mark.parametrize(("count", "size", "depth"), [(2, 48, 100), (1, 16, 3), (3, 64, 64), (0, 32, 5), (1, 112, 700)])
def test_symmetric(count: int, size: int, depth: int) -> None:
    x = torch.randn(count, size, depth)
    square = kernels.symmetric(x, x)
    assert_near(square, documented.symmetric(double(x), double(x)))
    assert torch.equal(square, square.mT)
    assert_near(kernels.symmetric(square, square), documented.symmetric(double(square), double(square)))
    with pytest.raises(TensorError, match="a: expected a multiple of 16 rows, got 15"):
        kernels.symmetric(x[:, :15], x[:, :15])


@pytest.mark.parametrize("channels", [1, 5, 16, 64])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_single(batch: int, channels: int) -> None:
    x, weight, bias = torch.randn(batch, 403, channels), torch.randn(7 * channels), torch.randn(1)
    assert_near(kernels.single(x, weight, bias), documented.single(double(x), double(weight), double(bias)))
    assert kernels.single(x[:, :6], weight, bias).shape == (batch, 0, 1)


@pytest.mark.parametrize(("size", "dim"), [(1, 8), (16, 8), (100, 3), (4096, 8)])
def test_nearest(size: int, dim: int) -> None:
    vectors = torch.randint(-4, 5, (3, 50, dim)).float()  # whole numbers: products are exact, and many are equal
    entries = torch.randint(-4, 5, (size, dim)).float()
    index = kernels.nearest(vectors, kernels.packed_entries(entries), size)
    assert np.array_equal(index.numpy(), documented.nearest(double(vectors), double(entries)))
    assert kernels.nearest(vectors[:, :0], kernels.packed_entries(entries), size).shape == (3, 0)


@pytest.mark.parametrize(("seed", "start"), [(0, 0), (7, 2**32 - 500), (2**40 + 3, -100), (2**63 - 1, 10**12)])
def test_noise(seed: int, start: int) -> None:
    key, positions = noise_key(seed, 2), np.arange(start, start + 1003)
    ours = kernels.noise([key, key], [start, start + 3], 1000)
    assert_near(ours[0], documented.noise(key, positions[:1000]))
    assert torch.equal(ours[0, 3:], ours[1, :-3])
    assert_near(position_noise(seed, 2, torch.from_numpy(positions).clamp(min=0)), documented.noise(key, positions))


def test_noise_is_pinned() -> None:
    """The noise at (seed, layer, position) never changes, so that files always decode to the same audio."""
    for (seed, layer, position), value in PINNED.items():
        assert abs(float(kernels.noise([noise_key(seed, layer)], [position], 1)) - value) < 1e-5
        assert abs(float(position_noise(seed, layer, torch.tensor([position]))) - value) < 1e-5


PINNED = {
    (0, 0, 0): -1.979812,
    (1, 2, 4294967295): 0.852599,
    (7, 3, 1099511627781): -0.596591,
    (1099511627779, 1, 12345): -0.009560,
    (9223372036854775807, 0, 1000000000000): 0.667657,
}


@dataclass
class Plain:
    """A unit's weights as the page names them."""

    alpha: np.ndarray
    taps: np.ndarray
    taps_bias: np.ndarray
    beta: np.ndarray
    matrix: np.ndarray
    bias: np.ndarray
    dilation: int


def random_unit(channels: int, dilation: int) -> tuple[kernels.Unit, Plain]:
    alpha, beta = 0.3 + 2 * torch.rand(channels), 0.3 + 2 * torch.rand(channels)
    taps, taps_bias = torch.randn(7, channels) / 3, torch.randn(channels)
    matrix, bias = torch.randn(channels, channels) / channels**0.5, torch.randn(channels)
    unit = kernels.Unit(alpha, taps, taps_bias, beta, kernels.packed(matrix), bias, dilation)
    return unit, Plain(*map(double, (alpha, taps, taps_bias, beta, matrix, bias)), dilation)


@pytest.mark.parametrize("length", [None, 1300])
@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize(
    ("batch", "channels", "dilations"),
    [(2, 16, (1, 3, 9)), (1, 48, (1, 3, 9)), (1, 256, (1, 3)), (2, 32, (1, 3, 9) * 4)],
    ids=["narrow", "odd", "wide", "twelve units"],
)
def test_units(batch: int, channels: int, dilations: tuple[int, ...], noisy: bool, length: int | None) -> None:
    """A whole signal, with any number of threads, and in any chunks."""
    steps, row = 1400, [random_unit(channels, dilation) for dilation in dilations]
    x, e, alpha = torch.randn(batch, steps, channels), torch.randn(1, steps), 0.3 + 2 * torch.rand(channels)
    matrix = torch.randn(channels, channels) / channels
    noise = (double(matrix), double(e)) if noisy else (None, None)
    truth = documented.units(double(x), [plain for _, plain in row], *noise, double(alpha), length)
    units = kernels.UnitStack([unit for unit, _ in row], kernels.packed(matrix) if noisy else None, alpha)
    late, e = sum(units.keeps) // 2, e if noisy else None
    whole = in_pieces(units, x, e, length, [steps])[:, late:]
    known = min(length or steps, steps - late)  # the next layer zeroes samples beyond a clip's end
    assert_near(whole[:, :known], truth[:, :known], 1e-5)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        pieces = in_pieces(units, x, e, length, [1, 5, 0, 20, steps - 26])[:, late:]
        assert torch.equal(pieces[:, :known], whole[:, :known])


def in_pieces(units, x, e, length, sizes) -> torch.Tensor:
    outputs, start, late = [], 0, [0, *itertools.accumulate(keep // 2 for keep in units.keeps)]
    tails = [torch.zeros(len(x), keep, x.shape[2]) for keep in units.keeps]
    for size in sizes:
        here = None if e is None else e[:, start : start + size]
        starts = [[start - by] * len(x) for by in late[:-1]]
        y, tails = units(x[:, start : start + size], tails, starts, [length] * len(x), here, room=2)
        outputs.append(y[:, 2:])
        start += size
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize(("batch", "steps"), [(0, 50), (2, 0)])
def test_units_without_samples(batch: int, steps: int) -> None:
    units = kernels.UnitStack([random_unit(16, dilation)[0] for dilation in (1, 3, 9)])
    assert in_pieces(units, torch.zeros(batch, steps, 16), None, None, [steps]).shape == (batch, steps, 16)


@pytest.mark.parametrize(("batch", "time", "channels"), [(2, 700, 48), (0, 9, 16), (1, 1, 32)])
def test_a_trained_unit(batch: int, time: int, channels: int) -> None:
    unit, plain = random_unit(channels, 9)
    matrix = torch.from_numpy(plain.matrix).float()
    x = torch.randn(batch, time, channels)
    weights = UnitWeights(unit.alpha, unit.taps, unit.taps_bias, unit.beta, matrix, unit.bias)
    assert_near(residual(x, weights, 9), documented.units(double(x), [plain]))


def test_swapped_alphas_fail() -> None:
    """The two Snakes of a unit are told apart."""
    unit, plain = random_unit(32, 3)
    x = torch.randn(1, 200, 32)
    ours = in_pieces(kernels.UnitStack([unit]), x, None, None, [200])[:, 9:]
    plain.alpha, plain.beta = plain.beta, plain.alpha
    swapped = documented.units(double(x), [plain])
    assert np.abs(double(ours) - swapped[:, :191]).max() > 0.1
