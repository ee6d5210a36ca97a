"""Finds steady tones that a codec adds: lines of the long-term spectrum, over a folder of recordings.

python benchmarks/tones.py FOLDER [--codec opensnac] [--codec opensnac:MODEL] [--lines 3]

A line is a bin of the mean power in windows of 2048 samples at 24 kHz; its height is relative to the median of the 41
bins around it. For each codec the lines are shown that are highest above the same bins of the originals, or above their
neighbours where the original has a gap.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from rich.console import Console
from rich.table import Table

from opensnac.errors import OpensnacError
from opensnac.evaluation.codecs import by_name
from opensnac.evaluation.evaluate import find_clips
from opensnac.recordings import audio
from opensnac.spectra.distances import mean_power

RATE, WINDOW = 24_000, 2048
NEIGHBOURS = 41  # bins


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--codec", action="append", help="as `opensnac evaluate` takes it; again for more")
    parser.add_argument("--lines", type=int, default=3, help="shown of each codec")
    options = parser.parse_args(arguments)
    clips = [read(path) for path in find_clips(options.folder)]
    original = line_heights(clips)
    table = Table(title=f"{len(clips)} clips, {sum(map(len, clips)) / RATE:.0f} s")
    for heading in ("codec", "Hz", "dB over its neighbours", "the same in the original", "added"):
        table.add_column(heading, justify="left" if heading == "codec" else "right")
    top = int(original.argmax())
    table.add_row("original, its tallest", f"{hertz(top):.0f}", f"{original[top]:.1f}", "", "")
    for name in options.codec or ["opensnac"]:
        codec = by_name(name)
        decoded = line_heights([codec(clip, RATE).audio for clip in clips])
        added = decoded - original.clip(min=0)  # a gap in the original is no line
        for line in tallest(added, options.lines):
            heights = decoded[line], original[line], added[line]
            table.add_row(name, f"{hertz(line):.0f}", *(f"{height:.1f}" for height in heights))
    Console().print(table)


def read(path: Path) -> np.ndarray:
    """A recording, mixed down, at 24 kHz."""
    recording, rate = audio.read(path)
    return audio.resample(recording.mean(0, keepdims=True), rate, RATE)[0]


def line_heights(clips: list[np.ndarray]) -> np.ndarray:
    """How far each bin of the clips' long-term spectrum stands above its neighbours, in dB."""
    power = [mean_power(torch.from_numpy(clip).float()[None, None]) for clip in clips]
    lengths = torch.tensor([float(len(clip)) for clip in clips])
    level = 10 * np.log10(((torch.stack(power) * lengths[:, None]).sum(0) / lengths.sum()).numpy().clip(1e-10))
    around = sliding_window_view(np.pad(level, NEIGHBOURS // 2, mode="reflect"), NEIGHBOURS)
    return level - np.median(around, axis=1)


def tallest(heights: np.ndarray, count: int) -> Iterator[int]:
    """The bins of the tallest lines, no two of them neighbours."""
    heights = heights.copy()
    for _ in range(count):
        top = int(heights.argmax())
        yield top
        heights[max(0, top - NEIGHBOURS // 2) : top + NEIGHBOURS // 2 + 1] = -np.inf


def hertz(line: int) -> float:
    """The frequency of a bin."""
    return line * RATE / WINDOW


if __name__ == "__main__":
    try:
        main()
    except OpensnacError as error:
        sys.exit(f"tones: {error}")
