"""The page in a browser, with a recording as its microphone: what comes back is the offline sound, bit by bit."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from running import Running, sound

from opensnac import SNAC, Engine

MODEL = "speech_24khz_tiny"
PACKED = """(name) => {
  const bytes = page[name].flatMap((piece) => Array.from(new Uint8Array(piece.buffer)));
  return btoa(bytes.map((byte) => String.fromCharCode(byte)).join(""));
}"""


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("voice") / "voice.wav"
    soundfile.write(file, sound(3.0), 24_000)
    return file


@pytest.fixture(scope="module")
def browser_options(browser_options: list[str], voice: Path) -> list[str]:
    """With a microphone that hears a recording."""
    fake = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    return [*browser_options, *fake, f"--use-file-for-fake-audio-capture={voice}"]


@pytest.fixture(scope="module")
def server(serve: Callable[..., Running]) -> Running:
    """Of a bundled model, whose groups are as long as those of real ones."""
    return serve(model=MODEL)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return SNAC.from_pretrained(MODEL).freeze()


@pytest.fixture(scope="module")
def window(shared_context: Any) -> Any:
    return shared_context.new_page()


@pytest.fixture
def tab(server: Running, window: Any) -> Any:
    window.goto(server.url)
    window.wait_for_selector("body[data-ready]")
    return window


def eventually(tab: Any, condition: str) -> None:
    """Wait for a condition; playwright's own way would need a page that lets strings be run."""
    until = time.monotonic() + 30
    while not tab.evaluate(condition):
        assert time.monotonic() < until, condition
        tab.wait_for_timeout(20)


def pieces(tab: Any, name: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(tab.evaluate(PACKED, name)), "<f4")


def check(tab: Any, engine: Engine) -> np.ndarray:
    """That what came back is what this model makes of what was sent; the latter."""
    sent, heard = pieces(tab, "original"), pieces(tab, "coded")
    codes = engine.encode(torch.from_numpy(sent.copy())[None, None])
    shown = tab.evaluate("page.codes.flatMap((codes) => codes[2])")
    assert shown == codes[2][0].tolist()
    whole = engine.decode(codes)[0, 0].numpy()
    assert np.array_equal(heard, whole)
    assert tab.evaluate("page.player.duration") == pytest.approx(len(whole) / 24_000)
    return sent


def test_what_the_microphone_hears_comes_back_as_offline(tab: Any, engine: Engine) -> None:
    tab.check("#live")
    tab.keyboard.press("Tab")
    tab.focus("#record")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("body[data-state=recording]")
    eventually(tab, "page.coded.length > 3")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("body[data-state=idle]", timeout=60_000)
    sent = check(tab, engine)
    assert np.abs(sent).max() > 0.05, "the microphone heard nothing"
    assert tab.inner_text("#bits").isdecimal()
    assert tab.inner_text("#latency").endswith("ms")
    assert "level" in tab.get_attribute("#coded", "aria-label")
    eventually(tab, "page.player.position > 0")


def test_a_file_comes_back_as_offline_and_is_compared_blind(tab: Any, engine: Engine, voice: Path) -> None:
    tab.set_input_files("#file", voice)
    tab.wait_for_selector("body[data-state=idle] #compare:enabled", timeout=60_000)
    assert len(check(tab, engine)) == 72_000
    tab.focus("#compare")
    tab.keyboard.press("Enter")
    tab.keyboard.press("1")
    tab.keyboard.press("2")
    tab.click("text=A is the original")
    assert "2 of 8" in tab.inner_text("#comparison")
    tab.focus("#play")
    tab.keyboard.press("Enter")
    eventually(tab, "page.player.position > 0.1")


def test_what_is_no_recording_is_said(tab: Any, tmp_path: Path) -> None:
    (tmp_path / "talk.wav").write_bytes(b"nothing that sounds")
    tab.set_input_files("#file", tmp_path / "talk.wav")
    tab.wait_for_selector("#error:visible")
    assert "expected a recording" in tab.inner_text("#error")
    assert tab.is_enabled("#record")


def test_a_token_is_asked_for_and_taken(serve: Callable[..., Running], context: Any, voice: Path) -> None:
    server = serve(model=MODEL, tokens=("a+token/of-the_page==",))
    page = context.new_page()
    page.goto(server.url)
    page.set_input_files("#file", voice)
    page.wait_for_selector("#token:visible")
    assert "token" in page.inner_text("#error")
    page.fill("#token", "a+token/of-the_page==")
    page.set_input_files("#file", [])
    page.set_input_files("#file", voice)
    page.wait_for_selector("#compare:enabled", timeout=60_000)


def test_nothing_is_wider_than_the_screen(tab: Any) -> None:
    for width in (375, 1280):
        tab.set_viewport_size({"width": width, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
