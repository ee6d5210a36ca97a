"""A whole session in a browser, answered by a script and marked so: keys, loops, reload, crashes of page and server."""

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from opensnac.listening.answers import parse
from opensnac.listening.build import LOW_ANCHOR, MID_ANCHOR, REFERENCE
from opensnac.listening.score import score

OPINION = {REFERENCE: 100, MID_ANCHOR: 60, LOW_ANCHOR: 20, "opensnac": 70, "lyra:3.2@lyra": 50}


class Program:
    """`opensnac listen serve` in its own process, which can be killed."""

    def __init__(self, built: Path, answers: Path, port: int) -> None:
        command = [sys.executable, "-c", "from opensnac.cli import main; main()", "listen", "serve"]
        options = [str(built), "--answers", str(answers), "--port", str(port)]
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
        self.answers = answers
        self.url = re.search("http://[0-9.]+:[0-9]+/", self.process.stdout.readline())[0]
        self.port = int(self.url.rstrip("/").rpartition(":")[2])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def serve(built, tmp_path):
    """Start a server of the test at a port (0: any); all of them end with the test."""
    running = []

    def start(port: int = 0) -> Program:
        running.append(Program(built, tmp_path / "answers", port))
        return running[-1]

    yield start
    for program in running:
        program.kill()


def opinion(key: dict, stimulus: str) -> int:
    (condition,) = [trial["conditions"][stimulus] for trial in key["trials"] if stimulus in trial["conditions"]]
    return OPINION[condition]


def open_page(context, url: str):
    tab = context.new_page()
    tab.goto(url)
    tab.wait_for_selector("body[data-ready]")
    return tab


def answer_page(tab, key: dict, count: int | None = None) -> None:
    """Play and score the first `count` stimuli of the current trial by keys; without a count, all, and continue."""
    strips = tab.locator(".strip[data-stimulus]")
    tab.wait_for_function("player.buffers.size > 0")
    for index in range(strips.count() if count is None else count):
        tab.keyboard.press(str(index + 1))
        wanted = opinion(key, strips.nth(index).get_attribute("data-stimulus"))
        tab.keyboard.press("Home" if wanted == 0 else "End")
        for _ in range((100 - wanted) // 10):
            tab.keyboard.press("PageDown")
        tab.wait_for_function(f"state.trials.find((t) => !t.confirmed).scores[trial.order[{index}]] === {wanted}")
    if count is None:
        heading = tab.inner_text("#heading")
        tab.keyboard.press("n")
        tab.wait_for_function("text => document.getElementById('heading').textContent !== text || !trial", arg=heading)


def kept(server: Program) -> dict:
    (file,) = server.answers.glob("*.json")
    return parse(file.read_bytes(), str(file))


def scores_of(answers: dict) -> list[dict]:
    return [trial["scores"] for trial in answers["trials"]]


def test_a_session_survives_reloads_and_crashes(serve, built, key, context, browser, tmp_path):
    server = serve()
    tab = open_page(context, f"{server.url}?simulated")
    assert tab.locator("#simulated").is_visible()
    tab.fill("#listener", "a script")
    tab.click("#start")
    for number in (1, 2):
        assert tab.inner_text("#heading") == f"Training {number} of 2"
        answer_page(tab, key)
    assert tab.inner_text("#heading") == "Page 1 of 2"

    answer_page(tab, key, 2)
    tab.wait_for_function("!session.unsent && !session.sending")
    before = kept(server)
    order = tab.evaluate("state.trials.map((t) => t.order)")
    tab.reload()
    tab.wait_for_selector("body[data-ready]")
    assert tab.inner_text("#heading") == "Page 1 of 2"
    assert tab.evaluate("state.trials.map((t) => t.scores)") == scores_of(before)
    assert tab.evaluate("state.trials.map((t) => t.order)") == order, "what was drawn by chance stays"

    server.kill()  # the listener continues
    answer_page(tab, key, 3)
    tab.wait_for_function("document.getElementById('status').textContent.includes('Kept in this browser; the server')")
    url = tab.url
    offline = tab.evaluate("state.trials.map((t) => t.scores)")
    with pytest.raises(Exception, match="crash"):
        tab.goto("chrome://crash")  # and so does the page
    server = serve(server.port)
    tab = open_page(context, url)
    assert tab.evaluate("state.trials.map((t) => t.scores)") == offline
    tab.wait_for_function("!session.unsent && !session.sending")
    assert scores_of(kept(server)) == offline

    with browser.new_context() as other:  # another browser with the session's address: the server has it all
        elsewhere = open_page(other, url)
        assert elsewhere.evaluate("state.trials.map((t) => t.scores)") == offline
    answer_page(tab, key)
    answer_page(tab, key)
    assert tab.locator("#end").is_visible()
    tab.wait_for_function("!session.unsent && !session.sending")
    answers = kept(server)
    assert (answers["finished"], answers["simulated"], answers["listener"]) == (True, True, "a script")

    report = score(built, [server.answers])
    assert report.startswith("# Listening test (SIMULATED: answered by a script, not by listeners)")
    assert "Kept simulated sessions: 1; trials: 2." in report
    for condition, mean in OPINION.items():
        assert f"| {condition} | {mean:.1f} | – | {mean} | 0 | 1 |" in report


def test_a_page_from_a_folder_needs_no_server_and_saves_a_file(built, key, context, tmp_path):
    tab = open_page(context, (built / "page" / "index.html").as_uri() + "?simulated")
    tab.click("#start")
    answer_page(tab, key)
    answer_page(tab, key)
    tab.reload()
    tab.wait_for_selector("body[data-ready]")
    assert tab.inner_text("#heading") == "Page 1 of 2"
    answer_page(tab, key)
    answer_page(tab, key)
    with tab.expect_download() as download:
        tab.click("#save")
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert file.stem == parse(file.read_bytes(), str(file))["session"]
    assert "| reference | 100.0 |" in score(built, [file])


def test_stimuli_switch_in_step_and_loop(built, context):
    tab = open_page(context, (built / "page" / "index.html").as_uri() + "?simulated")
    tab.click("#start")
    tab.wait_for_function("player.buffers.size === 6")
    tab.keyboard.press("r")
    assert tab.locator("#reference.playing").count() == 1
    started = tab.evaluate("player.startedAt")
    tab.keyboard.press("2")
    assert tab.evaluate("[player.audible === trial.order[1], player.startedAt]") == [True, started], "no restart"
    tab.wait_for_function(
        "[...player.voices].every(([n, v]) => Math.abs(v.gain.gain.value - (n === player.audible)) < .01)"
    )
    box = tab.locator("#wave").bounding_box()
    tab.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 20)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 20)
    tab.mouse.up()
    assert tab.evaluate("player.loop") == pytest.approx([0.25, 0.75], abs=0.02)
    places = [tab.evaluate("new Promise((r) => setTimeout(() => r(player.position), 130))") for _ in range(8)]
    assert all(0.2 < place < 0.8 for place in places), places
    tab.keyboard.press("\\")
    assert tab.evaluate("player.loop") is None
    tab.keyboard.press(" ")
    assert tab.evaluate("player.playing") is False


