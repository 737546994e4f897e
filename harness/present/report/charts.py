"""Draw charts as plain SVG: no scripts, no network, colours from the page's style sheet.

Each function returns one `<svg>` element as text with every label escaped. Widths are in units of
the view box, which the page scales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 960
_LEFT = 180
_RIGHT = 24
_ROW = 34
_LABEL_CHARS = 26
_CHAR = 7.0
_LINE = 14.0
"""The approximate width of a character and height of a line."""
_TICKS = 7
_MAX_LABELS = 60
"""The number of points in a plane with labels; of more, they cover one another."""
_WIDE_RANGE = 20
"""An axis is logarithmic if the largest value over the smallest is above this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The latencies of a cell, ms: pooled quantiles and the median of each launch."""

    label: str
    p5: float
    p25: float
    p50: float
    p75: float
    p95: float
    medians: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """An empirical distribution: values (ms) at evenly spaced shares from 0 to 1."""

    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A labelled bar of a bar chart."""

    label: str
    value: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartPoint:
    """A labelled point; `low` and `high` are its interval along x, if it has one."""

    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    group: int = 0
    """The index of its colour."""


class Axis:
    """Maps values to positions: linear from 0 for a narrow range, logarithmic for a wide one."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        """Fit all `values` between the positions `start` and `end`."""
        low, high = min(values), max(values)
        self._start, self._end = start, end
        self.log = low > 0 and high / low > _WIDE_RANGE
        if self.log:
            self._low, self._high = math.log10(low) - 0.1, math.log10(high) + 0.1
        else:
            self._low, self._high = 0.0, high * 1.05 or 1.0

    def at(self, value: float) -> float:
        """Return the position of a value; a value outside the range is put on the edge."""
        inner = math.log10(max(value, 1e-12)) if self.log else value
        share = (inner - self._low) / (self._high - self._low)
        return self._start + min(1.0, max(0.0, share)) * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Return a few round values inside the axis."""
        if self.log:
            powers = range(math.floor(self._low), math.ceil(self._high) + 1)
            found = [step * 10.0**power for power in powers for step in (1, 2, 5)]
            inside = [v for v in found if self._low <= math.log10(v) <= self._high]
            if len(inside) > _TICKS:
                inside = [v for v in inside if f"{v:e}"[0] == "1"]
            return inside[:: math.ceil(len(inside) / _TICKS)]
        return round_steps(self._low, self._high)


def round_steps(low: float, high: float, wanted: int = 6) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten between low and high, at most `wanted`."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(power * m for m in (1, 2, 5, 10, 20) if span / (power * m) <= wanted)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def boxes(rows: Sequence[Box], unit: str = "ms") -> str:
    """Draw one box per cell (5-25-50-75-95 %) and one dot per launch's median."""
    axis = Axis([v for row in rows for v in (row.p5, row.p95, *row.medians)], _LEFT, _end())
    height = len(rows) * _ROW + 40
    parts = _scale(axis, height - 34, unit)
    for index, row in enumerate(rows):
        middle = index * _ROW + _ROW / 2 + 4
        at = axis.at
        parts += [
            _label(row.label, middle),
            _line(at(row.p5), middle, at(row.p95), middle, "whisker"),
            (
                f'<rect class="box" x="{at(row.p25):.1f}" y="{middle - 8:.1f}" rx="3" '
                f'width="{max(2.0, at(row.p75) - at(row.p25)):.1f}" height="16"/>'
            ),
            *(
                f'<circle class="dot" cx="{at(v):.1f}" cy="{middle:.1f}" r="3"/>'
                for v in row.medians
            ),
            _line(at(row.p50), middle - 9, at(row.p50), middle + 9, "median"),
        ]
    return _svg(WIDTH, height, parts, "Latency distributions")


def ecdf(curves: Sequence[Curve], unit: str = "ms", width: int = 340, height: int = 180) -> str:
    """Draw the share of inferences under each latency, one line per launch."""
    values = [value for curve in curves for value in curve.values]
    low, high = min(values), max(values)
    margin = (high - low) * 0.03 or max(abs(high) * 0.05, 1e-9)
    left, right, top, bottom = 40.0, width - 12.0, 10.0, height - 34.0
    steps = round_steps(low - margin, high + margin, 4)

    def x(value: float) -> float:
        return left + (value - low + margin) / (high - low + 2 * margin) * (right - left)

    parts = []
    for share in (0.0, 0.5, 0.9, 1.0):
        y = bottom - share * (bottom - top)
        parts.append(_line(left, y, right, y, "grid"))
        parts.append(_text(left - 6, y + 4, f"{share * 100:.0f}%", "end"))
    parts += [_text(x(step), height - 18, f"{step:.4g}", "middle") for step in steps]
    parts.append(_text((left + right) / 2, height - 3, unit, "middle"))
    for curve in curves:
        last = max(1, len(curve.values) - 1)
        points = " ".join(
            f"{x(value):.1f},{bottom - index / last * (bottom - top):.1f}"
            for index, value in enumerate(curve.values)
        )
        parts.append(f'<polyline class="curve" points="{points}"/>')
    return _svg(width, height, parts, "Share of inferences under each latency")


