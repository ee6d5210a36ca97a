"""The training loop: data, steps, validation and checkpoints until the schedule ends."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from opensnac import kernels
from opensnac.errors import ConfigError, OpensnacError
from opensnac.model import pretrained
from opensnac.spectra.distances import MEL_WINDOWS
from opensnac.training import checkpoint, codebooks
from opensnac.training.checkpoint import CHECKPOINT, SLIM
from opensnac.training.config import CONFIGS, TrainConfig
from opensnac.training.data import CODEBOOKS, Crops, read_ahead
from opensnac.training.forms import take_fastest_form
from opensnac.training.log import Log
from opensnac.training.processes import Processes
from opensnac.training.sources import find_recordings, report_broken
from opensnac.training.step import Trainer
from opensnac.training.validation import HIGHER_IS_BETTER, find_clips, require_metric, validate

MAX_SKIPPED = 20  # steps with non-finite gradients before a run stops
MAX_DELAY = 4  # times schedule.quantize_from, after which codebooks are initialised in any case
BROKEN = "broken.txt"  # recordings left out


def find_config(name: str | Path) -> Path:
    """A configuration file: a path, or a shipped one's name."""
    shipped = CONFIGS / f"{name}.toml"
    if not Path(name).is_file() and shipped.is_file():
        return shipped
    return Path(name)


def train_from_file(config: Path, out: Path | None = None, resume: bool = False, changes: Sequence[str] = ()) -> Path:
    """Train from a TOML file with `changes` (`section.key=value`); returns the run's folder, `runs/NAME` by default."""
    run = TrainConfig.from_toml(config, changes)
    return train(run, out or Path("runs") / run.name, resume)


def train(config: TrainConfig, out: Path, resume: bool = False) -> Path:
    """Train into folder `out`: log.jsonl, checkpoint.pt, best/ (by validation) and last/; returns `out`.

    ConfigError and AudioError for unsuitable configurations and data, ModelError for a checkpoint of another run,
    OpensnacError if a run would be overwritten or diverges.
    """
    if (out / CHECKPOINT).exists() and not resume:
        raise OpensnacError(f"{out / CHECKPOINT} exists: continue with --resume, or choose another folder with --out")
    Run(config, out, resume).complete()
    return out


