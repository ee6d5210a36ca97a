"""An hour on a GPU: parity and speed of inference, throughput of training, then a run until a deadline.

    python benchmarks/gpu_session.py --config speech_24khz_small --minutes 25 --out session \\
        --set 'data.train=["corpus/train"]' --set 'data.valid=["corpus/valid"]'

The deadline counts from the start of this program, including measurements; two minutes of it are for the final
validation and export. The folder gets inference_NAME.json (gpu_inference.py), throughput.json and throughput.md, the
run (run/, see docs/training.md), slim.safetensors to continue from (--init), model/ with the averaged weights in fp16,
and log.jsonl. Without a GPU it does the same on the CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu_inference
import torch
from torch import Tensor, nn

from opensnac.model import pretrained
from opensnac.spectra import distances
from opensnac.training import losses
from opensnac.training.benchmark import measure, stage
from opensnac.training.checkpoint import SLIM, average_of
from opensnac.training.config import TrainConfig
from opensnac.training.discriminators import Discriminators
from opensnac.training.forms import compiled_parts, recorded_parts, timed, use
from opensnac.training.loop import Run, crop_samples, find_config
from opensnac.training.processes import Processes

EXPORT_SECONDS = 120.0
SHORTEST_TRAINING = 0.05  # minutes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="speech_24khz_small", help="a shipped configuration's name or a TOML file")
    parser.add_argument(
        "--measure",
        nargs="*",
        default=["speech_24khz_small", "speech_24khz"],
        help="configurations to time in training",
    )
    parser.add_argument("--infer", nargs="*", default=["speech_24khz"], help="configurations to time in inference")
    parser.add_argument("--minutes", type=float, default=25.0, help="from now to the end")
    parser.add_argument("--eager", action="store_true", help="skip torch.compile, which is slow on a CPU")
    parser.add_argument("--measure-minutes", type=float, default=8.0, help="start no measurement after these")
    parser.add_argument("--rounds", type=int, default=10, help="steps per measurement")
    parser.add_argument("--out", type=Path, default=Path("session"))
    parser.add_argument(
        "--export-seconds", type=float, default=EXPORT_SECONDS, help="reserved for the time after training"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    parser.add_argument("--init", help="a model or slim checkpoint to start from")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    measured_by = time.monotonic() + 60 * options.measure_minutes
    changes = [*options.changes, *([f"init={json.dumps(options.init)}"] if options.init else [])]
    config = TrainConfig.from_toml(find_config(options.config), changes)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.infer:
        figures = gpu_inference.measure(name, str(Processes(config.device).device), 10.0, [1, 8, 32], [1, 64, 512], 5)
        (options.out / f"inference_{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
    rows: list[dict[str, Any]] = []
    for name in options.measure:
        for row in throughput(TrainConfig.from_toml(find_config(name), options.changes), options.rounds, options.eager):
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            (options.out / "throughput.json").write_text(json.dumps(rows, indent=2) + "\n")
            (options.out / "throughput.md").write_text(markdown(rows))
            if time.monotonic() > measured_by:
                print("no time left to measure", flush=True)
                break
    train_until(config, deadline - options.export_seconds, options.out)


def throughput(config: TrainConfig, rounds: int, eager: bool) -> Iterator[dict[str, Any]]:
    """Seconds of audio per second for each kind of training step, clips in memory, the reference's first."""
    processes = Processes(config.device)
    device = processes.device
    clips = 0.1 * torch.randn(config.data.batch_size, 1, crop_samples(config), device=device)
    seconds = clips.numel() / config.model.sampling_rate
    facts = {"config": config.name, "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    yield from reference_throughput(config, clips, seconds, rounds, facts)
    makers = {"graphs": recorded_parts} if device.type == "cuda" else {}
    makers |= {} if eager else {"compiled": compiled_parts}
    for adversarial, form, precision in itertools.product((True, False), ("eager", *makers), ("fp32", "mixed")):
        row = facts | {"step": "full GAN" if adversarial else "generator only", "precision": precision, "form": form}
        trainer = stage(dataclasses.replace(config, precision=precision), processes, adversarial)
        try:
            if form in makers:
                use(trainer, makers[form](trainer, clips))
            speed = measure(trainer, itertools.repeat(clips.cpu()), rounds)
        except Exception as error:  # whatever a compiler raises, the other forms are measured
            yield row | {"audio_seconds_per_second": None, "note": (str(error).splitlines() or [""])[0]}
            continue
        row["audio_seconds_per_second"] = round(speed.audio_seconds_per_second, 2)
        yield row | {"parts_ms": {part: round(1000 * s, 2) for part, s in speed.parts.items()}, "note": ""}
        del trainer


def reference_throughput(
    config: TrainConfig, clips: Tensor, seconds: float, rounds: int, facts: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The same step around the reference package's model: plain eager fp32, the same losses and discriminators."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    try:
        import snac
    except ImportError:
        yield facts | {"form": "reference", "audio_seconds_per_second": None, "note": "snac is not installed"}
        return
    for adversarial in (True, False):
        model = snac.SNAC(**config.model.to_dict()).to(clips.device).train()
        discriminators = Discriminators(config.discriminator).to(clips.device) if adversarial else None
        step = ReferenceStep(model, discriminators, config)
        step(clips)
        taken = sorted(timed(lambda step=step: step(clips), clips.device) for _ in range(rounds))
        rate = round(seconds / taken[len(taken) // 2], 2)
        task = {"step": "full GAN" if adversarial else "generator only", "precision": "fp32", "form": "reference"}
        yield facts | task | {"audio_seconds_per_second": rate, "note": "eager, without the codebook losses"}


class ReferenceStep:
    """Discriminators, then the generator, one after the other, as usual."""

    def __init__(self, model: nn.Module, discriminators: Discriminators | None, config: TrainConfig) -> None:
        self.model, self.discriminators, self.config = model, discriminators, config
        self.optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
        self.discriminator_optimizer = torch.optim.AdamW(discriminators.parameters(), 1e-4) if discriminators else None

    def __call__(self, clips: Tensor) -> None:
        audio_hat, _ = self.model(clips)
        total = self.config.losses.mel * distances.mel_loss(audio_hat, clips, self.config.model.sampling_rate)
        if self.discriminators is not None and self.discriminator_optimizer is not None:
            self.discriminator_optimizer.zero_grad()
            loss = losses.discriminator_loss(self.discriminators(audio_hat.detach()), self.discriminators(clips))
            loss.backward()
            nn.utils.clip_grad_norm_(self.discriminators.parameters(), 10.0)
            self.discriminator_optimizer.step()
            fake, real = self.discriminators(audio_hat), self.discriminators(clips)
            total = total + losses.adversarial_loss(fake) + 2 * losses.feature_loss(fake, real)
        self.optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


def train_until(config: TrainConfig, end: float, out: Path) -> None:
    """Train until `end` (of time.monotonic) and export; an existing run is resumed."""
    run = Run(config, out / "run", resume=True)  # decodes and compiles, which counts towards the time
    minutes = max(SHORTEST_TRAINING, (end - time.monotonic()) / 60)
    schedule = dataclasses.replace(config.schedule, minutes=run.elapsed / 60 + minutes)
    run.config = run.trainer.config = dataclasses.replace(config, schedule=schedule)
    print(f"training for {minutes:.1f} minutes", flush=True)
    run.complete()
    for name in (SLIM, "log.jsonl"):
        if (run.out / name).exists():  # a short run has not logged any
            shutil.copy(run.out / name, out / name)
    pretrained.save(average_of(run.out / SLIM), out / "model", torch.float16)
    print(f"wrote {out / SLIM}, {out / 'model'}, {out / 'log.jsonl'}")


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table of the rows, each with its ratio to the reference's step of that kind, if measured."""
    reference_rows = [row for row in rows if row["form"] == "reference" and "step" in row]
    beside = {(row["config"], row["step"]): row["audio_seconds_per_second"] for row in reference_rows}
    headings = ["config", "device", "step", "precision", "form", "audio s/s", "times the reference"]
    lines = [f"| {' | '.join(headings)} |", f"|{' --- |' * len(headings)}"]
    for row in rows:
        speed, reference = row["audio_seconds_per_second"], beside.get((row["config"], row.get("step")))
        ratio = f"{speed / reference:.2f}" if speed and reference else "-"
        cells = [row["config"], row["device"], row.get("step", "-"), row.get("precision", "-"), row["form"]]
        lines.append(f"| {' | '.join([*cells, str(speed or row['note']), ratio])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
