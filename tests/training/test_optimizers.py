"""Muon on the kernels that mix channels, AdamW on the rest."""

from __future__ import annotations

import torch
from torch import nn

from opensnac import SNAC
from opensnac.training.config import OptimizerConfig
from opensnac.training.optimizers import KernelMuon, generator_optimizers

SMALL = {"sampling_rate": 8000, "encoder_dim": 8, "encoder_rates": [2, 3], "decoder_dim": 32, "decoder_rates": [3, 2]}
SMALL |= {"attn_window_size": None, "codebook_size": 16, "codebook_dim": 4, "vq_strides": [2, 1]}


def test_every_parameter_has_one_optimizer() -> None:
    model = SNAC(**SMALL)
    found = generator_optimizers(model, OptimizerConfig(matrix_learning_rate=1e-3))
    assert list(found) == ["learning_rate", "matrix_learning_rate"]
    muon = found["matrix_learning_rate"]
    assert isinstance(muon, KernelMuon)
    adam = [p for group in found["learning_rate"].param_groups for p in group["params"]]
    assert {id(p) for p in adam} | {id(p) for p in muon.kernels} == {id(p) for p in model.parameters()}
    assert len(adam) + len(muon.kernels) == len(list(model.parameters()))
    assert all(p.ndim == 3 and min(p.shape[:2]) >= 16 for p in muon.kernels)
    assert not {id(scale.codebook.weight) for scale in model.quantizer.scales} & {id(p) for p in muon.kernels}


def test_without_its_rate_there_is_no_muon() -> None:
    assert list(generator_optimizers(SNAC(**SMALL), OptimizerConfig())) == ["learning_rate"]


def test_a_step_turns_the_kernel_itself_by_an_orthogonal_matrix() -> None:
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(16, 24, 3))
    before = kernel.detach().clone()
    optimizer = KernelMuon([kernel], 0.01)
    (kernel * torch.randn(16, 24, 3)).sum().backward()
    optimizer.step()
    change = (kernel.detach() - before).flatten(1)
    assert 0.8 < float(change.square().mean().sqrt()) / (0.2 * 0.01) < 1.2
    singular = torch.linalg.svdvals(change)
    assert float(singular.max() / singular.min()) < 2  # all directions alike, up to the five rounds' error
