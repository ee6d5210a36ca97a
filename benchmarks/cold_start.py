"""Start-up time: a fresh `opensnac decode` compared with a fresh Python process using the reference package.

python benchmarks/cold_start.py [--seconds 10] [--rounds 3] [--model M | --config speech_24khz]

Both read codes and the same weights from files, write a WAV file, and alternate. Prints median wall and processor time
of the whole process. Needs the package `snac`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from opensnac.recordings import transcode
from opensnac.showcase.bench import bench_model

REFERENCE = """
import sys
import soundfile, torch, snac
folder, target = sys.argv[1:]
model = snac.SNAC.from_config(folder + "/config.json").eval()
model.load_state_dict(torch.load(folder + "/pytorch_model.bin", map_location="cpu", weights_only=True))
codes = torch.load(folder + "/codes.pt", weights_only=True)
with torch.inference_mode():
    audio = model.decode(codes)
soundfile.write(target, audio[0, 0].numpy(), model.sampling_rate)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="a trained one; default: the bundled one")
    parser.add_argument("--config", help="random weights of a shipped run or a config.json instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, options)
        commands = {
            "opensnac": [
                *["-m", "opensnac", "decode", "--force", "--model"],
                name,
                f"{name}/clip.snac",
                "-o",
                f"{name}/a.wav",
            ],
            "reference": ["-W", "ignore", "-c", REFERENCE, name, f"{name}/b.wav"],
        }
        taken: dict[str, list[tuple[float, float]]] = {contender: [] for contender in commands}
        for _ in range(options.rounds + 1):  # the first round warms the disk cache
            for contender, command in commands.items():
                taken[contender].append(measure(command))
        for contender, times in taken.items():
            wall, processor = (statistics.median(column) for column in zip(*times[1:], strict=True))
            print(f"{contender}: {wall:.2f} s, {processor:.2f} s of processor time")


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Write a model's folder, in both forms, and the codes of a clip of noise."""
    model = bench_model(options.model, options.config)
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    rate = model.config.sampling_rate
    samples = 0.1 * np.random.default_rng(0).standard_normal(round(options.seconds * rate))
    soundfile.write(folder / "clip.wav", samples, rate)
    transcode.encode_file(folder / "clip.wav", folder / "clip.snac", model)
    torch.save(model.encode(torch.from_numpy(samples).float()[None, None]), folder / "codes.pt")


def measure(command: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of a fresh Python process."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command[:4])} failed: {said.decode()}")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
