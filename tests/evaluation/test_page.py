"""report.html in a browser, from a file: sorting, players and pictures without a network; and its plots, by hand."""

import re
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest

from opensnac.evaluation import page, plots
from opensnac.recordings import audio

RATE = 24_000
METRICS = {
    "pesq_wb": {"label": "PESQ-WB", "digits": 2, "higher_is_better": True, "missing": None},
    "si_sdr": {"label": "SI-SDR, dB", "digits": 1, "higher_is_better": True, "missing": None},
}


def entry(name: str, rate: float | None, pesq: float | None) -> dict:
    score = None if pesq is None else {"mean": pesq, "low": pesq - 0.1, "high": pesq + 0.1, "count": 2}
    scores = {"pesq_wb": score, "si_sdr": {"mean": 5.0, "low": None, "high": None, "count": 1}}
    return {
        "codec": name,
        "name": name,
        "version": f"{name} 1.0",
        "counted": "bytes",
        "bits_per_second": rate,
        "file_bits_per_second": rate,
        "encode_times_real_time": None,
        "decode_times_real_time": 12.0,
        "peak_bytes": None,
        "scores": scores,
        "differences": None if name == "opus:6" else scores,
        "labels": {"<b>music</b>": {"bits_per_second": rate, "scores": scores, "differences": None}},
        "codebooks": None,
        "failed": {},
    }


@pytest.fixture
def results() -> dict:
    return {
        "created": "2030-01-01T00:00:00+00:00",
        "command": "opensnac evaluate <here>",
        "machine": {"cpu": "a CPU", "cores": 2, "system": "a system"},
        "versions": {"opensnac": "1.0"},
        "clips": 2,
        "seconds": 2.4,
        "labels": {"<b>music</b>": {"clips": 2, "seconds": 2.4}},
        "baseline": "opus:6",
        "metrics": METRICS,
        "skipped": {"lyra:3.2": "no models <i>named</i>"},
        "kept": [
            {"clip": "music/<i>a</i>.wav", "label": "music", "files": {"original": "0.flac", "opus:12": "1.flac"}}
        ],
        "codecs": [
            entry("original", None, 4.64),
            entry("opus:6", 5_600, 2.2),
            entry("opus:12", 11_500, 3.8),
            entry("opensnac", 980, 10.0),
            entry("mute", 1_000, None),
        ],
    }


@pytest.fixture
def report(results, tmp_path, clip):
    for name, signal in (("0", clip), ("1", clip / 2)):
        audio.write(tmp_path / "audio" / f"{name}.flac", signal[None], RATE)
    page.write(results, tmp_path)
    for file in (tmp_path / "audio").iterdir():
        file.unlink()  # the page has its own
    return tmp_path / "report.html"


def column(tab, index: int) -> list[str]:
    return tab.locator("table.sortable").first.locator(f"tbody tr td:nth-child({index})").all_inner_texts()


def test_headings_sort_both_ways_with_missing_values_last(report, context):
    tab = context.new_page()
    tab.goto(report.as_uri())
    heading = tab.locator("table.sortable").first.get_by_role("button", name="PESQ-WB ↑")
    heading.click()
    assert column(tab, 7) == ["2.20 ± 0.10", "3.80 ± 0.10", "4.64 ± 0.10", "10.00 ± 0.10", "–"]
    heading.click()
    assert column(tab, 1) == ["opensnac", "original", "opus:12", "opus:6", "mute"]
    tab.locator("table.sortable").first.get_by_role("button", name="codec").click()
    assert column(tab, 1) == ["mute", "opensnac", "opus:12", "opus:6", "original"]


def test_players_play_one_at_a_time_and_continue_at_the_same_position(report, context):
    tab = context.new_page()
    tab.goto(report.as_uri())
    players = tab.locator("audio")
    assert players.count() == 2
    tab.wait_for_function("[...document.querySelectorAll('audio')].every((a) => a.readyState > 0)")
    assert players.first.evaluate("a => a.duration") == pytest.approx(1.2, abs=0.01)
    players.first.evaluate("a => { a.currentTime = 0.8; return a.play(); }")
    began = players.last.evaluate("a => a.play().then(() => a.currentTime)")
    assert began >= 0.8
    tab.wait_for_function("document.querySelector('audio').paused")
    images = tab.locator("img")
    if images.count():  # matplotlib is installed
        assert images.first.evaluate("i => i.naturalWidth") > 100


def test_much_audio_is_played_as_opus(results, tmp_path, clip, context, monkeypatch):
    for name in ("0", "1"):
        audio.write(tmp_path / "audio" / f"{name}.flac", clip[None], RATE)
    assert "audio format: FLAC" in page.html(results, tmp_path / "audio")
    large = len(page.html(results, tmp_path / "audio"))
    monkeypatch.setattr(page, "MAX_FLAC", 1_000)
    page.write(results, tmp_path)
    assert len((tmp_path / "report.html").read_text()) < large - 20_000
    tab = context.new_page()
    tab.goto((tmp_path / "report.html").as_uri())
    assert "audio format: Opus" in tab.inner_text("body")
    tab.wait_for_function("[...document.querySelectorAll('audio')].every((a) => a.readyState > 0)")
    assert tab.locator("audio").first.evaluate("a => a.duration") == pytest.approx(1.2, abs=0.02)


