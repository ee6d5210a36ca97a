"""How fast a worker of `opensnac tokenize` is on utterances of 2 to 15 s beside the encoder alone, on one core.

    python benchmarks/corpus_speed.py

They take turns, both in seconds of processor time, which other work on the machine changes little. Utterances are cut
from the example recordings and stored as FLAC at 24 kHz; reading and writing count. The encoder codes ten seconds at
once, as in `bench`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from opensnac import SNAC
from opensnac.corpus.plan import make_plan
from opensnac.corpus.settings import Settings
from opensnac.corpus.store import Store
from opensnac.corpus.work import Job, Worker
from opensnac.recordings import audio

EXAMPLES = Path(__file__).parent.parent / "examples"
RATE = 24000
ROUNDS, CALLS = 3, 3


def utterances(folder: Path, minutes: float) -> float:
    """Write utterances; their seconds in all."""
    random, seconds = np.random.default_rng(0), 0.0
    speech = np.concatenate([audio.resample(*_mono(path), RATE)[0] for path in sorted(EXAMPLES.glob("*.flac"))])
    folder.mkdir()
    while seconds < 60 * minutes:
        length = int(random.uniform(2, 15) * RATE)
        start = int(random.integers(len(speech)))
        samples = np.take(speech, range(start, start + length), mode="wrap")
        soundfile.write(folder / f"{round(seconds * 1000):08d}.flac", samples, RATE)
        seconds += length / RATE
    return seconds


def _mono(path: Path) -> tuple[np.ndarray, int]:
    samples, rate = audio.read(path)
    return samples.mean(axis=0, keepdims=True), rate


def main() -> None:
    """Measure in turns and print."""
    torch.set_num_threads(1)
    model = SNAC.from_pretrained().fold_weight_norm()
    noise = 0.1 * torch.randn(1, 1, 10 * RATE)
    model.encode(noise)
    with tempfile.TemporaryDirectory() as folder:
        seconds = utterances(Path(folder) / "recordings", 1.0)
        settings = Settings((f"{folder}/recordings",), fingerprint=model.fingerprint, shard_megabytes=100.0)
        plan = make_plan(Store(f"{folder}/out"), settings)
        worker = Worker(Job(f"{folder}/out"))
        worker.make(0)
        for _ in range(ROUNDS):
            start = time.process_time()
            for _ in range(CALLS):
                model.encode(noise)
            middle = time.process_time()
            for shard in range(plan.shards):
                worker.make(shard)
            encodes, makes = 10 * CALLS / (middle - start), seconds / (time.process_time() - middle)
            print(f"encode {encodes:.1f}, tokenize {makes:.1f} s a second, ratio {makes / encodes:.2f}", flush=True)


if __name__ == "__main__":
    main()
