"""Measures a model's speed on this machine: whole recordings and streams, optionally against the reference package.

Contenders run in separate processes under the same conditions and take turns, so that a drift in the machine's speed
affects both. Quote the ratios.
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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from opensnac import SNAC, __version__, processor
from opensnac.engine.codec import Coder
from opensnac.errors import ConfigError, OpensnacError
from opensnac.files import atomic_file
from opensnac.recordings.model_cache import check_device
from opensnac.streaming.streams import StreamDecoder, StreamEncoder
from opensnac.training.config import TrainConfig

TASKS = ("encode", "decode", "encode stream", "decode stream")
TIMES = " \u00d7 "  # between a task and its number of concurrent clips or streams
RUNS = Path(__file__).parent.parent / "training" / "configs"
LOUDNESS = 0.1  # of the noise to encode: speed does not depend on content


@dataclass(frozen=True)
class Conditions:
    """Conditions for all contenders: the length of clips in `seconds`, and the numbers of clips and of streams."""

    seconds: float
    threads: int
    device: str = "cpu"
    batches: tuple[int, ...] = (1,)
    streams: tuple[int, ...] = (1,)
    reduced: bool = False

    def tasks(self) -> dict[str, tuple[str, int]]:
        """Measurements by name: one of TASKS, and the number of concurrent clips or streams."""
        counted = [(task, n) for task in TASKS for n in (self.streams if "stream" in task else self.batches)]
        return {task if n == 1 else f"{task}{TIMES}{n}": (task, n) for task, n in counted}


@dataclass
class Timing:
    """Times of one task in seconds: the first call, each later one, and each coarse frame of all its streams."""

    signals: int = 1  # processed concurrently
    first: float = 0.0
    calls: list[float] = field(default_factory=list)
    frames: list[float] = field(default_factory=list)
    peak_bytes: int = 0  # of the process so far

    def times_real_time(self, seconds: float) -> float:
        """Seconds of audio per second, from the median call on signals of that many seconds."""
        return self.signals * seconds / statistics.median(self.calls)


def bench_model(name: str | None, config: str | None) -> SNAC:
    """The model to measure: a trained one by name, or random weights for a config.json or a shipped run."""
    if config is None:
        return SNAC.from_pretrained(name)
    torch.manual_seed(0)
    if config.endswith(".json"):
        model = SNAC.from_config(config)
    else:
        shipped = {path.stem: path for path in RUNS.glob("*.toml")}
        if config not in shipped:
            raise ConfigError(f"config: expected a config.json or one of {', '.join(sorted(shipped))}, got {config!r}")
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
    *,
    device: str = "cpu",
    batches: Sequence[int] = (1,),
    streams: Sequence[int] = (1,),
) -> dict[str, Any]:
    """Measure, print a table, write JSON to `out` if given; returns the results. ConfigError for a missing device."""
    threads = threads or torch.get_num_threads()
    check_device(device)
    conditions = Conditions(seconds, threads, device, tuple(batches), tuple(streams), reduced)
    contenders = ["opensnac", "reference"] if against_reference else ["opensnac"]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        timings = _take_turns(contenders, folder, conditions, rounds)
    facts = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "seconds_of_audio": seconds,
        "threads": threads,
        "rounds": rounds,
        "reduced_precision": reduced,
        "backend": processor.backend() if device == "cpu" else "PyTorch",
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "opensnac": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "timings": {name: {task: asdict(t) for task, t in tasks.items()} for name, tasks in timings.items()},
    }
    Console(width=110).print(
        _table(timings, seconds, f"{model.name}, {seconds:g} s of audio, {_place(device, threads)}")
    )
    if out is not None:
        with atomic_file(out, force=True) as path:
            path.write_text(json.dumps(facts, indent=1))
    return facts


def _place(device: str, threads: int) -> str:
    return f"{threads} threads, {processor.backend()}" if device == "cpu" else device


def _take_turns(
    contenders: list[str], folder: str, conditions: Conditions, rounds: int
) -> dict[str, dict[str, Timing]]:
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for name in contenders:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(name, folder, conditions, theirs), daemon=True)
        process.start()
        theirs.close()
        pipes[name] = ours
        processes.append(process)
    tasks = conditions.tasks()
    timings = {name: {task: Timing(n) for task, (_, n) in tasks.items() if _can(name, task)} for name in contenders}
    for task in tasks:
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
        raise OpensnacError("a measuring process died; is there enough memory?") from error
    if isinstance(answer, str):
        raise OpensnacError(answer)
    taken, frames, timing.peak_bytes = answer
    if round_ == 0:
        timing.first = taken
    else:
        timing.calls.append(taken)
        timing.frames += frames


def _work(contender: str, folder: str, conditions: Conditions, pipe: Connection) -> None:
    """A contender's process: runs the tasks it receives and sends back times."""
    torch.set_num_threads(conditions.threads)
    names = conditions.tasks()
    try:
        start = _our_tasks(folder, conditions) if contender == "opensnac" else _reference_tasks(folder, conditions)
    except ImportError:
        pipe.recv()
        pipe.send("the reference package is not installed; run: pip install snac==1.2.1")
        return
    while True:
        task = start(*names[pipe.recv()])
        began = time.perf_counter()
        with torch.inference_mode():
            frames = task()
        _wait(conditions.device)
        pipe.send((time.perf_counter() - began, frames, _peak_bytes(conditions.device)))


