"""Peak memory and time of the command line on recordings of some lengths: it should not grow with them.

python benchmarks/memory.py [--minutes 5 60] [--model M]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

RATE = 24000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[5, 60])
    parser.add_argument("--model")
    options = parser.parse_args()
    model = ["--model", options.model] if options.model else []
    with tempfile.TemporaryDirectory() as folder:
        for minutes in options.minutes:
            recording = Path(folder) / f"{minutes:g}_minutes.wav"
            write_noise(recording, minutes)
            measure(minutes, ["encode", str(recording), *model])
            measure(minutes, ["decode", str(recording.with_suffix(".snac")), "-o", f"{recording}.flac", *model])


def write_noise(target: Path, minutes: float) -> None:
    generator = np.random.default_rng(0)
    with soundfile.SoundFile(target, "w", RATE, 1) as file:
        for _ in range(max(1, round(6 * minutes))):
            file.write(0.1 * generator.standard_normal(10 * RATE))


def measure(minutes: float, arguments: list[str]) -> None:
    """Run a command to its end, and print what it took."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "opensnac", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"{arguments[0]} failed"
    seconds = time.perf_counter() - began
    print(f"{arguments[0]} {minutes:g} minutes: {usage.ru_maxrss / 1024:.0f} MB at its peak, {seconds:.1f} s")


if __name__ == "__main__":
    main()