def bars(rows: Sequence[Bar]) -> str:
    """Draw horizontal bars from 0, each with its text at the end."""
    longest = max(row.value for row in rows) or 1.0
    parts = []
    for index, row in enumerate(rows):
        middle = index * _ROW + _ROW / 2
        length = row.value / longest * (_end() - _LEFT - 90)
        parts += [
            _label(row.label, middle),
            (
                f'<rect class="bar" x="{_LEFT}" y="{middle - 9:.1f}" rx="3" '
                f'width="{max(2.0, length):.1f}" height="18"/>'
            ),
            _text(_LEFT + length + 8, middle + 4, row.text, "start", "value"),
        ]
    return _svg(WIDTH, len(rows) * _ROW + 4, parts, "Sizes")


def scatter(points: Sequence[ChartPoint], groups: Sequence[str], x_title: str, y_title: str) -> str:
    """Draw points with their intervals, coloured by group.

    Each has its label if there are few, else only when the pointer is on it.
    """
    height, left, top = 380, 70.0, 16.0 + (18.0 * len(groups) if len(groups) > 1 else 0)
    bottom, right = float(height - 44), float(WIDTH - 150)
    axis = Axis([v for p in points for v in (p.x, p.low or p.x, p.high or p.x)], left, right)
    low, high = min(p.y for p in points), max(p.y for p in points)
    margin = max((high - low) * 0.2, 0.005)
    low, high = low - margin, high + margin

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    parts = []
    for step in round_steps(low, high, 5):
        parts.append(_line(left, y(step), right, y(step), "grid"))
        parts.append(_text(left - 8, y(step) + 4, f"{step:.4g}", "end"))
    for tick in axis.ticks():
        parts.append(_line(axis.at(tick), top, axis.at(tick), bottom, "grid"))
        parts.append(_text(axis.at(tick), bottom + 18, f"{tick:.4g}", "middle"))
    parts.append(_text((left + right) / 2, height - 6, x_title, "middle"))
    parts.append(
        f'<text class="axis" text-anchor="middle" transform="translate(16 {(top + bottom) / 2:.0f}) '
        f'rotate(-90)">{escape(y_title)}</text>'
    )
    for index, group in enumerate(groups if len(groups) > 1 else ()):
        parts.append(
            f'<circle class="point g{index % 6}" cx="{left + 8}" cy="{index * 18 + 8}" r="5"/>'
        )
        parts.append(_text(left + 20, index * 18 + 12, _cut(group), "start"))
    is_labelled = len(points) <= _MAX_LABELS
    taken: list[tuple[float, float, float]] = []
    for point in points:
        at_x, at_y = axis.at(point.x), y(point.y)
        if point.low is not None and point.high is not None:
            parts.append(_line(axis.at(point.low), at_y, axis.at(point.high), at_y, "whisker"))
        colour = f"g{point.group % 6}"
        parts.append(
            f'<circle class="point {colour}" cx="{at_x:.1f}" cy="{at_y:.1f}" r="5.5">'
            f"<title>{escape(point.label)}</title></circle>"
        )
        if not is_labelled:
            continue
        label = _cut(point.label)
        place = _free(taken, at_x + 9, at_y - 6, len(label) * _CHAR)
        taken.append(place)
        parts.append(_text(place[0], place[1], label, "start", "value"))
    return _svg(WIDTH, height, parts, f"{y_title} against {x_title}")


def _free(
    taken: Sequence[tuple[float, float, float]], x: float, y: float, width: float
) -> tuple[float, float, float]:
    """Return the first position at or below (x, y) without overlap, as x, y, width."""
    while any(
        abs(y - other_y) < _LINE and x < other_x + other_width and other_x < x + width
        for other_x, other_y, other_width in taken
    ):
        y += _LINE
    return x, y, width


def _end() -> int:
    return WIDTH - _RIGHT


def _scale(axis: Axis, bottom: float, unit: str) -> list[str]:
    parts = []
    for tick in axis.ticks():
        place = axis.at(tick)
        parts.append(_line(place, 0, place, bottom, "grid"))
        parts.append(_text(place, bottom + 16, f"{tick:.4g}", "middle"))
    title = f"{unit}, logarithmic" if axis.log else unit
    return [*parts, _text((_LEFT + _end()) / 2, bottom + 32, title, "middle")]


def _label(text: str, middle: float) -> str:
    full = f"<title>{escape(text)}</title>"
    return (
        f'<text class="label" text-anchor="end" x="{_LEFT - 10}" y="{middle + 4:.1f}">'
        f"{full}{escape(_cut(text))}</text>"
    )


def _cut(text: str) -> str:
    return text if len(text) <= _LABEL_CHARS else text[: _LABEL_CHARS - 1] + "…"


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, css: str = "axis") -> str:
    return (
        f'<text class="{css}" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
    )


def _svg(width: float, height: float, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
