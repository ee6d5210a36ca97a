"""Trains in 64 bits as a TOML file says, with one crop full of NaN: `poisoned_run.py CONFIG OUT CROP`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from opensnac.training import loop
from opensnac.training.data import TRAINING, Crops


def main() -> None:
    """Run."""
    config, out, poisoned = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
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
    loop.train_from_file(config, out)


if __name__ == "__main__":
    main()
