"""Scores a test from listeners' answers: screening, means, intervals and pairwise tests after ITU-R BS.1534-3.

Numbers in brackets are clauses of its Annex 1. The test differs from its Attachment 3, which permutes grades as if they
were independent: here every listener graded every codec, so the signs of listeners' differences are permuted, as paired
data require.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opensnac.errors import OpensnacError
from opensnac.evaluation.metrics import require
from opensnac.listening.answers import AnswersError, parse
from opensnac.listening.build import MID_ANCHOR, REFERENCE

TRUSTED = 90  # a reliable listener scores the hidden reference at least this, the mid anchor at most (4.1.2)
LARGEST_SHARE = 0.15  # of trials in which a listener may miss that (4.1.2)
FORGIVEN_SHARE = 0.25  # of listeners: if more rate a trial's mid anchor above 90, it was not degraded enough (4.1.2)
WHISKER = 1.5  # interquartile ranges beyond the quartiles: grades further out are to be examined (4.1.2)
MIN_FOR_QUARTILES = 4  # listeners
RESAMPLINGS = 10_000  # at least, or all permutations if there are fewer (Attachment 3)
# Mean MUSHRA scores of the paper, arXiv 2410.14411.
PAPER = (
    ("music", "SNAC, 1.9 kb/s", 77.9),
    ("music", "DAC, 2.5 kb/s", 54.0),
    ("speech", "SNAC, 0.98 kb/s", 88.4),
    ("speech", "DAC, 1.7 kb/s", 72.7),
)


@dataclass(frozen=True)
class Listener:
    """One finished session: scores by trial and condition, without training."""

    session: str
    simulated: bool
    scores: dict[str, dict[str, float]]

    def reason_to_exclude(self, forgiven: Collection[str] = ()) -> str | None:
        """Why the standard's rule excludes this listener; None if it does not.

        The mid anchor of `forgiven` trials is ignored.
        """
        missed = [trial for trial in self.scores.values() if trial[REFERENCE] < TRUSTED]
        if len(missed) > LARGEST_SHARE * len(self.scores):
            return f"hidden reference below {TRUSTED} in {len(missed)} of {len(self.scores)} trials"
        praised = [name for name, trial in self.scores.items() if trial[MID_ANCHOR] > TRUSTED and name not in forgiven]
        if len(praised) > LARGEST_SHARE * len(self.scores):
            return f"{MID_ANCHOR} above {TRUSTED} in {len(praised)} of {len(self.scores)} trials"
        return None

    def mean(self, condition: str, trials: Sequence[str]) -> float:
        """Mean score of a condition over trials."""
        return float(np.mean([self.scores[trial][condition] for trial in trials]))


def score(test: Path, answers: Sequence[Path]) -> str:
    """The result of a test, as Markdown. `answers`: files, or folders of them.

    Raises OpensnacError without a key or a finished session, for answers of another test, or if answers of listeners
    and of scripts are mixed.
    """
    require("scipy")
    key = _key(test)
    listeners, unfinished = _listeners(key, answers)
    forgiven = weak_anchors(listeners)
    excluded = {one.session: reason for one in listeners if (reason := one.reason_to_exclude(forgiven)) is not None}
    kept = [listener for listener in listeners if listener.session not in excluded]
    simulated = any(listener.simulated for listener in listeners)
    lines = ["# Listening test" + (" (SIMULATED: answered by a script, not by listeners)" if simulated else ""), ""]
    noun = "simulated sessions" if simulated else "listeners"
    lines += [
        f"MUSHRA after ITU-R BS.1534-3, test {key['test']}. Kept {noun}: {len(kept)}; trials: {len(key['trials'])}."
    ]
    lines += [f"- Excluded, {session}: {reason}" for session, reason in excluded.items()]
    lines += [f"- Skipped, {name}: not finished" for name in unfinished]
    lines += [
        f"- {trial['clip']}: its {MID_ANCHOR} was above {TRUSTED} for more than {FORGIVEN_SHARE:.0%} of all, "
        "so it excludes nobody"
        for trial in key["trials"]
        if trial["trial"] in forgiven
    ]
    if not kept:
        return "\n".join([*lines, "", f"All {noun} were excluded: there is no result."])
    for label, trials in _groups(key):
        lines += ["", f"## {label}", "", *_means(kept, trials)]
        lines += ["", *_pairs(kept, trials)]
    lines += _to_examine(kept, key)
    lines += [
        "",
        "## The paper beside it",
        "",
        "Other listeners, other recordings: scores of two tests compare only so far.",
        "",
    ]
    lines += _rows(["material", "codec", "mean"], [[kind, codec, f"{mean:.1f}"] for kind, codec, mean in PAPER])
    return "\n".join(lines)


def _key(test: Path) -> dict[str, Any]:
    file = test / "key.json"
    if not file.is_file():
        raise OpensnacError(f"{test}: expected key.json, as `opensnac listen build` writes it, got none")
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _listeners(key: Mapping[str, Any], answers: Sequence[Path]) -> tuple[list[Listener], list[str]]:
    """Finished sessions, the newest revision of each, and the names of files that are not finished."""
    newest: dict[str, dict[str, Any]] = {}
    for file in _files(answers):
        found = parse(file.read_bytes(), str(file))
        if found["test"] != key["test"]:
            raise AnswersError(f"{file}: expected answers to the test {key['test']}, got some to {found['test']}")
        known = newest.get(found["session"])
        if known is None or known["revision"] < found["revision"]:
            newest[found["session"]] = found
    listeners = {session: _listener(key, found) for session, found in newest.items()}
    finished = [listener for listener in listeners.values() if listener is not None]
    if not finished:
        raise OpensnacError("expected a finished session among these answers, got none; a test ends with its last page")
    if len({listener.simulated for listener in finished}) > 1:
        raise OpensnacError("expected answers of either listeners or scripts, got both; score them separately")
    return finished, [session for session, listener in listeners.items() if listener is None]


def _files(answers: Sequence[Path]) -> Iterator[Path]:
    for path in answers:
        if not path.exists():
            raise OpensnacError(f"{path}: expected listeners' answers, got nothing of that name")
        yield from sorted(path.glob("*.json")) if path.is_dir() else [path]


def _listener(key: Mapping[str, Any], found: Mapping[str, Any]) -> Listener | None:
    """None unless every stimulus of every trial has a score."""
    heard = {trial["trial"]: trial["scores"] for trial in found["trials"] if not trial.get("training")}
    scores = {}
    for trial in key["trials"]:
        given = heard.get(trial["trial"], {})
        if not given.keys() >= trial["conditions"].keys():
            return None
        scores[trial["trial"]] = {condition: given[stimulus] for stimulus, condition in trial["conditions"].items()}
    return Listener(found["session"], found["simulated"], scores) if found.get("finished") else None


def _groups(key: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    yield "All trials", [trial["trial"] for trial in key["trials"]]
    labels = dict.fromkeys(trial["label"] for trial in key["trials"])
    for label in labels if len(labels) > 1 else ():
        yield label or "no label", [trial["trial"] for trial in key["trials"] if trial["label"] == label]


def weak_anchors(listeners: Sequence[Listener]) -> list[str]:
    """Trials whose mid anchor more than a quarter of all listeners score above 90."""
    praise = {
        trial: np.mean([one.scores[trial][MID_ANCHOR] > TRUSTED for one in listeners]) for trial in listeners[0].scores
    }
    return [trial for trial, share in praise.items() if share > FORGIVEN_SHARE]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile as in the standard: medians of halves that share the middle value."""
    ordered = sorted(values)
    half = (len(ordered) + 1) // 2
    return float(np.median(ordered[:half])), float(np.median(ordered)), float(np.median(ordered[-half:]))


