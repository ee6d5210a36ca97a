"""How fast a model runs here: whole recordings and streams, beside the reference package if asked for.

Every contender lives in a process of its own, under the same conditions, and they take turns, so that a machine whose
speed drifts drifts for both. Quote the ratios.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from opensnac import SNAC, __version__
from opensnac.errors import ConfigError, OpensnacError
from opensnac.files import whole_file
from opensnac.streaming import StreamDecoder, StreamEncoder
from opensnac.training.config import TrainConfig

TASKS = ("encode", "decode", "encode stream", "decode stream")
RUNS = Path(__file__).parent / "training" / "configs"
LOUDNESS = 0.1  # of the noise that is coded: speed does not depend on what is heard


@dataclass
class Timing:
    """Of one task: seconds of the first call, of each later one, and of each coarse frame of a stream."""

    first: float = 0.0
    calls: list[float] = field(default_factory=list)
    frames: list[float] = field(default_factory=list)
    peak_bytes: int = 0  # of the process so far

    def times_real_time(self, seconds: float) -> float:
        """Seconds of audio a second, by the median call."""
        return seconds / statistics.median(self.calls)


def subject(name: str | None, config: str | None) -> SNAC:
    """The model to measure: a trained one by name, or random weights for a config.json or a shipped run."""
    if config is None:
        return SNAC.from_pretrained(name)
    torch.manual_seed(0)
    if config.endswith(".json"):
        model = SNAC.from_config(config)
    else:
        shipped = {path.stem: path for path in RUNS.glob("*.toml")}
        if config not in shipped:
            raise ConfigError(f"{config!r} is no config.json and none of {', '.join(sorted(shipped))}")
        model = SNAC.from_config(TrainConfig.from_toml(shipped[config]).model)
    model.name = f"{config} (random weights)"
    return model.eval()


def run_bench(
    model: SNAC,
    seconds: float,
    threads: int | None = None,
    rounds: int = 3,
    against_reference: bool = False,
    reduced: bool = False,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure, print a table, write JSON into `out` if given; returns what was written."""
    threads = threads or torch.get_num_threads()
    contenders = ["opensnac", "reference"] if against_reference else ["opensnac"]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        timings = _take_turns(contenders, folder, seconds, threads, rounds, reduced)
    facts = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "seconds_of_audio": seconds,
        "threads": threads,
        "rounds": rounds,
        "reduced_precision": reduced,
        "opensnac": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "timings": {name: {task: asdict(t) for task, t in tasks.items()} for name, tasks in timings.items()},
    }
    Console(width=100).print(_table(timings, seconds, f"{model.name}, {seconds:g} s of audio, {threads} threads"))
    if out is not None:
        with whole_file(out, force=True) as path:
            path.write_text(json.dumps(facts, indent=1))
    return facts


def _take_turns(
    contenders: list[str], folder: str, seconds: float, threads: int, rounds: int, reduced: bool
) -> dict[str, dict[str, Timing]]:
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for name in contenders:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(name, folder, seconds, threads, reduced, theirs), daemon=True)
        process.start()
        theirs.close()
        pipes[name] = ours
        processes.append(process)
    timings = {name: {task: Timing() for task in TASKS if _can(name, task)} for name in contenders}
    for task in TASKS:
        for round_ in range(rounds + 1):
            for name in contenders:
                if _can(name, task):
                    _measure(pipes[name], task, round_, timings[name][task])
    for process in processes:
        process.terminate()
    return timings


def _can(contender: str, task: str) -> bool:
    return contender == "opensnac" or "stream" not in task


def _measure(pipe: Connection, task: str, round_: int, timing: Timing) -> None:
    pipe.send(task)
    try:
        answer = pipe.recv()
    except EOFError as error:
        raise OpensnacError("a measuring process ended; is there enough memory?") from error
    if isinstance(answer, str):
        raise OpensnacError(answer)
    taken, frames, timing.peak_bytes = answer
    if round_ == 0:
        timing.first = taken
    else:
        timing.calls.append(taken)
        timing.frames += frames


