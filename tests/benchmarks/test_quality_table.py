"""The script that prints the tables of README and docs from results.json."""

import importlib.util
import json
from pathlib import Path

import pytest

from opensnac.errors import OpensnacError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "quality_table.py"
specification = importlib.util.spec_from_file_location("quality_table", SCRIPT)
quality_table = importlib.util.module_from_spec(specification)
specification.loader.exec_module(quality_table)


def score(mean: float) -> dict:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "count": 2}


@pytest.fixture
def results(tmp_path):
    metrics = {
        "pesq_wb": {"label": "PESQ-WB", "digits": 2, "higher_is_better": True, "missing": None},
        "stoi": {"label": "STOI", "digits": 3, "higher_is_better": True, "missing": None},
        "dnsmos": {"label": "DNSMOS", "digits": 2, "higher_is_better": True, "missing": "not installed"},
    }
    codecs = [
        {"name": name, "bits_per_second": rate, "scores": {"pesq_wb": score(mean), "stoi": None},
         "labels": {"speech": {"bits_per_second": rate, "scores": {"pesq_wb": score(mean + 1), "stoi": None}}}}
        for name, rate, mean in (("original", None, 3.5), ("opus:6", 5302.4, 2.42))
    ]  # fmt: skip
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"metrics": metrics, "codecs": codecs, "labels": {"speech": {"clips": 2}}}))
    return file


def test_the_table_is_markdown_of_what_was_asked_for(results, capsys):
    quality_table.main([str(results)])
    assert capsys.readouterr().out.splitlines() == [
        "| codec | b/s | PESQ-WB ↑ | STOI ↑ |",
        "| --- | --- | --- | --- |",
        "| original | – | 3.50 ± 0.10 | – |",
        "| opus:6 | 5302 | 2.42 ± 0.10 | – |",
    ]
    quality_table.main([str(results), "--metric", "pesq_wb", "--codec", "opus:6", "--label", "speech"])
    assert capsys.readouterr().out.splitlines()[2:] == ["| opus:6 | 5302 | 3.42 ± 0.10 |"]


def test_a_table_per_label(results, capsys):
    quality_table.main([str(results), "--each-label", "--metric", "pesq_wb"])
    assert capsys.readouterr().out.splitlines() == [
        "| label | clips | codec | b/s | PESQ-WB ↑ |",
        "| --- | --- | --- | --- | --- |",
        "| speech | 2 | original | – | 4.50 ± 0.10 |",
        "| speech | 2 | opus:6 | 5302 | 3.42 ± 0.10 |",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "dnsmos"], "expected a metric of these results, pesq_wb, stoi, got 'dnsmos'"),
        (["--codec", "mp3"], "expected a codec of these results, original, opus:6"),
        (["--label", "music"], "expected a label of these results, speech, got 'music'"),
    ],
)
def test_unknown_metrics_codecs_and_labels_are_refused(results, arguments, message):
    with pytest.raises(OpensnacError, match=message):
        quality_table.main([str(results), *arguments])


def test_other_files_are_refused(tmp_path):
    with pytest.raises(OpensnacError, match="expected the results.json of an evaluation"):
        quality_table.main([str(tmp_path / "results.json")])
