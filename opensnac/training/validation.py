"""Validation of the averaged weights: fixed clips through real codes and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from opensnac.engine.codec import SNAC
from opensnac.errors import ConfigError
from opensnac.evaluation.metrics import METRICS
from opensnac.spectra.distances import MEL_WINDOWS, Audio, mel_loss
from opensnac.training.config import Source
from opensnac.training.processes import Processes
from opensnac.training.sources import BrokenRecordingError, Recording, find_recordings, read_mono, report_broken

SECONDS, CLIPS = 4.0, 40
SHOWN = 4  # clips logged as audio and pictures
ALWAYS = ("stft_distance", "si_sdr")  # of opensnac.evaluation.metrics
PERCEPTUAL = ("pesq_wb", "stoi")  # likewise, if installed
HIGHER_IS_BETTER = tuple(PERCEPTUAL)


class Clip(NamedTuple):
    """The start of a recording, (1, 1, samples), and the recording's label."""

    audio: Tensor
    label: str


@dataclass(frozen=True)
class Validation:
    """Mean qualities by name, and by label; used codes and perplexity of each scale; the first clips, decoded."""

    quality: dict[str, float]
    by_label: dict[str, dict[str, float]]
    codes: list[int]
    perplexity: list[float]
    decoded: list[tuple[int, Tensor]]


def find_clips(sources: Sequence[Source], sample_rate: int, report: Path | None = None) -> list[Clip]:
    """The starts of validation recordings, spread over all folders."""
    recordings, broken = find_recordings(sources)
    clips = []
    for recording in spread(recordings, CLIPS):
        try:
            samples = read_mono(recording, sample_rate, 0, int(SECONDS * recording.sample_rate))
        except BrokenRecordingError as error:
            broken.append(f"{recording.place}: {error}")
            continue
        samples = np.pad(samples, (0, max(0, MEL_WINDOWS[-1] - len(samples))))
        clips.append(
            Clip(torch.from_numpy(samples)[None, None].clone(), recording.label)
        )  # aligned memory, see Crops.draw
    report_broken(broken, report)
    return clips


def spread(recordings: Sequence[Recording], count: int) -> list[Recording]:
    """At most `count` recordings from as many folders as possible, evenly: a folder is often a speaker."""
    folders: dict[Path, list[Recording]] = {}
    for recording in recordings:
        folders.setdefault(recording.place.path.parent, []).append(recording)
    turns = [folder for turn in range(count) for folder, own in folders.items() if turn < len(own)]
    if len(folders) > count:
        turns = [[*folders][index] for index in np.linspace(0, len(folders) - 1, count).astype(int)]
    shares = Counter(turns[:count])
    return [own[i * len(own) // shares[f]] for f, own in folders.items() for i in range(shares[f])]


def require_metric(quality: str) -> None:
    """ConfigError if the metric that selects the best model cannot be measured."""
    if quality in METRICS and (missing := METRICS[quality].missing()):
        raise ConfigError(f"[schedule] best_by: expected an installed metric, got {quality!r}: {missing}")


@torch.inference_mode()
def validate(model: SNAC, clips: Sequence[Clip], processes: Processes) -> Validation:
    """Validate; every process handles its share of the clips, and all get the same results."""
    rate, weight = model.config.sampling_rate, next(model.parameters())
    rows: list[tuple[int, dict[str, float | None]]] = []
    used = [torch.zeros(model.config.codebook_size, device=weight.device) for _ in model.config.vq_strides]
    decoded = []
    engine = model.freeze(graphs=False)  # on a GPU, recording each length would take longer than these few calls
    for index in range(processes.rank, len(clips), processes.count):
        audio = clips[index].audio.to(weight)
        codes = engine.encode(audio.to(torch.float32))
        for seen, code in zip(used, codes, strict=True):
            seen += torch.bincount(code.flatten(), minlength=len(seen))
        audio_hat = engine.decode(codes, audio.shape[-1])
        rows.append((index, _quality(audio_hat, audio, rate)))
        if index < SHOWN:
            decoded.append((index, audio_hat.float().cpu().clone()))
    rows = sorted(processes.gather_objects(rows), key=lambda row: row[0])
    labels = dict.fromkeys(clip.label for clip in clips)
    by_label = {label: _means([row for index, row in rows if clips[index].label == label]) for label in labels}
    used = [processes.mean(seen) for seen in used]
    counts = [int((seen > 0).sum()) for seen in used]
    perplexity = [float(torch.exp(torch.distributions.Categorical(seen).entropy())) for seen in used]
    decoded = sorted(processes.gather_objects(decoded), key=lambda clip: clip[0])
    return Validation(_means([row for _, row in rows]), by_label, counts, perplexity, decoded)


def _means(rows: Sequence[dict[str, float | None]]) -> dict[str, float]:
    """The mean of each quality over the clips that have it."""
    values = {name: [value for row in rows if (value := row[name]) is not None] for name in rows[0]}
    return {name: sum(some) / len(some) for name, some in values.items() if some}


def _quality(audio_hat: Audio, audio: Audio, rate: int) -> dict[str, float | None]:
    row: dict[str, Any] = {"mel": float(mel_loss(audio_hat, audio, rate))}
    original, copy = (x[0, 0].float().cpu().numpy() for x in (audio, audio_hat))
    for name in (*ALWAYS, *PERCEPTUAL):
        if not METRICS[name].missing():
            row[name] = METRICS[name].measure(original, copy, rate)
    return row
