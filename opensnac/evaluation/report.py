"""Records of single clips to means with intervals: results.json for programs, report.md for people."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from opensnac import __version__
from opensnac.evaluation.codecs import Codec
from opensnac.evaluation.metrics import METRICS, codebook_use, package_version
from opensnac.files import whole_file

SCHEMA = """results.json, schema 1:
    schema          1
    created         time in UTC, ISO 8601
    command         the command line that made it
    machine         cpu, cores, system
    versions        of opensnac, Python and every package used
    clips, seconds  how many recordings, and their length in all
    metrics         name -> label, higher_is_better, missing (null, or why it was not measured)
    skipped         codec -> why it was not run
    codecs          one entry per codec that ran:
        codec, version
        counted                 what the bytes are of
        bits_per_second         of all clips together; null for what is not coded
        file_bits_per_second    the same from whole files, containers included
        encode_times_real_time, decode_times_real_time
        scores                  metric -> mean; low, high: its 95 % bootstrap interval, null for one clip;
                                count: clips it applied to. null where it applied to none
        codebooks               per scale, coarse to fine: count, share, share_if_uniform, perplexity; null
                                for codecs without codebooks
        failed                  clip -> error
"""
BOOTSTRAP_ROUNDS = 2000
PACKAGES = ("numpy", "torch", "soundfile", "soxr", "numba")


def summarise(
    records: Sequence[Mapping[str, Any]],
    codecs: Sequence[Codec],
    skipped: Mapping[str, str],
    absent: Mapping[str, str],
    command: str,
) -> dict[str, Any]:
    """What results.json holds (see SCHEMA), from the records of every clip and codec."""
    lengths = {record["clip"]: record["seconds"] for record in records if "error" not in record}
    used = {package for metric in METRICS.values() for package in metric.packages} | set(PACKAGES)
    return {
        "schema": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "machine": {"cpu": _cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"opensnac": __version__, "python": platform.python_version()}
        | {package: package_version(package) for package in sorted(used)},
        "clips": len({record["clip"] for record in records}),
        "seconds": sum(lengths.values()),
        "metrics": {
            name: {
                "label": metric.label,
                "higher_is_better": metric.higher_is_better,
                "missing": absent.get(name),
            }
            for name, metric in METRICS.items()
        },
        "skipped": dict(skipped),
        "codecs": [_codec_summary(codec, records) for codec in codecs],
    }


def _codec_summary(codec: Codec, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own = [record for record in records if record["codec"] == codec.name]
    done = [record for record in own if "error" not in record]
    return {
        "codec": codec.name,
        "version": codec.version(),
        "counted": codec.counted,
        "bits_per_second": _rate(done, "num_bytes", 8),
        "file_bits_per_second": _rate(done, "file_bytes", 8),
        "encode_times_real_time": _inverse(_rate(done, "encode_seconds")),
        "decode_times_real_time": _inverse(_rate(done, "decode_seconds")),
        "scores": {name: _score(done, name) for name in METRICS},
        "codebooks": _codebooks(done),
        "failed": {record["clip"]: record["error"] for record in own if "error" in record},
    }


def _rate(records: Sequence[Mapping[str, Any]], quantity: str, factor: float = 1) -> float | None:
    """`quantity` a second of audio, over all clips together."""
    counted = [record for record in records if record[quantity] is not None]
    if not counted:
        return None
    return factor * sum(record[quantity] for record in counted) / sum(record["seconds"] for record in counted)


def _inverse(value: float | None) -> float | None:
    return 1 / value if value else None


def _score(records: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any] | None:
    values = [value for record in records if (value := record["scores"].get(metric)) is not None]
    if not values:
        return None
    low, high = bootstrap_interval(values) or (None, None)
    return {"mean": float(np.mean(values)), "low": low, "high": high, "count": len(values)}


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile interval of the mean when clips are drawn anew; None for fewer than two values."""
    if len(values) < 2:
        return None
    drawn = np.random.default_rng(seed).integers(len(values), size=(BOOTSTRAP_ROUNDS, len(values)))
    low, high = np.percentile(np.asarray(values)[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _codebooks(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """Use of each scale's codebook over all clips together."""
    coded = [record for record in records if record["codes"] is not None]
    if not coded:
        return None
    scales = zip(*(record["codes"] for record in coded), strict=True)
    size = coded[0]["codebook_size"]
    return [asdict(codebook_use(np.concatenate(clips).astype(np.int64), size)) for clips in scales]


def write(results: Mapping[str, Any], out: Path) -> None:
    """`results.json` and `report.md` in the folder `out`, each whole or not at all."""
    with whole_file(out / "results.json", force=True) as path:
        path.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    with whole_file(out / "report.md", force=True) as path:
        path.write_text(markdown(results), encoding="utf-8")


def markdown(results: Mapping[str, Any]) -> str:
    """The whole report as Markdown."""
    machine = results["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in results["versions"].items() if version)
    return "\n".join(
        [
            "# Evaluation",
            "",
            f"{results['clips']} clips, {results['seconds']:.1f} s. Made by `{results['command']}`",
            f"on {machine['cpu']} ({machine['cores']} cores, {machine['system']}), {results['created']}.",
            "",
            table(results),
            "",
            "## What was run",
            "",
            *_table_lines(["codec", "version", "bytes counted"], _codec_rows(results)),
            "",
            f"Packages: {packages}.",
            "",
        ]
    )


def table(results: Mapping[str, Any]) -> str:
    """Scores, codebook use and everything that is not in them, as Markdown."""
    shown = [name for name, metric in results["metrics"].items() if metric["missing"] is None]
    arrows = {True: "↑", False: "↓"}
    header = ["codec", "b/s", "file b/s", "encode ×", "decode ×"]
    header += [f"{METRICS[name].label} {arrows[METRICS[name].higher_is_better]}" for name in shown]
    lines = list(_table_lines(header, [_score_row(entry, shown) for entry in results["codecs"]]))
    lines += [
        "",
        "Mean ± half the 95 % bootstrap interval over clips. b/s: actual bits of all clips by their length;",
    ]
    lines += ["file b/s: containers included. ×: times real time in one thread, files and program start included."]
    codebook_rows = list(_codebook_rows(results))
    if codebook_rows:
        header = ["codec", "scale", "codes seen", "entries used", "if uniform", "perplexity"]
        lines += ["", *_table_lines(header, codebook_rows), ""]
        lines += ["If uniform: the share of entries that so few codes would show if all were equally likely."]
    remarks = list(_remarks(results))
    return "\n".join(lines + ([""] if remarks else []) + remarks)


def _score_row(entry: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    row = [entry["codec"]]
    row += [_number(entry[key], 0) for key in ("bits_per_second", "file_bits_per_second")]
    row += [_number(entry[f"{way}_times_real_time"], 1) for way in ("encode", "decode")]
    for name in metrics:
        score, digits = entry["scores"][name], METRICS[name].digits
        cell = _number(score and score["mean"], digits)
        if score and score["low"] is not None:
            cell += f" ± {_number((score['high'] - score['low']) / 2, digits)}"
        row.append(cell)
    return row


def _codebook_rows(results: Mapping[str, Any]) -> Iterator[list[str]]:
    for entry in results["codecs"]:
        for scale, use in enumerate(entry["codebooks"] or []):
            shares = [f"{100 * use[key]:.1f} %" for key in ("share", "share_if_uniform")]
            yield [entry["codec"], str(scale), str(use["count"]), *shares, f"{use['perplexity']:.0f}"]


def _codec_rows(results: Mapping[str, Any]) -> Iterator[list[str]]:
    for entry in results["codecs"]:
        yield [entry["codec"], entry["version"], entry["counted"]]


def _remarks(results: Mapping[str, Any]) -> Iterator[str]:
    """A line for whatever is missing, partial or failed: nothing is left out silently."""
    for codec, reason in results["skipped"].items():
        yield f"- Skipped {codec}: {reason}"
    for metric in results["metrics"].values():
        if metric["missing"]:
            yield f"- Not measured, {metric['label']}: {metric['missing']}"
    for entry in results["codecs"]:
        tried = results["clips"] - len(entry["failed"])
        for name, score in entry["scores"].items():
            if score and score["count"] < tried:
                label = METRICS[name].label
                yield f"- {label} of {entry['codec']} applied to {score['count']} of {tried} clips"
        for clip, error in entry["failed"].items():
            yield f"- Failed, {clip} with {entry['codec']}: {error}"


def _table_lines(header: Sequence[str], rows: Iterator[list[str]] | Sequence[list[str]]) -> Iterator[str]:
    for cells in (header, ["---"] * len(header), *rows):
        yield "| " + " | ".join(cells) + " |"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
