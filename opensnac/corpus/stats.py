"""Statistics of a corpus as a page and as JSON: hours, lengths, codebook use by group, and rows that stand out."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from opensnac.corpus.readers import Corpus, Tokens
from opensnac.errors import OpensnacError

SILENT_DB, CLIPPED = (
    -60.0,
    0.001,
)  # thresholds for rows that stand out: a level below this, or a larger share of clipped samples
LISTED = 50  # at most, of each kind of row that stands out, and of groups in a figure
WIDTH, HEIGHT, BAR = 640, 150, 18  # pixels of a figure
BINS, LONGER = 40, 0.01  # of the histogram of lengths; the share of the longest rows that the last bin collects
NAMES = {
    "silent": f"below {SILENT_DB:g} dB",
    "clipped": f"more than {CLIPPED:.1%} at full scale",
    "repeated": "same codes",
}


@dataclass
class _Group:
    """Counts over the rows of one group."""

    use: list[np.ndarray]  # the count of each code, by scale
    rows: int = 0
    seconds: float = 0.0

    def perplexity(self) -> list[float]:
        """The perplexity of the codes of each scale."""
        shares = [use[use > 0] / max(1, use.sum()) for use in self.use]
        return [round(float(np.exp(-(share * np.log(share)).sum())), 1) for share in shares]

    def used(self) -> list[float]:
        """The share of each scale's codes that occur."""
        return [round(float((use > 0).mean()), 4) for use in self.use]


@dataclass
class _Count:
    """Counts over all rows, in constant memory but for sixteen bytes per row."""

    groups: dict[str, _Group] = field(default_factory=dict)
    seconds: array[float] = field(default_factory=lambda: array("d"))
    hashes: array[int] = field(default_factory=lambda: array("Q"))
    standing_out: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in NAMES})
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))

    def note(self, kind: str, line: str) -> None:
        """Record a row that stands out."""
        self.counts[kind] += 1
        if len(self.standing_out[kind]) < LISTED:
            self.standing_out[kind].append(line)


