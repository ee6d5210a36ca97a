"""The codec in headless Chromium: speed, download size, and differences of codes and samples from Python's.

python benchmarks/web.py [--site web/dist] [--model speech_24khz_small] [--threads 1 2] [--rounds 3] [--pictures docs]

The site is the output of `make web` for this model. Speeds are in seconds of audio per second, for whole recordings
and one group of frames per call, in wall time and in processor time of all browser processes; then Python's in the same
run, in one thread, in processor time. Medians of the rounds. Needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import base64
import functools
import gzip
import io
import shutil
import statistics
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from playwright.sync_api import Browser, Page, sync_playwright

from opensnac import SNAC
from opensnac.bitstream import read

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples/lj_speech.flac"
LOADED = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm", "_stream_fp16.onnx")
SCRIPT = """
async ([text, threads]) => {
  const { Codec } = await import("/opensnac/src/index.js");
  const start = performance.now();
  window.codec = await Codec.open({ model: "/model", runtime: "/ort", threads });
  window.samples = new Float32Array(Uint8Array.from(atob(text), (one) => one.charCodeAt(0)).buffer);
  window.opened = performance.now() - start;
  window.file = await codec.encode(samples);
  window.heard = (await codec.decode(file)).channels[0];
  return opened / 1000;
}
"""
WORK = {
    "encode": "codec.encode(samples)",
    "decode": "codec.decode(file)",
    "encode, a group a call": """(async () => {
      const encoder = codec.encoder();
      for (let at = 0; at < samples.length; at += codec.groupSamples)
        await encoder.push(samples.subarray(at, at + codec.groupSamples));
      await encoder.finish();
    })()""",
    "decode, a group a call": """(async () => {
      const { read } = await import("/opensnac/src/index.js");
      const { codes } = read(file);
      const decoder = codec.decoder();
      const group = codec.groupSamples / codec.ticks[0];
      for (let at = 0; at < codes[0][0].length; at += group)
        await decoder.push(codes.map(([channel], scale) => {
          const each = codec.ticks[0] / codec.ticks[scale];
          return [channel.subarray(at * each, (at + group) * each)];
        }));
      await decoder.finish();
    })()""",
}


class Isolated(SimpleHTTPRequestHandler):
    """Sends what lets a page have threads."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *words: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=Path, default=ROOT / "web/dist")
    parser.add_argument("--model", help="the one that the site has; default: the bundled one")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=Path, help="also keep pictures of the page in this folder")
    given = parser.parse_args()
    print_sizes(given.site)
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Isolated, directory=given.site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        model = SNAC.from_pretrained(given.model)
        audio = example(model.config.sampling_rate)
        with sync_playwright() as driver:
            program = shutil.which("chromium") or shutil.which("google-chrome")
            browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
            for threads in given.threads:
                page = browser.new_page()
                page.set_default_timeout(0)
                page.goto(f"http://127.0.0.1:{server.server_port}/link.js")
                opened = page.evaluate(SCRIPT, [base64.b64encode(audio.tobytes()).decode(), threads])
                print(f"\n{threads} thread{'s' * (threads > 1)}, open in {opened:.1f} s")
                print_speeds(page, len(audio) / model.config.sampling_rate, given.rounds)
                if threads == given.threads[0]:
                    file, heard = (unpacked(page, name) for name in ("file", "heard"))
                    print_likeness(model, audio, file, np.frombuffer(heard, np.float32))
                page.close()
            print_python(model, audio, given.rounds)
            if given.pictures:
                take_pictures(browser, f"http://127.0.0.1:{server.server_port}", given.pictures)
            browser.close()
        server.shutdown()


def example(rate: int) -> np.ndarray:
    audio, own = soundfile.read(EXAMPLE, dtype="float32")
    return soxr.resample(audio, own, rate).astype(np.float32)


def print_sizes(site: Path) -> None:
    """What the page loads, and the same as a host that compresses would send it."""
    for file in sorted(site.rglob("*")):
        if file.is_file() and file.name.endswith(LOADED):
            size, packed = file.stat().st_size, len(gzip.compress(file.read_bytes()))
            print(f"{file.relative_to(site)}: {size / 1e6:.2f} MB, {packed / 1e6:.2f} MB by gzip")
    package = [file for file in (site / "opensnac").rglob("*.js") if file.is_file()]
    print(f"opensnac/: {sum(file.stat().st_size for file in package) / 1e3:.0f} kB")


def print_speeds(page: Page, seconds: float, rounds: int) -> None:
    for name, script in WORK.items():
        clock, processor = [], []
        for _ in range(rounds):
            before = processor_seconds(page)
            start = time.perf_counter()
            page.evaluate(f"{script}.then(() => null)")
            clock.append(time.perf_counter() - start)
            processor.append(processor_seconds(page) - before)
        speed, quiet = (seconds / statistics.median(times) for times in (clock, processor))
        print(f"{name}: {speed:.1f} x real time by the clock, {quiet:.1f} by processor time")


def print_python(model: SNAC, audio: np.ndarray, rounds: int) -> None:
    torch.set_num_threads(1)
    engine = model.freeze()
    signal = torch.from_numpy(audio)[None, None]
    codes = engine.encode(signal)
    for name, work in (("encode", lambda: engine.encode(signal)), ("decode", lambda: engine.decode(codes))):
        spent = []
        for _ in range(rounds):
            start = time.process_time()
            work()
            spent.append(time.process_time() - start)
        speed = len(audio) / model.config.sampling_rate / statistics.median(spent)
        print(f"Python, {name}: {speed:.1f} x real time by processor time")


def take_pictures(browser: Browser, address: str, folder: Path) -> None:
    """The page on a phone, dark, and on a desk, light, with the example coded."""
    for name, width, height, scheme in (("phone", 390, 844, "dark"), ("desktop", 1200, 1010, "light")):
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.set_default_timeout(0)
        page.goto(address)
        page.wait_for_selector("body[data-state=ready]")
        page.set_input_files("#file", EXAMPLE)
        page.wait_for_selector("body[data-state=done]")
        page.wait_for_timeout(1000)  # the last pictures are drawn
        page.screenshot(path=folder / f"web_{name}.jpg", type="jpeg", quality=75)
        page.close()


def processor_seconds(page: Page) -> float:
    """Of all of the browser's processes so far."""
    session = page.context.browser.new_browser_cdp_session()  # type: ignore[union-attr]
    try:
        return sum(process["cpuTime"] for process in session.send("SystemInfo.getProcessInfo")["processInfo"])
    finally:
        session.detach()


def unpacked(page: Page, name: str) -> bytes:
    text = page.evaluate(
        f"btoa(Array.from(new Uint8Array({name}.buffer), (byte) => String.fromCharCode(byte)).join(''))"
    )
    return base64.b64decode(text)


def print_likeness(model: SNAC, audio: np.ndarray, file: bytes, heard: np.ndarray) -> None:
    """Beside Python: its codes of the same samples, its samples of the browser's codes."""
    codes = read(io.BytesIO(file)).codes
    wanted = model.encode(torch.from_numpy(audio)[None, None])
    same = [np.mean(ours == theirs.numpy()) for ours, theirs in zip(codes, wanted, strict=True)]
    print("codes that are Python's, scale by scale:", ", ".join(f"{share:.1%}" for share in same))
    decoded = model.decode([torch.from_numpy(scale) for scale in codes], num_samples=len(audio))[0, 0].numpy()
    error = np.mean((decoded - heard) ** 2)
    print(f"the same codes decoded: error {10 * np.log10(np.mean(decoded**2) / error):.1f} dB below the sound")


if __name__ == "__main__":
    main()
