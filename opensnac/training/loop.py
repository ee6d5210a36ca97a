"""The run: data in, steps, validation, checkpoints, until the schedule is done."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from opensnac.errors import ConfigError, OpensnacError
from opensnac.model import kernels, pretrained
from opensnac.training import checkpoint, codebooks
from opensnac.training.config import TrainConfig
from opensnac.training.data import BrokenRecordingError, Crops, find_recordings, read_mono, report_broken
from opensnac.training.log import Log
from opensnac.training.losses import MEL_WINDOWS, mel_loss
from opensnac.training.step import Trainer

CONFIGS = Path(__file__).parent / "configs"  # the runs that come with the package
CHECKPOINT = "checkpoint.pt"
MAX_SKIPPED = 20  # non-finite steps a run may hold before it stops
VALID_SECONDS = 4.0
VALID_CLIPS = 24


def train_from_file(config: Path, out: Path | None = None, resume: bool = False) -> Path:
    """Train as a TOML file says; returns the folder of the run (default `runs/NAME`)."""
    run = TrainConfig.from_toml(config)
    return train(run, out or Path("runs") / run.name, resume)


def train(config: TrainConfig, out: Path, resume: bool = False) -> Path:
    """Train into folder `out`: log.jsonl, checkpoint.pt, best/ (by validation) and last/; returns `out`.

    ConfigError and AudioError for what cannot be trained on, ModelError for a checkpoint of another run,
    OpensnacError where a run would be overwritten or does not stay finite.
    """
    if (out / CHECKPOINT).exists() and not resume:
        raise OpensnacError(f"{out / CHECKPOINT} exists: go on with --resume, or choose another folder with --out")
    run = Run(config, out, resume)
    while not run.is_done:
        run.advance()
    run.finish()
    return out


class Run:
    """A training in folder `out`, new or gone on with."""

    def __init__(self, config: TrainConfig, out: Path, resume: bool) -> None:
        torch.manual_seed(config.seed)
        self.config, self.out = config, out
        self.rng = np.random.default_rng(config.seed)
        crop = _crop_samples(config)
        self.crops = _crops(config, crop)
        self.clips = _validation_clips(config)
        self.trainer = Trainer(config, _device(config.device))
        self.elapsed, self.best = 0.0, math.inf
        found = resume and (out / CHECKPOINT).exists()
        if found:
            self.elapsed, self.best = checkpoint.load(out / CHECKPOINT, self.trainer, self.rng)
        out.mkdir(parents=True, exist_ok=True)
        self.log = Log(out, self.trainer.step)
        self._began = time.monotonic() - self.elapsed
        if resume:
            self.log.say(f"going on from step {self.trainer.step}" if found else f"no {CHECKPOINT} in {out}: a new run")
        self.log.say(self._describe(crop))

    def _describe(self, crop: int) -> str:
        config, model = self.config, self.config.model
        parameters = sum(p.numel() for p in self.trainer.generator.parameters())
        on_cpu = self.trainer.device.type == "cpu"
        slow = " without the C kernels, slowly" if on_cpu and kernels.library() is None else ""
        return (
            f"{config.name}: {parameters:,} parameters, {model.bits_per_second:.0f} b/s, "
            f"{self.crops.seconds / 3600:.2f} h of audio, batches of {config.data.batch_size} x "
            f"{crop / model.sampling_rate:.2f} s, on {self.trainer.device}{slow}"
        )

    @property
    def is_done(self) -> bool:
        """Whether the schedule's steps or minutes are over."""
        minutes = self.config.schedule.minutes
        over = minutes is not None and self.elapsed >= 60 * minutes
        return over or self.trainer.step >= self.config.schedule.steps

    @property
    def progress(self) -> float:
        """Share of the run that is done, by the clock if the schedule has minutes, else by steps."""
        schedule = self.config.schedule
        if schedule.minutes is not None:
            return self.elapsed / (60 * schedule.minutes)
        return self.trainer.step / schedule.steps

    def advance(self) -> None:
        """One step, and whatever is due before and after it."""
        trainer, schedule = self.trainer, self.config.schedule
        if trainer.step == schedule.quantize_from:
            self._start_codebooks()
        if trainer.step == schedule.adversarial_from:
            self.best = math.inf  # from here on the mel distance is not all that counts: judge anew
        audio = self.crops.draw(self.config.data.batch_size, self.rng).to(trainer.device)
        values = trainer.training_step(audio, self.progress)
        self.elapsed = time.monotonic() - self._began
        self.log.collect(values, audio.numel() / self.config.model.sampling_rate)
        if trainer.skipped > MAX_SKIPPED:
            raise OpensnacError(
                f"{trainer.skipped} steps had gradients that are not finite; stopped at step {trainer.step}. "
                "Lower the learning rate, or look for broken recordings"
            )
        if trainer.step > schedule.quantize_from and trainer.step % self.config.codebooks.revive_every == 0:
            self._revive()
        if trainer.step % schedule.log_every == 0:
            self.log.write(trainer, self.elapsed)
        if trainer.step % schedule.validate_every == 0:
            self._validate()
        if trainer.step % schedule.checkpoint_every == 0:
            self._save()

    def finish(self) -> None:
        """Validate and save what the last steps made."""
        if self.trainer.step % self.config.schedule.validate_every:
            self._validate()
        self._save()
        pretrained.save(self.trainer.ema, self.out / "last")
        models = [str(self.out / name) for name in ("best", "last") if (self.out / name).exists()]
        self.log.say(f"done: {self.trainer.step} steps in {self.elapsed / 60:.1f} min; {' and '.join(models)}")

    def _save(self) -> None:
        checkpoint.save(self.out / CHECKPOINT, self.trainer, self.rng, self.elapsed, self.best)

    @torch.no_grad()
    def _start_codebooks(self) -> None:
        """Fit the codebooks to what the encoder makes of enough crops."""
        model, trainer = self.config.model, self.trainer
        frames_needed = self.config.codebooks.start_vectors * model.codebook_size * model.vq_strides[0]
        latents, frames = [], 0
        while frames < frames_needed:
            audio = self.crops.draw(self.config.data.batch_size, self.rng).to(trainer.device)
            latents.append(trainer.generator.encoder(audio.transpose(1, 2)))
            frames += latents[-1].shape[0] * latents[-1].shape[1]
        codebooks.start_from_data(trainer.generator.quantizer, torch.cat(latents), self._generator())
        trainer.sync_ema()
        self.log.say(f"step {trainer.step}: codebooks started from data")

    def _revive(self) -> None:
        quantizers = (self.trainer.generator.quantizer, self.trainer.ema.quantizer)
        self.log.revived = self.trainer.health.revive(quantizers, self._generator())

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(int(self.rng.integers(2**62)))

    @torch.inference_mode()
    def _validate(self) -> None:
        """Mel distance of the averaged weights on fixed clips, with real codes; keeps the best model."""
        if not self.clips or self.trainer.step <= self.config.schedule.quantize_from:
            return
        ema, rate = self.trainer.ema, self.config.model.sampling_rate
        distances, used = [], [set[int]() for _ in self.config.model.vq_strides]
        for clip in self.clips:
            audio = clip.to(self.trainer.device)
            codes = ema.encode(audio)
            for seen, code in zip(used, codes, strict=True):
                seen.update(code.flatten().tolist())
            distances.append(float(mel_loss(ema.decode(codes, audio.shape[-1]), audio, rate)))
        distance = sum(distances) / len(distances)
        entry = {"step": self.trainer.step, "minutes": self.elapsed / 60, "valid_mel": distance}
        self.log.record(entry | {"valid_codes": [len(seen) for seen in used]})
        if distance < self.best:
            self.best = distance
            pretrained.save(ema, self.out / "best")


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device is {name!r}, which cannot be used ({reason}); auto, cpu or cuda was needed"
        ) from error
    return torch.device(name)


