"""Four plots as inline SVG: dots in rows, a scatter, curves, lines. Colours and fonts come from the page's style.

Every policy keeps one colour (class ``c0`` to ``c9``) and one shape or dash in all plots, so that they can be told
apart without colours; every mark says its value when pointed at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from conservator.pages import scrolled

_WIDTH = 860.0
_COLOURS = 10
_SHAPES = (
    "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0Z",
    "M-4,-4H4V4H-4Z",
    "M0,-5.5L5,4H-5Z",
    "M0,-5.5L5.5,0L0,5.5L-5.5,0Z",
)
"""A disc, a square, a triangle, a diamond, around the origin."""
_DASHES = ("none", "7 4", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels, and knows its ticks."""

    low: float
    high: float
    start: float
    """The pixel of ``low``; ``end`` that of ``high``."""
    end: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float, zero: bool = True) -> Scale:
        """A linear scale that holds the values (and 0), from tick to tick."""
        known = [value for value in values if math.isfinite(value)] + ([0.0] if zero else [])
        low, high = min(known), max(known)
        step = _nice((high - low or 1.0) / 6)
        first, last = math.floor(low / step + 1e-9), max(math.ceil(high / step - 1e-9), math.floor(low / step) + 1)
        ticks = tuple(round(i * step, 10) for i in range(first, last + 1))
        return cls(ticks[0], ticks[-1], start, end, ticks)

    @classmethod
    def log(cls, values: Sequence[float], start: float, end: float) -> Scale:
        """A logarithmic scale with ticks at 1, 2 and 5 times the powers of ten; values must be above 0."""
        powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
        marks = [factor * 10.0**i for i in powers for factor in (1, 2, 5)]
        low = max(mark for mark in marks if mark <= min(values))
        high = min(mark for mark in [*marks, 10 * marks[-3]] if mark >= max(values) and mark > low)
        ticks = tuple(mark for mark in dict.fromkeys([*marks, high]) if low <= mark <= high)
        return cls(low, high, start, end, ticks, logarithmic=True)

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (
            (math.log10(x) for x in (self.low, self.high, value)) if self.logarithmic else (self.low, self.high, value)
        )
        return self.start + (value - low) / (high - low) * (self.end - self.start)


@dataclass(frozen=True)
class Point:
    """A mark of a scatter, and the interval of its y."""

    x: float
    y: float
    low: float
    high: float


