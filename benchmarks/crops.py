"""The cost of training's random crops from long recordings, compared with libsndfile alone, which trusts headers.

    python benchmarks/crops.py [--minutes 30] [--crops 100]

Processor time in milliseconds: a crop of a second with each, and checking a file once, before its first crop.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from opensnac.recordings.excerpts import read_excerpt, scan

RATE = 24000
FORMATS = {".wav": None, ".flac": None, ".ogg": "VORBIS", ".opus": "OPUS", ".mp3": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--crops", type=int, default=100)
    options = parser.parse_args()
    print("| format | a crop | libsndfile alone | checking |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for ending, subtype in FORMATS.items():
            path = Path(folder) / f"a{ending}"
            write(path, subtype, int(60 * options.minutes))
            ours, theirs, looking = measure(path, options.crops)
            print(f"| {ending[1:]} | {1000 * ours:.1f} | {1000 * theirs:.1f} | {1000 * looking:.0f} |")


def write(path: Path, subtype: str | None, seconds: int) -> None:
    """Noise of varying loudness, as in speech."""
    rng = np.random.default_rng(0)
    container = "OGG" if path.suffix == ".opus" else None
    with soundfile.SoundFile(path, "w", RATE, 1, subtype, format=container) as file:
        for second in range(seconds):
            file.write((0.3 * rng.uniform() * rng.standard_normal(RATE)).clip(-1, 1) * (second % 5 > 0))


def measure(path: Path, crops: int) -> tuple[float, float, float]:
    """Seconds for a crop, for one by libsndfile alone, and for the check."""
    start = time.process_time()
    layout = scan(path)
    looking = time.process_time() - start
    starts = np.random.default_rng(1).integers(0, (layout.num_samples or 0) - RATE, crops)

    def ours(first: int) -> None:
        with path.open("rb") as file:
            read_excerpt(file, layout, first, RATE)

    def theirs(first: int) -> None:
        with path.open("rb") as stream, soundfile.SoundFile(stream) as file:
            file.seek(first)
            file.read(RATE, dtype="float32")

    return each(ours, starts), each(theirs, starts), looking


def each(read: Callable[[int], None], starts: np.ndarray) -> float:
    start = time.process_time()
    for first in starts:
        read(int(first))
    return (time.process_time() - start) / len(starts)


if __name__ == "__main__":
    main()
