"""The cost of a bfloat16 encoder: codes that differ, and quality after decoding, over a folder of recordings.

python benchmarks/reduced_encoder.py FOLDER [--model M]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from opensnac import SNAC
from opensnac.evaluation.evaluate import find_clips
from opensnac.evaluation.metrics import METRICS
from opensnac.recordings import audio

CHOSEN = ("pesq_wb", "stoi")


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model")
    options = parser.parse_args()
    model = SNAC.from_pretrained(options.model)
    full, reduced = model.freeze(), model.freeze(dtype=torch.bfloat16)
    differ, scores = [], []
    for path in find_clips(options.folder):
        recorded, rate = audio.read(path)
        clip = audio.resample(recorded.mean(0, keepdims=True), rate, full.config.sampling_rate)[0]
        samples, rate = torch.from_numpy(clip.copy()).float()[None, None], full.config.sampling_rate
        codes, others = full.encode(samples), reduced.encode(samples)
        differ.append([float((a != b).float().mean()) for a, b in zip(codes, others, strict=True)])
        decoded = [full.decode(codes, samples.shape[-1]), reduced.decode(others, samples.shape[-1])]
        scores.append([[METRICS[name].measure(clip, each[0, 0].numpy(), rate) for name in CHOSEN] for each in decoded])
    print("codes that differ, coarse to fine:", " ".join(f"{share:.1%}" for share in np.mean(differ, axis=0)))
    for name, (before, after) in zip(CHOSEN, np.array(scores, float).transpose(2, 1, 0), strict=True):
        interval = 1.96 * (after - before).std() / len(before) ** 0.5
        print(f"{name}: {before.mean():.4f}, reduced {(after - before).mean():+.4f} ± {interval:.4f}")


if __name__ == "__main__":
    main()
