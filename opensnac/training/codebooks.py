"""Codebook maintenance: initialisation from data, EMA updates, and revival of unused codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from opensnac.model.quantizer import ResidualVectorQuantizer, VectorQuantizer

POOL_FACTOR = 4  # recent vectors kept per code, to draw new entries from
KMEANS_ROUNDS = 10
CONSTANT_CHANNEL = 2.0  # constant channel that makes angles reflect distances, in RMS lengths of the others


@torch.no_grad()
def initialise_from_data(quantizer: ResidualVectorQuantizer, latent: Tensor, generator: torch.Generator) -> None:
    """Initialise each scale from encoder output (clips, latent_dim, frames), coarse to fine.

    The projection takes the principal axes of the coarser scales' residual, plus one constant channel: with it the
    angle between two vectors reflects their distance, so nearest in angle is nearly nearest in space. Entries are
    k-means centres.
    """
    residual = latent.transpose(1, 2)
    for scale in quantizer.scales:
        _fit_projections(scale, residual, generator)
        vectors = scale.project(residual).flatten(0, 1)
        scale.codebook.weight.copy_(_kmeans(vectors, len(scale.codebook.weight), generator))
        codes = scale.nearest(scale.project(residual))
        residual = residual - scale.expand(scale.codebook(codes))


def _fit_projections(scale: VectorQuantizer, residual: Tensor, generator: torch.Generator) -> None:
    pooled = residual.unflatten(1, (-1, scale.stride)).mean(2).flatten(0, 1)
    mean, dim = pooled.mean(0), scale.codebook.weight.shape[1]
    _, singular, axes = torch.linalg.svd(pooled - mean, full_matrices=False)
    axes = axes[: dim - 1]
    size = (singular[: dim - 1].square().sum() / len(pooled)).sqrt().clamp(min=1e-6)  # RMS length of the projection
    in_weight, in_bias = F.pad(axes / size, (0, 0, 0, 1)), torch.zeros(dim)
    in_bias[:-1], in_bias[-1] = -(axes / size) @ mean, CONSTANT_CHANNEL
    scale.in_proj.assign(_with_trace(in_weight, generator)[:, :, None])
    scale.in_proj.bias.copy_(in_bias)
    scale.out_proj.assign(_with_trace(F.pad(axes.T * size, (0, 1)), generator)[:, :, None])
    scale.out_proj.bias.copy_(mean)


def _with_trace(weight: Tensor, generator: torch.Generator) -> Tensor:
    """The weight plus a little noise: weight norm would divide by the length of a zero row."""
    noise = torch.randn(weight.shape, generator=generator).to(weight)
    return weight + 1e-4 * (weight.square().mean().sqrt() + 1e-6) * noise


def _kmeans(vectors: Tensor, entries: int, generator: torch.Generator) -> Tensor:
    centres = vectors[_draw(entries, vectors, generator)].clone()
    for _ in range(KMEANS_ROUNDS):
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in vectors.split(16384)])
        counts = torch.bincount(nearest, minlength=entries)
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        used = counts > 0
        centres[used] = sums[used] / counts[used, None]
        empty = int((~used).sum())
        if empty:
            centres[~used] = vectors[_draw(empty, vectors, generator)]
    return centres


def _draw(count: int, vectors: Tensor, generator: torch.Generator) -> Tensor:
    """Indices of `count` random vectors, none twice unless they are fewer: of equal entries only one would be used."""
    order = torch.randperm(len(vectors), generator=generator)
    return order.repeat(-(-count // len(order)))[:count].to(vectors.device)


@torch.no_grad()
def ema_update(
    quantizer: ResidualVectorQuantizer, codes: Sequence[Tensor], z_e: Sequence[Tensor], share: float
) -> None:
    """EMA update: move every entry used in this step `share` of the way to the mean of its vectors.

    An entry that is used once in a hundred steps, as coarse ones are with small batches, falls behind the encoder with
    gradient steps on the codebook loss; with this it does not.
    """
    for scale, code, vectors in zip(quantizer.scales, codes, z_e, strict=True):
        weight, flat = scale.codebook.weight, code.flatten()
        counts = _count_codes(flat, len(weight))[:, None]
        sums = torch.zeros_like(weight).index_add_(0, flat, vectors.flatten(0, 1).to(weight))
        means = sums / counts.clamp(min=1)
        weight += torch.where(counts > 0, share * (means - weight), 0)


def _count_codes(flat: Tensor, size: int) -> Tensor:
    """How often each code occurs, without a GPU synchronisation."""
    return torch.zeros(size, device=flat.device).index_add_(0, flat, torch.ones(len(flat), device=flat.device))


class CodebookHealth:
    """Usage of each scale's codes, and recent vectors to revive unused ones with."""

    def __init__(self, quantizer: ResidualVectorQuantizer, patience: int) -> None:
        self.patience = patience
        weights = [scale.codebook.weight for scale in quantizer.scales]
        # Vectors since a code's last use; decaying counts, with a half-life of four vectors per code.
        self.since_use = [torch.zeros(len(w), dtype=torch.int64, device=w.device) for w in weights]
        self.counts = [torch.zeros(len(w), device=w.device) for w in weights]
        self.pools = [torch.empty(0, w.shape[1], device=w.device) for w in weights]
        self.revived: list[int] = []  # codes of each scale, at the last call of `revive`

    @torch.no_grad()
    def observe(self, codes: Sequence[Tensor], z_e: Sequence[Tensor]) -> None:
        """Record one step's codes and their vectors."""
        for i, (code, vectors) in enumerate(zip(codes, z_e, strict=True)):
            flat, size = code.flatten(), len(self.counts[i])
            self.since_use[i] += len(flat)
            self.since_use[i][flat] = 0
            self.counts[i] *= 0.5 ** (len(flat) / (size * POOL_FACTOR))
            self.counts[i] += _count_codes(flat, size)
            self.pools[i] = torch.cat([self.pools[i], vectors.flatten(0, 1).float()])[-size * POOL_FACTOR :]

    @torch.no_grad()
    def revive(self, quantizers: Sequence[ResidualVectorQuantizer], generator: torch.Generator) -> None:
        """Replace dead codes by recent vectors, the same in all of `quantizers`."""
        self.revived = []
        for i, since in enumerate(self.since_use):
            dead = torch.nonzero(since > self.patience * len(since)).flatten()
            if len(dead) and len(self.pools[i]):
                recent = self.pools[i][_draw(len(dead), self.pools[i], generator)]
                for quantizer in quantizers:
                    quantizer.scales[i].codebook.weight[dead] = recent
                since[dead] = 0
            self.revived.append(len(dead))

    def usage(self) -> list[tuple[float, float]]:
        """For each scale the share of codes used recently, and the perplexity of their use."""
        report = []
        for counts in self.counts:
            p = counts / counts.sum().clamp(min=1e-9)
            perplexity = float(torch.exp(-(p * torch.log(p.clamp(min=1e-12))).sum()))
            used = counts >= 0.5 ** (self.patience / POOL_FACTOR)  # a single use decayed over the patience
            report.append((float(used.float().mean()), perplexity))
        return report

    def state_dict(self) -> dict[str, list[Any]]:
        """The full state, for a checkpoint."""
        return {"since_use": self.since_use, "counts": self.counts, "pools": self.pools, "revived": self.revived}

    def load_state_dict(self, state: dict[str, list[Any]]) -> None:
        """Restore from a checkpoint."""
        self.revived = state.get("revived", [])
        for name in ("since_use", "counts", "pools"):
            mine: list[Tensor] = getattr(self, name)
            mine[:] = [value.to(old.device) for value, old in zip(state[name], mine, strict=True)]
