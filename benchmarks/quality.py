"""Checks the bundled model for regressions: its scores on examples/ against those stored in quality.json.

    python benchmarks/quality.py             fail if a mean is below the stored one by more than the margin
    python benchmarks/quality.py --update    store new scores; refused for weights that have some

The model's weights and the decoder's noise are fixed, so scores differ between machines only by rounding: the margins
are wider than that, and narrower than an audible difference.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from opensnac.errors import OpensnacError
from opensnac.evaluation.codecs import by_name
from opensnac.evaluation.evaluate import evaluate_folder
from opensnac.evaluation.metrics import METRICS
from opensnac.files import atomic_file

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.flac"))  # not what is in decoded/ and music/
STORED = Path(__file__).with_name("quality.json")
# The allowed loss of a mean, in the metric's unit.
MARGINS = {"pesq_wb": 0.05, "stoi": 0.005, "visqol_audio": 0.05, "dnsmos": 0.05, "mel_distance": 0.1}


def main(arguments: list[str] | None = None) -> None:
    """Compare, or update. Exits with an error message on a regression."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--update", action="store_true", help="store the scores of new weights")
    update = parser.parse_args(arguments).update
    fingerprint = by_name("opensnac").model.fingerprint
    stored = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else None
    if update:
        store(fingerprint, stored, measure)
    else:
        compare(fingerprint, stored, measure)


def measure() -> dict[str, float]:
    """Mean scores of the bundled model."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # its table
        recordings = Path(folder) / "recordings"
        recordings.mkdir()
        for path in EXAMPLES:
            shutil.copy(path, recordings)
        results = evaluate_folder(recordings, ["opensnac"], Path(folder) / "report", players=0)
    (entry,) = [entry for entry in results["codecs"] if entry["codec"] == "opensnac"]
    absent = [name for name in MARGINS if entry["scores"][name] is None]
    if absent or entry["failed"]:
        raise OpensnacError(
            f"expected all scores, got no {', '.join(absent) or entry['failed']}; pip install 'opensnac[evaluate]'"
        )
    return {name: entry["scores"][name]["mean"] for name in MARGINS}


def store(fingerprint: str, stored: Mapping[str, Any] | None, measure: Callable[[], Mapping[str, float]]) -> None:
    """Write the scores of weights that have none yet, else OpensnacError."""
    if stored and stored["weights"] == fingerprint:
        raise OpensnacError(
            f"{STORED.name}: expected scores of other weights, got those of {fingerprint[:16]}, which has scores"
        )
    figures = {"weights": fingerprint, "scores": {name: round(score, 4) for name, score in measure().items()}}
    with atomic_file(STORED, force=True) as path:
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def compare(fingerprint: str, stored: Mapping[str, Any] | None, measure: Callable[[], Mapping[str, float]]) -> None:
    """OpensnacError if there are no scores of these weights, or a score fell below its margin."""
    if stored is None or stored["weights"] != fingerprint:
        theirs = stored["weights"][:16] if stored else "none"
        raise OpensnacError(
            f"{STORED.name}: expected scores of the bundled weights {fingerprint[:16]}, got those of {theirs}; "
            "run `make quality-update`, review the changes, and commit it with the weights"
        )
    scores = measure()
    lost = {name: loss(name, scores[name], stored["scores"][name]) for name in MARGINS}
    for name, by in lost.items():
        verdict = "LOST" if by > MARGINS[name] else "kept"
        figures = f"{scores[name]:8.4f}  stored {stored['scores'][name]:8.4f}  margin {MARGINS[name]:.3f}"
        print(f"{name:14} {figures}  {verdict}")
    fallen = [name for name, by in lost.items() if by > MARGINS[name]]
    if fallen:
        raise OpensnacError(f"expected scores within the margins, got worse ones: {', '.join(fallen)}")


def loss(name: str, score: float, stored: float) -> float:
    """How much worse a score is than the stored one; negative if it is better."""
    return stored - score if METRICS[name].higher_is_better else score - stored


if __name__ == "__main__":
    try:
        main()
    except OpensnacError as error:
        sys.exit(f"quality: {error}")
