"""Training speed in seconds of audio per second, and the time of a step by part."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from opensnac.training.config import TrainConfig
from opensnac.training.data import read_ahead
from opensnac.training.forms import finish, take_fastest_form
from opensnac.training.loop import crop_samples, find_crops, require_divisible
from opensnac.training.processes import Processes
from opensnac.training.step import Trainer

ROUNDS, WARM_UP = 10, 3
PARTS = ("data", "generator", "discriminators", "losses", "backward", "optimisers")


@dataclass(frozen=True)
class Speed:
    """Seconds of audio per second; seconds per step, by part, measured in separate steps; which form it had."""

    audio_seconds_per_second: float
    step_seconds: float
    parts: dict[str, float]
    form: str = ""


class Stopwatch:
    """Seconds by part: each call adds the time since the previous one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._since = time.perf_counter()

    def __call__(self, part: str) -> None:
        finish(self.device)
        now = time.perf_counter()
        self.seconds[part] += now - self._since
        self._since = now


def run_benchmark(config: TrainConfig, rounds: int = ROUNDS) -> dict[str, Speed]:
    """Measure a configuration on its own data, with and without discriminators, and print a table.

    The form measured is the fastest one (forms.py).
    """
    processes = Processes(config.device)
    require_divisible(config, processes.count)
    crop = crop_samples(config)
    crops, _ = find_crops(config, crop)
    share, size = processes.share(config.data.batch_size), config.data.batch_size
    speeds = {}
    for name in ("generator alone", "with discriminators"):
        steps = range(2 * rounds + WARM_UP + 1)
        batches = read_ahead(crops, size, share, steps, config.data.workers, processes.device.type == "cuda")
        trainer = stage(config, processes, discriminators=name != "generator alone")
        part = len(share) // config.data.accumulate
        form = take_fastest_form(trainer, crops.draw(range(part)).to(processes.device), config.compile)
        speeds[name] = measure(trainer, (batch for batch, _ in batches), rounds, form)
    if processes.is_first:
        Console().print(table(config, processes, speeds))
        for name, speed in speeds.items():
            if speed.form:
                print(f"{name}: {speed.form}")
    return speeds


def stage(config: TrainConfig, processes: Processes, discriminators: bool) -> Trainer:
    """A trainer past all warm-up stages, with or without discriminators."""
    never = config.schedule.steps + 1
    start = 0 if discriminators else never
    schedule = dataclasses.replace(config.schedule, quantize_from=0, discriminate_from=start, adversarial_from=start)
    return Trainer(dataclasses.replace(config, schedule=schedule), processes)


def measure(trainer: Trainer, batches: Iterator[Tensor], rounds: int, form: str = "") -> Speed:
    """Time whole steps, then as many by part: timing parts on a GPU needs synchronisation."""
    processes, config = trainer.processes, trainer.config
    device = processes.device

    def step() -> int:
        audio = next(batches).to(device, non_blocking=True)
        trainer.mark("data")
        trainer.training_step(audio, torch.arange(len(audio), device=device), 0.5)
        return audio.numel()

    for _ in range(WARM_UP):
        step()
    finish(device)
    began = time.perf_counter()
    samples = sum(step() for _ in range(rounds))
    finish(device)
    taken = time.perf_counter() - began
    watch = trainer.mark = Stopwatch(device)
    for _ in range(rounds):
        step()
    seconds = samples * processes.count / config.model.sampling_rate
    parts = {part: total / rounds for part, total in watch.seconds.items()}
    return Speed(seconds / taken, taken / rounds, parts, form)


def table(config: TrainConfig, processes: Processes, speeds: dict[str, Speed]) -> Table:
    """The results, one column per mode of training."""
    batch = f"batches of {config.data.batch_size} x {crop_samples(config) / config.model.sampling_rate:.2f} s"
    where = f"{processes.device}, {torch.get_num_threads()} threads" if processes.device.type == "cpu" else "GPU"
    result = Table(title=f"{config.name}: {batch}, {config.precision}, {processes.count} x {where}")
    for heading in ("", *speeds):
        result.add_column(heading, justify="right" if heading else "left")
    result.add_row("audio seconds per second", *(f"{speed.audio_seconds_per_second:.1f}" for speed in speeds.values()))
    result.add_row("milliseconds per step", *(f"{1000 * speed.step_seconds:.1f}" for speed in speeds.values()))
    for part in PARTS:
        shares = [(speed.parts[part], sum(speed.parts.values())) for speed in speeds.values()]
        result.add_row(f"  {part}", *(f"{1000 * seconds:.1f} ({seconds / total:.0%})" for seconds, total in shares))
    return result
