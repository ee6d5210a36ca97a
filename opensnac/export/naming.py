"""How the files of an exported folder are called."""

from __future__ import annotations

FOLDER = "onnx"  # of the graphs
ABOUT = "opensnac.json"  # what the model is, and what each graph's metadata says


def file_name(name: str, stored: str) -> str:
    """Of a graph, as transformers.js looks for it."""
    return f"{name}.onnx" if stored == "fp32" else f"{name}_{stored}.onnx"
