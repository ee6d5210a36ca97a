"""Codebook use of a model on a folder of recordings: share of codes that occur, and perplexity, for each scale.

python benchmarks/codebook_use.py FOLDER [--model NAME] [--minutes 60]
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from opensnac.recordings import audio
from opensnac.recordings.model_cache import ModelCache
from opensnac.recordings.source import READABLE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--minutes", type=float, default=60.0, help="of recordings, drawn at random (seed 0)")
    options = parser.parse_args()
    model = ModelCache(options.model).get()
    paths = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in READABLE)
    random.Random(0).shuffle(paths)
    counts = np.zeros((len(model.config.vq_strides), model.config.codebook_size), int)
    seconds = 0.0
    for path in paths:
        if seconds >= 60 * options.minutes:
            break
        recording, rate = audio.read(path)
        samples = audio.resample(recording.mean(axis=0, keepdims=True), rate, model.config.sampling_rate)
        seconds += samples.shape[1] / model.config.sampling_rate
        for scale, codes in enumerate(model.encode(torch.from_numpy(samples)[None].clamp(-1, 1))):
            counts[scale] += np.bincount(codes[0].numpy(), minlength=model.config.codebook_size)
    table = Table(title=f"{model.name}: {seconds / 60:.0f} minutes of {options.folder}")
    for heading in ("stride", "codes", "used", "perplexity"):
        table.add_column(heading, justify="right")
    for stride, count in zip(model.config.vq_strides, counts, strict=True):
        p = count[count > 0] / count.sum()
        table.add_row(
            str(stride), f"{count.sum():,}", f"{(count > 0).mean():.1%}", f"{np.exp(-(p * np.log(p)).sum()):.0f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