def _wait(device: str) -> None:
    """Wait until a GPU has finished."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _peak_bytes(device: str) -> int:
    """Peak memory so far: a GPU's by PyTorch, else the process's."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


Task = Callable[[], list[float]]


def _our_tasks(folder: str, conditions: Conditions) -> Callable[[str, int], Task]:
    """A function that makes a task from its name and the number of signals."""
    device = conditions.device
    model = SNAC.from_pretrained(folder).freeze(dtype=torch.bfloat16 if conditions.reduced else None, device=device)
    audio = _noise(model, conditions.seconds).to(device)
    codes = [scale.to(device) for scale in _codes(model, audio.shape[-1])]
    group, strides = model.config.coarse_stride, model.config.vq_strides
    encoder, decoder = StreamEncoder(model), StreamDecoder(model)

    def timed(pieces: list[Any], push: Callable[[Any, Any], object], state: Any) -> list[float]:
        times = []
        for piece in pieces:
            began = time.perf_counter()
            push(piece, state)
            _wait(device)
            times.append(time.perf_counter() - began)
        return times

    def task(name: str, signals: int) -> Task:
        clips, their_codes = audio.repeat(signals, 1, 1), [scale.repeat(signals, 1) for scale in codes]
        if name == "encode":
            return lambda: _whole(model.encode(clips))
        if name == "decode":
            return lambda: _whole(model.decode(their_codes))
        if name == "encode stream":
            pieces = list(clips.split(group * model.hop_length, dim=2))
            return lambda: timed(pieces, encoder.push, encoder.start(signals))
        split = (scale.split(group // stride, dim=1) for scale, stride in zip(their_codes, strides, strict=True))
        coarse_frames = [list(frame) for frame in zip(*split, strict=True)]
        return lambda: timed(coarse_frames, decoder.push, decoder.start(signals))

    return task


def _reference_tasks(folder: str, conditions: Conditions) -> Callable[[str, int], Task]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import snac
    ours = SNAC.from_pretrained(folder)
    reference = snac.SNAC(**ours.config.to_dict()).eval()
    reference.load_state_dict(ours.state_dict())
    reference.to(conditions.device)
    audio = _noise(ours, conditions.seconds).to(conditions.device)
    codes = [scale.to(conditions.device) for scale in _codes(ours, audio.shape[-1])]
    del ours

    def task(name: str, signals: int) -> Task:
        clips, their_codes = audio.repeat(signals, 1, 1), [scale.repeat(signals, 1) for scale in codes]
        if name == "encode":
            return lambda: _whole(reference.encode(clips))
        return lambda: _whole(reference.decode(their_codes))

    return task


def _whole(result: object) -> list[float]:
    """No coarse frames were timed."""
    return []


def _noise(model: Coder, seconds: float) -> torch.Tensor:
    samples = max(1, round(seconds * model.config.sampling_rate))
    return LOUDNESS * torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(0))


def _codes(model: Coder, samples: int) -> list[torch.Tensor]:
    generator, frames = torch.Generator().manual_seed(0), model.config.num_frames(samples)
    return [
        torch.randint(model.config.codebook_size, (1, frames // stride), generator=generator)
        for stride in model.config.vq_strides
    ]


def _table(timings: dict[str, dict[str, Timing]], seconds: float, title: str) -> Table:
    beside = "reference" in timings
    table = Table(title=title, caption="Speed: seconds of audio per second, median. Streams: ms per coarse frame.")
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