class Run:
    """A training run in folder `out`, new or resumed."""

    def __init__(self, config: TrainConfig, out: Path, resume: bool) -> None:
        torch.manual_seed(config.seed)
        self.config, self.out = config, out
        self.processes = Processes(config.device)
        require_divisible(config, self.processes.count)
        require_metric(config.schedule.best_by)
        self.crop_samples = crop_samples(config)
        self.processes.on_first(self._tidy)
        self.crops, broken = find_crops(config, self.crop_samples)
        self._broken = broken + self.crops.new_broken()
        rate = config.model.sampling_rate
        self.clips = find_clips(config.data.valid, rate, out / BROKEN if self.processes.is_first else None)
        self.trainer = Trainer(config, self.processes)
        self.elapsed, self.best = 0.0, math.inf
        found = resume and (out / CHECKPOINT).exists()
        window: dict[str, torch.Tensor] = {}
        if found:
            self.elapsed, self.best, window = checkpoint.load(out / CHECKPOINT, self.trainer)
        elif config.init:
            self.elapsed, self.best = checkpoint.start_from(self.trainer, config.init)
        self.processes.broadcast_weights((self.trainer.generator, self.trainer.ema, self.trainer.discriminators))
        self.log = Log(out, self.trainer.step, self.processes, window)
        if resume:
            self.log.say(f"resuming from step {self.trainer.step}" if found else f"no {CHECKPOINT} in {out}: a new run")
        self.log.say(self._describe())
        self._report_broken()
        if config.compile or self.processes.device.type == "cuda":
            self.log.say(take_fastest_form(self.trainer, self._clips_of_a_part(), config.compile))
        steps = range(self.trainer.step, max(self.trainer.step, config.schedule.steps))
        share, on_gpu = self.processes.share(config.data.batch_size), self.processes.device.type == "cuda"
        self._batches = read_ahead(self.crops, config.data.batch_size, share, steps, config.data.workers, on_gpu)
        self._began = time.monotonic() - self.elapsed

    def _tidy(self) -> None:
        """Create the folder, and remove temporary files of a killed run."""
        self.out.mkdir(parents=True, exist_ok=True)
        for unfinished in self.out.rglob(".*.part"):
            unfinished.unlink()

    def _describe(self) -> str:
        config, model = self.config, self.config.model
        parameters = sum(p.numel() for p in self.trainer.generator.parameters())
        device = self.processes.device
        slow = " without the C kernels (slow)" if device.type == "cpu" and kernels.level() is None else ""
        many = f" in {self.processes.count} processes" if self.processes.count > 1 else ""
        return (
            f"{config.name}: {parameters:,} parameters, {model.bits_per_second:.0f} b/s, "
            f"{self.crops.seconds / 3600:.2f} h of audio, batches of {config.data.batch_size} x "
            f"{self.crop_samples / model.sampling_rate:.2f} s, on {device}{many}{slow}"
        )

    @property
    def is_done(self) -> bool:
        """Whether the schedule's steps or minutes have been reached."""
        minutes = self.config.schedule.minutes
        over = minutes is not None and self.elapsed >= 60 * minutes
        return over or self.trainer.step >= self.config.schedule.steps

    @property
    def progress(self) -> float:
        """Share of the run that is done, by time if the schedule has minutes, else by steps."""
        schedule = self.config.schedule
        if schedule.minutes is not None:
            return self.elapsed / (60 * schedule.minutes)
        return self.trainer.step / schedule.steps

    def complete(self) -> None:
        """Train until the schedule ends, and save the result."""
        try:
            while not self.is_done:
                self.advance()
            self.finish()
        finally:
            self.log.close()

    def advance(self) -> None:
        """One step, and what is due before and after it."""
        trainer, schedule, device = self.trainer, self.config.schedule, self.processes.device
        if trainer.step == trainer.quantize_from:
            self._initialise_codebooks()
        if trainer.step == schedule.adversarial_from:
            self.best = math.inf  # from here on the mel loss is not the only one: restart the comparison
        asked = time.monotonic()
        batch, broken = next(self._batches)
        self._broken += broken
        waited = time.monotonic() - asked
        audio = batch.to(device, non_blocking=True)
        values = trainer.training_step(audio, self._noise_seeds(), self.progress)
        self.elapsed = time.monotonic() - self._began
        if schedule.minutes is not None:
            self.elapsed = self.processes.broadcast_value(self.elapsed)
        self.log.collect(values, audio.numel() / self.config.model.sampling_rate, waited)
        if trainer.skipped > MAX_SKIPPED:
            raise OpensnacError(
                f"expected finite gradients, got {trainer.skipped} steps without; stopped at step {trainer.step}. "
                "Lower the learning rate, or look for broken recordings"
            )
        if trainer.step > trainer.quantize_from and trainer.step % self.config.codebooks.revive_every == 0:
            self._revive()
        if trainer.step % schedule.log_every == 0:
            self._report_broken()
            means = self.log.write(trainer, self.elapsed, self.progress)
            self._delay_codebooks(means.get("mel", 0.0))
        if trainer.step % schedule.validate_every == 0:
            self._validate()
        if trainer.step % schedule.checkpoint_every == 0:
            self._save()

    def _noise_seeds(self) -> torch.Tensor:
        """A seed per clip of this step, unique in the run."""
        share = self.processes.share(self.config.data.batch_size)
        first = (self.config.seed << 40) + self.trainer.step * self.config.data.batch_size
        return torch.arange(first + share.start, first + share.stop, device=self.processes.device)

    def finish(self) -> None:
        """Validate and save after the last step."""
        if self.trainer.step % self.config.schedule.validate_every:
            self._validate()
        self._save()
        self.processes.on_first(lambda: pretrained.save(self.trainer.ema, self.out / "last"))
        if self.trainer.step <= self.trainer.quantize_from:
            self.log.say("the run ended before its codebooks were initialised, so its codes are useless; train longer")
        models = [str(self.out / name) for name in ("best", "last") if (self.out / name).exists()]
        self.log.say(f"done: {self.trainer.step} steps in {self.elapsed / 60:.1f} min; {' and '.join(models)}")

    def _save(self) -> None:
        def write() -> None:
            checkpoint.save(self.out / CHECKPOINT, self.trainer, self.elapsed, self.best, self.log.window)
            checkpoint.save_slim(self.out / SLIM, self.trainer, self.elapsed, self.best)

        self.processes.on_first(write)

    def _report_broken(self) -> None:
        """Report each broken recording once, whichever process found it."""
        lines, self._broken = self.processes.gather_objects(self._broken), []
        if self.processes.is_first:
            report_broken(lines, self.out / BROKEN)

    def _delay_codebooks(self, mel: float) -> None:
        """Postpone the codebooks' initialisation to the next log entry while the mel loss is high."""
        trainer, schedule = self.trainer, self.config.schedule
        later = trainer.step + schedule.log_every
        due = trainer.step <= trainer.quantize_from < later <= MAX_DELAY * schedule.quantize_from
        if due and mel >= schedule.quantize_below:
            trainer.quantize_from = later
            wanted = f"not below {schedule.quantize_below}"
            self.log.say(f"step {trainer.step}: codebooks wait: the mel loss is {mel:.2f}, {wanted}")

    @torch.no_grad()
    def _initialise_codebooks(self) -> None:
        """Initialise the codebooks from the encoder's output for enough crops."""
        model, trainer, batch_size = self.config.model, self.trainer, self.config.data.batch_size
        frames_needed = self.config.codebooks.start_vectors * model.codebook_size * model.vq_strides[0]
        share = self.processes.share(batch_size)
        latents, frames, first = [], 0, 0
        while frames < frames_needed:
            audio = self.crops.draw(range(first + share.start, first + share.stop), CODEBOOKS)
            latent = trainer.generator.encoder(audio.to(self.processes.device))
            latents.append(self.processes.gather(latent.contiguous()))
            frames += latents[-1].shape[0] * latents[-1].shape[2]
            first += batch_size
        codebooks.initialise_from_data(trainer.generator.quantizer, torch.cat(latents), self._random())
        self.processes.broadcast_weights([trainer.generator.quantizer])
        trainer.sync_ema()
        self.log.say(f"step {trainer.step}: codebooks initialised from data")

    def _revive(self) -> None:
        if "codebooks" not in self.config.freeze:
            quantizers = (self.trainer.generator.quantizer, self.trainer.ema.quantizer)
            self.trainer.health.revive(quantizers, self._random())

    def _random(self) -> torch.Generator:
        """A random number generator for this step."""
        return torch.Generator().manual_seed((self.config.seed << 40) + self.trainer.step)

    def _clips_of_a_part(self) -> torch.Tensor:
        share = self.processes.share(self.config.data.batch_size)
        part = len(share) // self.config.data.accumulate
        return self.crops.draw(range(part), CODEBOOKS).to(self.processes.device)

    def _validate(self) -> None:
        """Measure the averaged weights on fixed clips, with real codes; saves the best model."""
        if not self.clips or self.trainer.step <= self.trainer.quantize_from:
            return
        decoded = validate(self.trainer.ema, self.clips, self.processes)
        entry = {"step": self.trainer.step, "minutes": self.elapsed / 60}
        entry |= {f"valid_{name}": value for name, value in decoded.quality.items()}
        by_label = {"valid_by_label": decoded.by_label} if len(decoded.by_label) > 1 else {}
        self.log.record(entry | {"valid_codes": decoded.codes} | by_label)
        originals = [clip.audio for clip in self.clips]
        self.log.show(self.trainer.step, self.config.model.sampling_rate, originals, decoded.decoded)
        criterion = self.config.schedule.best_by
        quality = decoded.quality.get(criterion, math.nan)
        distance = -quality if criterion in HIGHER_IS_BETTER else quality
        if distance < self.best:
            self.best = distance
            self.processes.on_first(lambda: pretrained.save(self.trainer.ema, self.out / "best"))


