"""What a codec's audio lacks: its scores with one part at a time replaced by the original's.

python benchmarks/ceilings.py FOLDER [--codec opensnac] [--seconds 5] [--metric pesq_wb ...] [--jobs 2]

In windows of 1024 samples at 24 kHz: the phases, the magnitudes, a range of frequencies, or the levels of 40 mel bands,
in each frame or as an average over a longer time. What raises a score most is what the codec should learn next.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from opensnac.errors import OpensnacError
from opensnac.evaluation.codecs import by_name
from opensnac.evaluation.evaluate import find_clips
from opensnac.evaluation.metrics import METRICS
from opensnac.evaluation.workers import map_in_processes
from opensnac.recordings import audio
from opensnac.spectra import mel

RATE, WINDOW, HOP, BANDS = 24_000, 1024, 256, 40
FRAMES = (1, 9, 33)  # that levels are averaged over: 11, 96 and 352 ms
EDGES = (0, 300, 1000, 3000, 6000, 12_000)  # Hz
LARGEST_CHANGE = 3.5  # of a level, as a natural logarithm of magnitudes
SHOWN = ("pesq_wb", "stoi", "visqol_audio", "visqol_speech", "dnsmos", "distill_mos")


def main(arguments: list[str] | None = None) -> None:
    """Print the table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--codec", default="opensnac", help="as `opensnac evaluate` takes it")
    parser.add_argument("--seconds", type=float, default=5, help="of each clip")
    parser.add_argument("--metric", action="append", choices=list(METRICS), help="again for more")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    options = parser.parse_args(arguments)
    metrics, clips = options.metric or SHOWN, find_clips(options.folder)
    for absent in filter(None, (METRICS[name].missing() for name in metrics)):
        raise OpensnacError(absent)
    measure = functools.partial(scores, codec=options.codec, seconds=options.seconds, metrics=metrics)
    measured = list(map_in_processes(measure, clips, options.jobs))
    print(f"| from the original | {' | '.join(METRICS[name].label for name in metrics)} |")
    print("| --- " * (1 + len(metrics)) + "|")
    for part in measured[0]:
        means = np.nanmean([clip[part] for clip in measured], axis=0)
        print(f"| {part} | {' | '.join(f'{mean:.3f}' for mean in means)} |")


def scores(path: Path, codec: str, seconds: float, metrics: Sequence[str]) -> dict[str, list[float]]:
    """The metrics of a clip's decoded audio and of its mixtures with the original."""
    recording, rate = audio.read(path)
    original = audio.resample(recording.mean(0, keepdims=True), rate, RATE)[0, : round(seconds * RATE)]
    if len(original) <= WINDOW // 2:
        raise OpensnacError(f"{path}: expected more than {WINDOW // 2} samples at {RATE} Hz, got {len(original)}")
    decoded = by_name(codec)(original, RATE).audio
    found = {}
    for part, mixture in mixtures(spectrum(original), spectrum(decoded)):
        mixed = torch.istft(mixture, WINDOW, HOP, window=torch.hann_window(WINDOW), length=len(original)).numpy()
        values = [METRICS[name].measure(original, mixed, RATE) for name in metrics]
        found[part] = [np.nan if value is None else float(value) for value in values]
    return found


def spectrum(samples: np.ndarray) -> Tensor:
    """Bins by frames."""
    signal = torch.from_numpy(samples).float()
    return torch.stft(signal, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True)


def mixtures(original: Tensor, decoded: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Spectra of decoded audio with parts of the original's, by name."""
    yield "nothing", decoded
    yield "phases", torch.polar(decoded.abs(), original.angle())
    yield "magnitudes", torch.polar(original.abs(), decoded.angle())
    for frames in FRAMES:
        yield f"levels over {frames * HOP / RATE * 1000:.0f} ms", with_levels(original, decoded, frames)
    hertz = torch.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]
    for low, high in itertools.pairwise(EDGES):
        yield f"{low} to {high} Hz", torch.where((hertz >= low) & (hertz < high), original, decoded)
    yield "everything", original


def with_levels(original: Tensor, decoded: Tensor, frames: int) -> Tensor:
    """The decoded spectrum, its mel bands' levels, averaged over `frames`, raised or lowered to the original's."""
    filters = torch.from_numpy(mel.triangles(mel.SLANEY, RATE, WINDOW, BANDS, points=16)).float()
    target, level = (((bins.abs().square().mT @ filters).clamp(min=1e-7).log() / 2).mT for bins in (original, decoded))
    change = F.pad(target - level, (frames // 2, frames // 2), mode="replicate")
    smooth = F.avg_pool1d(change, frames, stride=1).clamp(-LARGEST_CHANGE, LARGEST_CHANGE)
    share = filters / filters.sum(1, keepdim=True).clamp(min=1e-6)  # of a bin's level in each band
    return decoded * (share @ smooth.exp())


if __name__ == "__main__":
    try:
        main()
    except OpensnacError as error:
        sys.exit(f"ceilings: {error}")
