"""Benchmark of training steps against another checkout of opensnac, taking turns.

Each runs in its own process; while one takes a step, the other waits. Both start with the same weights and get the same
clips, so that their losses show whether they still compute the same.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from opensnac.errors import ConfigError, OpensnacError
from opensnac.training.config import TrainConfig

ROUNDS = 7
HERE = Path(__file__).parents[2]


@dataclass
class Contender:
    """One checkout and the times of its steps; the first step does not count."""

    folder: Path
    process: subprocess.Popen[str]
    processor: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)

    def step(self) -> None:
        """Run one step."""
        cast(IO[str], self.process.stdin).write("step\n")
        cast(IO[str], self.process.stdin).flush()
        answer = cast(IO[str], self.process.stdout).readline()
        if not answer:
            raise OpensnacError(f"{self.folder}: a training step failed")
        result: dict[str, Any] = json.loads(answer)
        self.processor.append(result["processor"])
        self.wall.append(result["wall"])
        self.losses.append(result["losses"])


def compare(config: TrainConfig, folder: Path, adversarial: bool = False, rounds: int = ROUNDS) -> str:
    """Time `rounds` steps here and in the checkout `folder`, with discriminators if `adversarial`; returns a report."""
    if not (folder / "opensnac" / "training" / "step.py").is_file():
        raise ConfigError(f"{folder}: expected a checkout of opensnac, got a folder without opensnac/training/step.py")
    contenders = [_start(config, place, adversarial) for place in (folder.resolve(), HERE)]
    try:
        for _ in range(rounds + 1):
            for contender in contenders:
                contender.step()
    finally:
        for contender in contenders:
            contender.process.kill()
            contender.process.communicate()
    return _report(config, *contenders)


def _start(config: TrainConfig, folder: Path, adversarial: bool) -> Contender:
    # -P: do not import from this file's folder, which has a config.py and a log.py.
    command = [sys.executable, "-P", "-W", "ignore", __file__, json.dumps(config.to_dict()), str(int(adversarial))]
    surroundings = os.environ | {"PYTHONPATH": str(folder)}
    pipe = subprocess.PIPE
    return Contender(folder, subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=surroundings))


def _report(config: TrainConfig, there: Contender, here: Contender) -> str:
    lines = [
        f"{config.name}: {config.data.batch_size} clips per step, medians of {len(here.wall) - 1} alternating steps"
    ]
    for name in ("processor", "wall"):
        old, new = (statistics.median(getattr(each, name)[1:]) for each in (there, here))
        lines.append(f"{name} time: {old:.3f} s there, {new:.3f} s here, {old / new:.2f} times as fast")
    pairs = [(a[name], b[name]) for a, b in zip(there.losses, here.losses, strict=True) for name in a]
    apart = max(abs(a - b) / max(abs(a), 1e-6) for a, b in pairs)
    lines.append(f"losses: {len(pairs)} values, largest relative difference {apart:.1e}")
    return "\n".join(lines)


def _work(values: str, adversarial: bool) -> None:
    """In a process that imports the checkout's opensnac: one step per line read, one result per line written."""
    import torch

    from opensnac.training.benchmark import stage
    from opensnac.training.loop import crop_samples, find_crops
    from opensnac.training.processes import Processes

    config = TrainConfig.from_dict(json.loads(values))
    torch.manual_seed(config.seed)
    size = config.data.batch_size
    crops, _ = find_crops(config, crop_samples(config))
    trainer = stage(config, Processes("cpu"), discriminators=adversarial)
    for number, _line in enumerate(sys.stdin):
        clips = crops.draw(range(number * size, (number + 1) * size))
        began = time.process_time(), time.perf_counter()
        losses = trainer.training_step(clips, torch.arange(size), 0.5)
        took = time.process_time() - began[0], time.perf_counter() - began[1]
        result = {"processor": took[0], "wall": took[1], "losses": {name: float(v) for name, v in losses.items()}}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    _work(sys.argv[1], sys.argv[2] == "1")
