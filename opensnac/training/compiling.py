"""torch.compile, used if it turns out to be faster."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from opensnac import kernels
from opensnac.training.step import Trainer

ROUNDS = 3
MIN_SPEEDUP = 1.05  # over eager, for the compiled form to be used
PARTS = ("encode", "decode", "discriminate")  # what a Trainer calls


def compile_if_faster(trainer: Trainer, clips: Tensor) -> str:
    """Compile the generator and the discriminators if that speeds them up on clips (clips, 1, samples).

    Returns a line about the result. All processes decide alike. Not tried on a CPU with the C kernels: they are faster
    there, and compilation had not finished after nine minutes.
    """
    if clips.device.type == "cpu" and kernels.level() is not None:
        return "not compiled: on a CPU the C kernels are the faster form"
    schedule = trainer.config.schedule
    parts = PARTS if schedule.discriminate_from < schedule.steps else PARTS[:2]  # those that this run uses
    plain = {part: getattr(trainer, part) for part in parts}
    before = _seconds(trainer, clips, parts)
    failure = ""
    try:
        for part, call in plain.items():
            setattr(trainer, part, torch.compile(call, dynamic=False))
        after = _seconds(trainer, clips, parts)
    except Exception as error:  # whatever the compiler raises, the run continues eagerly
        failure, after = (str(error).splitlines() or [""])[0] or type(error).__name__, float("inf")
    gain = trainer.processes.broadcast_value(before / after)
    if gain >= MIN_SPEEDUP:
        return f"compiled: {gain:.2f} times as fast as eager"
    for part, call in plain.items():
        setattr(trainer, part, call)
    return f"not compiled: {failure or f'{gain:.2f} times as fast as eager'}; continuing eagerly"


def _seconds(trainer: Trainer, clips: Tensor, parts: tuple[str, ...]) -> float:
    """The fastest of some forward and backward passes; the first, which compiles, does not count."""
    seeds = torch.arange(len(clips), device=clips.device)

    def work() -> None:
        with trainer.matrix_precision():
            audio = trainer.decode(trainer.encode(clips), seeds).float()
        with trainer.matrix_precision(discriminators=True):
            scores = trainer.discriminate(audio) if "discriminate" in parts else [[audio]]
        torch.stack([features[-1].float().square().mean() for features in scores]).sum().backward()

    try:
        return min(timed(work, clips.device) for _ in range(ROUNDS + 1))
    finally:
        trainer.generator.zero_grad()
        trainer.discriminators.zero_grad()


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that `work` takes on `device`, synchronised."""
    finish(device)
    began = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - began


def finish(device: torch.device) -> None:
    """Synchronise with a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
