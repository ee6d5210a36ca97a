"""Prints a table for README.md and docs/ from an evaluation's results.json.

opensnac evaluate recordings/ --codec opensnac --codec opus:6 --out report/
python benchmarks/quality_table.py report/results.json --metric pesq_wb --metric stoi
python benchmarks/quality_table.py report/results.json --label music --codec opensnac --codec opus:12@music
python benchmarks/quality_table.py report/results.json --each-label --codec original --codec opensnac
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opensnac.errors import OpensnacError
from opensnac.evaluation.report import headings, number, shown_metrics, with_interval


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, help="results.json of an evaluation")
    parser.add_argument("--metric", action="append", help="metric's name in results.json; again for more; default: all")
    parser.add_argument("--codec", action="append", help="codec's name in the report; again for more; default: all")
    parser.add_argument("--label", help="only the clips of one label")
    parser.add_argument("--each-label", action="store_true", help="one row per label")
    chosen = parser.parse_args(arguments)
    try:
        results = json.loads(chosen.results.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OpensnacError(f"{chosen.results}: expected the results.json of an evaluation, got {error}") from error
    make = by_label(results, chosen.metric, chosen.codec) if chosen.each_label else None
    print("\n".join(make or table(results, chosen.metric, chosen.codec, chosen.label)))


def by_label(results: Mapping[str, Any], metrics: Sequence[str] | None, codecs: Sequence[str] | None) -> Iterator[str]:
    """Lines of one table of all labels, each row with its label and the label's clips in front."""
    heading, rule = list(table(results, metrics, codecs, None))[:2]
    yield f"| label | clips {heading}"
    yield f"| --- | --- {rule}"
    for label, extent in results["labels"].items():
        rows = list(table(results, metrics, codecs, label))[2:]
        yield from (f"| {label} | {extent['clips']} {row}" for row in rows)


def table(
    results: Mapping[str, Any], metrics: Sequence[str] | None, codecs: Sequence[str] | None, label: str | None
) -> Iterator[str]:
    """Lines of Markdown. OpensnacError for a metric, codec or label that the results do not have."""
    titles = dict(zip(shown_metrics(results), headings(results), strict=True))
    entries = {entry["name"]: entry for entry in results["codecs"]}
    wanted = [*(metrics or titles)], [*(codecs or entries)]
    for names, known, what in ((wanted[0], titles, "metric"), (wanted[1], entries, "codec")):
        if unknown := [name for name in names if name not in known]:
            raise OpensnacError(f"expected a {what} of these results, {', '.join(known)}, got {unknown[0]!r}")
    if label is not None and label not in results["labels"]:
        raise OpensnacError(f"expected a label of these results, {', '.join(results['labels'])}, got {label!r}")
    yield _row(["codec", "b/s", *(titles[name] for name in wanted[0])])
    yield _row(["---"] * (2 + len(wanted[0])))
    for name in wanted[1]:
        own = entries[name] if label is None else entries[name]["labels"].get(label)
        if own is not None:
            scores = [with_interval(own["scores"][one], results["metrics"][one]["digits"]) for one in wanted[0]]
            yield _row([name, number(own["bits_per_second"], 0), *scores])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    try:
        main()
    except OpensnacError as error:
        sys.exit(f"quality_table: {error}")