def write_stats(folder: str, by: str | None = None) -> str:
    """Write stats.html and stats.json into the corpus; returns the page's name. OpensnacError for a missing column."""
    corpus = Corpus(folder)
    if by is not None and by not in corpus.facts["columns"]:
        columns = ", ".join(corpus.facts["columns"]) or "none"
        raise OpensnacError(f"--by: expected one of the corpus's columns ({columns}), got {by!r}")
    facts = statistics(corpus, by)
    corpus.store.write("stats.json", (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())
    corpus.store.write("stats.html", page(facts).encode())
    return corpus.store.url("stats.html")


def statistics(corpus: Corpus, by: str | None = None) -> dict[str, Any]:
    """The contents of the page, as JSON values. Groups are values of a column, or the first folder of the ids."""
    count = _Count()
    for row in _rows(corpus):
        name = str(row.facts.get(by) or "") if by else row.facts["id"].rpartition("/")[0].partition("/")[0]
        group = count.groups.get(name) or count.groups.setdefault(name, _Group(_zero_counts(corpus)))
        codes = corpus.codes(row)
        for use, code in zip(group.use, codes, strict=True):
            use += np.bincount(code, minlength=len(use))
        group.rows += 1
        group.seconds += row.facts["seconds"]
        count.seconds.append(row.facts["seconds"])
        count.hashes.append(_hash(codes))
        if row.facts["level_db"] < SILENT_DB:
            count.note("silent", f"{row.facts['id']}: {row.facts['level_db']:.1f} dB")
        if row.facts["clipped"] > CLIPPED:
            count.note("clipped", f"{row.facts['id']}: {row.facts['clipped']:.1%}")
    _note_repeated(corpus, count)
    return _facts(corpus, count, by)


def _facts(corpus: Corpus, count: _Count, by: str | None) -> dict[str, Any]:
    seconds = np.array(count.seconds)
    shown = np.minimum(seconds, np.quantile(seconds, 1 - LONGER)) if len(seconds) else seconds
    heights, edges = np.histogram(shown, BINS) if len(seconds) else (np.zeros(BINS, int), np.arange(BINS + 1.0))
    uses = [group.use for group in count.groups.values()] or [_zero_counts(corpus)]
    whole = _Group([np.sum(scales, axis=0) for scales in zip(*uses, strict=True)])
    named = sorted(count.groups.items(), key=lambda item: -item[1].seconds)
    return {
        "corpus": {
            key: corpus.facts[key] for key in ("command", "format", "model", "fingerprint", "totals", "licences")
        },
        "by": by or "first folder",
        "lengths": {
            "quantiles": {
                str(q): round(float(np.quantile(seconds, q)), 3) for q in (0, 0.05, 0.5, 0.95, 1) if len(seconds)
            },
            "edges": [round(float(edge), 3) for edge in edges],
            "rows": [int(height) for height in heights],
        },
        "codebooks": {
            "size": corpus.config.codebook_size,
            "perplexity": whole.perplexity(),
            "used": whole.used(),
            "sorted_use": [_curve(use) for use in whole.use],
        },
        "groups": {
            name: {
                "rows": group.rows,
                "hours": round(group.seconds / 3600, 4),
                "perplexity": group.perplexity(),
                "used": group.used(),
            }
            for name, group in named
        },
        "standing_out": {
            kind: {"what": NAMES[kind], "rows": count.counts[kind], "listed": count.standing_out[kind]}
            for kind in NAMES
        },
    }


def _zero_counts(corpus: Corpus) -> list[np.ndarray]:
    """Zero counts of codes."""
    return [np.zeros(corpus.config.codebook_size, np.int64) for _ in corpus.config.vq_strides]


def _rows(corpus: Corpus) -> Iterator[Tokens]:
    for shard in range(corpus.shards):
        yield from corpus.read(shard)


def _hash(codes: Sequence[np.ndarray]) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for code in codes:
        digest.update(code.astype("<u2").tobytes())
    return int.from_bytes(digest.digest())


def _note_repeated(corpus: Corpus, count: _Count) -> None:
    """List the rows with the same codes as an earlier row; rows are read again only if there are any."""
    hashes = np.array(count.hashes, np.uint64)
    values, times = np.unique(hashes, return_counts=True)
    repeated = set(values[times > 1].tolist())
    first: dict[int, str] = {}
    for row in _rows(corpus) if repeated else ():
        own = _hash(corpus.codes(row))
        if own in repeated and first.setdefault(own, row.facts["id"]) != row.facts["id"]:
            count.note("repeated", f"{row.facts['id']}: as {first[own]}")


def _curve(use: np.ndarray) -> list[int]:
    """The sorted counts of codes, most frequent first, at 64 positions."""
    ordered = np.sort(use)[::-1]
    return [int(ordered[place]) for place in np.linspace(0, len(ordered) - 1, min(64, len(ordered))).astype(int)]


def page(facts: Mapping[str, Any]) -> str:
    """The self-contained HTML page."""
    totals = facts["corpus"]["totals"]
    quantiles = facts["lengths"]["quantiles"]
    summary = [
        ("hours", f"{totals['seconds'] / 3600:,.2f}"),
        ("rows", f"{totals['rows']:,}"),
        ("codes", f"{totals['tokens']:,}"),
        ("failed", f"{totals['failed']:,}"),
        ("left out", f"{totals['left_out']:,}"),
        ("median length", f"{quantiles.get('0.5', 0):.1f} s"),
    ]
    books = facts["codebooks"]
    rows = [
        [name or "–", f"{group['rows']:,}", f"{group['hours']:,.2f}", *map(str, group["perplexity"])]
        + [f"{share:.0%}" for share in group["used"]]
        for name, group in facts["groups"].items()
    ]
    scales = range(len(books["perplexity"]))
    head = [facts["by"], "rows", "hours", *(f"perplexity {n}" for n in scales), *(f"used {n}" for n in scales)]
    return "\n".join(
        [
            "<!doctype html><meta charset=utf-8><title>Corpus statistics</title>",
            f"<style>{(Path(__file__).parent / 'web' / 'stats.css').read_text(encoding='utf-8')}</style>",
            "<main><h1>Corpus statistics</h1>",
            f"<p><code>{escape(facts['corpus']['command'])}</code><br>",
            f"model {escape(facts['corpus']['model'])}, weights {facts['corpus']['fingerprint'][:16]}</p>",
            "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in summary) + "</dl>",
            f"<h2>Lengths</h2><p>Rows by length, the longest {LONGER:.0%} in the last bar. {_quantiles(quantiles)}</p>",
            _bars(facts["lengths"]["rows"], facts["lengths"]["edges"]),
            "<h2>Codebooks</h2>",
            f"<p>Counts of the {books['size']:,} codes, most frequent first, on a logarithmic scale. Perplexity by "
            f"scale, coarse to fine: {', '.join(map(str, books['perplexity']))}.</p>",
            _curves(books["sorted_use"]),
            f"<h2>By {escape(facts['by'])}</h2>",
            _groups(facts["groups"]),
            _table(head, rows),
            *_outliers(facts["standing_out"]),
            "</main>",
        ]
    )


def _quantiles(quantiles: Mapping[str, float]) -> str:
    """A sentence on the lengths of rows."""
    names = {"0": "Shortest", "0.05": "5th percentile", "0.95": "95th percentile", "1": "longest"}
    said = [f"{name} {quantiles[q]:,.1f} s" for q, name in names.items() if q in quantiles]
    return ", ".join(said) + "." * bool(said)


def _outliers(found: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Rows that stand out</h2>"
    for kind, rows in found.items():
        more = f" (the first {len(rows['listed'])})" if rows["rows"] > len(rows["listed"]) else ""
        yield f"<h3>{kind}, {rows['what']}: {rows['rows']:,}{more}</h3>"
        if rows["rows"]:
            lines = "".join(f"<li>{escape(line)}</li>" for line in rows["listed"])
            yield f"<details><summary>which</summary><ul>{lines}</ul></details>"


def _svg(height: int, content: str, label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">{content}</svg>'


def _bars(counts: Sequence[int], edges: Sequence[float]) -> str:
    """A histogram of rows by seconds."""
    most, step = max([1, *counts]), WIDTH / len(counts)
    bars = "".join(
        f'<rect x="{n * step + 1:.1f}" y="{HEIGHT - HEIGHT * count / most:.1f}" width="{step - 2:.1f}" '
        f'height="{HEIGHT * count / most:.1f}"><title>{edges[n]:.1f} to {edges[n + 1]:.1f} s: {count:,}</title></rect>'
        for n, count in enumerate(counts)
    )
    ticks = "".join(
        f'<text x="{place * WIDTH:.0f}" y="{HEIGHT + 16}" text-anchor="{anchor}">'
        f"{edges[round(place * (len(edges) - 1))]:.1f} s{' and more' if place == 1 else ''}</text>"
        for place, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    )
    return _svg(HEIGHT + 20, bars + ticks, "Rows by length")


def _curves(uses: Sequence[Sequence[int]]) -> str:
    """Sorted counts of codes, one line per scale."""
    most = np.log1p(max(max(use) for use in uses)) or 1.0
    lines = []
    for n, use in enumerate(uses):
        points = " ".join(
            f"{WIDTH * i / max(1, len(use) - 1):.1f},{HEIGHT - (HEIGHT - 4) * np.log1p(value) / most:.1f}"
            for i, value in enumerate(use)
        )
        lines.append(f'<polyline class="scale{n % 4}" points="{points}"/>')
        lines.append(f'<text class="scale{n % 4}" x="{WIDTH}" y="{14 + 16 * n}" text-anchor="end">scale {n}</text>')
    return _svg(HEIGHT + 4, "".join(lines), "Use of codes")


def _groups(groups: Mapping[str, Any]) -> str:
    """Hours of the largest groups."""
    shown = list(groups.items())[:LISTED]
    most = max([1e-9, *(group["hours"] for _, group in shown)])
    bars = []
    for n, (name, group) in enumerate(shown):
        width = (WIDTH - 260) * group["hours"] / most
        bars.append(f'<text x="150" y="{n * BAR + 13}" text-anchor="end">{escape(name[:22] or "–")}</text>')
        bars.append(f'<rect x="156" y="{n * BAR + 2}" width="{width:.1f}" height="{BAR - 4}"/>')
        bars.append(f'<text x="{162 + width:.1f}" y="{n * BAR + 13}">{group["hours"]:,.2f} h</text>')
    return _svg(len(shown) * BAR + 4, "".join(bars), "Hours by group")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


__all__ = ["page", "statistics", "write_stats"]
