"""Inference on a GPU compared with the reference package: parity, then speed of recordings and of many streams.

    python benchmarks/gpu_inference.py --config speech_24khz --device cuda --out inference.json

Models have random weights. Recordings: batches of ten seconds in float32, float16 and bfloat16, eager and with graphs
(CUDA's; with --compiled also inductor's, which take minutes per shape), and the reference's in float32. Streams: a step
of a DecoderPool, which on a GPU is one captured graph, and how many streams that would serve in real time. It also runs
on a CPU, slowly (--seconds 1 --batches 1 --streams 4).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from opensnac import SNAC, Engine
from opensnac.showcase.bench import bench_model
from opensnac.streaming.pool import DecoderPool

TYPES = {"float16": torch.float16, "float32": torch.float32, "bfloat16": torch.bfloat16}
PARITY_SECONDS = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="speech_24khz", help="a shipped run's name, or a config.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 64, 512])
    parser.add_argument("--types", nargs="+", choices=TYPES, default=[*TYPES])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="also graphs of compiled code")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sizes = options.seconds, options.batches, options.streams, options.rounds
    rows = measure(options.config, options.device, *sizes, options.types, options.compiled)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2) + "\n")


def measure(
    config: str,
    device: str,
    seconds: float,
    batches: list[int],
    streams: list[int],
    rounds: int,
    types: Iterable[str] = TYPES,
    compiled: bool = False,
) -> list[dict[str, Any]]:
    """Measure all rows, and print each as it is measured."""
    rows: list[dict[str, Any]] = []

    def print_row(**row: Any) -> None:
        rows.append({"config": config, "device": device} | row)
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)

    model = bench_model(None, config)
    reference = reference_of(model).to(device)
    print_row(task="parity", **parity(model, reference, device))
    forms: dict[str, bool | str] = {"graphs": True, "eager": False} | ({"compiled": "inductor"} if compiled else {})
    theirs: dict[tuple[str, int], float] = {}

    def engine_of(form: str, dtype: torch.dtype) -> Engine:
        """A new one each time, so that only one holds captured memory."""
        return model.freeze(backend="torch", dtype=dtype, device=device, graphs=forms[form])

    def recordings(form: str) -> None:
        for batch in batches:
            audio = 0.1 * torch.randn(batch, 1, round(seconds * model.sampling_rate), device=device)
            codes = engine_of("eager", torch.float32).encode(audio)
            for task, value in (("encode", audio), ("decode", codes)):
                if (task, batch) not in theirs:
                    call = getattr(reference, task)
                    theirs[task, batch] = timed(lambda v=value, call=call: call(v), device, rounds)
                    speed = {"times_real_time": round(batch * seconds / theirs[task, batch], 1)}
                    print_row(task=task, batch=batch, form="reference", **speed)
                for name in types:
                    call = getattr(engine_of(form, TYPES[name]), task)
                    ours = timed(lambda v=value, call=call: call(v, check=False), device, rounds)
                    speed = {"times_real_time": round(batch * seconds / ours, 1)}
                    ratio = round(theirs[task, batch] / ours, 2)
                    print_row(task=task, batch=batch, form=f"{form} {name}", **speed, ratio=ratio)

    recordings("graphs")  # what is used comes first, in case the time does not suffice for all
    for count, name in itertools.product(streams, types):
        step = step_of(engine_of("eager", TYPES[name]), count, rounds)  # a pool's step is a graph in any case
        print_row(task="streams", streams=count, form=name, **step)
    for form in [*forms][1:]:
        recordings(form)
    return rows


def reference_of(model: SNAC) -> torch.nn.Module:
    """The reference package's model with the same weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import snac
    reference = snac.SNAC(**model.config.to_dict()).eval()
    reference.load_state_dict(model.state_dict())
    return reference


@torch.inference_mode()
def parity(model: SNAC, reference: torch.nn.Module, device: str) -> dict[str, Any]:
    """The share of codes equal to the reference's, and the largest difference of our backends' audio without noise."""
    audio = 0.1 * torch.randn(2, 1, round(PARITY_SECONDS * model.sampling_rate))
    here, there = model.freeze(device="cpu"), model.freeze(backend="torch", device=device)
    codes = reference.encode(audio.to(device))
    same = [float((a == b).float().mean()) for a, b in zip(codes, there.encode(audio.to(device)), strict=True)]
    ours = there.decode(codes, noise=False).cpu()
    error = float((ours - here.decode([code.cpu() for code in codes], noise=False)).abs().max())
    return {"codes_as_the_reference": [round(share, 6) for share in same], "largest_difference_to_cpu": error}


def step_of(engine: Engine, count: int, rounds: int) -> dict[str, Any]:
    """Time a pool's step with all its streams."""
    pool = DecoderPool(engine, count)
    places = [pool.open(seed=n) for n in range(count)]
    codes = [torch.zeros_like(held[0]) for held in pool._step.inputs]
    pushes = dict.fromkeys(places, codes)
    pool.push(pushes)
    whole = timed(lambda: pool.push(pushes), str(engine.device), rounds)
    step = timed(pool._step.advance, str(engine.device), rounds)
    group = engine.config.frame_multiple / engine.config.frame_rate
    times = {"step_ms": round(1e3 * step, 3), "push_ms": round(1e3 * whole, 3)}
    return times | {"real_time_streams": int(count * group / whole)}


@torch.inference_mode()
def timed(work: Callable[[], object], device: str, rounds: int) -> float:
    """Median seconds of a call, after a warm-up."""
    taken = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


if __name__ == "__main__":
    main()
