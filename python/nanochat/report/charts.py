"""Two charts as small SVG documents: lines over steps, and accuracies with their intervals.

They are drawn here, and not by a plotting library, for three reasons: the text stays text, colours
are classes that the page (or ``standalone``) styles for light, dark and print, and a page costs
milliseconds. The same data give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from nanochat.report.content import one_line

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, BOTTOM = 52, 14, 34  # margins around the plot; the top holds title and legend
NUM_COLORS = 6
MAX_POINTS = 400  # of a line: more than it has pixels would only cost bytes
CHARACTER = 6.3  # mean width of one in the legend, px


@dataclass(frozen=True)
class Line:
    """Points by rising x. No label, no entry in the legend; ``color`` counts series."""

    label: str
    points: Sequence[tuple[float, float]]
    color: int = 0
    is_faint: bool = False  # lies behind
    is_dashed: bool = False
    has_marks: bool = False


@dataclass(frozen=True)
class Interval:
    """An accuracy, 0 to 1, and the interval around it."""

    value: float
    low: float
    high: float
    color: int


def line_chart(title: str, lines: Sequence[Line], *, x_label: str, zero: bool = False) -> str:
    """Lines on common axes; ``zero`` makes the y axis begin there.

    Raises: ValueError if no line has a point.
    """
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    if not xs:
        raise ValueError(f"charts: {title!r} must have at least one point, got none")
    legend, top = _legend([line for line in lines if line.label])
    x_axis = _Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y_ticks = ticks(min(0.0, *ys) if zero else min(ys), max(ys))
    y_axis = _Axis(
        min(y_ticks[0], *ys), max(y_ticks[-1], *ys), HEIGHT - BOTTOM, top
    )  # screen y grows downwards
    body = [_title(title), *legend]
    for tick in y_ticks:
        y = y_axis.at(tick)
        body.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        body.append(_label(LEFT - 7, y + 4, tick_label(tick), anchor="end"))
    for tick in ticks(min(xs), max(xs)):
        if min(xs) <= tick <= max(xs):
            body.append(_label(x_axis.at(tick), HEIGHT - BOTTOM + 17, tick_label(tick)))
    body.append(_label(WIDTH - RIGHT, HEIGHT - 4, x_label, anchor="end"))
    for line in sorted(lines, key=lambda line: not line.is_faint):
        points = [(x_axis.at(x), y_axis.at(y)) for x, y in thin(line.points)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        classes = f"line c{line.color % NUM_COLORS}"
        classes += " faint" * line.is_faint + " dashed" * line.is_dashed
        if len(points) > 1:
            body.append(f'<path class="{classes}" d="M{path}"/>')
        if points and (line.has_marks or len(points) == 1):
            marks = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
            body.append(f'<path class="marks c{line.color % NUM_COLORS}" d="{marks}"/>')
    return _document(WIDTH, HEIGHT, body)


def interval_chart(
    title: str,
    rows: Sequence[tuple[str, float | None, Sequence[Interval]]],
    *,
    labels: Sequence[str],
) -> str:
    """One line per row (name, chance, intervals); ``labels`` name the colours.

    Raises: ValueError if there are no rows.
    """
    if not rows:
        raise ValueError(f"charts: {title!r} must have at least one row, got none")
    left = 160
    legend, y = _legend([Line(label, (), color=i) for i, label in enumerate(labels)])
    axis = _Axis(0.0, 1.0, left, WIDTH - 24)
    body = [_title(title), *legend]
    top = y
    for name, chance, intervals in rows:
        height = 12 * max(1, len(intervals)) + 10
        body.append(_label(left - 12, y + height / 2 + 4, _short(name, 24), anchor="end"))
        if chance is not None:
            x = axis.at(chance)
            body.append(f'<path class="chance" d="M{x:.1f} {y + 2:.1f}v{height - 4}"/>')
        for i, interval in enumerate(intervals):
            middle = y + 11 + 12 * i
            low, high = axis.at(interval.low), axis.at(interval.high)
            color = f"c{interval.color % NUM_COLORS}"
            body.append(f'<path class="line {color}" d="M{low:.1f} {middle:.1f}H{high:.1f}"/>')
            x = axis.at(interval.value)
            body.append(f'<path class="marks {color}" d="M{x:.1f} {middle:.1f}h0"/>')
        y += height
    grid = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = axis.at(tick)
        grid.append(f'<path class="grid" d="M{x:.1f} {top:.1f}V{y:.1f}"/>')
        grid.append(_label(x, y + 17, f"{100 * tick:g} %"))
    return _document(WIDTH, math.ceil(y + 26), [*grid, *body])


def standalone(svg: str, style: str) -> str:
    """``svg`` as a file of its own, its style inside."""
    start = svg.index(">") + 1
    return f"{svg[:start]}<style>{style}</style>{svg[start:]}\n"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers around [low, high]: the first is at most low, the last at least high."""
    if high <= low:  # one value: room around it
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def tick_label(value: float) -> str:
    """2500 reads 2.5K; a tick is round, so that no digit is lost."""
    for scale, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= scale:
            return f"{value / scale:.6g}{suffix}"
    return f"{value:.6g}"


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most ``MAX_POINTS``: the lowest and the highest of each bucket, so that spikes stay."""
    if len(points) <= MAX_POINTS:
        return list(points)
    size = math.ceil(2 * len(points) / MAX_POINTS)
    kept = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        extremes = {min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])}
        kept += sorted(extremes)
    return kept


@dataclass(frozen=True)
class _Axis:
    """Values [low, high] at pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        if self.high == self.low:
            return (self.start + self.end) / 2
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _legend(lines: Sequence[Line]) -> tuple[list[str], float]:
    """Keys in as many rows as they need, and where the plot below may begin."""
    if not lines:
        return [], 32.0
    x, y = 0.0, 38.0
    body = []
    for line in lines:
        label = _short(line.label, 40)
        needed = 34 + CHARACTER * len(label)
        if x and x + needed > WIDTH:
            x, y = 0.0, y + 16
        classes = f"line c{line.color % NUM_COLORS}" + " dashed" * line.is_dashed
        body.append(f'<path class="{classes}" d="M{x + 1:.1f} {y - 4:.1f}h16"/>')
        body.append(_label(x + 22, y, label, anchor="start"))
        x += needed
    return body, y + 14


def _title(title: str) -> str:
    return f'<text class="title" x="0" y="15">{escape(one_line(title))}</text>'


def _label(x: float, y: float, text: str, *, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(one_line(text))}</text>'


def _short(text: str, most: int) -> str:
    text = one_line(text)
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def _document(width: int, height: int, body: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width} {height}">'
        + "".join(body)
        + "</svg>"
    )
