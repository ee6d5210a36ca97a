"""Peak memory and time of the command line for several lengths and numbers of recordings. Memory should not grow.

    python benchmarks/memory.py [--minutes 5 60] [--rows 2000 20000] [--model M]

`tokenize` runs with one worker; the larger of the two processes is printed. Rows are those of a manifest, all of one
recording of 0.2 s, coded by a miniature with random weights, as the rows' memory is of interest, not the model's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from opensnac import SNAC

RATE = 24000
MINIATURE = {
    "attn_window_size": None,
    "encoder_dim": 4,
    "encoder_rates": [4, 8, 8],
    "decoder_dim": 16,
    "decoder_rates": [8, 8, 4],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="*", default=[5, 60])
    parser.add_argument("--rows", type=int, nargs="*", default=[2000, 20000])
    parser.add_argument("--model")
    options = parser.parse_args()
    model = ["--model", options.model] if options.model else []
    with tempfile.TemporaryDirectory() as folder:
        for minutes in options.minutes:
            what, recording = f"{minutes:g} minutes", Path(folder) / f"{minutes:g}_minutes.wav"
            write_noise(recording, 60 * minutes)
            measure(what, ["encode", str(recording), *model])
            measure(what, ["decode", str(recording.with_suffix(".snac")), "-o", f"{recording}.flac", *model])
            measure(what, ["tokenize", str(recording), "-o", f"{folder}/{minutes:g}", "--workers", "1", *model])
        for rows in options.rows:
            manifest = write_manifest(Path(folder), rows)
            words = ["--workers", "1", "--model", f"{folder}/miniature"]
            measure(f"{rows} rows", ["tokenize", str(manifest), "-o", f"{folder}/{rows}", *words])


def write_noise(target: Path, seconds: float) -> None:
    generator = np.random.default_rng(0)
    with soundfile.SoundFile(target, "w", RATE, 1) as file:
        for start in np.arange(0, seconds, 10):
            file.write(0.1 * generator.standard_normal(round(min(10, seconds - start) * RATE)))


def write_manifest(folder: Path, rows: int) -> Path:
    """A manifest that repeats one recording, and a model next to it."""
    write_noise(folder / "short.wav", 0.2)
    torch.manual_seed(0)
    SNAC(sampling_rate=RATE, vq_strides=[4, 2, 1], **MINIATURE).save_pretrained(folder / "miniature")
    lines = [json.dumps({"path": "short.wav", "id": f"{n:08d}", "text": "the words in it"}) for n in range(rows)]
    manifest = folder / f"{rows}.jsonl"
    manifest.write_text("\n".join(lines), encoding="utf-8")
    return manifest


def measure(what: str, arguments: list[str]) -> None:
    """Run a command, and print its memory and time."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "opensnac", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"{arguments[0]} failed"
    seconds = time.perf_counter() - began
    print(f"{arguments[0]} {what}: {usage.ru_maxrss / 1024:.0f} MB at its peak, {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
