"""Times a training step with the C kernels, also in bf16, without them, and with the reference package's modules.

python benchmarks/training_step.py [--config speech_24khz_tiny] [--adversarial] [--rounds 3] [--set KEY=VALUE]

The generator alone or, with `--adversarial`, the same discriminators too. Eager, clips in memory. The contenders take
turns; CPU seconds of the median step. Needs the package `snac`, whose step is in fp32, with plain AdamW and without
codebook losses.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from gpu_session import ReferenceStep

from opensnac.kernels.library import loaded
from opensnac.training.benchmark import stage
from opensnac.training.config import TrainConfig
from opensnac.training.discriminators import Discriminators
from opensnac.training.loop import crop_samples, find_config
from opensnac.training.processes import Processes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="speech_24khz_tiny", help="a shipped configuration's name or a TOML file")
    parser.add_argument("--adversarial", action="store_true", help="with discriminators, published size unless --set")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = TrainConfig.from_toml(find_config(options.config), options.changes)
    clips = 0.1 * torch.randn(config.data.batch_size, 1, crop_samples(config))
    seconds = clips.numel() / config.model.sampling_rate
    print(
        f"{config.name}: {len(clips)} clips of {seconds / len(clips):.2f} s a step, {options.threads} threads, "
        f"{'full GAN' if options.adversarial else 'generator alone'}"
    )
    taken: dict[str, list[float]] = {}
    steps = steps_of(config, clips, options.adversarial)
    for round_ in range(options.rounds + 1):  # the first one is warming up
        for name, step in steps.items():
            began = time.process_time()
            step()
            if round_:
                taken.setdefault(name, []).append(time.process_time() - began)
    for name, times in taken.items():
        median = statistics.median(times)
        print(f"{name}: {median:.2f} s a step, {seconds / median:.2f} s of audio a second")


def steps_of(config: TrainConfig, clips: torch.Tensor, adversarial: bool) -> dict[str, Callable[[], object]]:
    """The contenders, each a step to take."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    import snac

    discriminators = Discriminators(config.discriminator) if adversarial else None
    reference = ReferenceStep(snac.SNAC(**config.model.to_dict()).train(), discriminators, config)
    numbers = torch.arange(len(clips))
    with_kernels, without, halves = (
        stage(dataclasses.replace(config, precision=precision), Processes("cpu"), discriminators=adversarial)
        for precision in ("fp32", "fp32", "bf16")
    )

    def step_without() -> None:
        switch_kernels(False)
        without.training_step(clips, numbers, 0.5)
        switch_kernels(True)

    return {
        "with the C kernels": lambda: with_kernels.training_step(clips, numbers, 0.5),
        "the same in bf16": lambda: halves.training_step(clips, numbers, 0.5),
        "without them": step_without,
        "the reference's modules": lambda: reference(clips),
    }


def switch_kernels(on: bool) -> None:
    os.environ["OPENSNAC_KERNELS"] = "1" if on else "0"
    loaded.cache_clear()


if __name__ == "__main__":
    main()
