"""Compares the speed of `opensnac tokenize` with the encoder's own, alternating, as a machine's speed drifts.

    python benchmarks/corpus_speed.py
    python benchmarks/corpus_speed.py IN... -o DIR [--workers 2]

Without inputs one worker codes utterances of 2 to 15 s, cut from the example recordings and stored as FLAC at 24 kHz,
on one core. With inputs the whole command runs; every two minutes it is paused while as many encoders as it has workers
each code ten seconds of noise a few times, in one thread each, as in `opensnac bench --threads 1`. Reading, resampling,
writing and process start-up are included. Wall time is what users wait for; processor time depends less on other load.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import mean

import numpy as np
import soundfile
import torch

from opensnac.corpus.plan import make_plan
from opensnac.corpus.settings import Settings
from opensnac.corpus.store import Store
from opensnac.corpus.tokenize import totals
from opensnac.corpus.work import Job, Worker, load_model
from opensnac.recordings import audio

EXAMPLES = Path(__file__).parent.parent / "examples"
RATE = 24000
SECONDS = 10  # of noise per call of the encoder
ROUNDS, CALLS = 3, 3
HELD_EVERY = 120.0  # seconds of the command between two measurements of the encoder

Times = tuple[float, float]  # wall and processor time, s


def main() -> None:
    """Measure alternately and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="*", metavar="IN")
    parser.add_argument("-o", "--out", metavar="DIR")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    if options.inputs:
        whole_command(options.inputs, options.out, options.workers)
    else:
        one_worker()


def one_worker() -> None:
    """A worker in this process, utterance by utterance, in processor time."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        seconds = utterances(Path(folder) / "recordings", 1.0)
        settings = Settings((f"{folder}/recordings",), shard_megabytes=100.0)
        model = load_model(settings, "cpu")
        settings = Settings((f"{folder}/recordings",), fingerprint=model.fingerprint, shard_megabytes=100.0)
        plan = make_plan(Store(f"{folder}/out"), settings)
        worker = Worker(Job(f"{folder}/out"))
        worker.make(0)
        encode(model, 1)
        for _ in range(ROUNDS):
            _, encoding = encode(model, CALLS)
            start = time.process_time()
            for shard in range(plan.shards):
                worker.make(shard)
            encodes, makes = SECONDS * CALLS / encoding, seconds / (time.process_time() - start)
            print(f"encode {encodes:.1f}, tokenize {makes:.1f} s per second, ratio {makes / encodes:.2f}", flush=True)


def utterances(folder: Path, minutes: float) -> float:
    """Write utterances; returns their total seconds."""
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


def encode(model: object, calls: int) -> Times:
    """Encode noise that many times."""
    noise = 0.1 * torch.randn(1, 1, SECONDS * RATE, generator=torch.Generator().manual_seed(0))
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(calls):
        model.encode(noise)  # type: ignore[attr-defined]
    return time.perf_counter() - wall, time.process_time() - processor


def whole_command(inputs: list[str], out: str, workers: int) -> None:
    """The command line with all its processes, paused at intervals for the encoders."""
    encoders = [_start_encoder() for _ in range(workers)]
    coded = [_all_encode(encoders)]
    command = [sys.executable, "-m", "opensnac", "tokenize", *inputs, "-o", out, "--workers", str(workers)]
    began, paused = time.perf_counter(), 0.0
    process = subprocess.Popen(command, start_new_session=True)
    while not (ended := _wait(process.pid, HELD_EVERY)):
        os.killpg(process.pid, signal.SIGSTOP)
        held = time.perf_counter()
        coded.append(_all_encode(encoders))
        paused += time.perf_counter() - held
        os.killpg(process.pid, signal.SIGCONT)
    took, (_, status, usage) = time.perf_counter() - began - paused, ended
    coded.append(_all_encode(encoders))
    for pipe in encoders:
        pipe.send(0)  # stop
    assert os.waitstatus_to_exitcode(status) == 0, "tokenize failed"
    seconds = totals(Store(out)).seconds
    processor = usage.ru_utime + usage.ru_stime
    walls, processors = (mean(times) for times in zip(*coded, strict=True))
    noise = workers * CALLS * SECONDS
    print(
        f"{seconds / 3600:.2f} h by {workers} workers in {took / 60:.1f} min, {processor / 60:.1f} min processor time"
    )
    for name, ours, theirs in (
        ("wall", seconds / took, noise / walls),
        ("processor", seconds / processor, noise / processors),
    ):
        print(f"{name}: encode {theirs:.1f}, tokenize {ours:.1f} s per second, ratio {ours / theirs:.2f}")


def _start_encoder() -> Connection:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=_encoder, args=(theirs,), daemon=True).start()
    return ours


def _encoder(pipe: Connection) -> None:
    torch.set_num_threads(1)
    model = load_model(Settings(("none",)), "cpu")
    encode(model, 1)
    while calls := pipe.recv():
        pipe.send(encode(model, calls))


def _all_encode(encoders: list[Connection]) -> Times:
    """Run all encoders in parallel: the longest wall time, the sum of processor times."""
    for pipe in encoders:
        pipe.send(CALLS)
    walls, processors = zip(*(pipe.recv() for pipe in encoders), strict=True)
    return max(walls), sum(processors)


def _wait(pid: int, seconds: float) -> tuple[int, int, object] | None:
    """Wait that long for a process to end; its resource usage, or None if it is still running."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = os.wait4(pid, os.WNOHANG)
        if found[0]:
            return found
        time.sleep(0.2)
    return None


if __name__ == "__main__":
    main()
