"""Building a test: anchors as in the standard, equal loudness, and a page that reveals nothing."""

import base64
import io
import json
import re

import numpy as np
import pytest
import soundfile

from opensnac.errors import OpensnacError
from opensnac.evaluation.matching import loudness
from opensnac.listening.build import LOW_ANCHOR, MID_ANCHOR, REFERENCE, build, low_pass

RATE = 24_000


def sounds(built, trial: str) -> dict[str, np.ndarray]:
    text = (built / "page" / f"trial-{trial}.js").read_text()
    coded = json.loads(re.search(r"= (\{.*\});$", text.strip().splitlines()[-1])[1])
    return {name: soundfile.read(io.BytesIO(base64.b64decode(sound)))[0] for name, sound in coded.items()}


@pytest.mark.parametrize("cutoff", [3_500, 7_000])
@pytest.mark.parametrize("rate", [24_000, 44_100, 48_000])
def test_anchors_pass_and_stop_what_the_standard_says(cutoff, rate):
    impulse = np.zeros(rate, np.float32)
    impulse[rate // 2] = 1
    filtered = low_pass(impulse, cutoff, rate)
    response = 20 * np.log10(np.abs(np.fft.rfft(filtered)) + 1e-12)  # a bin is 1 Hz
    assert np.abs(response[:cutoff]).max() < 0.1
    assert response[cutoff + 500] < -25
    assert response[cutoff + 1_000 :].max() < -50
    assert np.argmax(filtered) == rate // 2, "no delay"


def test_an_anchor_above_half_the_rate_is_the_reference():
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    assert low_pass(noise, 7_900, 16_000) is noise


def test_a_trial_has_reference_anchors_and_codecs_all_equally_loud(built, key):
    for trial in key["trials"]:
        assert set(trial["conditions"].values()) == {REFERENCE, LOW_ANCHOR, MID_ANCHOR, "opensnac", "lyra:3.2@lyra"}
        heard = sounds(built, trial["trial"])
        assert len(heard) == 1 + len(trial["conditions"])
        levels = [loudness(signal, RATE) for signal in heard.values()]
        assert max(levels) - min(levels) < 0.5, "dB, the standard's limit"
        assert max(np.abs(signal).max() for signal in heard.values()) <= 1


def test_the_page_does_not_reveal_the_stimuli(built, key):
    for file in (built / "page").glob("t*.js"):
        text = re.sub(r'"[A-Za-z0-9+/=]{100,}"', "", file.read_text())  # the sounds themselves
        assert not re.search("opensnac|lyra|anchor|music|speech", text)
    public = json.loads((built / "page" / "test.js").read_text().partition("= ")[2].rstrip(";\n"))
    for trial, secret in zip(public["trials"], key["trials"], strict=True):
        assert trial["stimuli"] == sorted(secret["conditions"])
        assert trial["reference"] not in secret["conditions"]
    assert not (built / "page" / "key.json").exists()


def test_names_are_new_in_every_test(results, tmp_path):
    keys = []
    for name in ("one", "two"):
        build(results, tmp_path / name)
        keys.append(json.loads((tmp_path / name / "key.json").read_text()))
    assert keys[0]["test"] != keys[1]["test"]
    assert not set(keys[0]["trials"][0]["conditions"]) & set(keys[1]["trials"][0]["conditions"])


def test_codecs_are_chosen_by_either_name(results, tmp_path):
    for number, name in enumerate(("lyra:3.2@lyra", "lyra:3.2@/models/lyra")):
        assert build(results, tmp_path / str(number), [name]) == (2, 5)
        conditions = json.loads((tmp_path / str(number) / "key.json").read_text())["trials"][0]["conditions"]
        assert set(conditions.values()) == {REFERENCE, LOW_ANCHOR, MID_ANCHOR, "lyra:3.2@lyra"}


def test_refusals_leave_nothing(results, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(OpensnacError, match="expected a codec of these results, opensnac, lyra:3.2@lyra, got 'mp3'"):
        build(results, out, ["mp3"])
    with pytest.raises(OpensnacError, match=r"expected results.json, as `opensnac evaluate"):
        build(tmp_path, out)
    facts = json.loads((results / "results.json").read_text())
    many = facts | {"codecs": [{"codec": f"opus:{n}", "name": f"opus:{n}"} for n in range(6, 16)]}
    (results / "results.json").write_text(json.dumps(many))
    with pytest.raises(OpensnacError, match="expected at most 9 codecs, as many as a listener can compare, got 10"):
        build(results, out)
    (results / "results.json").write_text(json.dumps(facts | {"kept": []}))
    with pytest.raises(OpensnacError, match="expected kept clips, got none; evaluate again with --players 6"):
        build(results, out)
    (results / "results.json").write_text(json.dumps(facts))
    next((results / "audio").glob("1*")).unlink()
    with pytest.raises(OpensnacError, match="cannot be read: No such file"):
        build(results, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]


def test_a_folder_that_holds_something_is_not_touched(results, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "answers.json").write_text("precious")
    with pytest.raises(FileExistsError, match="out: exists and is not empty; give a new folder with --out"):
        build(results, tmp_path / "out")
    assert (tmp_path / "out" / "answers.json").read_text() == "precious"


def test_a_clip_that_a_codec_failed_on_is_skipped(results, tmp_path):
    facts = json.loads((results / "results.json").read_text())
    del facts["kept"][0]["files"]["opensnac"]
    (results / "results.json").write_text(json.dumps(facts))
    assert build(results, tmp_path / "out").trials == 1


@pytest.mark.parametrize(("codecs", "advised"), [(1, 5), (3, 5), (4, 6), (9, 14)])
def test_half_as_many_trials_again_as_codecs_are_advised_and_five_at_least(results, tmp_path, codecs, advised):
    facts = json.loads((results / "results.json").read_text())
    more = [f"opus:{number}" for number in range(codecs)]
    facts["codecs"] = [{"codec": name, "name": name} for name in ("original", *more)]
    for clip in facts["kept"]:
        clip["files"] |= dict.fromkeys(more, clip["files"]["opensnac"])
    (results / "results.json").write_text(json.dumps(facts))
    assert build(results, tmp_path / "out") == (2, advised)
