"""Latent frames to codes and back: a residual vector quantiser whose scales tick at their own strides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from opensnac import kernels
from opensnac.config import CodecConfig
from opensnac.model.layers import Kept, Pointwise, Signal, infers, kept

Codes = Int[Tensor, "batch _codes"]
Vectors = Float[Tensor, "batch _codes dim"]


@dataclass
class Quantized:
    """What quantising a latent gives: the vectors' sum, the codes, and what training needs, one entry per scale."""

    latent: Signal
    codes: list[Codes]
    projected: list[Vectors]
    chosen: list[Vectors]


class VectorQuantizer(nn.Module):
    """One scale: pool by `stride`, project, take the codebook entry nearest in angle, project back, repeat."""

    def __init__(self, latent_dim: int, codebook_size: int, codebook_dim: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.in_proj = Pointwise(latent_dim, codebook_dim)
        self.out_proj = Pointwise(codebook_dim, latent_dim)
        self.codebook = nn.Embedding(codebook_size, codebook_dim)
        self._kept: dict[str, Kept] = {}

    def project(self, latent: Signal) -> Vectors:
        """Mean over each `stride` frames, in the codebook's space."""
        pooled = latent.unflatten(1, (-1, self.stride)).mean(2) if self.stride > 1 else latent
        return self.in_proj(pooled)

    def nearest(self, projected: Vectors) -> Codes:
        """Codes of the entries at the smallest angle: the largest product of unit vectors."""
        if infers(projected):
            packed = kept(self.codebook, self._kept, "entries", lambda: kernels.packed_entries(self._directions()))
            return kernels.nearest(F.normalize(projected, dim=-1), packed, self.codebook.num_embeddings)
        directions = self._directions()
        return (F.normalize(projected.float(), dim=-1) @ directions.T).argmax(-1)

    def _directions(self) -> Tensor:
        return F.normalize(self.codebook.weight.float(), dim=-1)

    def expand(self, vectors: Vectors) -> Signal:
        """Codebook vectors to latent frames, each repeated `stride` times."""
        latent = self.out_proj(vectors)
        return latent[:, :, None].expand(-1, -1, self.stride, -1).flatten(1, 2) if self.stride > 1 else latent


class ResidualVectorQuantizer(nn.Module):
    """Each scale codes what the coarser ones before it left over."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        latent_dim = config.encoder_dim * 2 ** len(config.encoder_rates)
        self.quantizers = nn.ModuleList(
            VectorQuantizer(latent_dim, config.codebook_size, config.codebook_dim, stride)
            for stride in config.vq_strides
        )

    @property
    def scales(self) -> list[VectorQuantizer]:
        """The quantisers, coarse to fine."""
        return [scale for scale in self.quantizers if isinstance(scale, VectorQuantizer)]

    def forward(self, latent: Signal) -> Quantized:
        """Quantise; gradients pass straight through the choice of entries."""
        total, residual = torch.zeros_like(latent), latent
        result = Quantized(total, [], [], [])
        for scale in self.scales:
            projected = scale.project(residual)
            codes = scale.nearest(projected)
            chosen = scale.codebook(codes)
            vectors = scale.expand(projected + (chosen - projected).detach())
            total, residual = total + vectors, residual - vectors
            result.codes.append(codes)
            result.projected.append(projected)
            result.chosen.append(chosen)
        result.latent = total
        return result

    def codes(self, latent: Signal) -> list[Codes]:
        """The codes alone."""
        return self(latent).codes

    def from_codes(self, codes: Sequence[Codes]) -> Signal:
        """Sum of the scales' vectors for codes (batch, frames / stride), coarse to fine."""
        return torch.stack([scale.expand(scale.codebook(c)) for scale, c in zip(self.scales, codes, strict=True)]).sum(
            0
        )
