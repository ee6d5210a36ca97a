"""Assemble the page, the package and a model into web/dist/, a folder that any static host can serve.

Needs onnxruntime-web in web/node_modules: `make web` fetches it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

from opensnac.export import Weights, export
from opensnac.models import locate

HERE = Path(__file__).parent
RUNTIME = HERE / "node_modules/onnxruntime-web/dist"
RUNTIME_FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
LATER = ("webgpu", "asyncify")  # in names of files that the page fetches, and keeps, only where it uses them


def assemble(dist: Path, weights: Weights, stored: tuple[str, ...] = ("fp16",)) -> None:
    """Replace `dist` by a page with this model, its weights stored in these ways; the page uses float16."""
    shutil.rmtree(dist, ignore_errors=True)
    shutil.copytree(HERE / "demo", dist)
    for part in ("src", "components"):
        shutil.copytree(HERE / part, dist / "opensnac" / part)
    for file in ("package.json", "README.md"):
        shutil.copy(HERE / file, dist / "opensnac")
    (dist / "ort").mkdir()
    for file in RUNTIME_FILES:
        shutil.copy(RUNTIME / file, dist / "ort")
    export(weights, dist / "model", stored, stream=True)
    _leave_only_streams(dist / "model")
    _list_files(dist)


def _leave_only_streams(model: Path) -> None:
    """Drop the graphs of whole signals, which the package does not use."""
    about = json.loads((model / "opensnac.json").read_text())
    about["graphs"] = {name: facts for name, facts in about["graphs"].items() if "_stream" in name}
    (model / "opensnac.json").write_text(json.dumps(about, indent=2) + "\n")
    for graph in (model / "onnx").iterdir():
        if graph.name not in about["graphs"]:
            graph.unlink()


def _list_files(dist: Path) -> None:
    """Tell the service worker what to keep, under a version that changes with any of it."""
    version = hashlib.sha256()
    names = []
    for file in sorted(path for path in dist.rglob("*") if path.is_file()):
        name = file.relative_to(dist).as_posix()
        version.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
        if not name.endswith(("service-worker.js", ".md", ".d.ts")) and not any(part in name for part in LATER):
            names.append(name)
    script = dist / "service-worker.js"
    head = f'const VERSION = "{version.hexdigest()[:16]}";\nconst FILES = {json.dumps(names)};\n'
    script.write_text(head + script.read_text())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a bundled model's name, or a folder; the default model if left out")
    parser.add_argument("--out", type=Path, default=HERE / "dist")
    given = parser.parse_args()
    assemble(given.out, Weights.read(*locate(given.model)))
    size = sum(file.stat().st_size for file in given.out.rglob("*") if file.is_file())
    print(f"{given.out}: {size / 1e6:.1f} MB")
