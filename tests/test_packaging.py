"""The distribution without PyTorch has the same version and a subset of the requirements."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def project(path: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / path).read_text(encoding="utf-8"))["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", requirement)[0] for requirement in requirements}


def test_two_distributions_of_one_package() -> None:
    whole, light = project("pyproject.toml"), project("packaging/opensnac-onnx/pyproject.toml")
    for key in ("version", "requires-python", "license", "scripts"):
        assert whole[key] == light[key]
    known = {*whole["dependencies"], *whole["optional-dependencies"]["onnx"]}
    assert set(light["dependencies"]) <= known
    assert names([*known]) - names(light["dependencies"]) == {"torch", "jaxtyping", "huggingface_hub"}
    assert set(light["optional-dependencies"]["hub"]) <= known
    assert light["optional-dependencies"]["media"] == whole["optional-dependencies"]["media"]