def _to_examine(listeners: Sequence[Listener], key: Mapping[str, Any]) -> list[str]:
    """Outlying grades: the standard has them examined, and only errors removed."""
    lines = []
    for trial in key["trials"] if len(listeners) >= MIN_FOR_QUARTILES else ():
        for condition in trial["conditions"].values():
            grades = {one.session: one.scores[trial["trial"]][condition] for one in listeners}
            low, _, high = quartiles([*grades.values()])
            reach = WHISKER * (high - low)
            lines += [
                f"- {session}, {trial['clip']}, {condition}: {grade:g}; quartiles {low:g} and {high:g}"
                for session, grade in grades.items()
                if not low - reach <= grade <= high + reach
            ]
    if not lines:
        return []
    why = "Outliers, counted above: only proven errors may be removed."
    return ["", "## Grades to examine", "", why, "", *lines]


def _means(listeners: Sequence[Listener], trials: Sequence[str]) -> Iterator[str]:
    """Mean over listeners of their means over trials, as listeners are the random sample. Median of all grades."""
    conditions = list(listeners[0].scores[trials[0]])
    means = {name: [listener.mean(name, trials) for listener in listeners] for name in conditions}
    rows = []
    for name in sorted(conditions, key=lambda name: -np.mean(means[name])):
        low, median, high = quartiles([listener.scores[trial][name] for listener in listeners for trial in trials])
        mean = [f"{np.mean(means[name]):.1f}", _interval(means[name])]
        rows.append([name, *mean, f"{median:g}", f"{high - low:g}", str(len(means[name]))])
    yield from _rows(["condition", "mean", "95 % interval", "median", "IQR", "listeners"], rows)


