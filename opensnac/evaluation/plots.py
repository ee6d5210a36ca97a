"""Rate against quality as SVG: one point a codec, lines through the rates of one codec, the original as the ceiling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

WIDTH, HEIGHT = 520, 330
LEFT, RIGHT, TOP, BOTTOM = 46, 96, 30, 36  # margins; the right one is for names
LINE_HEIGHT = 11  # pixels that names keep from each other
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c564b", "#555555")
RATES = (500, 1000, 2000, 3000, 6000, 12_000, 24_000, 48_000, 96_000, 192_000)  # b/s with a tick


class Point(NamedTuple):
    """A codec at its rate (b/s), with its mean score and the interval's ends, if there is one."""

    name: str
    rate: float
    mean: float
    low: float | None
    high: float | None

    @property
    def family(self) -> str:
        """What the rates of one codec have in common."""
        family, _, choice = self.name.partition(":")
        return family if choice[:1].isdigit() else self.name


class Axes(NamedTuple):
    """Where a rate and a score lie in pixels; rates on a logarithmic scale."""

    slowest: float
    fastest: float
    lowest: float
    highest: float

    def x(self, rate: float) -> float:
        """Pixels from the left."""
        share = math.log(rate / self.slowest) / math.log(self.fastest / self.slowest)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, score: float) -> float:
        """Pixels from the top."""
        return HEIGHT - BOTTOM - (score - self.lowest) / (self.highest - self.lowest) * (HEIGHT - BOTTOM - TOP)


def rate_quality(results: Mapping[str, Any], metric: str) -> str | None:
    """An SVG element of every codec's mean score by its bits per second; None where no coded clip has that score."""
    points, ceiling = [], None
    for entry in results["codecs"]:
        score = entry["scores"][metric]
        if score is None:
            continue
        if entry["bits_per_second"] is None:
            ceiling = score["mean"] if entry["codec"] == "original" else ceiling
        else:
            points.append(Point(entry["name"], entry["bits_per_second"], score["mean"], score["low"], score["high"]))
    if not points:
        return None
    axes = _axes(points, ceiling)
    facts = results["metrics"][metric]
    title = f"{facts['label']}, {'higher' if facts['higher_is_better'] else 'lower'} is better"
    return "".join(
        [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
            f'<text x="{LEFT}" y="16" class="title">{escape(title)}</text>',
            *_frame(axes),
            *_ceiling(axes, ceiling),
            *_points(axes, points),
            "</svg>",
        ]
    )


def _axes(points: Sequence[Point], ceiling: float | None) -> Axes:
    """Room around all points, their intervals, and the ceiling if it is near enough not to flatten them."""
    scores = [value for point in points for value in (point.mean, point.low, point.high) if value is not None]
    span = max(scores) - min(scores)
    if ceiling is not None and min(abs(ceiling - max(scores)), abs(ceiling - min(scores))) <= max(span, 1e-9):
        scores.append(ceiling)
    room = 0.06 * (max(scores) - min(scores)) or 0.5
    rates = [point.rate for point in points]
    return Axes(min(rates) / 1.2, max(rates) * 1.2, min(scores) - room, max(scores) + room)


def _frame(axes: Axes) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>']
    for rate in RATES:
        if axes.slowest <= rate <= axes.fastest:
            x = axes.x(rate)
            parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>')
            parts.append(
                f'<text x="{x:.1f}" y="{bottom + 14}" class="tick" text-anchor="middle">{rate / 1000:g}</text>'
            )
    step = _step(axes.highest - axes.lowest)
    for index in range(math.ceil(axes.lowest / step), math.floor(axes.highest / step) + 1):
        y = axes.y(index * step)
        label = f"{index * step:.{max(0, -math.floor(math.log10(step)))}f}"
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" class="tick" text-anchor="end">{label}</text>')
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 6}" class="tick" text-anchor="middle">kb/s</text>')
    return parts


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten, such that at most eight of them fill the span."""
    power = 10.0 ** math.floor(math.log10(span))
    return next(power * factor for factor in (0.1, 0.2, 0.5, 1, 2) if span / (power * factor) <= 8)


def _ceiling(axes: Axes, ceiling: float | None) -> list[str]:
    if ceiling is None or not axes.lowest <= ceiling <= axes.highest:
        return []
    y, right = axes.y(ceiling), WIDTH - RIGHT
    return [
        f'<path class="ceiling" d="M{LEFT} {y:.1f}H{right}"/>',
        f'<text x="{right + 4}" y="{y + 3.5:.1f}" class="tick">original</text>',
    ]


def _points(axes: Axes, points: Sequence[Point]) -> list[str]:
    families = sorted({point.family for point in points})
    parts = []
    for family in families:
        colour = COLOURS[families.index(family) % len(COLOURS)]
        own = sorted((point for point in points if point.family == family), key=lambda point: point.rate)
        line = "L".join(f"{axes.x(point.rate):.1f} {axes.y(point.mean):.1f}" for point in own)
        parts.append(f'<path class="line" stroke="{colour}" d="M{line}"/>')
        for point in own:
            x, y = axes.x(point.rate), axes.y(point.mean)
            if point.low is not None and point.high is not None:
                whisker = f"M{x:.1f} {axes.y(point.low):.1f}V{axes.y(point.high):.1f}"
                parts.append(f'<path class="interval" stroke="{colour}" d="{whisker}"/>')
            hover = f"{point.name}: {point.mean:.4g} at {point.rate:.0f} b/s"
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{escape(hover)}</title></circle>'
            )
    for point, (x, y) in zip(points, _name_places(axes, points), strict=True):
        colour = COLOURS[families.index(point.family) % len(COLOURS)]
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="name" fill="{colour}">{escape(point.name[:22])}</text>')
    return parts


def _name_places(axes: Axes, points: Sequence[Point]) -> list[tuple[float, float]]:
    """Right of each point, moved down as far as names further up are in the way."""
    places: dict[int, tuple[float, float]] = {}
    for index in sorted(range(len(points)), key=lambda index: axes.y(points[index].mean)):
        x, y = axes.x(points[index].rate) + 7, axes.y(points[index].mean) + 3.5
        for other_x, other_y in sorted(places.values(), key=lambda place: place[1]):
            if abs(other_x - x) < 5.5 * 16 and abs(other_y - y) < LINE_HEIGHT:
                y = other_y + LINE_HEIGHT
        places[index] = (x, y)
    return [places[index] for index in range(len(points))]
