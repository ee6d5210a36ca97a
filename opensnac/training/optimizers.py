"""What turns gradients into steps: Muon for the generator's kernels that mix channels, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from opensnac.training.config import OptimizerConfig

SMALLEST_MATRIX = 16  # channels on both sides, from which a kernel counts as a matrix


class KernelMuon(torch.optim.Muon):
    """Muon (Jordan et al. 2024) over convolution kernels (dim 0, dim 1, taps), each as a matrix (dim 0, dim 1 x taps).

    A step changes a weight by 0.2 x `learning_rate` (root mean square), whatever the size of its gradient.
    """

    def __init__(self, kernels: Sequence[nn.Parameter], learning_rate: float) -> None:
        self.kernels = list(kernels)
        # The matrices share their kernels' memory, so that a step on one is a step on the other.
        matrices = [kernel.detach().flatten(1).requires_grad_() for kernel in self.kernels]
        super().__init__(matrices, learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        for kernel, matrix in zip(self.kernels, self.param_groups[0]["params"], strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        return super().step(closure)


def generator_optimizers(model: nn.Module, config: OptimizerConfig) -> dict[str, torch.optim.Optimizer]:
    """The optimisers of the generator's parameters that are not frozen, by the name of the rate that each follows."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    kernels = [p for name, p in named if config.matrix_learning_rate and _is_matrix(name, p)]
    taken = {id(kernel) for kernel in kernels}
    others = [p for _, p in named if id(p) not in taken]
    fused = bool(others) and others[0].device.type == "cuda"
    found: dict[str, torch.optim.Optimizer] = {
        "learning_rate": torch.optim.AdamW(others, config.learning_rate, config.betas, weight_decay=0.01, fused=fused)
    }
    if kernels:
        found["matrix_learning_rate"] = KernelMuon(kernels, config.matrix_learning_rate)
    return found


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is the direction part of a weight-normalised kernel that mixes channels."""
    return name.endswith("weight.original1") and min(parameter.shape[:2]) >= SMALLEST_MATRIX