def _crop_samples(config: TrainConfig) -> int:
    """Samples of a crop: whole groups of frames, and more than half of every window that looks at it."""
    model = config.model
    group = model.hop_length * model.frame_multiple
    crop = max(1, round(config.data.crop_seconds * model.sampling_rate / group)) * group
    longest = max(*MEL_WINDOWS, *config.discriminator.windows)
    if crop <= longest // 2:
        raise ConfigError(
            f"[data] crop_seconds {config.data.crop_seconds} makes crops of {crop} samples; more than "
            f"{longest // 2} were needed, half of the longest spectral window"
        )
    return crop


def _crops(config: TrainConfig, crop_samples: int) -> Crops:
    recordings, broken = find_recordings(config.data.train)
    report_broken(broken)
    rate, data = config.model.sampling_rate, config.data
    return Crops(recordings, rate, crop_samples, data.gain_db, data.in_memory)


def _validation_clips(config: TrainConfig) -> list[Tensor]:
    """The beginnings of evenly chosen validation recordings, (1, 1, samples) each."""
    recordings, broken = find_recordings(config.data.valid)
    report_broken(broken)
    count, rate = min(len(recordings), VALID_CLIPS), config.model.sampling_rate
    clips = []
    for index in np.linspace(0, len(recordings) - 1, count).astype(int):
        length = int(VALID_SECONDS * recordings[index].sample_rate)
        try:
            samples = read_mono(recordings[index], rate, 0, length)
        except BrokenRecordingError as error:
            report_broken([f"{recordings[index].path}: {error}"])
            continue
        samples = np.pad(samples, (0, max(0, MEL_WINDOWS[-1] - len(samples))))
        clips.append(torch.from_numpy(samples)[None, None])
    return clips
