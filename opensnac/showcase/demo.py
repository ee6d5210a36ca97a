"""A round trip of one recording through a `.snac` file: sizes, speed, quality, and a picture of both spectrograms."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from opensnac.engine.engine import Engine
from opensnac.errors import OpensnacError
from opensnac.evaluation import picture
from opensnac.evaluation.metrics import METRICS, package_version
from opensnac.recordings import audio
from opensnac.recordings.model_cache import ModelCache
from opensnac.recordings.source import READABLE
from opensnac.recordings.transcode import decode_file, encode_file

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOWN_METRICS = ("pesq_wb", "stoi")
PCM_BYTES = 2  # per 16-bit sample


@dataclass(frozen=True)
class RoundTrip:
    """A recording before and after, (channels, samples), with sizes in bytes and times in seconds."""

    original: np.ndarray
    decoded: np.ndarray
    sample_rate: int  # Hz
    file_bytes: int
    encode_seconds: tuple[float, float]  # of the first run, which compiles and allocates, and of the second
    decode_seconds: tuple[float, float]

    @property
    def seconds(self) -> float:
        """Duration of the recording."""
        return self.original.shape[1] / self.sample_rate

    @property
    def bits_per_second(self) -> float:
        """The bitrate of the whole file, with its header."""
        return 8 * self.file_bytes / self.seconds

    @property
    def pcm_bytes(self) -> int:
        """Size of the same recording as 16-bit samples."""
        return PCM_BYTES * self.original.size


def run_demo(out: Path, recording: Path | None = None, model: str | Path | None = None) -> None:
    """Encode and decode a recording (default: an example) with a model (default: the bundled one); show the result.

    Writes NAME.snac, NAME.wav and, if matplotlib is installed, NAME.png into `out`, replacing those of an earlier run,
    and prints a table. Raises OpensnacError without a recording or a model.
    """
    source = recording or first_example()
    coded, decoded, drawn = (out / f"{source.stem}{ending}" for ending in (".snac", ".wav", ".png"))
    if any(path.exists() and path.samefile(source) for path in (coded, decoded)):
        raise OpensnacError(
            f"{source}: expected a recording outside of the demo's folder, got one inside; choose another with --out"
        )
    codec = ModelCache(model).get()
    trip = _round_trip(source, coded, decoded, codec)
    scores = _scores(trip)
    written = [coded, decoded]
    if package_version("matplotlib") is not None:
        _draw(drawn, trip, codec, scores)
        written.append(drawn)
    _print(source, trip, codec, scores, written)


def first_example() -> Path:
    """The first recording in the repository's examples/. OpensnacError if it is not part of the installation."""
    found = sorted(path for path in EXAMPLES.glob("*") if path.suffix in READABLE)
    if not found:
        raise OpensnacError(
            f"{EXAMPLES}: expected example recordings, got none; they are in the repository, not in the package; "
            "give a recording, as in: opensnac demo talk.wav"
        )
    return found[0]


def _round_trip(source: Path, coded: Path, decoded: Path, codec: Engine) -> RoundTrip:
    encode_seconds = _timed_twice(lambda: encode_file(source, coded, codec, force=True))
    decode_seconds = _timed_twice(lambda: decode_file(coded, decoded, codec, force=True))
    original, sample_rate = audio.read(source)
    return RoundTrip(
        original, audio.read(decoded)[0], sample_rate, coded.stat().st_size, encode_seconds, decode_seconds
    )


def _timed_twice(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the first and the second run."""
    began = time.perf_counter()
    work()
    between = time.perf_counter()
    work()
    return between - began, time.perf_counter() - between


def _scores(trip: RoundTrip) -> dict[str, str]:
    """Quality of all channels mixed down, by label: a score, or why there is none."""
    scores = {}
    for metric in (METRICS[name] for name in SHOWN_METRICS):
        score = None
        if metric.missing() is None:
            score = metric.measure(trip.original.mean(axis=0), trip.decoded.mean(axis=0), trip.sample_rate)
        figure = "does not apply to this recording" if score is None else f"{score:.{metric.digits}f}"
        scores[metric.label] = metric.missing() or figure
    return scores


def _draw(target: Path, trip: RoundTrip, codec: Engine, scores: dict[str, str]) -> None:
    """Both spectrograms, up to the codec's bandwidth."""
    rate = min(trip.sample_rate, codec.config.sampling_rate)
    pair = np.stack([trip.original.mean(axis=0), trip.decoded.mean(axis=0)])
    figures = [f"{trip.file_bytes:,} bytes", f"{trip.bits_per_second:,.0f} b/s"]
    figures += [f"{label} {score}" for label, score in scores.items() if score[0].isdigit()]
    titles = [
        (
            "original",
            f"{trip.pcm_bytes:,} bytes, {8 * trip.pcm_bytes / trip.seconds:,.0f} b/s as 16-bit PCM",
        ),
        (f"decoded, {codec.name}", ", ".join(figures)),
    ]
    picture.draw(target, audio.resample(pair, trip.sample_rate, rate), titles, rate)


def _print(source: Path, trip: RoundTrip, codec: Engine, scores: dict[str, str], written: list[Path]) -> None:
    channels = len(trip.original)
    rows = {
        "recording": f"{source.name}, {trip.seconds:.2f} s, {trip.sample_rate} Hz, "
        + ("1 channel" if channels == 1 else f"{channels} channels"),
        "model": codec.name,
        "16-bit PCM": f"{trip.pcm_bytes:,} bytes, {8 * trip.pcm_bytes / trip.seconds:,.0f} bits per second",
        ".snac file": f"{trip.file_bytes:,} bytes, {trip.bits_per_second:,.0f} bits per second, "
        f"1/{trip.pcm_bytes / trip.file_bytes:.0f} of PCM",
        "encode": _speed(trip.seconds, trip.encode_seconds),
        "decode": _speed(trip.seconds, trip.decode_seconds),
        **scores,
    }
    table = Table(box=box.ROUNDED, show_header=False, border_style="dim")
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column()
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console = Console(highlight=False)
    console.print(table)
    for path in written:
        console.print(f"  wrote {escape(str(path))}", soft_wrap=True)
    if len(written) == 2:
        console.print("  no picture: matplotlib not installed; run: pip install 'opensnac\\[evaluate]'", soft_wrap=True)


def _speed(seconds: float, taken: tuple[float, float]) -> str:
    first, again = (seconds / duration for duration in taken)
    return f"{again:.1f} times real time; {first:.1f} in the first run"
