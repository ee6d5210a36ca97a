"""Snake and depthwise convolution as operators of torch.library: gradients, graphs, and what goes to PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from opensnac.errors import TensorError
from opensnac.model import operators
from opensnac.model.blocks import neighbours
from opensnac.model.residual import UnitWeights, residual


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def run(function: Callable, inputs: tuple[torch.Tensor, ...], gradient: torch.Tensor) -> list[torch.Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    output = function(*leaves)
    output.backward(gradient.to(output.dtype))
    return [output.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("dilation", [1, 3, 9])
@pytest.mark.parametrize(("batch", "time", "channels"), [(2, 1500, 16), (1, 1, 32), (3, 20, 48), (1, 1024, 16)])
def test_gradients_equal_double_precision(batch: int, time: int, channels: int, dilation: int) -> None:
    x, gradient = 3 * torch.randn(batch, time, channels), torch.randn(batch, time, channels)
    cases = {
        "snake": (operators.snake, (x, 0.5 + torch.rand(channels))),
        "depthwise": (
            lambda x, taps, bias: operators.depthwise(x, taps, bias, dilation),
            (x, torch.randn(7, channels), torch.randn(channels)),
        ),
        "residual": (lambda x, *unit: residual(x, UnitWeights(*unit), dilation), (x, *random_unit(channels))),
    }
    for name, (function, inputs) in cases.items():
        exact = run(function, tuple(tensor.double() for tensor in inputs), gradient)  # doubles go through PyTorch
        for ours, truth in zip(run(function, inputs, gradient), exact, strict=True):
            error = float((ours - truth).abs().max() / truth.abs().max())
            assert error < 3e-6, f"{name}: {error}"


def random_unit(channels: int) -> UnitWeights:
    vectors = torch.randn(4, channels)
    alpha, beta = vectors[2:].abs() + 0.3
    matrix = torch.randn(channels, channels) / channels**0.5
    return UnitWeights(alpha, torch.randn(7, channels) / 3, vectors[0], beta, matrix, vectors[1])


@pytest.mark.parametrize("channels", [256, 16])
def test_a_long_residual_unit_equals_double_precision(channels: int) -> None:
    """Over several jobs of several tiles, and the seams between them."""
    inputs = (torch.randn(1, 4500, channels), *random_unit(channels))
    gradient = torch.randn(inputs[0].shape)

    def unit(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        return residual(x, UnitWeights(*weights), 9)

    exact = run(unit, tuple(tensor.double() for tensor in inputs), gradient)
    for ours, truth in zip(run(unit, inputs, gradient), exact, strict=True):
        assert float((ours - truth).abs().max() / truth.abs().max()) < 3e-6


def test_gradients_at_alpha_zero() -> None:
    x = torch.randn(1, 5, 16)
    _, dx, dalpha = run(operators.snake, (x, torch.zeros(16)), torch.ones_like(x))
    assert torch.equal(dx, torch.ones_like(x))
    assert torch.isfinite(dalpha).all()


@pytest.mark.parametrize(("batch", "blocks", "values", "columns"), [(3, 9, 40, 24), (1, 2, 7, 16), (2, 300, 64, 128)])
def test_gradients_of_neighbours(batch: int, blocks: int, values: int, columns: int) -> None:
    inputs = torch.randn(batch, blocks, values), *torch.randn(2, columns, values), torch.randn(columns)
    gradient = torch.randn(batch, blocks - 1, columns)
    exact = run(neighbours, tuple(tensor.double() for tensor in inputs), gradient)
    for ours, truth in zip(run(neighbours, inputs, gradient), exact, strict=True):
        assert float((ours - truth).abs().max() / truth.abs().max()) < 3e-6


class OfWeights(TorchDispatchMode):
    """Notes whether each backward operator was asked for the gradients of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.opensnac.residual_backward.default, torch.ops.opensnac.neighbours_backward.default):
            self.asked.append(args[-1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("form", ["residual", "neighbours"])
def test_the_input_gets_the_same_gradient_where_weights_need_none(form: str) -> None:
    x = torch.randn(2, 4500, 48, requires_grad=True)
    weights = random_unit(48) if form == "residual" else (*torch.randn(2, 48, 48), torch.randn(48))
    trained = [weight.clone().requires_grad_() for weight in weights]
    operator, dilation = getattr(torch.ops.opensnac, form), (3,) if form == "residual" else ()
    outputs = [operator(x, *given, *dilation) for given in (weights, trained)]
    with OfWeights() as mode:
        of_x, of_all = (torch.autograd.grad(y.square().sum(), x)[0] for y in outputs)
    assert torch.equal(of_x, of_all)
    assert mode.asked == [False, True]


def test_snake_of_large_input_stays_exact() -> None:
    x, alpha = torch.linspace(-3000, 3000, 1600).reshape(1, -1, 16), torch.full((16,), 2.5)
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


def test_opcheck() -> None:
    x, alpha, taps, bias = torch.randn(2, 300, 48), torch.rand(48) + 0.5, torch.randn(7, 48), torch.randn(48)

    def leaves(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(tensor.clone().requires_grad_() for tensor in tensors)

    ops, shapes = torch.ops.opensnac, ("test_schema", "test_faketensor")
    everything = (*shapes, "test_autograd_registration", "test_aot_dispatch_dynamic")
    for odd, utils in (
        (x, everything),
        (x[:0], shapes),
        (x[:, :0], shapes),
        (x.mT.contiguous().mT, everything),
    ):
        torch.library.opcheck(ops.snake.default, leaves(odd, alpha), test_utils=utils)
        torch.library.opcheck(ops.depthwise.default, (*leaves(odd, taps, bias), 3), test_utils=utils)
        torch.library.opcheck(ops.residual.default, (*leaves(odd, *random_unit(48)), 3), test_utils=utils)
    torch.library.opcheck(ops.depthwise.default, (*leaves(x, taps), None, 3))
    for of_weights in (False, True):
        torch.library.opcheck(ops.residual_backward.default, (x, x, *random_unit(48)[:5], 3, of_weights))
    matrices = torch.randn(2, 20, 48)
    torch.library.opcheck(ops.neighbours.default, leaves(x, *matrices, torch.randn(20)))
    for of_weights in (False, True):
        inputs = (torch.randn(2, 299, 20), x, *matrices, of_weights)
        torch.library.opcheck(ops.neighbours_backward.default, inputs)
    torch.library.opcheck(ops.snake_backward.default, (x, x, alpha))
    torch.library.opcheck(ops.depthwise_backward.default, (x, x, taps, 3))


def test_double_backward_is_refused() -> None:
    x, alpha = torch.randn(1, 9, 16, requires_grad=True), torch.rand(16)
    with pytest.raises(TensorError, match="expected create_graph=False, got True"):
        torch.autograd.grad(operators.snake(x, alpha).sum(), x, create_graph=True)


def test_results_do_not_depend_on_threads() -> None:
    x, alpha, taps, bias = torch.randn(2, 5000, 16), torch.rand(16) + 0.5, torch.randn(7, 16), torch.randn(16)
    results, unit = [], random_unit(16)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        values = run(operators.snake, (x, alpha), torch.ones_like(x))
        values += run(lambda *inputs: operators.depthwise(*inputs, 3), (x, taps, bias), torch.ones_like(x))
        values += run(lambda x, *weights: residual(x, UnitWeights(*weights), 3), (x, *unit), torch.ones_like(x))
        results.append(values)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_mismatched_arguments_go_to_pytorch() -> None:
    """Never to C, which would read beyond the end."""
    x = torch.randn(1, 50, 16)
    with pytest.raises(RuntimeError, match="must match"):
        operators.snake(x, torch.ones(8))
    assert operators.snake(x, torch.ones(16, dtype=torch.float64)).dtype == torch.float64
    assert operators.snake(x[..., :5], torch.ones(5)).shape == (1, 50, 5)


def test_the_operators_refuse_other_input() -> None:
    x, alpha, taps, unit = torch.randn(1, 50, 16), torch.ones(16), torch.ones(7, 16), random_unit(16)
    ops = torch.ops.opensnac
    refused = {
        r"x: expected float32 \(any, any, any\) on cpu, got float64 \(1, 50, 16\) on cpu": lambda: ops.snake(
            x.double(), alpha
        ),
        r"alpha: expected float32 \(16\) on cpu, got float32 \(8\) on cpu": lambda: ops.snake(x, alpha[:8]),
        r"x: expected a multiple of 16 channels, got 15": lambda: ops.snake(x[..., :15], alpha[:15]),
        r"taps: expected float32 \(7, 16\) on cpu": lambda: ops.depthwise(x, taps[:5], None, 1),
        r"dilation: expected at least 1, got 0": lambda: ops.depthwise(x, taps, None, 0),
        r"dy: expected float32 \(1, 50, 16\)": lambda: ops.snake_backward(x[:, :9], x, alpha),
        r"matrix: expected float32 \(16, 16\)": lambda: ops.residual(x, *unit[:4], unit.matrix[:8], unit.bias, 1),
        r"dilation: expected at least 1, got -1": lambda: ops.residual(x, *unit, -1),
        r"matrix: expected float32 \(8, 16\)": lambda: ops.neighbours(x, taps.new_ones(8, 16), taps, alpha[:8]),
    }
    for message, attempt in refused.items():
        with pytest.raises(TensorError, match=message):
            attempt()


def test_export_leaves_plain_operators() -> None:
    class Layer(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return operators.depthwise(operators.snake(x, alpha), taps, bias, 3)

    alpha, taps, bias = torch.rand(16) + 0.5, torch.randn(7, 16), torch.randn(16)
    x = torch.randn(1, 50, 16)
    exported = torch.export.export(Layer(), (x,))
    assert not any("opensnac" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(x), Layer()(x), atol=1e-5, rtol=1e-5)
