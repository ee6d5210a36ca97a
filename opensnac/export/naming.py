"""File names in an exported folder."""

from __future__ import annotations

FOLDER = "onnx"  # holds the graphs
ABOUT = "opensnac.json"  # the model's and each graph's metadata


def file_name(name: str, stored: str) -> str:
    """A graph's file name, as transformers.js expects it."""
    return f"{name}.onnx" if stored == "fp32" else f"{name}_{stored}.onnx"
