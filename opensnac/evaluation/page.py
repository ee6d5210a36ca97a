"""report.html: tables, plots, players and spectrograms in one self-contained file."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import soundfile

from opensnac.evaluation import report
from opensnac.evaluation.metrics import package_version
from opensnac.evaluation.picture import RANGE_DB, mel_spectrogram
from opensnac.evaluation.plots import rate_quality
from opensnac.files import atomic_file
from opensnac.recordings import audio

WEB = Path(__file__).parent / "web"
WIDEST = 600  # pixels of a spectrogram
IMAGE_QUALITY = 60
MAX_FLAC = 24_000_000  # bytes of all players together; beyond, they play Opus, three times smaller or more
OPUS_RATE = 48_000  # Hz


def write(results: Mapping[str, Any], out: Path) -> None:
    """Write `report.html` to the folder `out` atomically, with the audio in `out/audio` that `results` names."""
    with atomic_file(out / "report.html", force=True) as path:
        path.write_text(html(results, out / "audio"), encoding="utf-8")


def html(results: Mapping[str, Any], audio_folder: Path) -> str:
    """The page as HTML."""
    return Template((WEB / "report.html").read_text(encoding="utf-8")).substitute(
        style=(WEB / "report.css").read_text(encoding="utf-8"),
        script=(WEB / "report.js").read_text(encoding="utf-8"),
        made_by=_prose(report.made_by(results)),
        tables="\n".join(_tables(results)),
        legend=escape(" ".join(report.legend())),
        remarks="".join(f"<li>{escape(remark)}</li>" for remark in report.remarks(results)),
        plots="\n".join(_plots(results)),
        audio_format="Opus, as FLAC would be too large" if _is_large(results, audio_folder) else "FLAC",
        clips="\n".join(_clip(clip, results, audio_folder) for clip in results["kept"]),
        versions="".join(_row([entry["codec"], entry["version"], entry["counted"]]) for entry in results["codecs"]),
        packages=escape(report.packages(results)),
    )


def _prose(text: str) -> str:
    return re.sub("`(.*?)`", r"<code>\1</code>", escape(text), flags=re.DOTALL)


def _tables(results: Mapping[str, Any]) -> Iterator[str]:
    header = ["codec", "b/s", "file b/s", "encode ×", "decode ×", "memory, MB", *report.headings(results)]
    yield _table("All clips", header, [_score_cells(results, entry) for entry in results["codecs"]])
    for label, extent in results["labels"].items():
        rows = [
            [(entry["name"], entry["name"]), _cell(own["bits_per_second"], 0), *_metric_cells(results, own["scores"])]
            for entry in results["codecs"]
            if (own := entry["labels"].get(label))
        ]
        title = f"{label or 'no label'}: {report.extent(extent)}"
        yield _table(title, ["codec", "b/s", *report.headings(results)], rows)
    if results["baseline"]:
        rows = [
            [(entry["name"], entry["name"]), *_metric_cells(results, entry["differences"], "+")]
            for entry in results["codecs"]
            if entry["differences"]
        ]
        title = f"Difference to {results['baseline']} on the same clips"
        yield _table(title, ["codec", *report.headings(results)], rows)


Cell = tuple[str, str | float | None]  # the text, and the value to sort by


def _score_cells(results: Mapping[str, Any], entry: Mapping[str, Any]) -> list[Cell]:
    cells: list[Cell] = [(entry["name"], entry["name"])]
    cells += [_cell(entry[key], 0) for key in ("bits_per_second", "file_bits_per_second")]
    cells += [_cell(entry[f"{way}_times_real_time"], 1) for way in ("encode", "decode")]
    cells += [_cell(entry["peak_bytes"] and entry["peak_bytes"] / 1e6, 0)]
    return cells + _metric_cells(results, entry["scores"])


def _metric_cells(results: Mapping[str, Any], scores: Mapping[str, Any], sign: str = "") -> list[Cell]:
    return [
        (
            report.with_interval(scores[name], results["metrics"][name]["digits"], sign),
            scores[name] and scores[name]["mean"],
        )
        for name in report.shown_metrics(results)
    ]


def _cell(value: float | None, digits: int) -> Cell:
    return report.number(value, digits), value


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table that the page's script sorts on a click on a heading; missing values go last."""
    head = "".join(f'<th><button type="button">{escape(name)}</button></th>' for name in header)
    body = "".join(f"<tr>{''.join(map(_table_cell, row))}</tr>" for row in rows)
    return (
        f'<h3>{escape(title)}</h3><div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _table_cell(cell: Cell) -> str:
    text, value = cell
    mean, sign, half = text.partition(" ± ")
    interval = f" <small>± {escape(half)}</small>" if sign else ""
    return f'<td data-value="{"" if value is None else escape(str(value))}">{escape(mean)}{interval}</td>'


def _row(cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _plots(results: Mapping[str, Any]) -> Iterator[str]:
    for metric in report.shown_metrics(results):
        if (plot := rate_quality(results, metric)) is not None:
            yield f'<figure id="plot-{metric}">{plot}</figure>'


def _clip(clip: Mapping[str, Any], results: Mapping[str, Any], audio_folder: Path) -> str:
    """Players and spectrograms of one clip, the original first."""
    loudest, cards = None, []
    for entry in results["codecs"]:
        name = clip["files"].get(entry["codec"])
        if name is None:
            continue
        samples, sample_rate = audio.read(audio_folder / name)
        spectrum = mel_spectrogram(samples[0], sample_rate)
        loudest = spectrum.max() if loudest is None else loudest
        rate = "" if entry["bits_per_second"] is None else f"{entry['bits_per_second']:.0f} b/s"
        sound = _sound(audio_folder / name, samples, sample_rate, _is_large(results, audio_folder))
        cards.append(
            f'<div class="card"><h4>{escape(entry["name"])} <small>{rate}</small></h4>'
            f"{_image(spectrum - loudest, entry['name'])}"
            f'<audio controls preload="metadata" src="{sound}"></audio></div>'
        )
    return f'<section class="clip"><h3>{escape(clip["clip"])}</h3><div class="cards">{"".join(cards)}</div></section>'


def _is_large(results: Mapping[str, Any], audio_folder: Path) -> bool:
    """Whether all audio as FLAC is too much for one page."""
    files = [audio_folder / name for clip in results["kept"] for name in clip["files"].values()]
    return sum(file.stat().st_size for file in files) > MAX_FLAC


def _sound(file: Path, samples: np.ndarray, sample_rate: int, as_opus: bool) -> str:
    """Data URI of a FLAC file, or of its samples (1, samples) as Opus at the library's default rate."""
    if not as_opus:
        return _data_uri("audio/flac", file.read_bytes())
    coded = io.BytesIO()
    soundfile.write(coded, audio.resample(samples, sample_rate, OPUS_RATE)[0], OPUS_RATE, "OPUS", format="OGG")
    return _data_uri("audio/ogg", coded.getvalue())


def _image(levels: np.ndarray, name: str) -> str:
    """Levels in dB, 0 the loudest, (bands, frames), low bands at the bottom, as an <img>; empty without matplotlib."""
    if package_version("matplotlib") is None:
        return ""
    from matplotlib import colormaps
    from PIL import Image

    step = -(-levels.shape[1] // WIDEST)
    shade = np.clip(1 + levels[::-1, ::step] / RANGE_DB, 0, 1)
    colours = (255 * colormaps["magma"](shade)[:, :, :3]).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours).save(file, "WEBP", quality=IMAGE_QUALITY)
    return f'<img alt="mel spectrogram, {escape(name)}" src="{_data_uri("image/webp", file.getvalue())}">'


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
