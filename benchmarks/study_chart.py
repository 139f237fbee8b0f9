"""A picture of a study: every run a dot, by how near it is to the target and how much of it is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from statistics import fmean

WIDTH, HEIGHT = 640, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 16, 48
COLORS = ("#1b6ca8", "#c8553d", "#2e8b57", "#8e5ea2", "#b8860b", "#5f6b73", "#d1478c", "#3fa7a0")
INK, FAINT = "#667", "#8884"  # on light and on dark pages alike

Dots = Mapping[str, Sequence[tuple[float, float]]]
"""Of every name the dots of its runs."""


def scatter(dots: Dots, across: str, up: str) -> str:
    """An SVG image; dots of one name have one color, and the name stands in the key, with the mean of its dots as a ring."""
    every = [dot for each in dots.values() for dot in each]
    xs, ys = (ticks([dot[axis] for dot in every]) for axis in (0, 1))

    def x(value: float) -> float:
        return round(LEFT + (value - xs[0]) / (xs[-1] - xs[0]) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - ys[0]) / (ys[-1] - ys[0]) * (HEIGHT - TOP - BOTTOM), 1)

    parts = []
    for value in xs:
        parts.append(f'<path d="M{x(value)} {TOP}V{HEIGHT - BOTTOM}" stroke="{FAINT}"/>')
        parts.append(_text(x(value), HEIGHT - BOTTOM + 16, f"{value:g}", "middle"))
    for value in ys:
        parts.append(f'<path d="M{LEFT} {y(value)}H{WIDTH - RIGHT}" stroke="{FAINT}"/>')
        parts.append(_text(LEFT - 6, y(value) + 4, f"{value:g}", "end"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, across, "middle"))
    parts.append(f'<g transform="rotate(-90 14 {HEIGHT / 2})">{_text(14, HEIGHT / 2, up, "middle")}</g>')
    for row, (name, each) in enumerate(dots.items()):
        color = COLORS[row % len(COLORS)]
        for a, b in each:
            parts.append(f'<circle cx="{x(a)}" cy="{y(b)}" r="4" fill="{color}" fill-opacity=".75"/>')
        middle = x(fmean(a for a, _ in each)), y(fmean(b for _, b in each))
        parts.append(f'<circle cx="{middle[0]}" cy="{middle[1]}" r="9" fill="none" stroke="{color}" stroke-width="1.5"/>')
        place = TOP + 14 + 18 * row
        parts.append(f'<circle cx="{WIDTH - RIGHT + 16}" cy="{place - 4}" r="4" fill="{color}"/>')
        parts.append(_text(WIDTH - RIGHT + 26, place, name, "start"))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">\n{body}\n</svg>\n'
    )


def ticks(values: Sequence[float], most: int = 6) -> list[float]:
    """Round numbers at equal distances that hold all values, from 0 where that is not far."""
    low, high = min(values), max(values)
    low = 0.0 if 0 <= low < high / 2 else low
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if span / (power * factor) <= most - 1)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * k, 10) for k in range(first, max(last, first + 1) + 1)]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{INK}">{escape(text)}</text>'
