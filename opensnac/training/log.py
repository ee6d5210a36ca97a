"""Logging of a run: a progress line or plain lines, log.jsonl, and TensorBoard's curves, pictures and audio."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from opensnac.evaluation.picture import RANGE_DB, mel_spectrogram
from opensnac.files import atomic_file
from opensnac.training.processes import Processes
from opensnac.training.step import Trainer

if TYPE_CHECKING:
    from rich.progress import Progress

ON_THE_LINE = ("mel", "adversarial", "discriminator", "gradient_norm", "audio_seconds_per_second")


Decoded = tuple[int, Tensor]  # a clip's index and its decoded audio


class Log:
    """Writes entries to log.jsonl, the terminal and, if installed, TensorBoard.

    Values are averaged over the steps since the previous entry and over all processes; only the first process writes.
    """

    def __init__(self, out: Path, step: int, processes: Processes, window: Mapping[str, Tensor]) -> None:
        self.path = out / "log.jsonl"
        self.processes = processes
        self.writer = _tensorboard(out, step) if processes.is_first else None
        self.line = _progress_line() if processes.is_first else None
        if processes.is_first:
            self._forget_after(step)
        self._start_window()
        for name, values in window.items():
            self._values[name] = list(values)

    def _forget_after(self, step: int) -> None:
        """Drop entries after the checkpoint that the run resumes from, and an incomplete line."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue
        with atomic_file(self.path, force=True) as unfinished:
            unfinished.write_text("".join(kept), encoding="utf-8")

    def _start_window(self) -> None:
        self._values: dict[str, list[Tensor]] = {}
        self._seconds, self._waited, self._steps, self._since = 0.0, 0.0, 0, time.monotonic()

    @property
    def window(self) -> dict[str, Tensor]:
        """The values since the previous entry, for a checkpoint: a resumed run writes the same next entry."""
        return {name: torch.stack(values) for name, values in self._values.items()}

    def collect(self, values: dict[str, Tensor], seconds: float, waited: float) -> None:
        """Add one step's losses, its seconds of audio, and the seconds it waited for data."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)
        self._seconds, self._waited, self._steps = self._seconds + seconds, self._waited + waited, self._steps + 1

    def write(self, trainer: Trainer, elapsed: float, progress: float) -> dict[str, float]:
        """Write and return the means since the previous call, over all processes; every process must call it."""
        names = sorted(self._values)
        device = self.processes.device
        means = [torch.stack([value.float().to(device) for value in self._values[name]]).mean() for name in names]
        values = self.processes.mean(torch.stack(means)).tolist() if names else []
        shared = dict(zip(names, values, strict=True))
        entry: dict[str, Any] = {"step": trainer.step, "minutes": elapsed / 60} | shared
        entry["audio_seconds_per_second"] = self._seconds * self.processes.count / (time.monotonic() - self._since)
        entry["data_wait_seconds"] = self._waited / max(1, self._steps)
        entry["learning_rate"] = trainer.generator_optimizers["learning_rate"].param_groups[0]["lr"]
        entry["skipped"] = trainer.skipped
        if trainer.step > trainer.quantize_from:
            usage = trainer.health.usage()
            entry["codes_used"] = [share for share, _ in usage]
            entry["perplexity"] = [perplexity for _, perplexity in usage]
            entry["revived"] = trainer.health.revived
        self._start_window()
        left = elapsed * max(0.0, 1 - progress) / progress if progress else math.inf
        self.record(entry, progress, left)
        return shared

    def record(self, entry: dict[str, Any], progress: float | None = None, seconds_left: float = math.inf) -> None:
        """Write one entry to log.jsonl, the terminal and TensorBoard."""
        if not self.processes.is_first:
            return
        rounded = {key: _rounded(value) for key, value in entry.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")
        left = f"{timedelta(seconds=round(seconds_left))}" if math.isfinite(seconds_left) else "unknown"
        if self.line is not None and progress is not None:
            figures = "  ".join(f"{key} {rounded[key]}" for key in ON_THE_LINE if key in rounded)
            figures = figures.replace("audio_seconds_per_second", "audio s/s")
            text = f"step {entry['step']}  {figures}  left {left}"
            self.line.update(self.line.task_ids[0], completed=progress, description=text)
        else:
            ending = f"  left {left}" if progress is not None else ""
            shown = {key: value for key, value in rounded.items() if not isinstance(value, dict)}
            self.say("  ".join(f"{key} {value}" for key, value in shown.items()) + ending)
        if self.writer is not None:
            for name, number in _curves(entry):
                self.writer.add_scalar(name, number, entry["step"])

    def show(self, step: int, sample_rate: int, originals: Sequence[Tensor], decoded: Sequence[Decoded]) -> None:
        """Add decoded validation clips (1, 1, samples) to TensorBoard, with spectrograms below their originals'."""
        if self.writer is None:
            return
        for index, clip in decoded:
            both = [np.ascontiguousarray(clip[0, 0].cpu().numpy()) for clip in (originals[index], clip)]
            self.writer.add_audio(f"clip_{index}", np.clip(both[1], -1, 1)[None], step, sample_rate)
            self.writer.add_image(f"clip_{index}/original_above", _picture(both, sample_rate), step, dataformats="HW")

    def say(self, line: str) -> None:
        """Print a line."""
        if self.line is not None:
            self.line.console.print(line, markup=False, highlight=False)
        elif self.processes.is_first:
            print(line, flush=True)

    def close(self) -> None:
        """Restore the terminal and flush TensorBoard's files."""
        if self.line is not None:
            self.line.stop()
        if self.writer is not None:
            self.writer.close()


def _picture(clips: Sequence[np.ndarray], sample_rate: int) -> np.ndarray:
    """Mel spectrograms stacked vertically, (height, width), from 0 (quiet) to 1."""
    spectra = [mel_spectrogram(clip, sample_rate) for clip in clips]
    loudest = spectra[0].max()
    panels = [np.clip(1 + (spectrum[::-1] - loudest) / RANGE_DB, 0, 1) for spectrum in spectra]
    return np.concatenate(panels)


def _curves(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """All scalars of an entry by name; list items and nested keys are appended with a slash."""
    for name, value in values.items():
        inner = dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(inner, Mapping):
            yield from _curves({f"{name}/{key}": number for key, number in inner.items()})
        else:
            yield name, value


def _rounded(value: Any) -> Any:
    """Values rounded to five digits; NaN and infinity become null."""
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def _progress_line() -> Progress | None:
    """On a terminal, a progress bar at the bottom."""
    if not sys.stdout.isatty():
        return None
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    line = Progress(BarColumn(), TaskProgressColumn(), TextColumn("{task.description}", markup=False))
    line.start()
    line.add_task("starting", total=1.0)
    return line


def _tensorboard(out: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"), purge_step=step or None)
