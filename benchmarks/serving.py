"""How many live streams of tokens one server turns into sound in real time, and how many the usual way does.

    python benchmarks/serving.py [--models speech_24khz speech_24khz_small] [--seconds 10] [--out serving.json]

Each server is a process of its own, spoken to over loopback WebSockets. `opensnac serve` is one. The other does what is
usual with the reference package: for each coarse frame of a stream it decodes the last four and keeps one from their
middle; once with one call at a time on all cores, once with a call on each core. `--reduced` is measured too where the
processor multiplies in bfloat16. All have the same weights: a bundled
model's, or random ones of a shipped configuration, speech_24khz being the published layout.

Every stream is sent a coarse frame's tokens as often as real time wants, and starts a little after the one before. A
listener starts to play LEAD after the first sound has come. A number of streams is held if no listener's sound runs out
and 99 % of the pieces come within WAIT of the tokens that make them certain; a number that fails is tried once more.
The largest is found by doubling and bisection, to 3 %, and must then be held for three times --seconds. Processor times
are in percent of a core: of the server for a stream whose tokens come at once and for each of those it holds, and of
this client for all of these.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from opensnac import SNAC, __version__, kernels, processor
from opensnac.models import bundled_models
from opensnac.showcase.bench import bench_model
from opensnac.streaming.tokens import TokenLayout

WAIT = 0.1  # seconds that 99 % of the pieces may take
LEAD = 0.1  # seconds that a listener has in hand
STAGGER = 0.01  # seconds between the starts of two streams
GRACE = 1.0  # seconds for the last pieces to come
ROUNDING = 1e-4  # groups
WORK = 50  # coarse frames that processor time is measured by
WINDOW = 4  # coarse frames that the usual way decodes for one
CORES = os.cpu_count() or 1
OURS, REDUCED = "opensnac", "opensnac, --reduced"
WAYS = {
    "usual, a call on all cores": 1,
    "usual, a call on each core": CORES,
    OURS: 0,
    REDUCED: 0,
}  # calls of the reference at once


@dataclass(frozen=True)
class Trial:
    """So many streams at once for so many seconds; times in seconds, processor times in cores."""

    streams: int
    seconds: float
    ran_out: int  # streams whose sound did
    wait_median: float
    wait_p99: float
    wait_longest: float
    first_sound: float  # the median, from the first token sent
    server_a_stream: float
    client: float

    @property
    def held(self) -> bool:
        """Whether every listener was content."""
        return not self.ran_out and self.wait_p99 < WAIT


class ServerError(Exception):
    """A server that does not do its part."""


class Listener(asyncio.Protocol):
    """One stream: sends tokens at their rate and notes when sound comes. It speaks WebSocket by hand, which is cheap.

    `over` is done once all sound has come, or has run out.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.ready, self.over = self._loop.create_future(), self._loop.create_future()
        self._buffer, self._greeted = bytearray(), False
        self.waits: list[float] = []
        self.first_sound: float | None = None
        self.ran_out = False
        self._sent: list[float] = []
        self._heard, self._lead = 0.0, LEAD  # seconds
        self._silent_from = float("inf")
        self._late = 0.0  # seconds by which this client sent tokens late, which is not the server's fault

    def connection_made(self, transport: Any) -> None:
        """Ask for a WebSocket."""
        self._transport = transport
        transport.write(
            b"GET /v1/decode HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )

    def data_received(self, data: bytes) -> None:
        """Whatever comes: the answer to that, then messages."""
        self._buffer += data
        if not self._greeted:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            if b" 101 " not in head:
                self._fail(head.decode(errors="replace"))
                return
            self._greeted, self._buffer = True, rest
            self._transport.write(_frame(1, b'{"type": "start"}'))
        for kind, message in _frames(self._buffer):
            if kind == 2:
                self._hear(len(message))
            elif kind == 9:
                self._transport.write(_frame(10, message))
            elif kind == 1:
                self._listen(json.loads(message))

    def connection_lost(self, error: Exception | None) -> None:
        """Before all has come, that is a failure."""
        self._fail(f"the connection ended: {error}")

    def start(self, tokens: list[bytes]) -> None:
        """Send these groups of tokens, each at its time from now on."""
        self._tokens, self._began = tokens, self._loop.time()
        self._feed()

    def send_all(self, tokens: list[bytes]) -> None:
        """Send them at once; nobody plays what comes."""
        self._tokens, self._sent = tokens, [self._loop.time()] * len(tokens)
        self._lead = float("inf")
        self._transport.write(b"".join(tokens))

    def _feed(self) -> None:
        if self.over.done():
            return
        now, number = self._loop.time(), len(self._sent)
        self._late = max(self._late, now - (self._began + number * self.group))
        if now > self._silent_from + self._late:
            self.stop(ran_out=True)
            return
        self._transport.write(self._tokens[number])
        self._sent.append(now)
        if number + 1 < len(self._tokens):
            self._loop.call_at(self._began + (number + 1) * self.group, self._feed)
        else:
            self._loop.call_later(GRACE, self.stop, True)

    def _listen(self, said: dict[str, Any]) -> None:
        if said["type"] == "error":
            self._fail(said["message"])
        elif said["type"] == "ready":
            self.rate, self.group, self._look_ahead = said["rate"], said["group"], said["look_ahead"]
            self.ready.set_result(said)

    def _hear(self, size: int) -> None:
        now = self._loop.time()
        if self._heard == 0:
            self.first_sound = now - self._sent[0]
            self._silent_from = now + self._lead
        self._heard += size / 2 / self.rate
        needed = math.ceil((self._heard + self._look_ahead) / self.group - ROUNDING)
        self.waits.append(now - self._sent[needed - 1])
        if now > self._silent_from + self._late:
            self.stop(ran_out=True)
        self._silent_from += size / 2 / self.rate
        if needed == len(self._tokens):
            self.stop()

    def stop(self, ran_out: bool = False) -> None:
        """Leave."""
        if not self.over.done():
            self.ran_out = ran_out
            self.over.set_result(None)
        self._transport.abort()

    def _fail(self, why: str) -> None:
        for future in (self.ready, self.over):
            if not future.done():
                future.set_exception(ServerError(why))
                future.exception()  # it may be that nobody waits for it


def _frame(kind: int, payload: bytes) -> bytes:
    """A client's short message; a mask of zeros leaves it as it is."""
    assert len(payload) < 126
    return bytes([0x80 | kind, 0x80 | len(payload)]) + bytes(4) + payload


def _frames(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Take a server's whole messages out of what has come."""
    while len(buffer) >= 2:
        start = {126: 4, 127: 10}.get(buffer[1], 2)
        size = buffer[1] if start == 2 else int.from_bytes(buffer[2:start], "big")
        if len(buffer) < start + size:
            return
        yield buffer[0] & 15, bytes(buffer[start : start + size])
        del buffer[: start + size]


class Server:
    """A running server of one model, one way or the other."""

    def __init__(self, way: str, folder: Path) -> None:
        options = [__file__, "--serve-the-usual-way", str(WAYS[way]), "--models", str(folder)]
        if way in (OURS, REDUCED):
            options = ["-m", "opensnac", "serve", "--port", "0", "--max-streams", "100000", "--model", str(folder)]
            options += ["--reduced"] if way == REDUCED else []
        command = [sys.executable, *options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        with self._process.stdout as said:
            found = re.search(r"http://127\.0\.0\.1:(\d+)/", said.readline())
        if found is None:
            raise ServerError(f"no server by: {' '.join(command)}")
        self.port = int(found[1])
        if way in (OURS, REDUCED):
            self._await_ready(found[0] + "readyz")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def processor_seconds(self) -> float:
        """That it has used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def await_rest(self) -> None:
        """Wait until it has done what an overload has left."""
        before = self.processor_seconds()
        while True:
            time.sleep(0.3)
            now = self.processor_seconds()
            if now - before < 0.05:
                return
            before = now

    def _await_ready(self, address: str) -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(address).close()
                return
            except urllib.error.URLError:
                time.sleep(0.1)
        raise ServerError("the server did not become ready")


async def _work(server: Server) -> float:
    """Seconds of processor time for a second of one stream's sound, its tokens sent at once."""
    _, listener = await asyncio.get_running_loop().create_connection(Listener, "127.0.0.1", server.port)
    tokens = _tokens(await listener.ready, WORK)
    before = server.processor_seconds()
    listener.send_all(tokens)
    await listener.over
    return (server.processor_seconds() - before) / (WORK * listener.group)


async def _streams(server: Server, streams: int, seconds: float) -> Trial:
    loop = asyncio.get_running_loop()
    stagger = min(STAGGER, 0.3 * seconds / streams)
    listeners: list[Listener] = []
    processors: list[tuple[float, float, float]] = []

    def look() -> None:
        processors.append((time.monotonic(), server.processor_seconds(), time.process_time()))

    async def one(number: int) -> None:
        await asyncio.sleep(number * stagger)
        _, listener = await loop.create_connection(Listener, "127.0.0.1", server.port)
        listeners.append(listener)
        said = await listener.ready
        count = max(WINDOW + 2, round(seconds / said["group"]))
        listener.start(_tokens(said, count))
        await listener.over

    tasks = [asyncio.ensure_future(one(number)) for number in range(streams)]
    loop.call_later(streams * stagger + 0.1, look)
    loop.call_later(seconds - 0.2, look)  # the first stream will have its last tokens soon
    for task in asyncio.as_completed(tasks):  # one that is not content decides
        await task
        if any(listener.ran_out for listener in listeners):
            break
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for listener in listeners:
        listener.stop()
    return _result(listeners, streams, seconds, processors)


def _result(listeners: list[Listener], streams: int, seconds: float, processors: list[Any]) -> Trial:
    waits = [wait for listener in listeners for wait in listener.waits] or [seconds]
    firsts = [listener.first_sound for listener in listeners if listener.first_sound is not None] or [seconds]
    spent = [0.0, 0.0, 0.0]
    if len(processors) == 2:  # it was not broken off
        spent = [after - before for before, after in zip(*processors, strict=True)]
    return Trial(
        streams,
        seconds,
        ran_out=sum(listener.ran_out for listener in listeners),
        wait_median=statistics.median(waits),
        wait_p99=float(np.quantile(waits, 0.99)),
        wait_longest=max(waits),
        first_sound=statistics.median(firsts),
        server_a_stream=spent[1] / (spent[0] or 1.0) / streams,
        client=spent[2] / (spent[0] or 1.0),
    )


def _tokens(ready: dict[str, Any], groups: int) -> list[bytes]:
    """Messages with random tokens, one for each group."""
    size, per_group = ready["codebook_size"], ready["tokens_per_group"]
    slots = TokenLayout(tuple(ready["strides"]), size).tokens_per_frame
    tokens = np.random.default_rng(0).integers(size, size=(groups, per_group)) + size * (np.arange(per_group) % slots)
    return [_frame(2, row.astype("<i4").tobytes()) for row in tokens]


def trial(server: Server, streams: int, seconds: float) -> Trial:
    """Try so many streams, once more if they are not held."""
    for _ in range(2):
        result = asyncio.run(_streams(server, streams, seconds))
        waits = f"{_ms(result.wait_median)}, {_ms(result.wait_p99)} (99 %), {_ms(result.wait_longest)} at most"
        print(f"    {streams} streams {'' if result.held else 'not '}held for {seconds:g} s, waits {waits}", flush=True)
        server.await_rest()
        if result.held:
            break
    return result


def largest(holds: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that holds, to 3 %, by doubling and bisection; 0 if none does."""
    held, failed = 0, most + 1
    while held < most < failed:
        number = min(max(1, 2 * held), most)
        held, failed = (number, failed) if holds(number) else (held, number)
    while failed - held > max(1, held // 33):
        middle = (held + failed) // 2
        held, failed = (middle, failed) if holds(middle) else (held, middle)
    return held


def measure(way: str, folder: Path, seconds: float, most: int) -> dict[str, Any]:
    """One way of serving a model: the most streams held and their trial, None if none was; the trial of one stream."""
    trials: list[Trial] = []

    def holds(streams: int, longer: float = 1.0) -> bool:
        trials.append(trial(server, streams, seconds * longer))
        return trials[-1].held

    server = Server(way, folder)
    try:
        asyncio.run(_work(server))  # what is arranged once is not to be measured
        work = asyncio.run(_work(server))
        streams = largest(holds, most)
        while streams and not holds(streams, longer=3.0):
            streams -= max(1, streams // 33)
        best = trials[-1] if streams else None
    finally:
        server.close()
    return {
        "streams": streams,
        "work": work,
        "best": best and asdict(best),
        "alone": asdict(trials[0]),
        "trials": [asdict(one) for one in trials],
    }


def serve_the_usual_way(folder: str, calls: int) -> None:
    """A server as it is usually written around the reference package, with so many calls of the model at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import snac
    from websockets.asyncio.server import ServerConnection, serve

    ours = SNAC.from_pretrained(folder)
    config, layout = ours.config, TokenLayout.of(ours.config)
    model = snac.SNAC(**config.to_dict()).eval()
    model.load_state_dict(ours.state_dict())
    frame, tokens = config.coarse_stride * ours.hop_length, layout.tokens_per_frame
    threads = ThreadPoolExecutor(calls, initializer=torch.set_num_threads, initargs=(CORES // calls,))
    ready = {"rate": config.sampling_rate, "group": frame / config.sampling_rate, "tokens_per_group": tokens}
    ready |= {"strides": list(config.vq_strides), "codebook_size": config.codebook_size, "type": "ready"}
    ready |= {"look_ahead": (WINDOW - 1) * ready["group"]}  # one coarse frame before and two after are never heard

    @torch.inference_mode()
    def decode(window: list[int]) -> bytes:
        audio = model.decode(layout.unflatten(torch.tensor([window])))[0, 0, frame : 2 * frame]
        return (audio.clamp(-1, 1) * 32767).short().numpy().tobytes()

    async def stream(socket: ServerConnection) -> None:
        loop, window = asyncio.get_running_loop(), []
        await socket.recv()
        await socket.send(json.dumps(ready))
        async for message in socket:
            window += np.frombuffer(message, "<i4").tolist()  # type: ignore[call-overload]
            while len(window) >= WINDOW * tokens:
                await socket.send(await loop.run_in_executor(threads, decode, window[: WINDOW * tokens]))
                del window[:tokens]

    async def run() -> None:
        async with serve(stream, "127.0.0.1", 0, compression=None, ping_interval=None, backlog=2048) as server:
            print(f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/", flush=True)
            await server.serve_forever()

    asyncio.run(run())


@contextmanager
def saved(name: str) -> Iterator[tuple[str, Path]]:
    """A model's title and a folder that it lies in."""
    model = bench_model(name, None) if name in bundled_models() else bench_model(None, name)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / name
        model.save_pretrained(folder)
        yield model.name, folder


def table(results: dict[str, dict[str, Any]]) -> str:
    """What was found, as Markdown."""
    lines = [
        "| model | way | streams | wait, median | 99 % | first sound, alone | under load | of a core, one stream |"
        " under load, a stream | client, all streams |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, ways in results.items():
        for way, found in ways.items():
            best, alone, work = found["best"], found["alone"], f"{found['work']:.1%}"
            cells = ["–", "–", _ms(alone["first_sound"]), "–", work, "–", "–"]
            if best:
                cells = [_ms(best["wait_median"]), _ms(best["wait_p99"]), _ms(alone["first_sound"])]
                cells += [_ms(best["first_sound"]), work, f"{best['server_a_stream']:.1%}", f"{best['client']:.0%}"]
            lines.append(f"| {name} | {way} | {found['streams']} | {' | '.join(cells)} |")
    for name, ways in results.items():
        ours, usual = (
            ways[OURS]["streams"],
            max(found["streams"] for way, found in ways.items() if way not in (OURS, REDUCED)),
        )
        times = f"{ours / usual:.1f} times the streams of the usual way" if usual else "the usual way holds none"
        lines.append(f"\n{name}: {times}.")
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["speech_24khz", "speech_24khz_small"])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each stream")
    parser.add_argument("--most", type=int, default=1024, help="streams to try")
    parser.add_argument("--quick", action="store_true", help="one stream of a bundled model for half a second")
    parser.add_argument("--out", type=Path, help="a JSON file for all trials")
    parser.add_argument("--serve-the-usual-way", metavar="CALLS", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.serve_the_usual_way:
        serve_the_usual_way(given.models[0], given.serve_the_usual_way)
        return
    if given.quick:
        given.models, given.seconds, given.most = ["speech_24khz_tiny"], 0.5, 1
        del WAYS["usual, a call on all cores"]  # its threads wait for each other where others have the cores
    if given.quick or not kernels.has_bfloat16():
        del WAYS[REDUCED]
    results: dict[str, dict[str, Any]] = {}
    for name in given.models:
        with saved(name) as (title, folder):
            results[title] = {}
            for way in WAYS:
                print(f"{title}, {way}", flush=True)
                results[title][way] = measure(way, folder, given.seconds, given.most)
    facts = {
        "machine": f"{CORES} cores, {platform.machine()}, {platform.system()}, {processor.backend()}",
        "versions": {"opensnac": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "results": results,
    }
    print(f"\n{table(results)}")
    if given.out:
        given.out.write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
