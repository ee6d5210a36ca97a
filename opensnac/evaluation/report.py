"""The readable report of an evaluation, report.md: tables over all clips and per label."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opensnac.evaluation.recognition import WORD_ERRORS
from opensnac.files import atomic_file

Results = Mapping[str, Any]  # the contents of results.json, see summary.SCHEMA
ARROWS = {True: "↑", False: "↓"}


def write(results: Results, out: Path) -> None:
    """Write `results.json` and `report.md` to the folder `out`, each atomically."""
    with atomic_file(out / "results.json", force=True) as path:
        path.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    with atomic_file(out / "report.md", force=True) as path:
        path.write_text(markdown(results), encoding="utf-8")


def markdown(results: Results) -> str:
    """The report as Markdown."""
    return "\n".join(
        [
            "# Evaluation",
            "",
            made_by(results),
            "",
            table(results),
            "",
            "## What was run",
            "",
            *_table_lines(["codec", "version", "bytes counted"], _codec_rows(results)),
            "",
            packages(results),
            "",
        ]
    )


def made_by(results: Results) -> str:
    """The number of clips, the command and the machine."""
    machine = results["machine"]
    return (
        f"{extent(results)}. Made by `{results['command']}`\n"
        f"on {machine['cpu']} ({machine['cores']} cores, {machine['system']}), {results['created']}."
    )


def extent(found: Results) -> str:
    """The number of clips and their total length."""
    return f"{found['clips']} clip{'' if found['clips'] == 1 else 's'}, {found['seconds']:.1f} s"


def packages(results: Results) -> str:
    """The packages used, with versions."""
    used = ", ".join(f"{name} {version}" for name, version in results["versions"].items() if version)
    return f"Packages: {used}."


def table(results: Results) -> str:
    """Scores, differences, labels, codebook use, and remarks on anything missing, as Markdown."""
    header = ["codec", "b/s", "file b/s", "encode ×", "decode ×", "memory, MB", *headings(results)]
    lines = list(_table_lines(header, [_score_row(results, entry) for entry in results["codecs"]]))
    lines += ["", *legend()]
    for label, own in results["labels"].items():
        lines += ["", f"Label {_one_line(label) or 'none'}: {extent(own)}", ""]
        lines += _table_lines(["codec", "b/s", *headings(results)], _label_rows(results, label))
    if results["baseline"]:
        lines += ["", f"Difference to {results['baseline']} on the same clips:", ""]
        lines += _table_lines(["codec", *headings(results)], _difference_rows(results))
    codebook_rows = list(_codebook_rows(results))
    if codebook_rows:
        header = ["codec", "scale", "codes seen", "entries used", "if uniform", "entropy, bits", "perplexity"]
        lines += ["", *_table_lines(header, codebook_rows), ""]
        lines += ["If uniform: the share of entries expected from that many codes if all were equally likely."]
    found = list(remarks(results))
    return "\n".join(lines + ([""] if found else []) + [f"- {_one_line(remark)}" for remark in found])


def legend() -> list[str]:
    """The meaning of the columns."""
    return [
        "Mean ± half the 95 % bootstrap interval over clips. b/s: actual bits of all clips by their length;",
        "file b/s: containers included. ×: times real time in one thread, including files and program start.",
        "Memory: peak of the program, or of the Python process that runs the codec, libraries included.",
        "Decoded audio is aligned with the original in time and loudness before it is scored.",
    ]


def shown_metrics(results: Results) -> list[str]:
    """The measured metrics, in order."""
    return [name for name, metric in results["metrics"].items() if metric["missing"] is None]


def headings(results: Results) -> list[str]:
    """A heading per metric shown, with an arrow that shows which direction is better."""
    metrics = (results["metrics"][name] for name in shown_metrics(results))
    return [f"{metric['label']} {ARROWS[metric['higher_is_better']]}" for metric in metrics]


def _score_row(results: Results, entry: Results) -> list[str]:
    row = [entry["name"]]
    row += [number(entry[key], 0) for key in ("bits_per_second", "file_bits_per_second")]
    row += [number(entry[f"{way}_times_real_time"], 1) for way in ("encode", "decode")]
    row += [number(entry["peak_bytes"] and entry["peak_bytes"] / 1e6, 0)]
    return row + _cells(results, entry["scores"])


def _label_rows(results: Results, label: str) -> Iterator[list[str]]:
    for entry in results["codecs"]:
        if label in entry["labels"]:
            own = entry["labels"][label]
            yield [entry["name"], number(own["bits_per_second"], 0), *_cells(results, own["scores"])]


def _difference_rows(results: Results) -> Iterator[list[str]]:
    for entry in results["codecs"]:
        if entry["differences"]:
            yield [entry["name"], *_cells(results, entry["differences"], sign="+")]


def _cells(results: Results, scores: Results, sign: str = "") -> list[str]:
    return [with_interval(scores[name], results["metrics"][name]["digits"], sign) for name in shown_metrics(results)]


def with_interval(score: Results | None, digits: int, sign: str = "") -> str:
    """Mean ± half its interval, or a dash."""
    if score is None:
        return "–"
    cell = number(score["mean"], digits, sign)
    if score["low"] is not None:
        cell += f" ± {number((score['high'] - score['low']) / 2, digits)}"
    return cell


def _codebook_rows(results: Results) -> Iterator[list[str]]:
    for entry in results["codecs"]:
        for scale, use in enumerate(entry["codebooks"] or []):
            shares = [f"{100 * use[key]:.1f} %" for key in ("share", "share_if_uniform")]
            spread = [f"{use['entropy_bits']:.2f}", f"{use['perplexity']:.0f}"]
            yield [entry["name"], str(scale), str(use["count"]), *shares, *spread]


def _codec_rows(results: Results) -> Iterator[list[str]]:
    for entry in results["codecs"]:
        yield [entry["codec"], entry["version"], entry["counted"]]


def remarks(results: Results) -> Iterator[str]:
    """One line for each thing missing, partial or failed, so that nothing is dropped silently."""
    for codec, reason in results["skipped"].items():
        yield f"Skipped {codec}: {reason}"
    for name, metric in results["metrics"].items():
        if metric["missing"]:
            yield f"Not measured, {metric['label']}: {metric['missing']}"
        elif "model" in metric:
            yield f"{metric['label']}, by {metric['model']}{_whose_words(results, name)}"
    yield from _partial(results)
    failures: dict[tuple[str, str], list[str]] = {}
    for entry in results["codecs"]:
        for clip, error in entry["failed"].items():
            failures.setdefault((clip, error), []).append(entry["name"])
    for (clip, error), names in failures.items():
        yield f"Failed, {clip} with {_all_or(names, results)}: {error}"


def _whose_words(results: Results, name: str) -> str:
    if name != WORD_ERRORS:
        return ""
    count, clips = results["metrics"][name]["transcripts"], results["clips"]
    own = "the recogniser's own on the original"
    if count == 0:
        return f"; reference words: {own}"
    return f"; reference words: transcripts of {count} of {clips} clips" + (f", else {own}" if count < clips else "")


def _partial(results: Results) -> Iterator[str]:
    """Metrics that applied to only some clips, grouped over codecs."""
    for name in shown_metrics(results):
        codecs: dict[tuple[int, int], list[str]] = {}
        for entry in results["codecs"]:
            tried, score = results["clips"] - len(entry["failed"]), entry["scores"][name]
            if (count := score["count"] if score else 0) < tried:
                codecs.setdefault((count, tried), []).append(entry["name"])
        for (count, tried), names in codecs.items():
            whose = _all_or(names, results)
            yield f"{results['metrics'][name]['label']} of {whose} applied to {count} of {tried} clips"


def _all_or(names: Sequence[str], results: Results) -> str:
    """The codecs by name, or "every codec"."""
    return "every codec" if len(names) == len(results["codecs"]) > 1 else ", ".join(names)


def _table_lines(header: Sequence[str], rows: Iterator[list[str]] | Sequence[list[str]]) -> Iterator[str]:
    for cells in (header, ["---"] * len(header), *rows):
        yield "| " + " | ".join(_one_line(cell).replace("|", "\\|") for cell in cells) + " |"


def _one_line(text: str) -> str:
    """Text for a table or list on one line: file names may have any character."""
    return " ".join(text.split())


def number(value: float | None, digits: int, sign: str = "") -> str:
    """A number, or a dash for None."""
    return "–" if value is None else f"{value:{sign}.{digits}f}"
