"""How fast `opensnac tokenize` is on utterances of 2 to 15 s beside what `opensnac bench` encodes, in turns.

    python benchmarks/corpus_speed.py [ROUNDS [MINUTES [CORES]]]

Utterances are cut from the example recordings and stored as FLAC at 24 kHz. The speed of `tokenize` counts reading and
writing, from the first recording that is done to the last; the start of its processes is told beside it. Where other
work runs beside, take one core: threads of `bench` wait for each other, workers do not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from opensnac.corpus.settings import Settings
from opensnac.corpus.tokenize import tokenize
from opensnac.recordings import audio

EXAMPLES = Path(__file__).parent.parent / "examples"
RATE = 24000


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


def bench(out: Path, cores: int) -> float:
    """Seconds of audio a second that the bundled model encodes on so many threads."""
    command = [sys.executable, "-m", "opensnac", "bench", "--threads", str(cores), "--rounds", "5", "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    facts = json.loads(out.read_text())
    calls = sorted(facts["timings"]["opensnac"]["encode"]["calls"])
    return float(facts["seconds_of_audio"] / calls[len(calls) // 2])


def corpus(recordings: Path, out: Path, cores: int) -> tuple[float, float]:
    """Seconds of audio a second that so many workers make tokens of, and the seconds that their start took."""
    begin, times, done = time.perf_counter(), [], []

    def on(event: str, value: Any) -> None:
        if event == "done":
            times.append(time.perf_counter())
            done.append(value[0])

    tokenize(str(out), Settings(inputs=(str(recordings),)), workers=cores, on=on)
    return sum(done[1:]) / (times[-1] - times[0]), times[0] - begin


def main(rounds: int = 3, minutes: float = 10.0, cores: int = 2) -> None:
    """Measure in turns; print each and the ratio of the medians."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = utterances(folder / "recordings", minutes)
        print(f"{seconds:.0f} s of utterances")
        encoded, made = [], []
        for turn in range(rounds):
            encoded.append(bench(folder / "bench.json", cores))
            speed, start = corpus(folder / "recordings", folder / f"out{turn}", cores)
            made.append(speed)
            print(
                f"bench encodes {encoded[-1]:.1f}, tokenize makes {speed:.1f} s a second (first after {start:.1f} s)",
                flush=True,
            )
        print(f"ratio of the medians: {np.median(made) / np.median(encoded):.2f}")


if __name__ == "__main__":
    main(*(float(value) if "." in value else int(value) for value in sys.argv[1:]))
