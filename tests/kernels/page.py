"""The functions in numpy that docs/kernels.md defines the kernels by."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def defined() -> SimpleNamespace:
    """The names defined by the page's code blocks."""
    names: dict[str, object] = {"np": np}
    for block in BLOCKS:
        exec(block, names)
    return SimpleNamespace(**names)


documented = defined()
