"""Scoring: the standard's screening, means and intervals by hand, and nothing simulated among listeners."""

import json

import numpy as np
import pytest
import scipy.stats

from opensnac.errors import OpensnacError
from opensnac.listening.answers import AnswersError
from opensnac.listening.build import LOW_ANCHOR, MID_ANCHOR, REFERENCE
from opensnac.listening.score import half_interval, holm, quartiles, randomisation_test, score

USUAL = {REFERENCE: 100, MID_ANCHOR: 60, LOW_ANCHOR: 20, "opensnac": 70, "lyra:3.2@lyra": 50}


def write(folder, key, number: int, opinions: dict | None = None, second: dict | None = None, **changes):
    """One finished session, with its opinion of conditions in all trials, or another one in the second."""
    trials = []
    for index, trial in enumerate(key["trials"]):
        opinion = USUAL | (opinions or {}) | ((second or {}) if index == 1 else {})
        scores = {stimulus: opinion[condition] for stimulus, condition in trial["conditions"].items()}
        trials.append({"trial": trial["trial"], "training": False, "scores": scores})
    training = {"trial": trials[0]["trial"], "training": True, "scores": dict.fromkeys(trials[0]["scores"], 0)}
    session = f"{number:016x}"
    answers = {"schema": 1, "test": key["test"], "session": session, "revision": 5, "simulated": False}
    answers |= {"finished": True, "trials": [training, *trials], **changes}
    folder.mkdir(exist_ok=True)
    (folder / f"{session}-{answers['revision']}.json").write_text(json.dumps(answers))


def test_means_and_intervals_by_hand(built, key, tmp_path):
    for number, value in enumerate((60, 70, 80)):
        write(tmp_path / "answers", key, number, {"opensnac": value - 5}, {"opensnac": value + 5})
    report = score(built, [tmp_path / "answers"])
    half = scipy.stats.t.ppf(0.975, 2) * 10 / np.sqrt(3)
    # Of the six grades 55, 65, 65, 75, 75 and 85 the halves' medians are 65 and 75.
    assert f"| opensnac | 70.0 | ± {half:.1f} | 70 | 10 | 3 |" in report
    assert "| reference | 100.0 | ± 0.0 | 100 | 0 | 3 |" in report
    assert f"| opensnac – lyra:3.2@lyra | +20.0 | ± {half:.1f} |" in report
    assert "Kept listeners: 3; trials: 2." in report
    assert "SIMULATED" not in report
    assert "| music | SNAC, 1.9 kb/s | 77.9 |" in report


def test_labels_are_reported_separately(built, key, tmp_path):
    for number in range(2):
        write(tmp_path / "answers", key, number, {"opensnac": 40}, {"opensnac": 90})
    parts = score(built, [tmp_path / "answers"]).split("\n## ")
    assert [part.partition("\n")[0] for part in parts[1:]] == ["All trials", "music", "speech", "The paper beside it"]
    assert [("| opensnac | 65.0" in parts[1]), ("| opensnac | 40.0" in parts[2]), ("| opensnac | 90.0" in parts[3])]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({REFERENCE: 89}, "hidden reference below 90 in 1 of 2 trials"),
        ({MID_ANCHOR: 91}, "anchor 7 kHz above 90 in 1 of 2 trials"),
    ],
)
def test_listeners_who_miss_reference_or_praise_the_anchor_are_excluded(built, key, tmp_path, change, reason):
    write(tmp_path / "answers", key, 0, second=change)
    for number in range(1, 4):
        write(tmp_path / "answers", key, number, {REFERENCE: 90, MID_ANCHOR: 90})  # the limits themselves are allowed
    report = score(built, [tmp_path / "answers"])
    assert f"- Excluded, {0:016x}: {reason}" in report
    assert "Kept listeners: 3;" in report


