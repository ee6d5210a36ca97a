"""The whole evaluation: one table over a folder, resumable, nothing skipped silently."""

import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from opensnac import cli
from opensnac.errors import OpensnacError
from opensnac.evaluation import evaluate
from opensnac.evaluation.codecs import DEFAULT_CODECS, Coded, Original
from opensnac.evaluation.codecs.programs import Opus
from opensnac.evaluation.evaluate import choose, evaluate_folder, find_clips
from opensnac.evaluation.metrics import METRICS
from opensnac.evaluation.summary import SCHEMA, label_of, short_names
from opensnac.recordings import audio

RATE = 24_000


@pytest.fixture
def folder(tmp_path, clip):
    audio.write(tmp_path / "clips" / "a.wav", clip[None], RATE)
    audio.write(tmp_path / "clips" / "deep" / "b.flac", np.stack([clip[::-1], clip]), RATE)
    return tmp_path / "clips"


@pytest.fixture
def few_metrics(monkeypatch):
    """Metrics that are fast and need no package."""
    for name in set(METRICS) - {"si_sdr", "mel_distance"}:
        monkeypatch.delitem(METRICS, name)


@pytest.fixture
def measured(monkeypatch):
    """Measure in this process; the list collects the clip and codec of each measurement."""
    seen = []

    def measure_all(tasks, jobs):
        for task in tasks:
            seen.append((task.clip, task.codec))
            yield evaluate.measure(task)

    monkeypatch.setattr(evaluate, "_measure_all", measure_all)
    return seen


def test_one_call_writes_scores_rates_and_codebook_use(folder, few_metrics, model_folder, tmp_path, capfd, forks):
    name = f"opensnac:{model_folder}"
    codecs = [name, "opensnac:nowhere", f"refined:1@{model_folder}"]
    results = evaluate_folder(folder, codecs, tmp_path / "out", jobs=1)

    assert results == json.loads((tmp_path / "out" / "results.json").read_text())
    assert all(key in SCHEMA for key in results)
    assert (results["clips"], results["seconds"]) == (2, pytest.approx(2.4))
    original, ours, refined = results["codecs"]
    assert original["codec"] == "original"
    assert (refined["name"], refined["bits_per_second"]) == ("refined:1@tiny", ours["bits_per_second"])
    assert original["scores"]["mel_distance"] == {"mean": 0, "low": 0, "high": 0, "count": 2}
    assert original["bits_per_second"] is None
    lines = [json.loads(line) for line in (tmp_path / "out" / "clips.jsonl").read_text().split("\n") if line]
    sizes = [line["num_bytes"] for line in lines if line["codec"] == name and "memory_of" not in line]
    assert ours["bits_per_second"] == pytest.approx(8 * sum(sizes) / 2.4)
    assert ours["name"] == "opensnac:tiny"
    assert sys.platform != "linux" or 50e6 < ours["peak_bytes"] < 4e9, "torch alone takes that"
    assert [use["count"] for use in ours["codebooks"]] == [2 * 15, 2 * 30, 2 * 60]
    assert ours["scores"]["si_sdr"]["count"] == 2

    printed, progress = capfd.readouterr()
    report = (tmp_path / "out" / "report.md").read_text()
    assert printed.strip() in report
    assert "| original | – | – |" in report
    assert "- Skipped opensnac:nowhere: model: expected" in report
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


def test_missing_audio_of_players_is_made_again(folder, few_metrics, measured, tmp_path):
    out = tmp_path / "out"
    results = evaluate_folder(folder, ["original"], out, players=1)
    (kept,) = results["kept"]
    file = out / "audio" / kept["files"]["original"]
    original, rate = audio.read(folder / kept["clip"])
    assert audio.read(file)[0] == pytest.approx(original.mean(axis=0)[None], abs=1e-4)
    assert rate == RATE
    file.unlink()
    measured.clear()
    evaluate_folder(folder, ["original"], out, players=1)
    assert file.exists()
    assert measured == [(kept["clip"], "original")]


def test_sub_folders_are_labels_with_means_of_their_own(folder, few_metrics, measured, tmp_path, monkeypatch, clip):
    def halved_when_deep(self, clip, sample_rate):
        return Coded(clip + (0.01 if len(clip) == 28_800 else 0) * np.sign(clip), 100, 120, 0.1, 0.1)

    monkeypatch.setattr(Opus, "missing", lambda self: None)
    monkeypatch.setattr(Opus, "version", lambda self: "1")
    monkeypatch.setattr(Opus, "__call__", halved_when_deep)
    audio.write(folder / "other" / "c.wav", clip[None, :24_000], RATE)
    audio.write(folder / "other" / "d.wav", clip[None, :20_000], RATE)
    results = evaluate_folder(folder, ["opus:6"], tmp_path / "out", baseline="original")
    assert results["labels"].keys() == {"", "deep", "other"}
    assert results["labels"]["other"] == {"clips": 2, "seconds": pytest.approx(44_000 / RATE)}
    original, opus = results["codecs"]
    assert original["differences"] is None
    assert opus["labels"]["other"]["scores"]["si_sdr"]["mean"] == 100
    assert opus["labels"]["other"]["bits_per_second"] == pytest.approx(8 * 200 * RATE / 44_000)
    assert opus["labels"]["deep"]["scores"]["si_sdr"]["mean"] < 40
    assert opus["labels"]["deep"]["differences"]["si_sdr"]["mean"] < -60
    assert opus["differences"]["si_sdr"]["count"] == 4
    assert opus["differences"]["si_sdr"]["mean"] == pytest.approx(
        opus["scores"]["si_sdr"]["mean"] - original["scores"]["si_sdr"]["mean"]
    )
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Label other: 2 clips, 1.8 s" in report
    assert "Difference to original on the same clips:" in report
    assert {clip["label"] for clip in results["kept"]} == {"", "deep", "other"}


