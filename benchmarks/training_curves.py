"""Plots the log of a training run: losses, quality on validation clips, codebooks, gradients, speed.

    python benchmarks/training_curves.py runs/speech/log.jsonl --out curves.png

Several logs are drawn one after the other, for a run and its continuations. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from opensnac.files import atomic_file

COLUMNS = 3
PANELS = {  # title: keys of log.jsonl, a list of values being one a scale
    "losses, training": ("mel", "complex", "loudness", "tones", "codebook"),
    "adversaries": ("discriminator", "adversarial", "feature"),
    "distances, validation": ("valid_mel", "valid_stft_distance"),
    "PESQ-WB and STOI, validation": ("valid_pesq_wb", "valid_stoi"),
    "perplexity, coarse to fine": ("perplexity",),
    "gradient norm": ("gradient_norm", "discriminator_gradient_norm"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="+", metavar="log.jsonl")
    parser.add_argument("--out", type=Path, default=Path("curves.png"))
    options = parser.parse_args()
    lines = in_a_row([read(path) for path in options.logs])
    logged = {key for line in lines for key, value in line.items() if value is not None}
    panels = {title: keys for title, keys in PANELS.items() if logged & set(keys)}
    if not panels:
        raise SystemExit(f"{options.logs[0]} holds no losses; expected the log.jsonl of a training run")
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, keys) in enumerate(panels.items(), start=1):
        draw(figure.add_subplot(rows, COLUMNS, place), title, keys, lines)
    with atomic_file(options.out, force=True) as path:
        figure.savefig(path, dpi=100, format="png")
    print(options.out)


def read(path: Path) -> list[dict[str, Any]]:
    """A log's lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def in_a_row(logs: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """All logs' lines, steps counted on from the log before."""
    lines, before = [], 0
    for log in logs:
        lines += [line | {"step": line["step"] + before} for line in log]
        before = lines[-1]["step"]
    return lines


def draw(axes: Axes, title: str, keys: tuple[str, ...], lines: list[dict[str, Any]]) -> None:
    """One panel: every key that was logged over the steps at which it was."""
    for key in keys:
        there = [line for line in lines if line.get(key) is not None]
        for scale in range(len(there[0][key]) if there and isinstance(there[0][key], list) else 1):
            values = [line[key][scale] if isinstance(line[key], list) else line[key] for line in there]
            if values:
                label = f"scale {scale}" if isinstance(there[0][key], list) else key
                marker = "." if len(there) == 1 else ""
                axes.plot([line["step"] for line in there], values, label=label, linewidth=1, marker=marker)
    axes.set(title=title, xlabel="step")
    if title in ("losses, training", "gradient norm"):
        axes.set_yscale("log")
    if axes.lines:
        axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    main()