def test_an_anchor_that_more_than_a_quarter_praise_excludes_nobody(built, key, tmp_path):
    for number in range(4):
        write(tmp_path / "answers", key, number, second={MID_ANCHOR: 91 if number < 2 else 60})
    report = score(built, [tmp_path / "answers"])
    assert "Excluded" not in report
    assert "- speech/1.wav: its anchor 7 kHz was above 90 for more than 25% of all, so it excludes nobody" in report
    assert "- music/0.wav" not in report


def test_grades_far_from_all_others_are_shown_and_counted(built, key, tmp_path):
    for number, value in enumerate((70, 71, 72, 73, 20)):
        write(tmp_path / "answers", key, number, {"opensnac": 70}, {"opensnac": value})
    report = score(built, [tmp_path / "answers"])
    examined = report.partition("## Grades to examine")[2].partition("## ")[0]
    assert f"- {4:016x}, speech/1.wav, opensnac: 20; quartiles 70 and 72" in examined
    assert examined.count("\n- ") == 1
    assert "Kept listeners: 5;" in report


def test_pairwise_tests_need_two_listeners(built, key, tmp_path):
    write(tmp_path / "answers", key, 0)
    assert "Pairwise tests need at least two listeners" in score(built, [tmp_path / "answers"])


def test_without_listeners_there_is_no_mean(built, key, tmp_path):
    write(tmp_path / "answers", key, 0, {REFERENCE: 10})
    report = score(built, [tmp_path / "answers"])
    assert "All listeners were excluded: there is no result." in report
    assert "| condition |" not in report


def test_scripts_are_marked_and_never_mixed_with_listeners(built, key, tmp_path):
    write(tmp_path / "answers", key, 0, simulated=True)
    assert score(built, [tmp_path / "answers"]).startswith("# Listening test (SIMULATED")
    write(tmp_path / "answers", key, 1)
    with pytest.raises(OpensnacError, match="expected answers of either listeners or scripts, got both"):
        score(built, [tmp_path / "answers"])


def test_the_newest_revision_of_a_session_counts_and_unfinished_ones_do_not(built, key, tmp_path):
    write(tmp_path / "answers", key, 0, {"opensnac": 10}, revision=5)
    write(tmp_path / "answers", key, 0, {"opensnac": 80}, revision=12)
    write(tmp_path / "answers", key, 1, {"opensnac": 10}, finished=False)
    report = score(built, [tmp_path / "answers"])
    assert "| opensnac | 80.0 | – | 80 | 0 | 1 |" in report
    assert f"- Skipped, {1:016x}: not finished" in report


def test_invalid_answers_are_refused(built, key, tmp_path):
    answers = tmp_path / "answers"
    with pytest.raises(OpensnacError, match="answers: expected listeners' answers"):
        score(built, [answers])
    answers.mkdir()
    with pytest.raises(OpensnacError, match="expected a finished session among these answers"):
        score(built, [answers])
    with pytest.raises(OpensnacError, match="expected key.json, as `opensnac listen build` writes it"):
        score(tmp_path, [answers])
    write(answers, key, 0, test="another")
    with pytest.raises(AnswersError, match="expected answers to the test .*, got some to another"):
        score(built, [answers])
    (answers / "broken.json").write_text('{"half')
    with pytest.raises(AnswersError, match="broken.json: expected JSON"):
        score(built, [answers / "broken.json"])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_quartiles_by_hand():
    assert quartiles([5, 1, 3, 2, 4]) == (2, 3, 4), "the halves of an odd number share the middle"
    assert quartiles([4, 3, 2, 1]) == (1.5, 2.5, 3.5)
    assert quartiles([7]) == (7, 7, 7)


def test_the_randomisation_test_by_hand():
    assert randomisation_test([1, 2, 3]) == 2 / 8  # all signs as they are, or all turned
    assert randomisation_test([2, 1, -3]) == 1
    assert randomisation_test([0, 0]) == 1
    many = [5 + index for index in range(20)]
    assert 0 < randomisation_test(many) < 1e-3
    assert randomisation_test(many) == randomisation_test(many)


def test_half_interval_of_one_value_is_none():
    assert half_interval([3.0]) is None
    assert half_interval([1.0, 3.0]) == pytest.approx(12.706, abs=1e-3)