def test_metrics_of_speech_do_not_apply_to_music(tmp_path, measured, monkeypatch, clip):
    for name in set(METRICS) - {"stoi", "si_sdr"}:
        monkeypatch.delitem(METRICS, name)
    if (reason := METRICS["stoi"].missing()) is not None:
        pytest.skip(reason)
    for label in ("music", "speech", "whatever"):
        audio.write(tmp_path / "clips" / label / "a.wav", clip[None], RATE)
    (entry,) = evaluate_folder(tmp_path / "clips", ["original"], tmp_path / "out")["codecs"]
    counts = {
        label: {name: score and score["count"] for name, score in own["scores"].items()}
        for label, own in entry["labels"].items()
    }
    assert counts["music"] == {"stoi": None, "si_sdr": 1}
    assert counts["speech"] == counts["whatever"] == {"stoi": 1, "si_sdr": 1}
    assert "- STOI of original applied to 2 of 3 clips" in (tmp_path / "out" / "report.md").read_text()


def test_decoded_audio_is_aligned_before_scoring(folder, few_metrics, measured, tmp_path, monkeypatch):
    def late_and_quiet(self, clip, sample_rate):
        return Coded(np.roll(clip, 100) / 2, None, None, 0.0, 0.0)

    monkeypatch.setattr(Original, "__call__", late_and_quiet)
    (entry,) = evaluate_folder(folder, ["original"], tmp_path / "out")["codecs"]
    assert entry["scores"]["mel_distance"]["mean"] < 0.3
    assert entry["scores"]["si_sdr"]["mean"] > 30


