"""Training losses beside those of spectra: DC, least-squares adversarial, feature matching, codebook."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Audio = Float[Tensor, "batch 1 _samples"]
Features = list[list[Tensor]]  # discriminator by layer; the last layer's are the scores


def dc_loss(audio_hat: Audio, audio: Audio) -> Tensor:
    """Squared difference of the clips' means, averaged over clips.

    Mel losses do not see a DC offset. If one grows early in training, it saturates the output's tanh, gradients vanish
    and the run fails.
    """
    return (audio_hat.mean(-1) - audio.mean(-1)).square().mean()


def discriminator_loss(fake: Features, real: Features) -> Tensor:
    """Least squares (arXiv 1611.04076), summed over discriminators: real scores to 1, fake ones to 0."""
    return sum(
        (f[-1].float().square().mean() + (1 - r[-1].float()).square().mean() for f, r in zip(fake, real, strict=True)),
        start=fake[0][-1].new_zeros((), dtype=torch.float32),
    )


def adversarial_loss(fake: Features) -> Tensor:
    """Least squares, summed over discriminators: fake scores to 1."""
    none = fake[0][-1].new_zeros((), dtype=torch.float32)
    return sum(((1 - f[-1].float()).square().mean() for f in fake), start=none)


def feature_loss(fake: Features, real: Features) -> Tensor:
    """Mean absolute difference of the discriminators' inner features (arXiv 1910.06711), summed over all layers."""
    pairs = [(f, r) for fs, rs in zip(fake, real, strict=True) for f, r in zip(fs[:-1], rs[:-1], strict=True)]
    none = fake[0][-1].new_zeros((), dtype=torch.float32)
    return sum((F.l1_loss(f, r.detach()).float() for f, r in pairs), start=none)


def codebook_loss(z_e: Sequence[Tensor], z_q: Sequence[Tensor]) -> Tensor:
    """Pulls the chosen entries to the encoder's vectors (arXiv 1711.00937), summed over scales."""
    return torch.stack([F.mse_loss(c, p.detach()) for p, c in zip(z_e, z_q, strict=True)]).sum()


def commitment_loss(z_e: Sequence[Tensor], z_q: Sequence[Tensor]) -> Tensor:
    """Pulls the encoder's vectors to the chosen entries, summed over scales."""
    return torch.stack([F.mse_loss(p, c.detach()) for p, c in zip(z_e, z_q, strict=True)]).sum()
