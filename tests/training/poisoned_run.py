"""Trains in 64 bits as a TOML file says, with one crop full of NaN."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from opensnac.training import loop
from opensnac.training.data import TRAINING, Crops


def train(config: Path, out: Path, poisoned: int) -> None:
    """Run in a process of its own, whose lines go to a file in `out`, named by the process's rank."""
    draw = Crops.draw

    def draw_poison(crops: Crops, numbers: Iterable[int], sequence: int = TRAINING) -> Tensor:
        clips = draw(crops, numbers, sequence).double()
        for i, number in enumerate(numbers):
            if (sequence, number) == (TRAINING, poisoned):
                clips[i] = torch.nan
        return clips

    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    Crops.draw = draw_poison  # type: ignore[method-assign]
    out.mkdir(exist_ok=True)
    said = out / f"said_{os.environ.get('RANK', '0')}.txt"
    with said.open("w") as lines, contextlib.redirect_stdout(lines):
        loop.train_from_file(config, out)
