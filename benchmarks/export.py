"""The codec on ONNX Runtime: sizes, the cost of smaller weights, start-up, and speed compared with the kernels.

    python benchmarks/export.py                 # [--seconds 5] [--rounds 3]
    python benchmarks/export.py --installation  # sizes of opensnac-onnx and its dependencies, in a fresh environment

Processor time of one thread, the minimum of several alternating rounds; on a shared machine only ratios count.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from opensnac import SNAC
from opensnac.export import Weights, export
from opensnac.recordings import audio
from opensnac.runtime import Codec
from opensnac.runtime.graphs import Model
from opensnac.showcase.bench import bench_model
from opensnac.streaming import StreamDecoder, StreamEncoder

ROOT = Path(__file__).parents[1]
RECORDING = ROOT / "examples" / "lj_speech.flac"
STORED = ("fp32", "fp16", "int8")
START = """
import numpy as np, time
from opensnac.runtime import Codec
codec = Codec.from_pretrained({name!r}, weights={stored!r}, threads=1)
codec.encode(np.zeros((1, 1, 2048), np.float32))
print(time.process_time())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of audio")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--installation", action="store_true", help="only this")
    options = parser.parse_args()
    if options.installation:
        installation()
        return
    torch.set_num_threads(1)
    samples, rate = audio.read(RECORDING)
    recording = np.ascontiguousarray(samples[None, :1, : round(options.seconds * rate)])
    model = SNAC.from_pretrained()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / model.name
        export(Weights.of(model), folder, STORED, stream=True)
        smaller_weights(folder, recording)
        start_up(folder)
        for layout in (model, bench_model(None, "speech_24khz")):
            speed(layout, recording, options.rounds)


def smaller_weights(folder: Path, recording: np.ndarray) -> None:
    """Sizes of an exported folder's graphs, and differences in their output."""
    print(f"{folder.name}: MB of encoder and decoder, codes that differ, decoder against fp32")
    exact = Codec.from_pretrained(folder, threads=1)
    codes = exact.encode(recording)
    heard = exact.decode(codes)
    for stored in STORED:
        suffix = "" if stored == "fp32" else f"_{stored}"
        sizes = [(folder / f"onnx/{kind}_model{suffix}.onnx").stat().st_size / 1e6 for kind in ("encoder", "decoder")]
        codec = Codec.from_pretrained(folder, weights=stored, threads=1)
        other, error = codec.encode(recording), heard - codec.decode(codes)
        differ = np.mean(np.concatenate([(a != b).ravel() for a, b in zip(codes, other, strict=True)]))
        decibels = (
            f"{10 * np.log10(np.square(heard).sum() / np.square(error).sum()):.1f} dB" if error.any() else "equal"
        )
        print(f"  {stored}  {sizes[0]:5.1f} {sizes[1]:5.1f}  {differ:6.1%}  {decibels}")


def start_up(folder: Path) -> None:
    """Processor time of a fresh process until it has its first codes, the lowest of five."""
    print("start-up to first codes, seconds of processor time")
    for name, stored, words in (
        (str(folder), "fp32", "exported folder"),
        (str(folder), "fp16", "exported folder, fp16"),
        (folder.name, "fp32", "bundled weights, graph built on the fly"),
    ):
        command = [sys.executable, "-c", START.format(name=name, stored=stored)]
        taken = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(5)]
        print(f"  {min(taken):.2f}  {words}")


def speed(model: SNAC, recording: np.ndarray, rounds: int) -> None:
    """Seconds of audio per second, and milliseconds per group of frames as a stream, alternating between runtimes."""
    weights, engine = Weights.of(model), model.freeze()
    codec = Codec(Model(weights.name, weights.fingerprint, weights.config, weights, "fp32"), threads=1)
    tensors, codes = engine.encode(recording), codec.encode(recording)
    seconds = recording.shape[2] / model.sampling_rate
    taken = lowest(
        rounds,
        {
            ("encode", engine.backend.name): lambda: engine.encode(recording),
            ("encode", "onnx"): lambda: codec.encode(recording),
            ("decode", engine.backend.name): lambda: engine.decode(tensors),
            ("decode", "onnx"): lambda: codec.decode(codes),
        },
    )
    print(f"{model.name}: seconds of audio per second, one thread")
    for what in ("encode", "decode"):
        own, other = (seconds / taken[what, runtime] for runtime in (engine.backend.name, "onnx"))
        print(f"  {what}  {engine.backend.name} {own:5.1f}  onnxruntime {other:5.1f}  {other / own:.2f} of it")
    stream(model, codec, recording, rounds)


def stream(model: SNAC, codec: Codec, recording: np.ndarray, rounds: int) -> None:
    """Milliseconds per group of frames."""
    config = model.config
    group = config.frame_multiple * config.hop_length
    pieces = [recording[:, :, start : start + group] for start in range(0, recording.shape[2] - group, group)]
    encoder, decoder = StreamEncoder(model.freeze()), StreamDecoder(model.freeze())
    one = [np.zeros((1, config.frame_multiple // stride), np.int64) for stride in config.vq_strides]

    def kernels_encode(state: Any) -> None:
        for piece in pieces:
            encoder.push(torch.from_numpy(piece.copy()), state)

    def kernels_decode(state: Any) -> None:
        for _ in pieces:
            decoder.push([torch.from_numpy(scale) for scale in one], state)

    def onnx_encode(state: Any) -> None:
        for piece in pieces:
            state.push(piece[:, 0])

    def onnx_decode(state: Any) -> None:
        for _ in pieces:
            state.push(one)

    taken = lowest(
        rounds,
        {
            ("encode", "c"): lambda: kernels_encode(encoder.start()),
            ("encode", "onnx"): lambda: onnx_encode(codec.stream_encoder()),
            ("decode", "c"): lambda: kernels_decode(decoder.start()),
            ("decode", "onnx"): lambda: onnx_decode(codec.stream_decoder()),
        },
    )
    milliseconds = {key: 1000 * value / len(pieces) for key, value in taken.items()}
    lasts = 1000 * group / config.sampling_rate
    print(
        f"  a group of {lasts:.0f} ms as a stream, in ms: "
        + ", ".join(
            f"{what} {milliseconds[what, 'c']:.1f} and {milliseconds[what, 'onnx']:.1f}"
            for what in ("encode", "decode")
        )
    )


def lowest(rounds: int, work: Mapping[Any, Callable[[], Any]]) -> dict[Any, float]:
    """Minimum processor seconds of each, alternating after a warm-up round."""
    taken: dict[Any, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, do in work.items():
            start = time.process_time()
            do()
            taken[name].append(time.process_time() - start)
    return {name: min(times[1:]) for name, times in taken.items()}


def installation() -> None:
    """Size in MB of opensnac-onnx and each dependency, without compiled bytecode."""
    with tempfile.TemporaryDirectory() as name:
        venv.create(name, with_pip=True)
        before = sizes(Path(name))
        command = [f"{name}/bin/pip", "install", "-q", "--no-cache-dir", "--no-compile"]
        subprocess.run([*command, str(ROOT / "packaging/opensnac-onnx")], check=True)
        found = {package: size for package, size in sizes(Path(name)).items() if package not in before}
    for package, size in sorted(found.items(), key=lambda item: -item[1]):
        if size > 1:
            print(f"{size:6.1f}  {package}")
    print(f"{sum(found.values()):6.1f} MB in total")


def sizes(environment: Path) -> dict[str, float]:
    (packages,) = environment.glob("lib/python*/site-packages")
    return {
        path.name: sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file()) / 1e6
        for path in packages.iterdir()
    }


if __name__ == "__main__":
    main()
