"""The run: data in, steps, log, validation, checkpoints, until the schedule is done."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from opensnac.errors import OpensnacError
from opensnac.model import pretrained
from opensnac.training import checkpoint, codebooks
from opensnac.training.config import TrainConfig
from opensnac.training.data import Crops, find_recordings, report_broken
from opensnac.training.losses import mel_loss
from opensnac.training.step import Trainer

CONFIGS = Path(__file__).parent / "configs"  # the runs that come with the package
MAX_SKIPPED = 20  # non-finite steps a run may hold before it stops
VALID_SECONDS = 4.0
VALID_CLIPS = 24


def train_from_file(config: Path, out: Path | None = None, resume: bool = False) -> Path:
    """Train as a TOML file says; returns the folder of the run (default `runs/NAME`)."""
    run = TrainConfig.from_toml(config)
    return train(run, out or Path("runs") / run.name, resume)


def train(config: TrainConfig, out: Path, resume: bool = False) -> Path:
    """Train into folder `out`: log.jsonl, checkpoint.pt, and the model with the best validation in best/."""
    latest = out / "checkpoint.pt"
    if latest.exists() and not resume:
        raise OpensnacError(f"{latest} exists: go on with --resume, or choose another folder with --out")
    device = torch.device(_device(config.device))
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    model = config.model
    group = model.hop_length * model.frame_multiple
    crop = max(1, round(config.data.crop_seconds * model.sampling_rate / group)) * group
    crops = _crops(config, crop)
    clips = _validation_clips(config)
    trainer = Trainer(config, device)
    elapsed, best = checkpoint.load(latest, trainer, rng) if resume and latest.exists() else (0.0, float("inf"))
    out.mkdir(parents=True, exist_ok=True)
    log = Log(out, trainer.step)
    parameters = sum(p.numel() for p in trainer.generator.parameters())
    log.say(
        f"{config.name}: {parameters:,} parameters, {model.bits_per_second:.0f} b/s, {crops.seconds / 3600:.2f} h "
        f"of audio, batches of {config.data.batch_size} x {crop / model.sampling_rate:.2f} s, on {device}"
    )

    schedule, began = config.schedule, time.monotonic() - elapsed
    while trainer.step < schedule.steps and not _out_of_time(schedule.minutes, elapsed):
        if trainer.step == schedule.quantize_from:
            _start_codebooks(trainer, crops, rng)
            log.say(f"step {trainer.step}: codebooks started from data")
        audio = crops.draw(config.data.batch_size, rng).to(device)
        values = trainer.training_step(audio, _progress(config, trainer.step, elapsed))
        elapsed = time.monotonic() - began
        log.collect(values, audio.numel() / model.sampling_rate)
        if trainer.skipped > MAX_SKIPPED:
            raise OpensnacError(
                f"{trainer.skipped} steps had gradients that are not finite; stopped at step {trainer.step}. "
                "Lower the learning rate, or look for broken recordings"
            )
        done = trainer.step
        if done > schedule.quantize_from and done % config.codebooks.revive_every == 0:
            _revive(trainer, rng, log)
        if done % schedule.log_every == 0:
            log.write(trainer, elapsed)
        if clips and done % schedule.validate_every == 0:
            best = _validate(trainer, clips, out, best, log, elapsed)
        if done % schedule.checkpoint_every == 0:
            checkpoint.save(latest, trainer, rng, elapsed, best)
    checkpoint.save(latest, trainer, rng, elapsed, best)
    if clips:
        _validate(trainer, clips, out, best, log, elapsed)
    pretrained.save(trainer.ema, out / "last")
    log.say(f"done: {trainer.step} steps in {elapsed / 60:.1f} min; models in {out}/best and {out}/last")
    return out


def _device(name: str) -> str:
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _out_of_time(minutes: float | None, elapsed: float) -> bool:
    return minutes is not None and elapsed >= 60 * minutes


def _progress(config: TrainConfig, step: int, elapsed: float) -> float:
    minutes = config.schedule.minutes
    return elapsed / (60 * minutes) if minutes is not None else step / config.schedule.steps


def _crops(config: TrainConfig, crop_samples: int) -> Crops:
    recordings, broken = find_recordings(config.data.train)
    report_broken(broken)
    rate, data = config.model.sampling_rate, config.data
    return Crops(recordings, rate, crop_samples, data.gain_db, data.in_memory)


def _validation_clips(config: TrainConfig) -> list[Tensor]:
    """The beginnings of evenly chosen validation recordings, (1, 1, samples) each."""
    recordings, broken = find_recordings(config.data.valid)
    report_broken(broken)
    clips = []
    for recording in recordings[:: max(1, len(recordings) // VALID_CLIPS)][:VALID_CLIPS]:
        frames = int(VALID_SECONDS * recording.sample_rate)
        samples, rate = soundfile.read(recording.path, frames, dtype="float32", always_2d=True)
        mono = soxr.resample(samples.mean(1), rate, config.model.sampling_rate)
        clips.append(torch.from_numpy(mono.astype(np.float32))[None, None])
    return clips


@torch.no_grad()
def _start_codebooks(trainer: Trainer, crops: Crops, rng: np.random.Generator) -> None:
    """Fit the codebooks to what the encoder makes of enough crops."""
    model = trainer.config.model
    frames_needed = trainer.config.codebooks.start_vectors * model.codebook_size * model.vq_strides[0]
    latents, frames = [], 0
    while frames < frames_needed:
        audio = crops.draw(trainer.config.data.batch_size, rng).to(trainer.device)
        latents.append(trainer.generator.encoder(audio.transpose(1, 2)))
        frames += latents[-1].shape[0] * latents[-1].shape[1]
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    codebooks.start_from_data(trainer.generator.quantizer, torch.cat(latents), generator)
    trainer.sync_ema()


def _revive(trainer: Trainer, rng: np.random.Generator, log: Log) -> None:
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    quantizers = (trainer.generator.quantizer, trainer.ema.quantizer)
    log.revived = trainer.health.revive(quantizers, generator)


@torch.inference_mode()
def _validate(trainer: Trainer, clips: list[Tensor], out: Path, best: float, log: Log, elapsed: float) -> float:
    """Mel distance of the averaged weights on fixed clips, with real codes; keeps the best model."""
    quantizing = trainer.step > trainer.config.schedule.quantize_from
    distances, used = [], [set[int]() for _ in trainer.config.model.vq_strides]
    for clip in clips:
        audio = clip.to(trainer.device)
        codes = trainer.ema.encode(audio)
        for seen, code in zip(used, codes, strict=True):
            seen.update(code.flatten().tolist())
        audio_hat = trainer.ema.decode(codes, audio.shape[-1])
        distances.append(float(mel_loss(audio_hat, audio, trainer.config.model.sampling_rate)))
    distance = sum(distances) / len(distances)
    log.record({"step": trainer.step, "minutes": elapsed / 60, "valid_mel": distance,
                "valid_codes": [len(seen) for seen in used]})  # fmt: skip
    if quantizing and distance < best:
        pretrained.save(trainer.ema, out / "best")
        return distance
    return best


class Log:
    """log.jsonl with a line for every entry, the same on the screen, and TensorBoard's files where it is installed."""

    def __init__(self, out: Path, step: int) -> None:
        self.path = out / "log.jsonl"
        self.revived: list[int] = []
        self.writer = _tensorboard(out)
        self._sums: dict[str, float] = {}
        self._steps, self._seconds, self._since = 0, 0.0, time.monotonic()

    def collect(self, values: dict[str, float], seconds: float) -> None:
        """Add one step's losses and the seconds of audio it trained on."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1
        self._seconds += seconds

    def write(self, trainer: Trainer, elapsed: float) -> None:
        """Write the means since the last call."""
        now = time.monotonic()
        entry: dict[str, Any] = {"step": trainer.step, "minutes": elapsed / 60}
        entry |= {name: value / self._steps for name, value in self._sums.items()}
        entry["audio_seconds_per_second"] = self._seconds / (now - self._since)
        entry["learning_rate"] = trainer.generator_optimizer.param_groups[0]["lr"]
        entry["skipped"] = trainer.skipped
        if trainer.step > trainer.config.schedule.quantize_from:
            usage = trainer.health.usage()
            entry["codes_used"] = [share for share, _ in usage]
            entry["perplexity"] = [perplexity for _, perplexity in usage]
            entry["revived"] = self.revived
        self._sums, self._steps, self._seconds, self._since = {}, 0, 0.0, now
        self.record(entry)

    def record(self, entry: dict[str, Any]) -> None:
        """One line of the log, one of the screen, a point on every curve."""
        rounded = {key: _rounded(value) for key, value in entry.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")
        self.say("  ".join(f"{key} {value}" for key, value in rounded.items()))
        if self.writer is not None:
            for key, value in entry.items():
                for i, number in enumerate(value if isinstance(value, list) else [value]):
                    name = f"{key}/{i}" if isinstance(value, list) else key
                    self.writer.add_scalar(name, number, entry["step"])

    def say(self, line: str) -> None:
        """A line on the screen."""
        print(line, flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _tensorboard(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"))