def _work(contender: str, folder: str, seconds: float, threads: int, reduced: bool, pipe: Connection) -> None:
    """A contender's process: does each task that it is told, and says how long it took."""
    torch.set_num_threads(threads)
    try:
        tasks = _our_tasks(folder, seconds, reduced) if contender == "opensnac" else _reference_tasks(folder, seconds)
    except ImportError:
        pipe.recv()
        pipe.send("the reference package is not installed; pip install snac==1.2.1")
        return
    while True:
        task = tasks[pipe.recv()]
        began = time.perf_counter()
        with torch.inference_mode():
            frames = task()
        taken = time.perf_counter() - began
        kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pipe.send((taken, frames, kibibytes * (1 if sys.platform == "darwin" else 1024)))


def _our_tasks(folder: str, seconds: float, reduced: bool) -> dict[str, Callable[[], list[float]]]:
    model = SNAC.from_pretrained(folder).fold_weight_norm().reduce_precision(reduced)
    audio = _noise(model, seconds)
    codes = _codes(model, audio.shape[-1])
    group = model.config.coarse_stride
    encoder, decoder = StreamEncoder(model), StreamDecoder(model)

    def timed(pieces: list[Any], push: Callable[[Any, Any], object], state: Any) -> list[float]:
        times = []
        for piece in pieces:
            began = time.perf_counter()
            push(piece, state)
            times.append(time.perf_counter() - began)
        return times

    def encode_stream() -> list[float]:
        return timed(list(audio.split(group * model.hop_length, dim=2)), encoder.push, encoder.start())

    def decode_stream() -> list[float]:
        strides = model.config.vq_strides
        pieces = zip(*(code.split(group // s, dim=1) for code, s in zip(codes, strides, strict=True)), strict=True)
        return timed([list(piece) for piece in pieces], decoder.push, decoder.start())

    return {
        "encode": lambda: _whole(model.encode(audio)),
        "decode": lambda: _whole(model.decode(codes)),
        "encode stream": encode_stream,
        "decode stream": decode_stream,
    }


def _reference_tasks(folder: str, seconds: float) -> dict[str, Callable[[], list[float]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import snac
    ours = SNAC.from_pretrained(folder)
    reference = snac.SNAC(**ours.config.to_dict()).eval()
    reference.load_state_dict(ours.state_dict())
    audio = _noise(ours, seconds)
    codes = _codes(ours, audio.shape[-1])
    del ours
    return {
        "encode": lambda: _whole(reference.encode(audio)),
        "decode": lambda: _whole(reference.decode(codes)),
    }


def _whole(result: object) -> list[float]:
    """No coarse frames were timed."""
    return []


def _noise(model: SNAC, seconds: float) -> torch.Tensor:
    samples = max(1, round(seconds * model.config.sampling_rate))
    return LOUDNESS * torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(0))


def _codes(model: SNAC, samples: int) -> list[torch.Tensor]:
    generator, frames = torch.Generator().manual_seed(0), model.config.num_frames(samples)
    return [
        torch.randint(model.config.codebook_size, (1, frames // stride), generator=generator)
        for stride in model.config.vq_strides
    ]


def _table(timings: dict[str, dict[str, Timing]], seconds: float, title: str) -> Table:
    beside = "reference" in timings
    table = Table(title=title, caption="Speed: seconds of audio a second, the median. Streams: ms for a coarse frame.")
    table.add_column("task", no_wrap=True)
    headings = ["speed", "first call", "median", "95 %", "peak"] + ["reference", "first call", "ratio"] * beside
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for task, timing in timings["opensnac"].items():
        row = [task, f"{timing.times_real_time(seconds):.1f}", f"{timing.first:.2f} s", "", ""]
        if timing.frames:
            late = sorted(timing.frames)[int(0.95 * (len(timing.frames) - 1))]
            row[3:] = [f"{1e3 * statistics.median(timing.frames):.1f} ms", f"{1e3 * late:.1f} ms"]
        row.append(f"{timing.peak_bytes / 1e6:.0f} MB")
        theirs = timings.get("reference", {}).get(task)
        if theirs is not None:
            ratio = statistics.median(theirs.calls) / statistics.median(timing.calls)
            row += [f"{theirs.times_real_time(seconds):.1f}", f"{theirs.first:.2f} s", f"{ratio:.1f}"]
        table.add_row(*row)
    return table
