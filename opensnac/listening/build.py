"""From an evaluation's results to a MUSHRA test: a folder `page` for listeners, and `key.json`, hidden from them.

Each kept clip becomes a trial: the open reference, and in random order the hidden reference, its low-pass anchors at
3.5 and 7 kHz, and every codec. Stimuli have random names, so that the page does not reveal which is which.
"""

from __future__ import annotations

import base64
import io
import json
import math
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from opensnac.errors import OpensnacError
from opensnac.evaluation.matching import loudness
from opensnac.evaluation.metrics import require
from opensnac.files import atomic_folder, refuse_full_folder
from opensnac.recordings import audio

WEB = Path(__file__).parent / "web"
REFERENCE, LOW_ANCHOR, MID_ANCHOR = "reference", "anchor 3.5 kHz", "anchor 7 kHz"
ANCHORS = {LOW_ANCHOR: 3_500.0, MID_ANCHOR: 7_000.0}  # cut-off in Hz
STOP_DB = 60.0  # the standard requires 50 from 1 kHz beyond the cut-off on
TRANSITION = 450.0  # Hz: the standard requires 25 dB half a kilohertz beyond the cut-off
MAX_STIMULI = 12  # per trial, with hidden reference and anchors, as the standard advises (5.3)
MIN_TRIALS, TRIALS_A_CODEC = 5, 1.5  # as the standard advises (7.1)


class Built(NamedTuple):
    """The number of trials of a test, and the number advised for that many codecs."""

    trials: int
    advised: int


def build(results_folder: Path, out: Path, codecs: Sequence[str] = (), training: bool = True) -> Built:
    """Make a test from the results of `opensnac evaluate` in `results_folder`.

    `codecs` selects from those of the report; by default all. With `training`, every trial is played once before the
    test, on pages whose scores do not count, as the standard requires (5.2). `out` is written atomically. Raises
    FileExistsError if it exists and is not empty, OpensnacError without results or kept clips, for an unknown codec,
    or for more stimuli than a listener can compare.
    """
    require("pyloudnorm", "scipy")
    results = _results(results_folder)
    chosen = _choose(results, codecs)
    refuse_full_folder(out)
    test = secrets.token_hex(8)
    trials = [_trial(clip, chosen, results_folder / "audio") for clip in results["kept"]]
    trials = [trial for trial in trials if trial["stimuli"]]
    if not trials:
        raise OpensnacError(
            f"{results_folder}: expected a clip kept of all of {', '.join(chosen)}, got none; evaluate them again"
        )
    with atomic_folder(out) as unfinished:
        _write_page(unfinished / "page", test, trials, training)
        key = {
            "schema": 1,
            "test": test,
            "results": {name: results[name] for name in ("created", "command", "versions")},
            "trials": [_key(trial) for trial in trials],
        }
        (unfinished / "key.json").write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")
    return Built(len(trials), max(MIN_TRIALS, math.ceil(TRIALS_A_CODEC * len(chosen))))


def _results(folder: Path) -> dict[str, Any]:
    file = folder / "results.json"
    if not file.is_file():
        raise OpensnacError(f"{folder}: expected results.json, as `opensnac evaluate --out` writes it, got none")
    results = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(results, dict) or not results.get("kept"):
        raise OpensnacError(f"{file}: expected kept clips, got none; evaluate again with --players 6 or more")
    return results


def _choose(results: Mapping[str, Any], codecs: Sequence[str]) -> dict[str, str]:
    """The codecs of the test: command-line name -> name in the report."""
    there = {entry["codec"]: entry["name"] for entry in results["codecs"] if entry["codec"] != "original"}
    known = there | {name: name for name in there.values()}
    unknown = [codec for codec in codecs if codec not in known]
    if unknown:
        raise OpensnacError(f"expected a codec of these results, {', '.join(there.values())}, got {unknown[0]!r}")
    wanted = {known[codec] for codec in codecs} or set(there.values())
    chosen = {codec: name for codec, name in there.items() if name in wanted or codec in wanted}
    most = MAX_STIMULI - 1 - len(ANCHORS)
    if len(chosen) > most:
        raise OpensnacError(
            f"expected at most {most} codecs, as many as a listener can compare, got {len(chosen)}; choose with --codec"
        )
    return chosen


