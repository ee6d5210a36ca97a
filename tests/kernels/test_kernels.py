"""The C kernels equal plain PyTorch, forward and backward, and their absence changes nothing but speed."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch.nn.utils import parametrize

from opensnac import kernels
from opensnac.model import operators
from opensnac.model.layers import Pointwise, ResidualUnit, Snake
from opensnac.model.noise import noise_from, position_noise


def run(function, inputs: tuple[torch.Tensor, ...], gradient: torch.Tensor) -> list[torch.Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    output = function(*leaves)
    output.backward(gradient.to(output.dtype))
    return [output.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("dilation", [1, 3, 9])
@pytest.mark.parametrize(("batch", "time", "channels"), [(2, 1500, 16), (1, 1, 32), (3, 20, 48), (1, 1024, 16)])
def test_kernels_equal_double_precision(batch: int, time: int, channels: int, dilation: int) -> None:
    assert kernels.level() is not None, "the tests need compiled kernels"
    torch.manual_seed(0)
    x, gradient = 3 * torch.randn(batch, time, channels), torch.randn(batch, time, channels)
    cases = {
        "snake": (operators.snake, (x, 0.5 + torch.rand(channels))),
        "depthwise": (
            lambda x, taps, bias: operators.depthwise(x, taps, bias, dilation),
            (x, torch.randn(7, channels), torch.randn(channels)),
        ),
    }
    for name, (function, inputs) in cases.items():
        exact = run(function, tuple(tensor.double() for tensor in inputs), gradient)  # doubles go through PyTorch
        for ours, truth in zip(run(function, inputs, gradient), exact, strict=True):
            error = float((ours - truth).abs().max() / truth.abs().max())
            assert error < 3e-6, f"{name}: {error}"


def test_snake_of_large_input_stays_exact() -> None:
    x = torch.linspace(-3000, 3000, 1600).reshape(1, -1, 16)
    alpha = torch.full((16,), 2.5)
    truth = operators.snake(x.double(), alpha.double())
    torch.testing.assert_close(operators.snake(x, alpha).double(), truth, atol=1e-3, rtol=0)


def test_the_form_in_pytorch_is_a_depthwise_convolution() -> None:
    x = torch.randn(1, 12, 3, dtype=torch.float64, requires_grad=True)
    taps = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    convolved = torch.nn.functional.conv1d(x.mT, taps.T[:, None], bias, padding=6, dilation=2, groups=3).mT
    torch.testing.assert_close(operators.depthwise(x, taps, bias, 2), convolved)
    assert torch.autograd.gradcheck(lambda *inputs: operators.depthwise(*inputs, 2), (x, taps, bias))
    assert torch.autograd.gradcheck(operators.snake, (x, bias.abs().detach() + 0.5))


def test_results_do_not_depend_on_threads() -> None:
    x, alpha, taps, bias = torch.randn(2, 5000, 16), torch.rand(16) + 0.5, torch.randn(7, 16), torch.randn(16)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            values = run(operators.snake, (x, alpha), torch.ones_like(x))
            values += run(lambda *inputs: operators.depthwise(*inputs, 3), (x, taps, bias), torch.ones_like(x))
            results.append(values)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_what_does_not_fit_goes_to_pytorch_which_says_so() -> None:
    """Never to C, which would read beyond the end."""
    x = torch.randn(1, 50, 16)
    with pytest.raises(RuntimeError, match="must match"):
        operators.snake(x, torch.ones(8))
    assert operators.snake(x, torch.ones(16, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("columns", [1, 16, 32, 40, 96])
@pytest.mark.parametrize(("rows", "step", "depth"), [(1, 1, 7), (400, 1, 24), (33, 4, 40), (5, 1, 1100)])
def test_products_on_overlapping_rows(columns: int, rows: int, step: int, depth: int) -> None:
    torch.manual_seed(0)
    channels = 5 if depth % 5 == 0 else 1
    x = torch.randn(2, (rows - 1) * step + depth // channels, channels)
    weight, bias = torch.randn(columns, depth), torch.randn(columns)
    scale, add = torch.randn(2, rows), torch.randn(2, rows, columns)
    windows = x.flatten(1).double().unfold(1, depth, step * channels)
    product = windows @ weight.double().T
    with torch.no_grad():
        arranged = kernels.packed(weight)
        plain = kernels.linear(x, arranged, columns, rows=rows, step=step)
        full = kernels.linear(x, arranged, columns, bias, rows=rows, step=step, scale=scale, add=add)
        shared = kernels.linear(x, arranged, columns, rows=rows, step=step, scale=scale[:1])
    tolerance = {"atol": 1e-6 * depth, "rtol": 1e-5}
    torch.testing.assert_close(plain.double(), product, **tolerance)
    torch.testing.assert_close(full.double(), (product + bias) * scale[..., None] + add, **tolerance)
    torch.testing.assert_close(shared.double(), product * scale[:1, :, None], **tolerance)


@pytest.mark.parametrize("channels", [1, 5, 16, 64])
def test_a_convolution_to_one_channel(channels: int) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 400, channels), torch.randn(7 * channels), torch.randn(1)
    ours = kernels.single(x, weight, bias)
    truth = x.flatten(1).double().unfold(1, 7 * channels, channels) @ weight.double() + bias
    torch.testing.assert_close(ours[..., 0].double(), truth, atol=1e-4, rtol=1e-5)
    assert torch.equal(kernels.single(x[:1, 5:40], weight, bias), ours[:1, 5:34])


@pytest.mark.parametrize(("seed", "start"), [(0, 0), (7, 2**32 - 500), (2**40 + 3, -100), (1, 10**12)])
def test_noise_is_the_same_in_c(seed: int, start: int) -> None:
    like = torch.zeros(1, 1003, 1)
    with torch.no_grad():
        ours = noise_from(seed, 2, start, like)
    truth = position_noise(seed, 2, torch.arange(start, start + 1003).clamp(min=0))
    torch.testing.assert_close(ours, truth, atol=5e-6, rtol=0)


@pytest.mark.parametrize("length", [None, 1300])
@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize(("batch", "channels"), [(2, 16), (1, 48), (1, 512)])
@pytest.mark.parametrize("threads", [1, 2])
def test_rows_of_units(threads: int, batch: int, channels: int, noisy: bool, length: int | None) -> None:
    """A whole signal and any pieces of it are what the layers make of it one by one, in double precision."""
    torch.manual_seed(0)
    steps, row = 1400, [ResidualUnit(channels, dilation, depthwise=True) for dilation in (1, 3, 9)]
    snake, matrix = Snake(channels), torch.randn(channels, channels) / 8
    x, e = torch.randn(batch, steps, channels), torch.randn(1, steps)
    truth = x.double() + noisy * e[..., None] * (x.double() @ matrix.double().T)
    if length is not None:
        truth[:, length:] = 0
    late = 0
    with torch.no_grad():
        for unit in row:
            late += unit.reach
            truth = copy.deepcopy(unit).double().forward(truth)
            truth[:, length if length is not None else steps :] = 0
        truth = operators.snake(truth, snake.vector().double())
        torch.set_num_threads(threads)
        whole = in_pieces(row, snake, x, (kernels.packed(matrix), e) if noisy else None, length, [steps])
        pieces = in_pieces(row, snake, x, (kernels.packed(matrix), e) if noisy else None, length, [1, 5, 20, 1374])
    known = min(length or steps, steps - late)  # what lies beyond a clip's end is for the next layer to silence
    torch.testing.assert_close(whole[:, late : late + known].double(), truth[:, :known], atol=2e-5, rtol=1e-5)
    assert torch.equal(pieces[:, late : late + known], whole[:, late : late + known])


def in_pieces(row, snake, x, noise, length, sizes) -> torch.Tensor:
    matrix, e = noise or (None, None)
    units = kernels.UnitRow([unit.unit() for unit in row], matrix, snake.vector())
    outputs, late, start = [], [0, *itertools.accumulate(unit.reach for unit in row)], 0
    tails = [torch.zeros(len(x), keep, x.shape[2]) for keep in units.keeps]
    for size in sizes:
        here = None if e is None else e[:, start : start + size]
        starts = [[start - by] * len(x) for by in late[:-1]]
        y, tails = units(x[:, start : start + size], tails, starts, [length] * len(x), here, room=2)
        outputs.append(y[:, 2:])
        start += size
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("size", [1, 16, 100])
def test_nearest_is_the_first_of_the_largest_products(size: int) -> None:
    torch.manual_seed(0)
    vectors, entries = torch.randn(3, 50, 8), torch.randn(size, 8)
    entries[size // 2] = entries[-1]
    index = kernels.nearest(vectors, kernels.packed_entries(entries), size)
    products = vectors.double() @ entries.double().T
    chosen = products.gather(-1, index[..., None])[..., 0]
    torch.testing.assert_close(chosen, products.amax(-1), atol=1e-5, rtol=1e-5)
    assert not (index == size - 1).any() or size == 1  # its equal stands before it


def test_the_same_bits_beside_any_neighbours() -> None:
    """One row's result does not depend on the rows that are computed with it: chunks and batches stay exact."""
    torch.manual_seed(0)
    x, weight = torch.randn(1, 700, 96), kernels.packed(torch.randn(80, 96))
    whole = kernels.linear(x, weight, 80)
    scale, add = torch.randn(1, 700), torch.randn(1, 700, 80)
    noisy = kernels.linear(x, weight, 80, scale=scale, add=add)
    for start, stop in ((0, 1), (0, 14), (5, 18), (13, 700)):
        assert torch.equal(kernels.linear(x[:, start:stop], weight, 80), whole[:, start:stop])
        here = {"scale": scale[:, start:stop], "add": add[:, start:stop]}
        assert torch.equal(kernels.linear(x[:, start:stop], weight, 80, **here), noisy[:, start:stop])


def test_changed_weights_are_noticed() -> None:
    """What is arranged for the kernels follows its weights: steps of an optimiser, averages, loading, moving."""
    torch.manual_seed(0)
    layer, x = Pointwise(16, 16), torch.randn(1, 5, 16)

    def change_by_step() -> None:
        layer(x).sum().backward()
        torch.optim.AdamW(layer.parameters(), 0.1).step()

    def change_by_average() -> None:
        torch._foreach_lerp_(list(layer.parameters()), list(Pointwise(16, 16).parameters()), 0.5)

    def fold() -> None:
        parametrize.remove_parametrizations(layer, "weight")

    changes = [
        change_by_step,
        change_by_average,
        lambda: layer.load_state_dict(Pointwise(16, 16).state_dict()),
        fold,
        lambda: layer.half().float(),
    ]
    for change in changes:
        with torch.no_grad():
            layer(x)
        with torch.enable_grad() if change is change_by_step else torch.no_grad():
            change()
        with torch.no_grad():
            ours = layer(x)
        torch.testing.assert_close(ours, layer(x).detach(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours, x @ layer.weight[:, :, 0].T + layer.bias, atol=1e-5, rtol=1e-5)