def _nice(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def rows_of_dots(
    title: str, axis: str, names: Sequence[str], values: Mapping[str, Sequence[float]], policies: Sequence[str]
) -> str:
    """One row per name, one dot per policy at its value; NaN has none. ``policies`` fixes colours and shapes."""
    left, top, pitch = 285.0, 14.0, 27.0
    height = top + pitch * len(names) + 46
    x = Scale.of([value for row in values.values() for value in row], left, _WIDTH - 18)
    parts = [_vertical(x, top, height - 46, axis)]
    for i, name in enumerate(names):
        y = top + pitch * (i + 0.5)
        parts.append(f'<path class="grid" d="M{left},{y:.1f}H{_WIDTH - 18}"/>')
        parts.append(f'<text class="name" x="{left - 12}" y="{y + 4:.1f}">{escape(name)}</text>')
        for k, (policy, row) in enumerate(values.items()):
            if math.isfinite(row[i]):
                told = f"{policy}, {name}: {row[i]:+.2f}"
                beside = (k + 0.5) / len(values) - 0.5  # equal values would hide each other
                parts.append(_mark(x(row[i]), y + 0.6 * pitch * beside, policies.index(policy), told))
    return _figure(title, height, parts, list(values), policies)


def scatter(title: str, axes: tuple[str, str], points: Mapping[str, Point], policies: Sequence[str]) -> str:
    """One mark per policy, its interval a line: x on a logarithmic scale where it is above 0, y linear."""
    height, left, bottom = 360.0, 64.0, 314.0
    x = Scale.log([max(point.x, 1e-3) for point in points.values()], left, _WIDTH - 18)
    y = Scale.of([value for point in points.values() for value in (point.low, point.high)], bottom, 14)
    parts = [_vertical(x, 14, bottom, axes[0]), _horizontal(y, left, _WIDTH - 18, axes[1])]
    for policy, point in points.items():
        index, across = policies.index(policy), x(max(point.x, 1e-3))
        parts.append(
            f'<path class="span c{index % _COLOURS}" d="M{across:.1f},{y(point.low):.1f}V{y(point.high):.1f}"/>'
        )
        told = f"{policy}: {point.y:+.2f} ({point.low:+.2f} to {point.high:+.2f}) at {point.x:.2f}"
        parts.append(_mark(across, y(point.y), index, told))
    return _figure(title, height, parts, list(points), policies)


def curves(title: str, axes: tuple[str, str], values: Mapping[str, Sequence[float]], policies: Sequence[str]) -> str:
    """For every policy its sorted values (0 to 1) as steps over the share of cases."""
    height, left, bottom = 360.0, 64.0, 314.0
    ticks = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    x, y = Scale(0, 1, left, _WIDTH - 18, ticks), Scale(0, 1, bottom, 14, ticks)
    parts = [_vertical(x, 14, bottom, axes[0]), _horizontal(y, left, _WIDTH - 18, axes[1])]
    for policy, row in values.items():
        index = policies.index(policy)
        steps = "".join(f"V{y(value):.1f}H{x((i + 1) / len(row)):.1f}" for i, value in enumerate(sorted(row)))
        told = f"{policy}: mean {np.mean(row):.0%}, half of the cases above {np.median(row):.0%}"
        parts.append(
            f'<path class="curve c{index % _COLOURS}" stroke-dasharray="{_DASHES[index % 4]}" '
            f'd="M{x(0):.1f},{y(min(row)):.1f}{steps}"><title>{escape(told)}</title></path>'
        )
    return _figure(title, height, parts, list(values), policies, lines=True)


def lines(
    title: str,
    axes: tuple[str, str],
    values: Mapping[str, Sequence[Point]],
    policies: Sequence[str],
    logarithmic: bool = False,
) -> str:
    """For every policy, or whatever is named, a line through its points, their intervals across; y is linear."""
    height, left, bottom = 360.0, 64.0, 314.0
    every = [point for points in values.values() for point in points]
    across = [point.x for point in every]
    x = Scale.log(across, left, _WIDTH - 18) if logarithmic else Scale.of(across, left, _WIDTH - 18)
    y = Scale.of([value for point in every for value in (point.y, point.low, point.high)], bottom, 14)
    parts = [_vertical(x, 14, bottom, axes[0]), _horizontal(y, left, _WIDTH - 18, axes[1])]
    for name, points in values.items():
        index = policies.index(name)
        path = "L".join(f"{x(point.x):.1f},{y(point.y):.1f}" for point in points)
        parts.append(f'<path class="curve c{index % _COLOURS}" stroke-dasharray="{_DASHES[index % 4]}" d="M{path}"/>')
        for point in points:
            told = f"{name}: {point.y:.3g} at {point.x:.3g}"
            if point.low < point.high:
                span = f"M{x(point.x):.1f},{y(point.low):.1f}V{y(point.high):.1f}"
                parts.append(f'<path class="span c{index % _COLOURS}" d="{span}"/>')
                told += f" ({point.low:.3g} to {point.high:.3g})"
            parts.append(_mark(x(point.x), y(point.y), index, told))
    return _figure(title, height, parts, list(values), policies, lines=True)


def _mark(x: float, y: float, index: int, told: str) -> str:
    shape = _SHAPES[index % len(_SHAPES)]
    return (
        f'<path class="mark c{index % _COLOURS}" transform="translate({x:.1f},{y:.1f})" d="{shape}">'
        f"<title>{escape(told)}</title></path>"
    )


def _vertical(scale: Scale, top: float, bottom: float, axis: str) -> str:
    """Grid lines from top to bottom with their values below, and the axis' name."""
    lines = "".join(
        f'<path class="{"zero" if tick == 0 else "grid"}" d="M{scale(tick):.1f},{top}V{bottom}"/>'
        f'<text class="tick" x="{scale(tick):.1f}" y="{bottom + 16}">{tick:g}</text>'
        for tick in scale.ticks
    )
    return lines + f'<text class="tick" x="{(scale.start + scale.end) / 2:.1f}" y="{bottom + 36}">{escape(axis)}</text>'


def _horizontal(scale: Scale, left: float, right: float, axis: str) -> str:
    """Grid lines from left to right with their values before them, and the axis' name."""
    lines = "".join(
        f'<path class="{"zero" if tick == 0 else "grid"}" d="M{left},{scale(tick):.1f}H{right}"/>'
        f'<text class="name" x="{left - 8}" y="{scale(tick) + 4:.1f}">{tick:g}</text>'
        for tick in scale.ticks
    )
    middle = (scale.start + scale.end) / 2
    return lines + f'<text class="tick" transform="translate(16,{middle:.1f}) rotate(-90)">{escape(axis)}</text>'


def _figure(
    title: str, height: float, parts: Sequence[str], shown: Sequence[str], policies: Sequence[str], lines: bool = False
) -> str:
    """A figure with its heading, the drawing, and a legend of those shown."""
    legend = "".join(_key(policy, policies.index(policy), lines) for policy in shown)
    box = f'viewBox="0 0 {_WIDTH:g} {height:g}" role="img" aria-label="{escape(title)}"'
    drawing = scrolled(f"{title}, drawn", f"<svg {box}>{''.join(parts)}</svg>")
    return (
        f'<figure class="plot"><figcaption>{escape(title)}</figcaption><p class="legend">{legend}</p>{drawing}</figure>'
    )


def _key(policy: str, index: int, line: bool) -> str:
    if line:
        dash = _DASHES[index % 4]
        drawn = f'<path class="curve c{index % _COLOURS}" stroke-dasharray="{dash}" d="M-14,0H14"/>'
    else:
        drawn = f'<path class="mark c{index % _COLOURS}" d="{_SHAPES[index % len(_SHAPES)]}"/>'
    box = 'viewBox="-16 -8 32 16" width="32" height="16" aria-hidden="true"'
    return f"<span><svg {box}>{drawn}</svg>{escape(policy)}</span>"
