"""What a person sees of a run: lines on the screen, log.jsonl, TensorBoard's curves."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from opensnac.files import whole_file
from opensnac.training.step import Trainer


class Log:
    """log.jsonl with a line for every entry, the same on the screen, and TensorBoard's files where it is installed."""

    def __init__(self, out: Path, step: int) -> None:
        self.path = out / "log.jsonl"
        self.revived: list[int] = []
        self.writer = _tensorboard(out, step)
        self._forget_after(step)
        self._start_window()

    def _forget_after(self, step: int) -> None:
        """Drop what a run wrote beyond the checkpoint it goes on from, and a line that was cut."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue
        with whole_file(self.path, force=True) as unfinished:
            unfinished.write_text("".join(kept), encoding="utf-8")

    def _start_window(self) -> None:
        self._values: dict[str, list[float]] = {}
        self._seconds, self._since = 0.0, time.monotonic()

    def collect(self, values: dict[str, float], seconds: float) -> None:
        """Add one step's losses and the seconds of audio it trained on."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)
        self._seconds += seconds

    def write(self, trainer: Trainer, elapsed: float) -> None:
        """Write the means since the last call."""
        entry: dict[str, Any] = {"step": trainer.step, "minutes": elapsed / 60}
        entry |= {name: sum(values) / len(values) for name, values in self._values.items()}
        entry["audio_seconds_per_second"] = self._seconds / (time.monotonic() - self._since)
        entry["learning_rate"] = trainer.generator_optimizers["learning_rate"].param_groups[0]["lr"]
        entry["skipped"] = trainer.skipped
        if trainer.step > trainer.config.schedule.quantize_from:
            usage = trainer.health.usage()
            entry["codes_used"] = [share for share, _ in usage]
            entry["perplexity"] = [perplexity for _, perplexity in usage]
            entry["revived"] = self.revived
        self._start_window()
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
    """Five digits are enough to read; what is no number is null in JSON."""
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def _tensorboard(out: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"), purge_step=step or None)
