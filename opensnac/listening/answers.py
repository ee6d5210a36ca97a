"""A listener's answers: one JSON file per session, written by the page and validated here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from opensnac.errors import OpensnacError

SCHEMA = """answers, schema 1:
    schema      1
    test        id of the test, as in its key.json
    session     id of this run through it: 16 hexadecimal digits
    revision    grows with every change; the highest is the newest
    simulated   true if a script answered instead of a listener
    listener    the listener's name, may be empty
    started, changed    times, ISO 8601
    finished    whether all trials were confirmed
    trials      in the order they were played: trial, training, order (of stimuli on the page), scores (stimulus ->
                0 to 100), confirmed, seconds, loops
"""
SESSION = re.compile("[0-9a-f]{16}")


class AnswersError(OpensnacError, ValueError):
    """Answers that no page of this test can produce."""


def parse(text: str | bytes, name: str) -> dict[str, Any]:
    """Parse answers and check them against SCHEMA as far as scoring depends on it. AnswersError names what is wrong."""
    try:
        answers = json.loads(text)
    except ValueError as error:
        raise AnswersError(f"{name}: expected JSON that the listening page wrote, got {error}") from error
    if not isinstance(answers, dict) or answers.get("schema") != 1:
        raise AnswersError(f"{name}: expected answers of schema 1 that the listening page wrote, got other JSON")
    for key, kind in (("test", str), ("session", str), ("revision", int), ("simulated", bool), ("trials", list)):
        if not isinstance(answers.get(key), kind):
            raise AnswersError(f"{name}: {key!r}: expected {kind.__name__}, got {answers.get(key)!r}")
    if not SESSION.fullmatch(answers["session"]):
        raise AnswersError(f"{name}: session: expected 16 hexadecimal digits, got {answers['session'][:40]!r}")
    for trial in answers["trials"]:
        _check_trial(trial, name)
    return answers


def _check_trial(trial: Any, name: str) -> None:
    if not isinstance(trial, dict) or not isinstance(trial.get("trial"), str):
        raise AnswersError(f"{name}: expected a trial with an id, got one without")
    scores = trial.get("scores")
    if not isinstance(scores, Mapping):
        raise AnswersError(f"{name}: trial {trial['trial']!r}: expected scores, got none")
    for stimulus, score in scores.items():
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 100:
            raise AnswersError(f"{name}: stimulus {stimulus!r}: expected a score from 0 to 100, got {score!r}")