def require_divisible(config: TrainConfig, processes: int) -> None:
    """ConfigError unless the batch divides evenly over processes and parts."""
    parts = processes * config.data.accumulate
    if config.data.batch_size % parts:
        raise ConfigError(
            f"[data] batch_size: expected a multiple of {parts}, {processes} processes with {config.data.accumulate} "
            f"parts each, got {config.data.batch_size}"
        )


def crop_samples(config: TrainConfig) -> int:
    """Samples per crop: whole groups of frames, and more than half of every spectral window."""
    model = config.model
    group = model.hop_length * model.frame_multiple
    crop = max(1, round(config.data.crop_seconds * model.sampling_rate / group)) * group
    longest = max(*MEL_WINDOWS, *config.discriminator.windows)
    if crop <= longest // 2:
        raise ConfigError(
            f"[data] crop_seconds: expected crops of more than {longest // 2} samples, half of the longest spectral "
            f"window, got {crop} from {config.data.crop_seconds} s"
        )
    return crop


def find_crops(config: TrainConfig, samples: int) -> tuple[Crops, list[str]]:
    """The training data, and a line for each broken file."""
    recordings, broken = find_recordings(config.data.train)
    rate, data = config.model.sampling_rate, config.data
    return Crops(recordings, rate, samples, config.seed, data.gain_db, config.augment, data.in_memory), broken
