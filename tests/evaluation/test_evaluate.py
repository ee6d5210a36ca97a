"""The whole evaluation: one table over a folder, resumable, nothing left out silently."""

import json

import numpy as np
import pytest

from opensnac import audio
from opensnac.errors import OpensnacError
from opensnac.evaluation import evaluate
from opensnac.evaluation.codecs import DEFAULT_CODECS, Coded, Original
from opensnac.evaluation.evaluate import evaluate_folder, find_clips
from opensnac.evaluation.metrics import METRICS
from opensnac.evaluation.report import SCHEMA, bootstrap_interval

RATE = 24_000


@pytest.fixture
def folder(tmp_path, clip):
    audio.write(tmp_path / "clips" / "a.wav", clip[None], RATE)
    audio.write(tmp_path / "clips" / "deep" / "b.flac", np.stack([clip[::-1], clip]), RATE)
    return tmp_path / "clips"


@pytest.fixture
def few_metrics(monkeypatch):
    """Only what is quick and needs no package."""
    for name in set(METRICS) - {"si_sdr", "mel_distance"}:
        monkeypatch.delitem(METRICS, name)


@pytest.fixture
def measured(monkeypatch):
    """Measure in this process; the list fills with the clip and codec of what was measured."""
    seen = []

    def measure_all(tasks, jobs):
        for task in tasks:
            seen.append((task.clip, task.codec))
            yield evaluate.measure(task)

    monkeypatch.setattr(evaluate, "_measure_all", measure_all)
    return seen


def test_one_call_writes_scores_rates_and_codebook_use(folder, few_metrics, model_folder, tmp_path, capfd):
    name = f"opensnac:{model_folder}"
    results = evaluate_folder(folder, [name, "opensnac:nowhere"], tmp_path / "out", jobs=2)

    assert results == json.loads((tmp_path / "out" / "results.json").read_text())
    assert all(key in SCHEMA for key in results)
    assert (results["clips"], results["seconds"]) == (2, pytest.approx(2.4))
    original, ours = results["codecs"]
    assert original["codec"] == "original"
    assert original["scores"]["mel_distance"] == {"mean": 0, "low": 0, "high": 0, "count": 2}
    assert original["bits_per_second"] is None
    lines = [json.loads(line) for line in (tmp_path / "out" / "clips.jsonl").read_text().split("\n") if line]
    sizes = [line["num_bytes"] for line in lines if line["codec"] == name]
    assert ours["bits_per_second"] == pytest.approx(8 * sum(sizes) / 2.4)
    assert [use["count"] for use in ours["codebooks"]] == [2 * 15, 2 * 30, 2 * 60]
    assert ours["scores"]["si_sdr"]["count"] == 2

    printed, progress = capfd.readouterr()
    report = (tmp_path / "out" / "report.md").read_text()
    assert printed.strip() in report
    assert "| original | – | – |" in report
    assert "- Skipped opensnac:nowhere: no model 'nowhere'" in report
    assert progress == "", "silent when not on a terminal"


def test_a_second_run_measures_only_what_is_missing_or_changed(folder, few_metrics, measured, tmp_path, clip):
    out = tmp_path / "out"
    first = evaluate_folder(folder, ["original"], out)
    assert measured == [("a.wav", "original"), ("deep/b.flac", "original")]

    store = out / "clips.jsonl"
    store.write_text(store.read_text()[:-30])  # as a kill leaves it
    measured.clear()
    second = evaluate_folder(folder, ["original"], out)
    assert measured == [("deep/b.flac", "original")]
    assert second["codecs"][0]["scores"] == first["codecs"][0]["scores"]

    audio.write(folder / "a.wav", clip[None] / 2, RATE, force=True)
    measured.clear()
    evaluate_folder(folder, ["original"], out)
    evaluate_folder(folder, ["original"], out)
    assert measured == [("a.wav", "original")]


def test_a_broken_clip_is_listed_tried_again_and_stops_no_other(folder, few_metrics, measured, tmp_path):
    (folder / "broken.wav").write_bytes(b"no audio at all")
    for _ in range(2):
        measured.clear()
        results = evaluate_folder(folder, ["original"], tmp_path / "out")
        assert ("broken.wav", "original") in measured
    (entry,) = results["codecs"]
    assert "broken.wav" in entry["failed"]["broken.wav"]
    assert entry["scores"]["si_sdr"]["count"] == 2
    assert "- Failed, broken.wav with original: AudioError" in (tmp_path / "out" / "report.md").read_text()


def test_scores_that_do_not_apply_are_counted_and_not_zero(folder, few_metrics, measured, tmp_path):
    audio.write(folder / "silence.wav", np.zeros((1, RATE)), RATE)
    (entry,) = evaluate_folder(folder, ["original"], tmp_path / "out")["codecs"]
    assert entry["scores"]["si_sdr"] == {"mean": 100, "low": 100, "high": 100, "count": 2}
    report = (tmp_path / "out" / "report.md").read_text()
    assert "- SI-SDR, dB of original applied to 2 of 3 clips" in report


def test_a_codec_that_returns_nan_fails_the_clip(folder, few_metrics, measured, tmp_path, monkeypatch):
    def broken(self, clip, sample_rate):
        return Coded(np.full_like(clip, np.nan), None, None, 0.0, 0.0)

    monkeypatch.setattr(Original, "__call__", broken)
    (entry,) = evaluate_folder(folder, ["original"], tmp_path / "out")["codecs"]
    assert len(entry["failed"]) == 2
    assert entry["scores"]["si_sdr"] is None


def test_no_codec_named_means_the_default_ones(folder, few_metrics, measured, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no programs
    results = evaluate_folder(folder, [], tmp_path / "out")
    assert {"original", *DEFAULT_CODECS} == set(results["skipped"]) | {e["codec"] for e in results["codecs"]}
    assert "- Skipped opus:6: opusenc, opusdec not found" in (tmp_path / "out" / "report.md").read_text()


def test_hidden_files_and_other_files_are_no_clips(folder):
    (folder / ".hidden.wav").write_bytes(b"")
    (folder / "notes.txt").write_text("not audio")
    assert find_clips(folder) == [folder / "a.wav", folder / "deep" / "b.flac"]


def test_a_folder_without_recordings_is_refused(tmp_path):
    with pytest.raises(OpensnacError, match=r"no file there ends in \.wav, .*; give recordings"):
        find_clips(tmp_path)
    with pytest.raises(OpensnacError, match="nowhere: no such folder; give a folder of recordings"):
        find_clips(tmp_path / "nowhere")


def test_the_bootstrap_interval_holds_the_mean_and_narrows_with_more_clips():
    values = np.random.default_rng(0).normal(3, 1, 400)
    few, many = bootstrap_interval(values[:25]), bootstrap_interval(values)
    assert few[0] < values[:25].mean() < few[1]
    assert many[1] - many[0] == pytest.approx(2 * 1.96 / 20, rel=0.15)  # of a normal mean: ±1.96 s / √n
    assert few[1] - few[0] > 2 * (many[1] - many[0])
    assert bootstrap_interval([3.0]) is None
