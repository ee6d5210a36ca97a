"""The quantiser for inference: latent frames to codes and back, scale by scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from opensnac.model.layers import Signal
from opensnac.model.quantizer import Codes, Vectors, pool, repeat


@dataclass(frozen=True)
class Scale:
    """One scale: its stride in frames, its projections and its codebook. Codes are chosen in float32 or better."""

    stride: int
    in_matrix: Tensor  # (codebook_dim, latent_dim)
    in_bias: Tensor
    out_matrix: Tensor  # (latent_dim, codebook_dim)
    out_bias: Tensor
    codebook: Tensor  # (codebook_size, codebook_dim)
    directions: Tensor  # the entries, normalised, in that type

    def expand(self, vectors: Vectors) -> Signal:
        """Codebook vectors to latent frames, each repeated `stride` times."""
        return repeat(self.project_out(vectors), self.stride)

    def project_in(self, latent: Signal) -> Vectors:
        """Project into the codebook's space."""
        return F.linear(latent, self.in_matrix, self.in_bias)

    def project_out(self, vectors: Vectors) -> Signal:
        """Project out of the codebook's space."""
        return F.linear(vectors, self.out_matrix, self.out_bias)

    def nearest(self, vectors: Vectors) -> Codes:
        """The entry with the largest dot product with each vector."""
        return (vectors @ self.directions.T).argmax(-1)


def quantize(scales: Sequence[Scale], latent: Signal) -> list[Codes]:
    """Latent (batch, frames, latent_dim) -> codes (batch, frames / stride) of each scale, which codes the residual."""
    found: list[Codes] = []
    for scale in scales:
        z_e = scale.project_in(pool(latent, scale.stride))
        codes = scale.nearest(F.normalize(z_e.to(scale.directions.dtype), dim=-1))
        found.append(codes)
        if len(found) < len(scales):
            z_q = z_e + (F.embedding(codes, scale.codebook) - z_e)  # rounded as in training
            latent = latent - scale.expand(z_q)
    return found


def dequantize(scales: Sequence[Scale], codes: Sequence[Codes]) -> Signal:
    """Codes -> the sum of the scales' vectors, (batch, frames, latent_dim); fewer scales give a coarser latent."""
    vectors = [scale.expand(F.embedding(code, scale.codebook)) for scale, code in zip(scales, codes, strict=False)]
    return torch.stack(vectors).sum(0)