def _interval(values: Sequence[float]) -> str:
    """Student's interval of the mean; a dash for one listener."""
    half = half_interval(values)
    return "–" if half is None else f"± {half:.1f}"


def half_interval(values: Sequence[float]) -> float | None:
    """Half the 95 % confidence interval of the mean, by Student's t; None for fewer than two values."""
    from scipy.stats import t

    if len(values) < 2:
        return None
    return float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))


def _pairs(listeners: Sequence[Listener], trials: Sequence[str]) -> Iterator[str]:
    """Randomisation tests of listeners' differences, with Holm's correction."""
    if len(listeners) < 2:
        yield "Pairwise tests need at least two listeners."
        return
    pairs = list(itertools.combinations(listeners[0].scores[trials[0]], 2))
    differences = [
        [listener.mean(first, trials) - listener.mean(second, trials) for listener in listeners]
        for first, second in pairs
    ]
    chances = [randomisation_test(row) for row in differences]
    rows = [
        [f"{first} – {second}", f"{np.mean(row):+.1f}", _interval(row), f"{chance:.3g}"]
        for (first, second), row, chance in zip(pairs, differences, holm(chances), strict=True)
    ]
    yield from _rows(["pair", "mean difference", "95 % interval", "p, randomisation, Holm"], rows)


def randomisation_test(differences: Sequence[float]) -> float:
    """Two-sided p-value of the mean, under random signs of the differences."""
    from scipy.stats import permutation_test

    def mean(values: np.ndarray, axis: int) -> np.ndarray:
        return np.mean(values, axis=axis)

    found = permutation_test(
        (np.asarray(differences),), mean, permutation_type="samples", n_resamples=RESAMPLINGS, vectorized=True, rng=0
    )
    return float(found.pvalue)


def holm(chances: Sequence[float]) -> list[float]:
    """p-values with Holm's correction (Holm 1979), in the same order."""
    adjusted, highest = [0.0] * len(chances), 0.0
    for rank, index in enumerate(sorted(range(len(chances)), key=lambda index: chances[index])):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[index]))
        adjusted[index] = highest
    return adjusted


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for cells in (header, ["---"] * len(header), *rows):
        yield "| " + " | ".join(cells) + " |"
