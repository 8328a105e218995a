"""Small charts as inline SVG for reports: they take the page's colours, so they read in light and dark and in print."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from .wording import short


@dataclass(frozen=True)
class Bar:
    """One value with its interval, if there is one. ``kind``: "model", "ablation" or "baseline"."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    kind: str = "baseline"


def _drawable(value: float | None) -> bool:
    return value is not None and abs(value) < 1e100  # false for NaN too


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that cover most of [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    first = math.ceil(low / step)
    return [round(k * step, 12) for k in range(first, math.floor(high / step) + 1)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - pad, high + pad


def dots(bars: Sequence[Bar], axis: str) -> Markup:
    """Values on one axis, a row each, with their intervals as lines: who is better, and is it more than chance?"""
    bars = [b for b in bars if _drawable(b.value)]
    if not bars:
        return Markup("")
    left, right, row = 190, 620, 26
    low, high = _range([v for b in bars for v in (b.value, b.low, b.high) if v is not None and _drawable(v)])
    bottom = row * len(bars) + 6

    def x(value: float) -> float:
        return round(left + (value - low) / (high - low) * (right - left), 1)

    parts = [
        f'<line class="grid" x1="{x(t)}" x2="{x(t)}" y1="4" y2="{bottom}"/>'
        f'<text class="tick" x="{x(t)}" y="{bottom + 16}" text-anchor="middle">{t:g}</text>'
        for t in ticks(low, high)
    ]
    for i, b in enumerate(bars):
        y = row * i + row / 2 + 4
        parts.append(f'<text x="{left - 12}" y="{y + 4}" text-anchor="end" class="{b.kind}">{escape(b.label)}</text>')
        if b.low is not None and b.high is not None and _drawable(b.low) and _drawable(b.high):
            parts.append(f'<line class="whisker {b.kind}" x1="{x(b.low)}" x2="{x(b.high)}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="{b.kind}" cx="{x(b.value)}" cy="{y}" r="5"/>')
        parts.append(f'<text class="value" x="{right + 14}" y="{y + 4}">{short(b.value)}</text>')
    parts.append(
        f'<text class="tick" x="{(left + right) / 2}" y="{bottom + 34}" text-anchor="middle">{escape(axis)}</text>'
    )
    return Markup(_svg(700, bottom + 42, f"{axis} of {', '.join(b.label for b in bars)}", parts))


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]], x_name: str, y_name: str, mark: float | None = None
) -> Markup:
    """Curves over a common axis; ``mark`` draws an upright line at the x that was chosen."""
    series = {k: [(x, y) for x, y in v if _drawable(x) and _drawable(y)] for k, v in series.items()}
    points = [p for v in series.values() for p in v]
    if len({x for x, _ in points}) < 2:
        return Markup("")
    left, right, top, bottom = 64, 580, 10, 230
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low, y_high = _range([y for _, y in points])

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            round(left + (x - x_low) / (x_high - x_low) * (right - left), 1),
            round(bottom - (y - y_low) / (y_high - y_low) * (bottom - top), 1),
        )

    parts = []
    for t in ticks(y_low, y_high):
        y = at(x_low, t)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + 4}" text-anchor="end">{t:g}</text>')
    whole = all(float(x).is_integer() for x, _ in points)
    for t in (t for t in ticks(x_low, x_high, 8) if not whole or float(t).is_integer()):
        parts.append(f'<text class="tick" x="{at(t, y_low)[0]}" y="{bottom + 18}" text-anchor="middle">{t:g}</text>')
    if mark is not None:
        x = at(mark, y_low)[0]
        parts.append(f'<line class="mark" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>')
    for i, (name, values) in enumerate(series.items()):
        if not values:
            continue
        path = " ".join(f"{px},{py}" for px, py in (at(*p) for p in sorted(values)))
        parts.append(f'<polyline class="series s{i}" points="{path}"/>')
        parts += [f'<circle class="s{i}" cx="{px}" cy="{py}" r="2.5"/>' for px, py in (at(*p) for p in values)]
        parts.append(
            f'<line class="series s{i}" x1="{right + 16}" x2="{right + 36}" y1="{24 + 22 * i}" y2="{24 + 22 * i}"/>'
        )
        parts.append(f'<text x="{right + 42}" y="{28 + 22 * i}">{escape(name)}</text>')
    parts.append(
        f'<text class="tick" x="{(left + right) / 2}" y="{bottom + 38}" text-anchor="middle">{escape(x_name)}</text>'
    )
    return Markup(_svg(720, bottom + 46, f"{y_name} over {x_name}: {', '.join(series)}", parts))


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" '
        f'style="max-width:{width}px">{"".join(parts)}</svg>'
    )