def test_fades_are_the_standard_s_and_never_across_two_recordings(built, context):
    tab = context.new_page()
    tab.add_init_script("""
      window.fades = [];
      const fade = AudioParam.prototype.setValueCurveAtTime;
      AudioParam.prototype.setValueCurveAtTime = function (curve, start, duration) {
        fades.push({ rising: curve.at(-1) === 1, middle: curve[curve.length >> 1], start, end: start + duration });
        return fade.call(this, curve, start, duration);
      };
    """)
    tab.goto((built / "page" / "index.html").as_uri() + "?simulated")
    tab.wait_for_selector("body[data-ready]")
    tab.click("#start")
    tab.wait_for_function("player.buffers.size === 6")
    for key in "r12121":  # faster than fades are
        tab.keyboard.press(key)
    fades = tab.evaluate("fades")
    assert [fade["rising"] for fade in fades] == [True, *[False, True] * 5]
    assert all(fade["end"] - fade["start"] == pytest.approx(0.005) for fade in fades)
    assert all(fade["middle"] == pytest.approx(0.5) for fade in fades)
    assert all(before["end"] <= after["start"] for before, after in pairwise(fades))
    tab.wait_for_function("player.context.currentTime > player.settled")
    gains = tab.evaluate("[...player.voices].map(([name, voice]) => [name === player.audible, voice.gain.gain.value])")
    assert sorted(gains) == [[False, 0]] * 5 + [[True, 1]]
    ends = tab.evaluate(
        "[...player.voices.values()].map((v) => v.source.buffer.getChannelData(0)).map((s) => [s[0], s.at(-1)])"
    )
    assert max(abs(sample) for both in ends for sample in both) < 1e-4, "a loop does not click"


def test_a_loop_has_the_standard_s_least_length(built, context):
    tab = open_page(context, (built / "page" / "index.html").as_uri() + "?simulated")
    tab.click("#start")
    tab.wait_for_function("player.buffers.size === 6")
    for given, made in (([0.2, 0.3], [0.2, 0.7]), ([0.8, 0.95], [0.5, 1.0]), ([0.1, 0.9], [0.1, 0.9])):
        assert tab.evaluate("loop => { player.setLoop(loop); return player.loop; }", given) == pytest.approx(
            made, abs=1e-3
        )


def test_only_played_stimuli_can_be_scored_and_all_must_be(built, context):
    tab = open_page(context, (built / "page" / "index.html").as_uri() + "?simulated")
    tab.click("#start")
    tab.wait_for_function("player.buffers.size === 6")
    sliders = tab.locator(".strip[data-stimulus] input")
    for training in range(2):
        assert tab.inner_text("#heading") == f"Training {training + 1} of 2"
        assert [slider.is_disabled() for slider in sliders.all()] == [True] * 5
        tab.keyboard.press("n")
        for number in "12345":
            assert tab.locator("#next").is_disabled()
            tab.keyboard.press(number)
        assert [slider.is_disabled() for slider in sliders.all()] == [True] * 4 + [False]
        tab.keyboard.press("n")  # without a score: it would not count
        tab.wait_for_function(
            "text => document.getElementById('heading').textContent !== text", arg=f"Training {training + 1} of 2"
        )
        tab.wait_for_function("player.buffers.size === 6")
    tab.keyboard.press("1")
    tab.keyboard.press("Home")
    tab.wait_for_function("trial.scores[trial.order[0]] === 0")
    assert tab.inner_text("#missing") == "4 to be scored"
    tab.keyboard.press("n")
    assert tab.inner_text("#heading") == "Page 1 of 2"


def test_each_listener_gets_an_order_of_their_own(built, browser):
    orders = set()
    for _ in range(2):
        with browser.new_context() as profile:
            tab = open_page(profile, (built / "page" / "index.html").as_uri())
            orders.add(json.dumps(tab.evaluate("state.trials.map((t) => t.order)")))
            assert tab.evaluate("state.simulated") is False
            assert not tab.locator("#simulated").is_visible()
    assert len(orders) == 2  # of 5!⁴ · 2² that are possible
