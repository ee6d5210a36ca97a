"""Fine-tune the small bundled model `speech_24khz_tiny` on one voice, and use the result.

    python examples/fine_tune.py [RECORDINGS] [--valid RECORDINGS] [--out OUT] [--steps 40]

RECORDINGS is a folder, a file or a glob; without it the script fine-tunes on one sentence, to show how it works. For a
useful result give it ten minutes of speech or more and some thousand steps. Needs pip install 'opensnac[train]'. From
the shell: opensnac train speech_24khz_tiny --init speech_24khz_tiny --set ...
"""

import argparse
import json
from pathlib import Path

import torch

from opensnac import SNAC
from opensnac.evaluation.metrics import METRICS
from opensnac.recordings import audio
from opensnac.training.loop import find_config, train_from_file

MODEL = "speech_24khz_tiny"
SENTENCE = str(Path(__file__).parent / "lj_speech.flac")


def main() -> None:
    """Train, then compare the model before and after on one sentence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="?", default=SENTENCE)
    parser.add_argument("--valid", help="held-out recordings (default: the training recordings)")
    parser.add_argument("--out", type=Path, default=Path("runs/my_voice"))
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    changes = {
        "name": "my_voice",
        "init": MODEL,  # start from the bundled weights ...
        "schedule.quantize_from": 0,  # ... and from their codebooks
        "data.train": [options.recordings],
        "data.valid": [options.valid or options.recordings],
        "optimizer.learning_rate": 3e-4,  # lower than from scratch
        "optimizer.matrix_learning_rate": 5e-4,
        "optimizer.warmup_steps": 10,
        "optimizer.ema_decay": 0.9 if options.steps < 1000 else 0.998,  # the average must forget its first steps
        "schedule.minutes": False,
        "schedule.steps": options.steps,
        "schedule.validate_every": max(options.steps // 4, 1),
    }
    settings = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    run = train_from_file(find_config(MODEL), options.out, changes=settings)
    for name in (MODEL, run / "last"):
        print(f"{name}: mel distance {distance(SNAC.from_pretrained(name), SENTENCE):.2f} dB on {SENTENCE}")
    print(f"use it: opensnac encode talk.wav --model {run / 'last'}")


def distance(model: SNAC, recording: str) -> float:
    """Mel distance between a recording and its reconstruction, dB."""
    samples, rate = audio.read(recording)
    clip = torch.from_numpy(samples)[None]
    decoded = model.decode(model.encode(clip), clip.shape[-1])
    return METRICS["mel_distance"].measure(samples[0], decoded[0, 0].numpy(), rate)


if __name__ == "__main__":
    main()
