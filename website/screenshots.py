"""Screenshots of the page of `opensnac serve`, in the middle of a stream: python website/screenshots.py [--out docs]

An example recording is the microphone. Needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import soundfile
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples/lj_speech.flac"
SCREENS = {"desktop": (1200, 1000, "light"), "phone": (390, 844, "dark")}
TALK_MILLISECONDS = 7000
SILENCE_SECONDS = 1.0  # after the recording, before the microphone hears it again


def main() -> None:
    """Write a JPEG for each screen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    given = parser.parse_args()
    command = [sys.executable, "-m", "opensnac", "serve", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found is not None
        address = found[0].rstrip("/,")
        _await_ready(address)
        with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
            program = shutil.which("chromium") or shutil.which("google-chrome")
            fake = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
            fake += [f"--use-file-for-fake-audio-capture={_microphone(Path(folder))}"]
            browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", *fake])
            for name in SCREENS:
                _take(browser, address, name, given.out)
            browser.close()
    finally:
        server.terminate()
        server.wait()


def _await_ready(address: str) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{address}/readyz").close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _microphone(folder: Path) -> Path:
    samples, rate = soundfile.read(EXAMPLE, dtype="float32")
    file = folder / "microphone.wav"
    soundfile.write(file, np.concatenate([samples, np.zeros(int(SILENCE_SECONDS * rate), np.float32)]), rate)
    return file


def _take(browser: Browser, address: str, name: str, folder: Path) -> None:
    width, height, scheme = SCREENS[name]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    page.click("#record")
    page.wait_for_selector("body[data-state=recording]")
    page.wait_for_timeout(TALK_MILLISECONDS)
    page.screenshot(path=folder / f"serving_{name}.jpg", type="jpeg", quality=75, full_page=True)
    page.close()


if __name__ == "__main__":
    main()
