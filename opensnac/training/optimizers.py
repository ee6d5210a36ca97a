"""Optimisers: Muon for the generator's dense kernels, AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from opensnac import kernels
from opensnac.training.config import OptimizerConfig
from opensnac.training.processes import Processes

MOMENTUM = 0.95
ROUNDS, CONSTANT, LINEAR, QUADRATIC = 5, 3.4445, -4.7750, 2.0315  # of Newton and Schulz, as Jordan chose them
SMALLEST_MATRIX = 16  # least number of channels on both sides for a kernel to count as a matrix


class KernelMuon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) over convolution kernels (dim 0, dim 1, taps), each as a matrix (dim 0, dim 1 x taps).

    A step changes a weight by 0.2 x `learning_rate` (RMS), whatever the size of its gradient. torch.optim's Muon rounds
    to bfloat16, which took nine tenths of a step on a CPU without bfloat16 products.
    """

    def __init__(self, weights: Sequence[nn.Parameter], learning_rate: float, processes: Processes) -> None:
        super().__init__(weights, {"lr": learning_rate})
        self.processes = processes

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        for group in self.param_groups:
            weights = [kernel for kernel in group["params"] if kernel.grad is not None]
            for kernel, direction in zip(weights, self._directions(weights), strict=True):
                size = 0.2 * math.sqrt(max(kernel.flatten(1).shape))
                kernel.add_(direction.view_as(kernel), alpha=-group["lr"] * size)

    def _directions(self, weights: Sequence[nn.Parameter]) -> list[Tensor]:
        """Each kernel's update direction: its gradient with momentum, orthogonalised by one process for all.

        Matrices of equal shape are batched.
        """
        gradients = [cast(Tensor, kernel.grad) for kernel in weights]
        momenta = [self.state[kernel].setdefault("momentum", torch.zeros_like(kernel)) for kernel in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = [each.flatten(1) for each in torch._foreach_lerp(gradients, momenta, MOMENTUM)]
        largest_first = sorted(range(len(ahead)), key=lambda i: -ahead[i].numel() * min(ahead[i].shape))
        by_shape: dict[torch.Size, list[int]] = {}
        for i in largest_first[self.processes.rank :: self.processes.count]:
            by_shape.setdefault(ahead[i].shape, []).append(i)
        turned = [torch.zeros_like(each) if self.processes.count > 1 else each for each in ahead]
        for members in by_shape.values():
            directions = orthogonal(torch.stack([ahead[i] for i in members]))
            for i, direction in zip(members, directions, strict=True):
                turned[i] = direction
        return self.processes.sums(turned)


def orthogonal(matrices: Float[Tensor, "count rows columns"]) -> Float[Tensor, "count rows columns"]:
    """Orthogonalise by five Newton-Schulz iterations, which bring all singular values near 1 (0.7 to 1.2).

    An iteration multiplies x by p(x x'), a polynomial of the product with its transpose. All of these commute, so the
    iterations run on the small square matrix and the large one is multiplied once, at the end.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT.contiguous()
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    square, total = _symmetric(x, x), None
    for round_ in range(ROUNDS):
        factor = _symmetric(square, square).mul_(QUADRATIC).add_(square, alpha=LINEAR)
        factor.diagonal(dim1=1, dim2=2).add_(CONSTANT)
        total = factor if total is None else _symmetric(factor, total)
        if round_ < ROUNDS - 1:
            square = _symmetric(_symmetric(factor, square), factor)
    x = total @ x
    return x if wide else x.mT


def _symmetric(a: Float[Tensor, "count size depth"], b: Float[Tensor, "count size depth"]) -> Tensor:
    """a @ b.mT, which is symmetric: b is a, or both are symmetric and commute."""
    if a.device.type == "cpu" and a.dtype == torch.float32 and a.shape[1] % kernels.WIDTH == 0 and kernels.level():
        return kernels.symmetric(a, b)
    return a @ b.mT


def generator_optimizers(
    model: nn.Module, config: OptimizerConfig, processes: Processes
) -> dict[str, torch.optim.Optimizer]:
    """The optimisers of the generator's trainable parameters, by the name of their learning rate."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if config.matrix_learning_rate and _is_matrix(name, p)]
    taken = {id(matrix) for matrix in matrices}
    others = [p for _, p in named if id(p) not in taken]
    found: dict[str, torch.optim.Optimizer] = {
        "learning_rate": torch.optim.AdamW(others, config.learning_rate, config.betas, weight_decay=0.01, fused=True)
    }
    if matrices:
        found["matrix_learning_rate"] = KernelMuon(matrices, config.matrix_learning_rate, processes)
    return found


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is the direction of a dense weight-normalised kernel."""
    return name.endswith("weight.original1") and min(parameter.shape[:2]) >= SMALLEST_MATRIX
