"""How far codes and audio differ between ways to compute the same: batches, number types, kernels.

    python benchmarks/codes_that_differ.py FOLDER [--model M] [--clips 64] [--seconds 4]

One clip is cut from each recording in FOLDER. Batches are compared with one clip at a time; the kernels that run here,
and those of AVX-512 as emulated by tests/kernels/avx512.h, with PyTorch's arithmetic.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from opensnac import SNAC, Engine, kernels, processor
from opensnac.kernels import library
from opensnac.recordings import audio

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kernels"))
import standin

BATCHES = (2, 8, 32)
SEED = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="a bundled name, a folder or a hub id; default: the bundled one")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    model = SNAC.from_pretrained(options.model)
    clips = clips_of(options.folder, options.clips, options.seconds, model.sampling_rate)
    print(f"{model.name}, {len(clips)} clips of {options.seconds:g} s")
    exact = model.freeze(backend="torch")
    codes = coded(exact, clips, 1)
    sound = decoded(exact, codes, 1)
    for level in processor.LEVELS:
        with using(level) as there:
            if there:
                print_row(
                    f"kernels of {level}",
                    codes,
                    coded(model.freeze(), clips, 1),
                    sound,
                    decoded(model.freeze(), codes, 1),
                )
            if there and kernels.has_bfloat16():
                reduced = model.freeze(dtype=torch.bfloat16)
                print_row("the same in bfloat16", codes, coded(reduced, clips, 1), sound, decoded(reduced, codes, 1))
    for size in BATCHES:
        print_row(f"PyTorch, batches of {size}", codes, coded(exact, clips, size), sound, decoded(exact, codes, size))
    double = model.freeze(backend="torch", dtype=torch.float64)
    codes = coded(double, clips, 1)
    sound = decoded(double, codes, 1)
    print_row("PyTorch in float64, batches of 8", codes, coded(double, clips, 8), sound, decoded(double, codes, 8))


def clips_of(folder: Path, count: int, seconds: float, rate: int) -> Tensor:
    """(clips, 1, samples) from the middle of recordings that are long enough, in order of name."""
    clips: list[Tensor] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".flac", ".wav", ".ogg", ".opus", ".mp3")):
        samples, own_rate = audio.read(path)
        mono = torch.from_numpy(audio.resample(samples[:1], own_rate, rate))
        length = round(seconds * rate)
        if mono.shape[1] >= length and len(clips) < count:
            start = (mono.shape[1] - length) // 2
            clips.append(mono[:, start : start + length])
    return torch.stack(clips)


@contextmanager
def using(level: str) -> Iterator[bool]:
    """Use kernels of a level, if available; AVX-512 is emulated."""
    before = library.loaded
    if processor.runs(level):
        found = library.opened(level, processor.file_of(level))
    elif level == "avx512bf16":
        with tempfile.TemporaryDirectory() as folder:
            found = standin.build(Path(folder))
    else:
        yield False
        return
    library.loaded = kernels.loaded = lambda: found
    yield True
    library.loaded = kernels.loaded = before


def coded(engine: Engine, clips: Tensor, size: int) -> list[Tensor]:
    """Codes of all clips, `size` at a time."""
    return [torch.cat(scale) for scale in zip(*map(engine.encode, clips.split(size)), strict=True)]


def decoded(engine: Engine, codes: list[Tensor], size: int) -> Tensor:
    """Audio of all clips, `size` at a time."""
    batches = zip(*(scale.split(size) for scale in codes), strict=True)
    return torch.cat([engine.decode(list(batch), seed=SEED) for batch in batches])


def print_row(name: str, codes: list[Tensor], others: list[Tensor], sound: Tensor, heard: Tensor) -> None:
    """Print a row of the table."""
    differ = sum(int((a != b).sum()) for a, b in zip(codes, others, strict=True))
    total = sum(code.numel() for code in codes)
    error = float((sound - heard).abs().max())
    print(f"{name}: {differ} of {total} codes differ ({differ / total:.2%}), audio by at most {error:.1e}", flush=True)


if __name__ == "__main__":
    main()
