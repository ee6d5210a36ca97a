"""Times opensnac beside the reference package `snac`, same weights, same process, turn by turn.

    python benchmarks/against_reference.py [--seconds 10] [--rounds 3] [--threads 2]

Prints seconds of audio a second: encode, decode and one generator training step (forward, backward), and the ratio.
Figures drift with the machine's load; the ratio is what to quote.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from opensnac import SNAC
from opensnac.training.config import CONFIGS, TrainConfig

warnings.filterwarnings("ignore", category=DeprecationWarning)
import snac  # noqa: E402

TRAINING_CLIPS, TRAINING_SECONDS = 4, 0.34


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(title=f"seconds of audio a second, {options.threads} threads, median of {options.rounds}")
    for heading in ("model", "task", "reference", "opensnac", "ratio"):
        table.add_column(heading, justify="left" if heading in ("model", "task") else "right")
    for name in ("speech_24khz", "speech_24khz_tiny"):
        for task, (theirs, ours, seconds) in tasks(name, options.seconds).items():
            rates = race(theirs, ours, options.rounds, seconds)
            table.add_row(name, task, f"{rates[0]:.1f}", f"{rates[1]:.1f}", f"{rates[1] / rates[0]:.1f}")
    Console().print(table)


def tasks(name: str, seconds: float) -> dict[str, tuple[Callable[[], object], Callable[[], object], float]]:
    """For each task the reference's way, ours, and the seconds of audio that each goes through."""
    config = TrainConfig.from_toml(CONFIGS / f"{name}.toml").model
    reference = snac.SNAC(**config.to_dict()).eval()
    ours = SNAC.from_config(config).eval()
    ours.load_state_dict(reference.state_dict())
    folded = SNAC.from_config(config).eval()
    folded.load_state_dict(reference.state_dict())
    folded.fold_weight_norm()
    audio = 0.1 * torch.randn(1, 1, int(seconds * config.sampling_rate))
    clips = 0.1 * torch.randn(TRAINING_CLIPS, 1, int(TRAINING_SECONDS * config.sampling_rate))
    codes = folded.encode(audio)

    def still(call: Callable[[], object]) -> Callable[[], object]:
        return torch.inference_mode()(call)

    def step(model: torch.nn.Module) -> None:
        model.train()(clips)[0].square().mean().backward()

    return {
        "encode": (still(lambda: reference.eval().encode(audio)), still(lambda: folded.encode(audio)), seconds),
        "decode": (still(lambda: reference.eval().decode(codes)), still(lambda: folded.decode(codes)), seconds),
        "train": (lambda: step(reference), lambda: step(ours), TRAINING_CLIPS * TRAINING_SECONDS),
    }


def race(theirs: Callable[[], object], ours: Callable[[], object], rounds: int, seconds: float) -> tuple[float, float]:
    """Seconds of audio a second of both, in turns after one warm-up each."""
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(rounds + 1):
        for call, taken in zip((theirs, ours), times, strict=True):
            began = time.perf_counter()
            call()
            if round_:
                taken.append(time.perf_counter() - began)
    return seconds / statistics.median(times[0]), seconds / statistics.median(times[1])


if __name__ == "__main__":
    main()
