"""One step of training, top to bottom: generator forward once, discriminators, losses, backward, both optimisers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from opensnac.engine.codec import SNAC
from opensnac.model.quantizer import Quantized
from opensnac.spectra import distances
from opensnac.spectra.loudness import loudness_loss
from opensnac.training import losses
from opensnac.training.codebooks import CodebookHealth, ema_update
from opensnac.training.config import TrainConfig
from opensnac.training.discriminators import Discriminators
from opensnac.training.gradients import GradientAverage
from opensnac.training.optimizers import generator_optimizers
from opensnac.training.processes import Processes

Mark = Callable[[str], None]  # called with the name of each part of a step when it ends


def _no_mark(part: str) -> None:
    """The default: nothing is measured."""


@dataclass
class Trainer:
    """The state of a training run; `step` is the number of steps done."""

    config: TrainConfig
    processes: Processes
    step: int = 0
    skipped: int = 0
    warm_from: int = 0  # the step at which the optimisers' moments started
    quantize_from: int = field(init=False)
    generator: SNAC = field(init=False)
    ema: SNAC = field(init=False)
    discriminators: Discriminators = field(init=False)
    health: CodebookHealth = field(init=False)
    mark: Mark = field(default=_no_mark)

    def __post_init__(self) -> None:
        optimizer, device = self.config.optimizer, self.processes.device
        self.quantize_from = self.config.schedule.quantize_from
        self.generator = SNAC.from_config(self.config.model).to(device).train()
        for name in self.config.freeze:
            {"encoder": self.generator.encoder, "codebooks": self.generator.quantizer}[name].requires_grad_(False)
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.discriminators = Discriminators(self.config.discriminator).to(device)
        self.health = CodebookHealth(self.generator.quantizer, self.config.codebooks.patience)
        self.generator_optimizers = generator_optimizers(self.generator, optimizer, self.processes)
        self.discriminator_optimizer = torch.optim.AdamW(
            self.discriminators.parameters(),
            optimizer.discriminator_learning_rate,
            optimizer.betas,
            fused=True,
        )
        self.generator_parameters: list[Tensor] = list(self.generator.parameters())
        self.discriminator_parameters: list[Tensor] = list(self.discriminators.parameters())
        self.ema_parameters: list[Tensor] = list(self.ema.parameters())
        self.generator_gradients = GradientAverage(self.generator_parameters, self.processes)
        self.discriminator_gradients = GradientAverage(self.discriminator_parameters, self.processes)
        # What a step calls: modules and methods, or another form of them (forms.py).
        self.encode: Callable[[Tensor], Tensor] = self.generator.encoder
        self.decode: Callable[[Tensor, Tensor], Tensor] = self.generator.decoder
        self.discriminate: Callable[[Tensor], losses.Features] = self.discriminators
        self.tell_apart: Callable[[Tensor, Tensor], tuple[Tensor, losses.Features]] = self.discriminator_loss
        self.judge: Callable[[Tensor, losses.Features], dict[str, Tensor]] = self.adversarial_losses
        self.compare: Callable[..., dict[str, Tensor]] = self.spectral_losses

    @property
    def is_whole(self) -> bool:
        """Whether a step is one pass of one process."""
        return self.config.data.accumulate == 1 and self.processes.count == 1

    @property
    def is_adversarial(self) -> bool:
        """Whether this run trains discriminators, now or later."""
        return self.config.schedule.discriminate_from < self.config.schedule.steps

    def training_step(self, audio: Tensor, noise_seeds: Tensor, progress: float) -> dict[str, Tensor]:
        """Train on this process's share of a batch, (clips, 1, samples), with a noise seed per clip.

        `progress` is the share of the run that is done, 0 to 1. Returns the losses by name, as tensors, to avoid GPU
        synchronisation. If gradients are not finite in any process, the step is skipped and an empty dict is returned;
        `skipped` counts such steps.
        """
        schedule, parts = self.config.schedule, self.config.data.accumulate
        self._set_rates(progress)
        for parameter in (*self.generator_parameters, *self.discriminator_parameters):
            parameter.grad = None
        levels: tuple[Tensor, ...] = ()  # of the whole batch, if it is processed in parts
        if self.config.losses.complex and not self.is_whole:
            levels = (self.processes.mean(distances.complex_levels(audio)),)
        reports: list[dict[str, Tensor]] = []
        seen: list[Quantized] = []
        for part, clips, seeds in zip(range(parts), audio.chunk(parts), noise_seeds.chunk(parts), strict=True):
            is_last = part == parts - 1  # after it gradients are complete
            values: dict[str, Tensor] = {}
            audio_hat, quantized = self.reconstruct(clips, seeds)
            self.mark("generator")
            if self.step >= schedule.discriminate_from:
                values["discriminator"], real = self.discriminator_step(clips, audio_hat.detach(), is_last)
                if self.step >= schedule.adversarial_from:
                    values |= self.adversarial_step(audio_hat, real)
            self.mark("discriminators")
            values |= self.compare(audio_hat, clips, *levels)
            if quantized is not None:
                seen.append(quantized)
                values["codebook"] = losses.codebook_loss(quantized.z_e, quantized.z_q)
                values["commitment"] = losses.commitment_loss(quantized.z_e, quantized.z_q)
            weighted = [w * values[name] for name, w in vars(self.config.losses).items() if name in values]
            self.mark("losses")
            if is_last:
                self.generator_gradients.begin()
            self.backward(torch.stack(weighted).sum() / parts)
            self.mark("backward")
            reports.append({name: value.detach() for name, value in values.items()})

        norms = self._shared_norms()
        # The only GPU synchronisation of a step.
        if math.isfinite(float(sum(norms.values()))):
            self._update(seen)
            report = {name: torch.stack([r[name] for r in reports]).mean() for name in reports[0]} | norms
        else:
            self.skipped += 1
            report = {}
        self.step += 1
        self.mark("optimisers")
        return report

    @contextmanager
    def matrix_precision(self, discriminators: bool = False) -> Iterator[None]:
        """A context in which the generator's or the discriminators' products have the configured precision.

        Elsewhere they are float32.
        """
        before, precision = torch.get_float32_matmul_precision(), self.config.precision
        torch.set_float32_matmul_precision("high" if precision in ("tf32", "mixed") else "highest")
        rounded = precision == "bf16" or (precision == "mixed" and discriminators)
        try:
            # Without a cache, which graphs do not allow: weight norm makes new weights at every call anyway.
            kind = self.processes.device.type
            with torch.autocast(kind, torch.bfloat16, enabled=rounded, cache_enabled=False):
                yield
        finally:
            torch.set_float32_matmul_precision(before)

    def reconstruct(self, clips: Tensor, seeds: Tensor) -> tuple[Tensor, Quantized | None]:
        """Clips through the codec, without quantisation at the start of training."""
        quantized = None
        with self.matrix_precision():
            latent = self.encode(clips).float()  # codes are chosen in full precision
        if self.step >= self.quantize_from:
            quantized = self.generator.quantizer(latent)
            latent = quantized.latent
        with self.matrix_precision():
            audio_hat = self.decode(latent, seeds)
        return audio_hat.float(), quantized

    def spectral_losses(self, audio_hat: Tensor, clips: Tensor, levels: Tensor | None = None) -> dict[str, Tensor]:
        """The losses that compare decoded and original clips, by name; `levels` as in distances.complex_loss."""
        wanted, rate = self.config.losses, self.config.model.sampling_rate
        decoded, original = distances.Spectra(audio_hat), distances.Spectra(clips)
        values = {"mel": distances.mel_loss(decoded, original, rate)}
        if wanted.dc:
            values["dc"] = losses.dc_loss(audio_hat, clips)
        if wanted.complex:
            values["complex"] = distances.complex_loss(decoded, original, levels)
        if wanted.loudness:
            values["loudness"] = loudness_loss(audio_hat, clips, rate)
        if wanted.tones:
            values["tones"] = self._tone_loss(decoded, original)
        return values

    def backward(self, loss: Tensor) -> None:
        """Backward pass."""
        with self.backward_precision():
            loss.backward()

    def backward_precision(self) -> AbstractContextManager[None]:
        """As matrix_precision, for a backward pass: tf32 must be set again, bfloat16 carries over from the forward."""
        return self.matrix_precision() if self.config.precision in ("tf32", "mixed") else nullcontext()

    def _tone_loss(self, decoded: distances.Spectra, original: distances.Spectra) -> Tensor:
        """The tone loss of the mean spectrum over all processes; gradients flow into this one's clips."""
        power_hat, power = distances.mean_power(decoded), distances.mean_power(original)
        elsewhere = self.processes.mean(power_hat.detach()) - power_hat.detach()
        return distances.tone_loss(power_hat + elsewhere, self.processes.mean(power))

    def discriminator_step(self, clips: Tensor, audio_hat: Tensor, is_last: bool) -> tuple[Tensor, losses.Features]:
        """Compute the discriminators' gradients; returns their loss, and their features of the real clips."""
        loss, real = self.tell_apart(clips, audio_hat)
        if is_last:
            self.discriminator_gradients.begin()
        self.backward(loss / self.config.data.accumulate)
        return loss, without_gradients(real)

    def discriminator_loss(self, clips: Tensor, audio_hat: Tensor) -> tuple[Tensor, losses.Features]:
        """The discriminators' loss, and their features of the real clips, which have no gradients."""
        with self.matrix_precision(discriminators=True):
            features = self.discriminate(torch.cat([clips, audio_hat]))
        both = [[layer.chunk(2) for layer in layers] for layers in features]
        real, fake = ([[layer[side] for layer in layers] for layers in both] for side in (0, 1))
        return losses.discriminator_loss(fake, real), without_gradients(real)

    def adversarial_step(self, audio_hat: Tensor, real: losses.Features) -> dict[str, Tensor]:
        """The adversarial losses, with the discriminators' weights before this step."""
        with self.discriminators_fixed():
            return self.judge(audio_hat, real)

    def adversarial_losses(self, audio_hat: Tensor, real: losses.Features) -> dict[str, Tensor]:
        """What the discriminators find in the generator's audio, by name; `real` are their features of the clips."""
        with self.matrix_precision(discriminators=True):
            fake = self.discriminate(audio_hat)
        return {"adversarial": losses.adversarial_loss(fake), "feature": losses.feature_loss(fake, real)}

    @contextmanager
    def discriminators_fixed(self) -> Iterator[None]:
        """A context in which gradients go through the discriminators, not to their weights."""
        self.discriminators.requires_grad_(False)
        try:
            yield
        finally:
            self.discriminators.requires_grad_(True)

    def _shared_norms(self) -> dict[str, Tensor]:
        """Average the gradients over all processes and clip them; returns their norms before clipping."""
        clip, norms = self.config.optimizer, {}
        parts = {"": (self.generator_gradients, self.generator_parameters, clip.clip_norm)}
        if self.step >= self.config.schedule.discriminate_from:
            gradients, parameters = self.discriminator_gradients, self.discriminator_parameters
            parts["discriminator_"] = (gradients, parameters, clip.discriminator_clip_norm)
        for name, (gradients, parameters, limit) in parts.items():
            gradients.finish()
            norms[f"{name}gradient_norm"] = nn.utils.clip_grad_norm_(parameters, limit)
        return norms

    @torch.no_grad()
    def _update(self, seen: list[Quantized]) -> None:
        for optimizer in self.generator_optimizers.values():
            optimizer.step()
        if self.step >= self.config.schedule.discriminate_from:
            self.discriminator_optimizer.step()
        if seen:
            codes, z_e = (
                [self.processes.gather(torch.cat(scale)) for scale in zip(*parts, strict=True)]
                for parts in ([q.codes for q in seen], [[p.detach() for p in q.z_e] for q in seen])
            )
            self.health.observe(codes, z_e)
            if "codebooks" not in self.config.freeze:
                ema_update(self.generator.quantizer, codes, z_e, self.config.codebooks.ema_rate)
        # A smaller decay at the start, so that the random initialisation is forgotten.
        decay = min(self.config.optimizer.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.ema_parameters, self.generator_parameters, 1 - decay)

    def _set_rates(self, progress: float) -> None:
        optimizer, schedule = self.config.optimizer, self.config.schedule
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        factor = optimizer.final_fraction + (1 - optimizer.final_fraction) * fall
        for name, part in self.generator_optimizers.items():
            for group in part.param_groups:
                group["lr"] = getattr(optimizer, name) * factor * self._warmup_factor(self.warm_from)
        for group in self.discriminator_optimizer.param_groups:
            begin = max(self.warm_from, schedule.discriminate_from)
            group["lr"] = optimizer.discriminator_learning_rate * factor * self._warmup_factor(begin)

    def _warmup_factor(self, begin: int) -> float:
        return min(1.0, max(0, self.step - begin + 1) / max(1, self.config.optimizer.warmup_steps))

    def sync_ema(self) -> None:
        """Set the average to the current weights, after these were replaced."""
        self.ema.load_state_dict(self.generator.state_dict())


def without_gradients(features: losses.Features) -> losses.Features:
    """The same values, detached."""
    return [[layer.detach() for layer in layers] for layers in features]
