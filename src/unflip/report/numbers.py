"""Numbers as a reader wants them: three digits, shares in percent, "–" for what is not defined."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

NONE = "–"
SPACE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"

Form = Callable[[float | None], str]
"""How a value is written: :func:`number`, :func:`percent`, ..."""


def number(value: float | None) -> str:
    """Three digits, ``0.312``, ``12.4`` or ``123``; whole above that, ``12,346``."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return f"{MINUS if value < 0 else ''}∞"
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.2e}".replace("-", MINUS)
    rounded = float(f"{value:.3g}")  # 0.9996 is 1.00, not 1.000
    digits = max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{value:,.{digits}f}".replace("-", MINUS)


def percent(value: float | None) -> str:
    """A share, 0.3124, as ``31.2 %``; two decimals at most."""
    if value is None or math.isnan(value) or math.isinf(value):
        return NONE
    text = number(100 * value)
    if len(text.partition(".")[2]) > 2:
        text = f"{round(100 * value, 2) + 0.0:.2f}".replace("-", MINUS)  # adding 0 takes the sign off -0
    return f"{text}{SPACE}%"


def signed_percent(value: float | None) -> str:
    """A difference of shares, with its sign: ``+31.2 %``."""
    text = percent(value)
    return f"+{text}" if value is not None and value > 0 and text != NONE else text


def trimmed(text: str) -> str:
    """A written number without the zeros at its end, for the axis of a chart: ``5.00 %`` as ``5 %``."""
    return re.sub(r"\.?0+(?=\D*$)", "", text) if "." in text else text


@dataclass(frozen=True)
class Amount:
    """A measured value with its 95 % interval, out of ``n`` images; None where it is not defined, or where no interval is possible."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @classmethod
    def of(cls, figure: Mapping[str, Any] | None) -> Amount:
        """A ``{"value", "low", "high", "n"}`` of ``metrics.json``."""
        figure = figure or {}
        value, low, high = (defined(figure.get(key)) for key in ("value", "low", "high"))
        return cls(value, low, high, figure.get("n"))

    def interval(self, form: Form) -> str:
        """``28.1 to 34.4 %``; empty where there is none."""
        if self.value is None or self.low is None or self.high is None:
            return ""
        low, high = form(self.low), form(self.high)
        unit = f"{SPACE}%"
        return f"{low.removesuffix(unit) if high.endswith(unit) else low} to {high}"

    def detail(self, form: Form) -> str:
        """The interval and the number of images, as far as they are known: what stands below a value."""
        count = f"n = {self.n:,}".replace(" ", SPACE) if self.n is not None else ""
        return ", ".join(part for part in (self.interval(form), count) if part)


def defined(value: Any) -> float | None:
    """The value; None for NaN, too."""
    return None if value is None or math.isnan(value) else float(value)
