"""What turns gradients into steps: Muon for the generator's kernels that mix channels, AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from opensnac.training.config import OptimizerConfig
from opensnac.training.processes import Processes

MOMENTUM = 0.95
ROUNDS, CONSTANT, LINEAR, QUADRATIC = 5, 3.4445, -4.7750, 2.0315  # of Newton and Schulz, as Jordan chose them
SMALLEST_MATRIX = 16  # channels on both sides, from which a kernel counts as a matrix


class KernelMuon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) over convolution kernels (dim 0, dim 1, taps), each as a matrix (dim 0, dim 1 x taps).

    A step changes a weight by 0.2 x `learning_rate` (root mean square), whatever the size of its gradient. torch.optim
    has a Muon too, which rounds to bfloat16; on a processor without such products that took nine tenths of a step.
    """

    def __init__(self, kernels: Sequence[nn.Parameter], learning_rate: float, processes: Processes) -> None:
        super().__init__(kernels, {"lr": learning_rate})
        self.processes = processes

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        for group in self.param_groups:
            kernels = [kernel for kernel in group["params"] if kernel.grad is not None]
            for kernel, direction in zip(kernels, self._directions(kernels), strict=True):
                size = 0.2 * math.sqrt(max(kernel.flatten(1).shape))
                kernel.add_(direction.view_as(kernel), alpha=-group["lr"] * size)

    def _directions(self, kernels: Sequence[nn.Parameter]) -> list[Tensor]:
        """Where each kernel goes: its gradient with momentum, made orthogonal by one of the processes for all."""
        ahead = []
        for kernel in kernels:
            gradient = cast(Tensor, kernel.grad)
            momentum = self.state[kernel].setdefault("momentum", torch.zeros_like(kernel))
            momentum.lerp_(gradient, 1 - MOMENTUM)
            ahead.append(gradient.lerp(momentum, MOMENTUM).flatten(1))
        largest_first = sorted(range(len(ahead)), key=lambda i: -ahead[i].numel() * min(ahead[i].shape))
        mine = set(largest_first[self.processes.rank :: self.processes.count])
        turned = [orthogonal(a) if i in mine else torch.zeros_like(a) for i, a in enumerate(ahead)]
        whole = self.processes.sum(torch.cat([direction.flatten() for direction in turned]))
        return list(whole.split([direction.numel() for direction in turned]))


def orthogonal(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """The matrix with all its singular values brought near 1 (0.7 to 1.2), by five rounds of Newton and Schulz.

    A round multiplies x by p(x x'), a polynomial of the product with its transpose. All of these commute, so the
    rounds are worked out on the small square matrix and the large one is multiplied once, at the end.
    """
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / x.norm().clamp(min=1e-7)
    square, total = x @ x.T, None
    for round_ in range(ROUNDS):
        factor = torch.addmm(square, square, square, beta=LINEAR, alpha=QUADRATIC)
        factor.diagonal().add_(CONSTANT)
        total = factor if total is None else factor @ total
        if round_ < ROUNDS - 1:
            square = factor @ square @ factor
    x = total @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def generator_optimizers(
    model: nn.Module, config: OptimizerConfig, processes: Processes
) -> dict[str, torch.optim.Optimizer]:
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
        found["matrix_learning_rate"] = KernelMuon(kernels, config.matrix_learning_rate, processes)
    return found


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is the direction part of a weight-normalised kernel that mixes channels."""
    return name.endswith("weight.original1") and min(parameter.shape[:2]) >= SMALLEST_MATRIX
