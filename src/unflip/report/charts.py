"""Matrices and bars: numbers as colors and lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from unflip.report.blocks import Color, Tone
from unflip.report.numbers import NONE, Amount, Form, percent, signed_percent

Values = Sequence[Sequence[float | None] | None]
"""Rows of a square matrix; None for a value or a row that is not defined."""
CROWDED = 20
"""With more classes than this, cells are too small for numbers; pointing at one tells its value."""


@dataclass(frozen=True)
class Shade:
    """A cell of a matrix: its number in short and in full, which color, and how much of it, from 0 to 1."""

    text: str
    full: str
    color: str
    strength: float


@dataclass(frozen=True)
class Matrix:
    """Of the pixels labeled with the row's class, the share read as the column's class, as a colored picture with numbers.

    Signed: a difference of two confusions; more is red, less is blue, zero has no color, and the diagonal, where more is better, is gray,
    so that all red is flips. Unsigned: a confusion; the diagonal is green, all else red. ``least`` is the smallest value of the full color:
    a matrix of next to nothing looks like nothing.
    """

    names: Sequence[str]
    values: Values
    caption: str
    signed: bool = True
    least: float = 0.2
    colors: Mapping[str, Color] = field(default_factory=dict)
    template: ClassVar[str] = "matrix.html.j2"

    @property
    def crowded(self) -> bool:
        """Whether its cells are too small for numbers."""
        return len(self.names) > CROWDED

    @property
    def limit(self) -> float:
        """The value of the full color."""
        if not self.signed:
            return 1.0
        return max([self.least, *(abs(value) for row in self.values for value in row or () if value is not None)])

    @property
    def ends(self) -> tuple[str, str]:
        """What the full colors stand for."""
        form = signed_percent if self.signed else percent
        return form(-self.limit if self.signed else 0), form(self.limit)

    @property
    def rows(self) -> list[tuple[str, list[Shade]]]:
        """Every row's name and cells."""
        limit = self.limit
        empty: list[float | None] = [None] * len(self.names)
        return [
            (name, [self._shade(value, i == j, limit) for j, value in enumerate(row or empty)])
            for i, (name, row) in enumerate(zip(self.names, self.values, strict=True))
        ]

    def _shade(self, value: float | None, right: bool, limit: float) -> Shade:
        if value is None:
            return Shade(NONE, NONE, "none", 0)
        full = signed_percent(value) if self.signed else percent(value)
        hundred = round(100 * value)
        if abs(value) < 5e-4:
            return Shade("", full, "", 0)
        text = f"{hundred:+d}".replace("-", "−") if self.signed else str(hundred)
        if right:
            color = "gray" if self.signed else "fine"
        else:
            color = "hot" if value > 0 else "cold"
        return Shade(text if hundred else "", full, color, round(min(1.0, abs(value) / limit), 3))


@dataclass(frozen=True)
class Bar:
    """A name, and the amount of each series at it; ``note`` is small print below the name."""

    name: str
    amounts: Sequence[Amount]
    note: str = ""
    color: Color | None = None


@dataclass(frozen=True)
class Bars:
    """Lengths with their intervals, from 0 to ``top`` (by default the largest); several series stand below each other at every name."""

    bars: Sequence[Bar]
    series: Sequence[str] = ()
    tones: Sequence[Tone] = ()
    """Of the series, where one of them is good or bad; by default each has a color of its own."""
    top: float | None = None
    form: Form = percent
    template: ClassVar[str] = "bars.html.j2"

    @property
    def long(self) -> bool:
        """Too long for the page: scrolls in a box of its own."""
        return len(self.bars) * max(1, len(self.series)) > 60

    def span(self, amount: Amount) -> tuple[float, tuple[float, float] | None]:
        """Where in percent of the width the bar ends, and where its interval begins and ends; what is below 0 is at 0."""
        full = self._full

        def place(value: float) -> float:
            return round(100 * min(1.0, max(0.0, value / full)), 2)

        whisker = None if amount.low is None or amount.high is None or amount.value is None else (place(amount.low), place(amount.high))
        return place(amount.value or 0), whisker

    @property
    def _full(self) -> float:
        if self.top is not None:
            return self.top
        amounts = [amount for bar in self.bars for amount in bar.amounts]
        return max((value for amount in amounts for value in (amount.value, amount.high) if value is not None), default=0) or 1.0
