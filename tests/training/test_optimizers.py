"""Muon for kernels that mix channels, AdamW for the rest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from opensnac import SNAC
from opensnac.training.config import OptimizerConfig
from opensnac.training.optimizers import KernelMuon, generator_optimizers, orthogonal
from opensnac.training.processes import Processes

SMALL = {"sampling_rate": 8000, "encoder_dim": 8, "encoder_rates": [2, 3], "decoder_dim": 32, "decoder_rates": [3, 2]}
SMALL |= {"attn_window_size": None, "codebook_size": 16, "codebook_dim": 4, "vq_strides": [2, 1]}


def test_every_parameter_has_one_optimizer() -> None:
    model = SNAC(**SMALL)
    found = generator_optimizers(model, OptimizerConfig(matrix_learning_rate=1e-3), Processes("cpu"))
    assert list(found) == ["learning_rate", "matrix_learning_rate"]
    muon = found["matrix_learning_rate"]
    assert isinstance(muon, KernelMuon)
    kernels = muon.param_groups[0]["params"]
    adam = [p for group in found["learning_rate"].param_groups for p in group["params"]]
    assert {id(p) for p in adam} | {id(p) for p in kernels} == {id(p) for p in model.parameters()}
    assert len(adam) + len(kernels) == len(list(model.parameters()))
    assert all(p.ndim == 3 and min(p.shape[:2]) >= 16 for p in kernels)
    assert not {id(scale.codebook.weight) for scale in model.quantizer.scales} & {id(p) for p in kernels}


def test_without_its_rate_there_is_no_muon() -> None:
    assert list(generator_optimizers(SNAC(**SMALL), OptimizerConfig(), Processes("cpu"))) == ["learning_rate"]


def test_a_step_is_orthogonal_in_the_kernel() -> None:
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(16, 24, 3))
    before = kernel.detach().clone()
    optimizer = KernelMuon([kernel], 0.01, Processes("cpu"))
    (kernel * torch.randn(16, 24, 3)).sum().backward()
    optimizer.step()
    change = (kernel.detach() - before).flatten(1)
    assert 0.8 < float(change.square().mean().sqrt()) / (0.2 * 0.01) < 1.2
    singular = torch.linalg.svdvals(change)
    assert float(singular.max() / singular.min()) < 2  # all directions alike, up to the five rounds' error


@pytest.mark.parametrize("shape", [(16, 16), (24, 200), (200, 24)])
def test_five_rounds_are_those_of_muon(shape: tuple[int, int]) -> None:
    """Against the plain form, which multiplies the whole matrix in each iteration."""
    x = matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x = x / x.norm()
    if shape[0] > shape[1]:
        x = x.T
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    torch.testing.assert_close(orthogonal(matrix[None])[0], x if shape[0] <= shape[1] else x.T, rtol=1e-3, atol=1e-4)


def test_zero_stays_zero() -> None:
    assert torch.equal(orthogonal(torch.zeros(1, 16, 20)), torch.zeros(1, 16, 20))


def test_matrices_of_one_shape_are_independent() -> None:
    matrices = torch.randn(3, 32, 80)
    for matrix, turned in zip(matrices, orthogonal(matrices), strict=True):
        torch.testing.assert_close(orthogonal(matrix[None])[0], turned)


def test_a_step_is_that_of_torch() -> None:
    """torch.optim's Muon, in the precision of its bfloat16, over three steps with momentum."""
    torch.manual_seed(0)
    kernel, matrix = nn.Parameter(torch.randn(16, 24, 3)), nn.Parameter(torch.empty(16, 72))
    matrix.data = kernel.detach().flatten(1).clone()
    ours = KernelMuon([kernel], 0.01, Processes("cpu"))
    theirs = torch.optim.Muon([matrix], 0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    before = kernel.detach().flatten(1).clone()
    for _ in range(3):
        kernel.grad = torch.randn(16, 24, 3)
        matrix.grad = kernel.grad.flatten(1).clone()
        ours.step()
        theirs.step()
    steps, wanted = kernel.detach().flatten(1) - before, matrix.detach() - before
    assert float((steps - wanted).norm() / wanted.norm()) < 0.02
