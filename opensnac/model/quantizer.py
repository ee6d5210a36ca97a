"""Latent frames to codes and back: a residual vector quantiser whose scales have their own strides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from opensnac.config import CodecConfig
from opensnac.errors import CodesError
from opensnac.model.encoder import Latent
from opensnac.model.layers import Pointwise, Signal

Codes = Int[Tensor, "batch _codes"]
Vectors = Float[Tensor, "batch _codes dim"]


@dataclass
class Quantized:
    """The quantised latent, and per scale the codes, the projected latent z_e and the chosen entries z_q."""

    latent: Latent
    codes: list[Codes]
    z_e: list[Vectors]  # before quantisation, in the codebook's space
    z_q: list[Vectors]  # codebook entries


class VectorQuantizer(nn.Module):
    """One scale: average pool by `stride`, project, take the entry nearest in angle, project back, repeat.

    Its methods are time-major: (batch, frames, channels).
    """

    def __init__(self, latent_dim: int, codebook_size: int, codebook_dim: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.in_proj = Pointwise(latent_dim, codebook_dim)
        self.out_proj = Pointwise(codebook_dim, latent_dim)
        entries = torch.empty(codebook_size, codebook_dim)
        if not entries.is_meta:  # there PyTorch would import its compiler to draw nothing
            entries.normal_()
        self.codebook = nn.Embedding.from_pretrained(entries, freeze=False)

    def project(self, latent: Signal) -> Vectors:
        """Latent frames, pooled by `stride`, in the codebook's space: z_e."""
        return self.in_proj(pool(latent, self.stride))

    def nearest(self, z_e: Vectors) -> Codes:
        """Codes of the entries at the smallest angle, which have the largest dot product of unit vectors."""
        directions = F.normalize(self.codebook.weight.float(), dim=-1)
        return (F.normalize(z_e.float(), dim=-1) @ directions.T).argmax(-1)

    def expand(self, vectors: Vectors) -> Signal:
        """Codebook vectors to latent frames, each repeated `stride` times."""
        return repeat(self.out_proj(vectors), self.stride)


def pool(latent: Signal, stride: int) -> Signal:
    """Average pooling over `stride` frames."""
    return latent.unflatten(1, (-1, stride)).mean(2) if stride > 1 else latent


def repeat(latent: Signal, stride: int) -> Signal:
    """Each frame repeated `stride` times."""
    return latent[:, :, None].expand(-1, -1, stride, -1).flatten(1, 2) if stride > 1 else latent


class ResidualVectorQuantizer(nn.Module):
    """Each scale codes the residual of the coarser ones."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        latent_dim = config.encoder_dim * 2 ** len(config.encoder_rates)
        self.multiple = config.coarse_stride
        self.quantizers = nn.ModuleList(
            VectorQuantizer(latent_dim, config.codebook_size, config.codebook_dim, stride)
            for stride in config.vq_strides
        )

    @property
    def scales(self) -> list[VectorQuantizer]:
        """The quantisers, coarse to fine."""
        return [scale for scale in self.quantizers if isinstance(scale, VectorQuantizer)]

    def forward(self, latent: Tensor) -> Quantized:
        """Quantise (batch, latent_dim, frames), with a straight-through gradient.

        CodesError unless frames are a multiple of every stride.
        """
        if latent.ndim != 3 or latent.shape[2] % self.multiple:
            raise CodesError(
                f"latent: expected shape (batch, latent_dim, frames) with frames a multiple of {self.multiple}, "
                f"got {tuple(latent.shape)}"
            )
        residual = latent.transpose(1, 2)
        total = torch.zeros_like(residual)
        result = Quantized(latent, [], [], [])
        for scale in self.scales:
            z_e = scale.project(residual)
            codes = scale.nearest(z_e)
            z_q = scale.codebook(codes)
            vectors = scale.expand(z_e + (z_q - z_e).detach())
            total, residual = total + vectors, residual - vectors
            result.codes.append(codes)
            result.z_e.append(z_e)
            result.z_q.append(z_q)
        result.latent = total.transpose(1, 2)
        return result

    def from_codes(self, codes: Sequence[Codes]) -> Latent:
        """Codes (batch, frames / stride), coarse to fine -> latent, the sum of the scales' vectors.

        The codes of the first scales alone give a coarser latent.
        """
        vectors = [scale.expand(scale.codebook(c)) for scale, c in zip(self.scales, codes, strict=False)]
        return torch.stack(vectors).sum(0).transpose(1, 2)
