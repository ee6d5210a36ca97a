"""What a listener answered: one JSON file a session, as the page writes it, checked before anything believes it."""

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
    simulated   true where a script answered: no listener heard anything
    listener    what the listener is called, may be empty
    started, changed    times, ISO 8601
    finished    whether all trials were confirmed
    trials      in the order they were heard: trial, training, order (stimuli as they stood), scores (stimulus ->
                0 to 100), confirmed, seconds, loops
"""
SESSION = re.compile("[0-9a-f]{16}")


class AnswersError(OpensnacError, ValueError):
    """Answers that no page of this test can have written."""


def parse(text: str | bytes, name: str) -> dict[str, Any]:
    """Check answers against SCHEMA as far as scoring depends on it. AnswersError says what is wrong where."""
    try:
        answers = json.loads(text)
    except ValueError as error:
        raise AnswersError(f"{name}: no JSON ({error}); answers are files that the listening page wrote") from error
    if not isinstance(answers, dict) or answers.get("schema") != 1:
        raise AnswersError(f"{name}: no answers of schema 1; give files that the listening page wrote")
    for key, kind in (("test", str), ("session", str), ("revision", int), ("simulated", bool), ("trials", list)):
        if not isinstance(answers.get(key), kind):
            raise AnswersError(f"{name}: {key!r} is {answers.get(key)!r}; expected {kind.__name__}")
    if not SESSION.fullmatch(answers["session"]):
        raise AnswersError(f"{name}: the session {answers['session'][:40]!r} is not 16 hexadecimal digits")
    for trial in answers["trials"]:
        _check_trial(trial, name)
    return answers


def _check_trial(trial: Any, name: str) -> None:
    if not isinstance(trial, dict) or not isinstance(trial.get("trial"), str):
        raise AnswersError(f"{name}: a trial without its id")
    scores = trial.get("scores")
    if not isinstance(scores, Mapping):
        raise AnswersError(f"{name}: trial {trial['trial']!r} has no scores")
    for stimulus, score in scores.items():
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 100:
            raise AnswersError(f"{name}: stimulus {stimulus!r} has the score {score!r}; 0 to 100 are possible")
