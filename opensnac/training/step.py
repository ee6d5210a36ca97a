"""One step of training, top to bottom: generator forward once, discriminators, generator."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from opensnac.model.codec import SNAC
from opensnac.model.quantizer import Quantized
from opensnac.training import losses
from opensnac.training.codebooks import CodebookHealth, follow
from opensnac.training.config import TrainConfig
from opensnac.training.discriminators import Discriminators
from opensnac.training.optimizers import generator_optimizers


@dataclass
class Trainer:
    """Everything that changes while training; `step` is the number of steps done."""

    config: TrainConfig
    device: torch.device
    step: int = 0
    skipped: int = 0
    generator: SNAC = field(init=False)
    ema: SNAC = field(init=False)
    discriminators: Discriminators = field(init=False)
    health: CodebookHealth = field(init=False)

    def __post_init__(self) -> None:
        optimizer = self.config.optimizer
        self.generator = SNAC.from_config(self.config.model).to(self.device).train()
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.discriminators = Discriminators(self.config.discriminator).to(self.device)
        self.health = CodebookHealth(self.generator.quantizer, self.config.codebooks.patience)
        self.generator_optimizers = generator_optimizers(self.generator, optimizer)
        self.discriminator_optimizer = torch.optim.AdamW(
            self.discriminators.parameters(), optimizer.discriminator_learning_rate, optimizer.betas
        )

    def training_step(self, audio: Tensor, progress: float) -> dict[str, float]:
        """Train on one batch (batch, 1, samples); `progress` is the share of the run that is done, 0 to 1.

        Returns the losses by name. Gradients that are not finite change nothing, and the step is counted in `skipped`.
        """
        schedule, weights = self.config.schedule, self.config.losses
        self._set_rates(progress)
        latent = self.generator.encoder(audio.transpose(1, 2))
        values: dict[str, Tensor] = {}
        quantized: Quantized | None = None
        if self.step >= schedule.quantize_from:
            quantized = self.generator.quantizer(latent)
            values["codebook"] = losses.codebook_loss(quantized.projected, quantized.chosen)
            values["commitment"] = losses.commitment_loss(quantized.projected, quantized.chosen)
            latent = quantized.latent
        audio_hat = self.generator.decoder(latent, torch.randint(2**62, audio.shape[:1])).transpose(1, 2)

        report: dict[str, float] = {}
        if self.step >= schedule.discriminate_from:
            report |= self._discriminator_step(audio, audio_hat.detach())
        values["mel"] = losses.mel_loss(audio_hat, audio, self.config.model.sampling_rate)
        if weights.complex:
            values["complex"] = losses.complex_loss(audio_hat, audio)
        if self.step >= schedule.adversarial_from:
            self.discriminators.requires_grad_(False)
            with torch.no_grad():
                real = self.discriminators(audio)
            fake = self.discriminators(audio_hat)
            self.discriminators.requires_grad_(True)
            values["adversarial"] = losses.adversarial_loss(fake)
            values["feature"] = losses.feature_loss(fake, real)

        total = torch.stack([getattr(weights, name) * value for name, value in values.items()]).sum()
        optimizers = self.generator_optimizers.values()
        norm = self._update(self.generator, optimizers, total, self.config.optimizer.clip_norm)
        report |= {name: float(value.detach()) for name, value in values.items()} | {"gradient_norm": norm}
        if math.isfinite(norm):
            if quantized is not None:
                self.health.observe(quantized.codes, quantized.projected)
                follow(self.generator.quantizer, quantized.codes, quantized.projected, self.config.codebooks.follow)
            self._update_ema()
        self.skipped += not all(math.isfinite(value) for name, value in report.items() if name.endswith("norm"))
        self.step += 1
        return report

    def _discriminator_step(self, audio: Tensor, audio_hat: Tensor) -> dict[str, float]:
        loss = losses.discriminator_loss(self.discriminators(audio_hat), self.discriminators(audio))
        clip = self.config.optimizer.discriminator_clip_norm
        norm = self._update(self.discriminators, [self.discriminator_optimizer], loss, clip)
        return {"discriminator": float(loss.detach()), "discriminator_gradient_norm": norm}

    def _update(
        self, model: nn.Module, optimizers: Iterable[torch.optim.Optimizer], loss: Tensor, clip_norm: float
    ) -> float:
        """Backward, clip, step unless the gradients are not finite; returns their norm before clipping."""
        model.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), clip_norm))
        if math.isfinite(norm):
            for optimizer in optimizers:
                optimizer.step()
        return norm

    def _set_rates(self, progress: float) -> None:
        optimizer = self.config.optimizer
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        factor = optimizer.final_fraction + (1 - optimizer.final_fraction) * fall
        warm = min(1.0, (self.step + 1) / max(1, optimizer.warmup_steps))
        for name, part in self.generator_optimizers.items():
            for group in part.param_groups:
                group["lr"] = getattr(optimizer, name) * factor * warm
        since = self.step - self.config.schedule.discriminate_from
        warm = min(1.0, (since + 1) / max(1, optimizer.warmup_steps)) if since >= 0 else 0.0
        for group in self.discriminator_optimizer.param_groups:
            group["lr"] = optimizer.discriminator_learning_rate * factor * warm

    @torch.no_grad()
    def _update_ema(self) -> None:
        # Young averages forget faster, so that the random start does not linger.
        decay = min(self.config.optimizer.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.generator.parameters()), 1 - decay)

    def sync_ema(self) -> None:
        """Make the average equal to the live weights, after they were set by hand."""
        self.ema.load_state_dict(self.generator.state_dict())