def test_names_are_text_and_never_markup(report, context):
    tab = context.new_page()
    tab.goto(report.as_uri())
    assert tab.locator("i, b").count() == 0
    text = tab.inner_text("body")
    for expected in (
        "opensnac evaluate <here>",
        "music/<i>a</i>.wav",
        "<b>music</b>: 2 clips",
        "no models <i>named</i>",
    ):
        assert expected in text


def test_the_page_is_one_file(report):
    links = re.findall(r'(?:src|href)="([^"]*)"', report.read_text())
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)


def test_points_are_at_their_rate_and_score(results):
    drawn = ElementTree.fromstring(plots.rate_quality(results, "pesq_wb"))
    points = {circle[0].text.partition(": ")[0]: circle.attrib for circle in drawn.iter("circle")}
    assert points.keys() == {"opus:6", "opus:12", "opensnac"}, "what has no rate or no score is no point"
    x = {name: float(point["cx"]) for name, point in points.items()}
    y = {name: float(point["cy"]) for name, point in points.items()}
    slope = (x["opus:12"] - x["opensnac"]) / np.log(11_500 / 980)
    assert x["opus:6"] - x["opensnac"] == pytest.approx(slope * np.log(5_600 / 980), abs=0.2)
    assert y["opus:6"] - y["opus:12"] == pytest.approx((y["opus:6"] - y["opensnac"]) * 1.6 / 7.8, abs=0.2)


def names(results) -> list[plots.Label]:
    drawn = ElementTree.fromstring(plots.rate_quality(results, "pesq_wb"))
    return [
        plots.Label(text.text, float(text.attrib["x"]), float(text.attrib["y"]), text.attrib["text-anchor"])
        for text in drawn.iter("text")
        if text.attrib["class"] == "name"
    ]


@pytest.mark.parametrize("count", [2, 8, 16])
def test_names_of_near_points_do_not_overlap(results, count):
    results["codecs"] = [entry(f"codec{index}", 1_000 + index, 3.0) for index in range(count)]
    found = names(results)
    assert {label.text for label in found} == {f"codec{index}" for index in range(count)}
    assert not any(one.box.meets(other.box) for one, other in combinations(found, 2))


def test_long_names_stay_distinguishable(results):
    folder = "opensnac:/home/someone/runs/speech/"
    results["codecs"] = [entry("opensnac:speech_24khz_small", 1_000, 3.0), entry(f"{folder}best", 1_100, 2.0)]
    results["codecs"].append(entry(f"{folder}last", 1_200, 2.5))
    found = sorted(label.text for label in names(results))
    assert [text[-5:] for text in found] == ["small", "/best", "/last"]
    assert all(len(text) <= plots.LONGEST_NAME for text in found)


def test_a_name_moves_out_of_the_way_of_another_point(results):
    results["codecs"] = [entry("left", 2_000, 3.0), entry("right", 2_250, 3.0), entry("far", 500, 1.0)]
    (left,) = [label for label in names(results) if label.text == "left"]
    assert left.anchor == "end"


def test_of_several_rates_the_highest_has_the_full_name(results):
    results["codecs"] += [entry("lyra:3.2@folder", 3_200, 2.5), entry("lyra:6@folder", 6_000, 3.0)]
    assert {label.text for label in names(results)} == {"6", "opus:12", "opensnac", "3.2", "lyra:6@folder"}

    def colours(metric: str) -> dict[str, str]:
        drawn = ElementTree.fromstring(plots.rate_quality(results, metric))
        return {circle[0].text.partition(": ")[0]: circle.attrib["fill"] for circle in drawn.iter("circle")}

    first, second = colours("pesq_wb"), colours("si_sdr")
    assert first["lyra:6@folder"] == first["lyra:3.2@folder"] != first["opus:6"]
    assert first.items() < second.items(), "the same in each plot, although one has a codec more"


@pytest.mark.parametrize("span", [0.0, 1e-6, 0.9, 8.5, 99.0])
def test_any_range_of_scores_can_be_drawn(results, span):
    results["codecs"] = [entry("a", 1_000, 1.0), entry("b", 2_000, 1.0 + span)]
    for one in results["codecs"]:
        one["scores"]["pesq_wb"] |= {"low": None, "high": None}
    assert len(list(ElementTree.fromstring(plots.rate_quality(results, "pesq_wb")).iter("circle"))) == 2


def test_without_scores_there_is_no_plot(results):
    results["codecs"] = [entry("original", None, 4.6), entry("mute", 1_000, None)]
    assert plots.rate_quality(results, "pesq_wb") is None