def _trial(clip: Mapping[str, Any], chosen: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """A trial's stimuli by condition, at equal loudness; empty if a codec failed on the clip."""
    ids = {"trial": secrets.token_hex(4), "reference": secrets.token_hex(4)}
    trial: dict[str, Any] = {**ids, "clip": clip["clip"], "label": clip["label"], "stimuli": {}}
    if any(codec not in clip["files"] for codec in ["original", *chosen]):
        return trial
    samples, sample_rate = audio.read(folder / clip["files"]["original"])
    reference = samples[0]
    signals = {REFERENCE: reference}
    signals |= {name: low_pass(reference, cutoff, sample_rate) for name, cutoff in ANCHORS.items()}
    signals |= {name: audio.read(folder / clip["files"][codec])[0][0] for codec, name in chosen.items()}
    matched = _at_equal_loudness(signals, sample_rate)
    trial["stimuli"] = {
        condition: {"id": secrets.token_hex(4), "audio": _flac(signal, sample_rate)}
        for condition, signal in matched.items()
    }
    return trial


def low_pass(signal: np.ndarray, cutoff: float, sample_rate: int) -> np.ndarray:
    """`signal` without content above `cutoff` (Hz), with no delay; unchanged if the rate allows none there."""
    from scipy.signal import fftconvolve, firwin, kaiserord

    if cutoff + TRANSITION >= sample_rate / 2:
        return signal
    taps, beta = kaiserord(STOP_DB, TRANSITION / (sample_rate / 2))
    middle = cutoff + TRANSITION / 2
    kernel = firwin(taps | 1, middle, window=("kaiser", beta), fs=sample_rate)
    return fftconvolve(signal, kernel, mode="same").astype(np.float32)


def _at_equal_loudness(signals: Mapping[str, np.ndarray], sample_rate: int) -> dict[str, np.ndarray]:
    """All matched in loudness to the reference, then lowered by the same gain if any would clip."""
    wanted = loudness(signals[REFERENCE], sample_rate)
    matched = {}
    for condition, signal in signals.items():
        gain = wanted - loudness(signal, sample_rate)
        matched[condition] = signal * 10 ** (gain / 20) if np.isfinite(gain) and abs(gain) < 40 else signal
    peak = max(float(np.abs(signal).max()) for signal in matched.values())
    return {condition: signal / max(1.0, peak) for condition, signal in matched.items()}


def _flac(signal: np.ndarray, sample_rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, signal, sample_rate, "PCM_16", format="FLAC")
    return file.getvalue()


def _write_page(folder: Path, test: str, trials: Sequence[Mapping[str, Any]], training: bool) -> None:
    folder.mkdir(parents=True)
    for name in ("index.html", "listen.css", "listen.js", "player.js", "session.js"):
        shutil.copyfile(WEB / name, folder / name)
    public = {"test": test, "training": training, "trials": [_public(trial) for trial in trials]}
    # Scripts, because a page opened from a folder may load them, but no other files.
    (folder / "test.js").write_text(f"window.TEST = {json.dumps(public)};\n", encoding="utf-8")
    for trial in trials:
        sounds = {one["id"]: base64.b64encode(one["audio"]).decode("ascii") for one in trial["stimuli"].values()}
        sounds[trial["reference"]] = sounds[trial["stimuli"][REFERENCE]["id"]]
        script = f'window.SOUNDS = window.SOUNDS || {{}};\nwindow.SOUNDS["{trial["trial"]}"] = {json.dumps(sounds)};\n'
        (folder / f"trial-{trial['trial']}.js").write_text(script, encoding="utf-8")


def _public(trial: Mapping[str, Any]) -> dict[str, Any]:
    """The trial as the page sees it: the open reference by its own name, the others sorted by their random names."""
    hidden = sorted(one["id"] for one in trial["stimuli"].values())
    return {"trial": trial["trial"], "reference": trial["reference"], "stimuli": hidden}


def _key(trial: Mapping[str, Any]) -> dict[str, Any]:
    conditions = {one["id"]: condition for condition, one in trial["stimuli"].items()}
    return {"trial": trial["trial"], "clip": trial["clip"], "label": trial["label"], "conditions": conditions}
