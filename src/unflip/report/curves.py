"""Curves: how something went while a network saw more and more images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from unflip.report.numbers import Form, number, trimmed

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 30
"""Of the drawing, in units that are about a pixel on a phone, and the margins around the plane."""


class Dot(NamedTuple):
    """A point of a curve in the drawing, and what it stands for."""

    x: float
    y: float
    says: str
    chosen: bool


class Line(NamedTuple):
    """A curve: its name, its path (broken where values are not defined) and its points."""

    name: str
    path: str
    dots: list[Dot]


class Tick(NamedTuple):
    """A place on an axis, and the number there."""

    at: float
    text: str


@dataclass(frozen=True)
class Curves:
    """Named series of (``across``, value or None) in one plane; ``chosen`` marks a place on the x axis, such as the checkpoint taken."""

    title: str
    series: Mapping[str, Sequence[tuple[float, float | None]]]
    chosen: float | None = None
    form: Form = number
    note: str = ""
    """Which way is better."""
    across: str = "images seen"
    template: ClassVar[str] = "curves.html.j2"

    @property
    def drawn(self) -> bool:
        """Whether any value is defined."""
        return bool(self._values)

    @property
    def lines(self) -> list[Line]:
        """The curves, in the units of the drawing."""
        lines = []
        for name, points in self.series.items():
            path, dots, pen = [], [], "M"
            for seen, value in points:
                if value is None:
                    pen = "M"
                    continue
                x, y = self._x(seen), self._y(value)
                path.append(f"{pen}{x} {y}")
                dots.append(Dot(x, y, f"{seen:,.0f} {self.across}: {self.form(value)}", seen == self.chosen))
                pen = "L"
            lines.append(Line(name, "".join(path), dots))
        return lines

    @property
    def x_ticks(self) -> list[Tick]:
        """Where the horizontal axis has marks, and what they say."""
        return [Tick(self._x(value), _short(value)) for value in _steps(*self._seen, 4)]

    @property
    def y_ticks(self) -> list[Tick]:
        """Where the vertical axis has marks, and what they say."""
        return [Tick(self._y(value), trimmed(self.form(value))) for value in _steps(*self._range, 4)]

    @property
    def chosen_at(self) -> float | None:
        """Where the chosen point stands, horizontally."""
        return None if self.chosen is None else self._x(self.chosen)

    @property
    def _values(self) -> list[float]:
        return [value for points in self.series.values() for _, value in points if value is not None]

    @property
    def _seen(self) -> tuple[float, float]:
        seen = [seen for points in self.series.values() for seen, _ in points]
        return (min([0, *seen]), max(seen)) if seen and max(seen) > 0 else (0, 1)

    @property
    def _range(self) -> tuple[float, float]:
        low, high = min(self._values), max(self._values)
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 1
        # an axis that begins at 0 shows ratios; where all values are far above 0 it would hide how they move
        return (0 if 0 <= low < 0.4 * high else low - margin), high + margin

    def _x(self, seen: float) -> float:
        low, high = self._seen
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (seen - low) / (high - low), 1)

    def _y(self, value: float) -> float:
        low, high = self._range
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low), 1)


def _steps(low: float, high: float, about: int) -> list[float]:
    """Round numbers between ``low`` and ``high``: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _short(value: float) -> str:
    """``1500`` as ``1.5k``, ``2000000`` as ``2M``."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
