"""Rate against quality as SVG: one point per codec and rate, a line per codec, the original as the ceiling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple

WIDTH, HEIGHT = 520, 330
LEFT, RIGHT, TOP, BOTTOM = 46, 96, 30, 36  # margins; names go into the right one
LINE_HEIGHT, LETTER_WIDTH = 11, 5.5  # pixels of names
LONGEST_NAME = 28  # letters
LINE_PIECES = 24
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c564b", "#555555")
RATES = (500, 1000, 2000, 3000, 6000, 12_000, 24_000, 48_000, 96_000, 192_000)  # b/s of ticks


class Point(NamedTuple):
    """A codec at its rate (b/s), with its mean score and the ends of its interval, if any."""

    name: str
    rate: float
    mean: float
    low: float | None
    high: float | None

    @property
    def family(self) -> str:
        """The codec's name without its rate."""
        return family_of(self.name)


def family_of(name: str) -> str:
    """A codec's name without its rate, if any."""
    family, _, choice = name.partition(":")
    return family if choice[:1].isdigit() else name


class Axes(NamedTuple):
    """Maps rates, on a logarithmic scale, and scores to pixels."""

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


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether they overlap."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    @property
    def leaves_plot(self) -> bool:
        """Whether it crosses the axes or leaves the picture."""
        return self.left < LEFT or self.right > WIDTH or self.top < TOP or self.bottom > HEIGHT - BOTTOM


class Label(NamedTuple):
    """A name at the pixels of its baseline; `anchor` is the end of the text at that point."""

    text: str
    x: float
    y: float
    anchor: str

    @property
    def box(self) -> Box:
        """The area it covers, estimated from an average letter width."""
        width = LETTER_WIDTH * len(self.text)
        left = self.x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return Box(left, self.y - LINE_HEIGHT + 2.5, left + width, self.y + 2.5)


def rate_quality(results: Mapping[str, Any], metric: str) -> str | None:
    """An SVG element of every codec's mean score by its bits per second; None if no encoded clip has that score."""
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
    coded = [entry for entry in results["codecs"] if entry["bits_per_second"] is not None]
    families = sorted({family_of(entry["name"]) for entry in coded})
    label = _ceiling_label(axes, ceiling)
    facts = results["metrics"][metric]
    title = f"{facts['label']}, {'higher' if facts['higher_is_better'] else 'lower'} is better"
    return "".join(
        [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
            f'<text x="{LEFT}" y="16" class="title">{escape(title)}</text>',
            *_frame(axes),
            *_ceiling(label),
            *_points(axes, points, families, label),
            "</svg>",
        ]
    )


def _axes(points: Sequence[Point], ceiling: float | None) -> Axes:
    """Axes around all points and intervals, and the ceiling unless it is so far that it would flatten them."""
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
    """The smallest of 1, 2 or 5 times a power of ten that divides the span into at most eight steps."""
    power = 10.0 ** math.floor(math.log10(span))
    return next(power * factor for factor in (0.1, 0.2, 0.5, 1, 2) if span / (power * factor) <= 8)


def _ceiling_label(axes: Axes, ceiling: float | None) -> Label | None:
    if ceiling is None or not axes.lowest <= ceiling <= axes.highest:
        return None
    return Label("original", WIDTH - RIGHT + 4, axes.y(ceiling) + 3.5, "start")


def _ceiling(label: Label | None) -> list[str]:
    if label is None:
        return []
    return [
        f'<path class="ceiling" d="M{LEFT} {label.y - 3.5:.1f}H{WIDTH - RIGHT}"/>',
        f'<text x="{label.x}" y="{label.y:.1f}" class="tick">{label.text}</text>',
    ]


def _points(axes: Axes, points: Sequence[Point], families: Sequence[str], ceiling: Label | None) -> list[str]:
    """Lines, intervals, points and names; one colour per family, the same in every plot."""
    parts = []
    for family in families:
        colour = _colour(family, families)
        own = sorted((point for point in points if point.family == family), key=lambda point: point.rate)
        if own:
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
    for point, label in zip(points, _labels(axes, points, ceiling), strict=True):
        parts.append(
            f'<text x="{label.x:.1f}" y="{label.y:.1f}" class="name" fill="{_colour(point.family, families)}" '
            f'text-anchor="{label.anchor}">{escape(label.text)}</text>'
        )
    return parts


def _colour(family: str, families: Sequence[str]) -> str:
    return COLOURS[families.index(family) % len(COLOURS)]


def _labels(axes: Axes, points: Sequence[Point], ceiling: Label | None) -> list[Label]:
    """A name for each point, where it covers no other name and as little else as possible."""
    drawn = [*_obstacles(axes, points)]
    labels: dict[int, Label] = {}
    for index in sorted(range(len(points)), key=lambda index: axes.y(points[index].mean)):
        taken = [label.box for label in labels.values()] + ([ceiling.box] if ceiling else [])
        labels[index] = min(
            _places(axes, points[index], _text(points[index], points)),
            key=lambda label: (
                sum(map(label.box.meets, taken)),
                label.box.leaves_plot,
                sum(map(label.box.meets, drawn)),
            ),
        )
    return [labels[index] for index in range(len(points))]


def _obstacles(axes: Axes, points: Sequence[Point]) -> Iterator[Box]:
    """What names should not cover: dots, intervals, and lines, in short pieces."""
    ordered = sorted(points, key=lambda point: (point.family, point.rate))
    for point in ordered:
        x, y = axes.x(point.rate), axes.y(point.mean)
        yield Box(x - 5, y - 5, x + 5, y + 5)
        if point.low is not None and point.high is not None:
            yield Box(x - 1, axes.y(point.high), x + 1, axes.y(point.low))
    for one, other in pairwise(ordered):
        for step in range(1, LINE_PIECES if one.family == other.family else 0):
            x, y = (
                start + (end - start) * step / LINE_PIECES
                for start, end in ((axes.x(one.rate), axes.x(other.rate)), (axes.y(one.mean), axes.y(other.mean)))
            )
            yield Box(x - 1, y - 1, x + 1, y + 1)


def _text(point: Point, points: Sequence[Point]) -> str:
    """The codec's name; of several rates of one codec, only the highest has the full name, the others just the rate."""
    fastest = max((one for one in points if one.family == point.family), key=lambda one: one.rate)
    text = point.name if point is fastest else point.name.partition(":")[2].partition("@")[0]
    return text if len(text) <= LONGEST_NAME else f"…{text[1 - LONGEST_NAME :]}"


def _places(axes: Axes, point: Point, text: str) -> list[Label]:
    """Candidate positions of a name: beside its point, above or below it, then further away."""
    x, y = axes.x(point.rate), axes.y(point.mean) + 3.5
    near = [Label(text, x + 7, y, "start"), Label(text, x - 7, y, "end")]
    near += [Label(text, x, y + shift, "middle") for shift in (-LINE_HEIGHT, LINE_HEIGHT)]
    lines = [sign * LINE_HEIGHT * line for line in range(1, 30) for sign in (1, -1)]
    return near + [Label(text, place.x, y + shift, place.anchor) for shift in lines for place in near[:2]]