def test_a_report_needs_a_folder(folder, tmp_path):
    (tmp_path / "out").write_text("precious")
    with pytest.raises(OpensnacError, match="out: expected a folder for the report, got a file"):
        evaluate_folder(folder, ["original"], tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"


def test_a_baseline_that_is_not_measured_is_refused(folder, tmp_path):
    with pytest.raises(OpensnacError, match="baseline: expected one of original, opensnac, got 'opus:6'"):
        evaluate_folder(folder, ["opensnac"], tmp_path / "out", baseline="opus:6")


@pytest.mark.parametrize("count", [0, 1, 4, 100])
def test_players_are_spread_over_labels(tmp_path, count):
    clips = [tmp_path / label / f"{index:02}.wav" for label in ("a", "b", "c") for index in range(10)]
    chosen = choose(tmp_path, clips, count)
    assert len(chosen) == min(count, len(clips))
    clips.append(tmp_path / "d" / "lonely.wav")
    assert len(choose(tmp_path, clips, 12)) == 12
    if count == 4:
        assert chosen == {
            tmp_path / "a" / "00.wav",
            tmp_path / "a" / "05.wav",
            tmp_path / "b" / "00.wav",
            tmp_path / "c" / "00.wav",
        }


def test_labels_and_names():
    assert [label_of(clip) for clip in ("a.wav", "music/a.wav", "music/loud/a.wav")] == ["", "music", "music"]
    names = ["opus:6", "opensnac:/runs/a/best/", "lyra:3.2@/models/lyra", "opensnac:x/snac", "opensnac:y/snac"]
    assert [*short_names(names).values()] == ["opus:6", "opensnac:best", "lyra:3.2@lyra", *names[3:]]


def test_a_broken_clip_is_listed_and_retried(folder, few_metrics, measured, tmp_path):
    (folder / "broken.wav").write_bytes(b"no audio at all")
    for _ in range(2):
        measured.clear()
        results = evaluate_folder(folder, ["original"], tmp_path / "out")
        assert ("broken.wav", "original") in measured
    (entry,) = results["codecs"]
    assert "broken.wav" in entry["failed"]["broken.wav"]
    assert entry["scores"]["si_sdr"]["count"] == 2
    assert "- Failed, broken.wav with original: AudioError" in (tmp_path / "out" / "report.md").read_text()


def test_one_failure_of_every_codec_is_one_line(folder, few_metrics, measured, tmp_path, monkeypatch):
    monkeypatch.setattr(Opus, "missing", lambda self: None)
    monkeypatch.setattr(Opus, "version", lambda self: "1")
    monkeypatch.setattr(Opus, "__call__", lambda self, clip, sample_rate: Coded(clip, 1, 1, 0.1, 0.1))
    (folder / "broken.wav").write_bytes(b"no audio at all")
    evaluate_folder(folder, ["opus:6", "opus:12"], tmp_path / "out")
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.count("Failed, broken.wav") == 1
    assert "- Failed, broken.wav with every codec: AudioError" in report


def test_names_with_any_character_keep_the_report_intact(tmp_path, few_metrics, measured, clip, model_folder):
    model = model_folder.rename(model_folder.with_name("a|b"))
    try:
        for name in ("a|b `c`.wav", "<script>$x.wav", "two\nlines.wav"):
            audio.write(tmp_path / "clips" / "<i>m|u\ns" / name, clip[None], RATE)
        (tmp_path / "clips" / "<i>m|u\ns" / "broken\n|.wav").write_bytes(b"")
        evaluate_folder(tmp_path / "clips", [f"opensnac:{model}"], tmp_path / "out", players=3)
    finally:
        model.rename(model_folder)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Label <i>m|u s: 4 clips" in report
    assert "- Failed, <i>m|u s/broken |.wav with every codec: AudioError" in report
    tables = [line.replace(r"\|", "") for line in report.splitlines() if line.startswith("|")]
    assert any(line.startswith("| opensnac:ab |") for line in tables)
    for block in report.split("\n\n"):
        rows = [line.replace(r"\|", "") for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, "as many cells in every row"
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<script>") == 1
    assert "&lt;script&gt;$x.wav" in page


@pytest.mark.parametrize("samples", [1, 10, 500])
def test_very_short_clips_are_measured(tmp_path, few_metrics, measured, model_folder, samples):
    audio.write(tmp_path / "clips" / "short.wav", np.full((1, samples), 0.1), RATE)
    results = evaluate_folder(tmp_path / "clips", [f"opensnac:{model_folder}"], tmp_path / "out")
    assert [entry["failed"] for entry in results["codecs"]] == [{}, {}]
    assert results["codecs"][1]["bits_per_second"] > 0


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


def test_without_codecs_the_default_ones_run(folder, few_metrics, measured, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no programs
    results = evaluate_folder(folder, [], tmp_path / "out")
    assert {"original", *DEFAULT_CODECS} == set(results["skipped"]) | {e["codec"] for e in results["codecs"]}
    assert "- Skipped opus:6: opusenc, opusdec not found" in (tmp_path / "out" / "report.md").read_text()


def test_hidden_and_other_files_are_skipped(folder):
    (folder / ".hidden.wav").write_bytes(b"")
    (folder / "notes.txt").write_text("not audio")
    assert find_clips(folder) == [folder / "a.wav", folder / "deep" / "b.flac"]


def test_a_folder_without_recordings_is_refused(tmp_path):
    with pytest.raises(OpensnacError, match=r"expected files that end in \.wav, .*, got none"):
        find_clips(tmp_path)
    with pytest.raises(OpensnacError, match="nowhere: expected a folder of recordings"):
        find_clips(tmp_path / "nowhere")


def test_a_run_without_a_single_success_ends_as_a_failure(folder, few_metrics, measured, tmp_path):
    broken = tmp_path / "none"
    broken.mkdir()
    (broken / "broken.wav").write_bytes(b"no audio at all")
    arguments = ["evaluate", str(broken), "--codec", "opensnac", "--out", str(tmp_path / "out")]
    ended = CliRunner().invoke(cli.app, arguments)
    assert (ended.exit_code, "all clips failed with all codecs" in ended.stderr) == (1, True)
    assert "Failed, broken.wav" in (tmp_path / "out" / "report.md").read_text()


def test_failed_clips_are_reported_and_fail_the_run(folder, few_metrics, measured, tmp_path):
    (folder / "broken.wav").write_bytes(b"no audio at all")
    arguments = ["evaluate", str(folder), "--codec", "original", "--out", str(tmp_path / "out")]
    ended = CliRunner().invoke(cli.app, arguments)
    assert ended.exit_code == 1
    assert "clips failed: 1 of 3 with original; " in ended.stderr
    (folder / "broken.wav").unlink()
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0


@pytest.mark.parametrize("codec", ["original", "opensnac"])
def test_a_run_with_only_broken_clips_fails(folder, few_metrics, measured, tmp_path, codec):
    for clip in find_clips(folder):
        clip.write_bytes(b"no audio at all")
    ended = CliRunner().invoke(cli.app, ["evaluate", str(folder), "--codec", codec, "--out", str(tmp_path / "out")])
    assert (ended.exit_code, "all clips failed with all codecs" in ended.stderr) == (1, True)


def test_a_run_without_available_codecs_fails(folder, few_metrics, measured, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    ended = CliRunner().invoke(cli.app, ["evaluate", str(folder), "--codec", "opus:6", "--out", str(tmp_path / "out")])
    assert ended.exit_code == 1
    assert "none of the codecs opus:6 is available here" in ended.stderr
