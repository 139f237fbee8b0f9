"""What the study's runs left, read again, and how their numbers are told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from study_place import second_record
from study_plan import VARIANTS, Study
from study_tasks import RIVALS, UNTRANSLATED

from unflip.recipes.adapt_plan import COLOR, SOURCE
from unflip.recipes.compare_table import markdown_table

NONE = "–"
SAID = {
    UNTRANSLATED: "untranslated",
    "source_only": SOURCE,
    "color_transfer": COLOR,
    "target": "real photos with labels",
}
"""How tables call what is no method."""

Value = Callable[[Mapping[str, Any]], float | None]


def called(what: str) -> str:
    """How tables call a method or what is none."""
    return SAID.get(what, f"`{what}`")


@dataclass(frozen=True)
class Records:
    """What one study found at one scale: by method or rival, the files of its seeds, in their order."""

    study: Study
    scale: str
    runs: dict[str, list[dict[str, Any]]]

    @classmethod
    def read(cls, study: Study, scale: str, folder: Path) -> Records:
        """What is there."""
        order = [UNTRANSLATED, *VARIANTS, *RIVALS]
        found = {what: sorted((folder / study.name / scale / what).glob("seed*.json")) for what in order}
        return cls(study, scale, {what: [_read(path) for path in paths] for what, paths in found.items() if paths})

    @cached_property
    def methods(self) -> list[str]:
        """Those that translate."""
        return [what for what in self.runs if what in VARIANTS]

    def values(self, what: str, of: Value) -> dict[int, float]:
        """A number of every seed that has it."""
        return {run["seed"]: value for run in self.runs.get(what, ()) if (value := of(run)) is not None}


def _read(path: Path) -> dict[str, Any]:
    """A run; ``second``: what the second judge read, where it has."""
    run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    again = second_record(path)
    return run | ({"second": json.loads(again.read_text(encoding="utf-8"))} if again.exists() else {})


def metric(*path: str) -> Value:
    """The value of a metric with an interval, by where it stands."""

    def of(run: Mapping[str, Any]) -> float | None:
        found: Any = run
        for name in path:
            found = (found or {}).get(name)
        return found["value"] if isinstance(found, Mapping) and "value" in found else found

    return of


def flipped(a: str, b: str) -> Value:
    """Of the pixels labeled ``a``, the share that is read as ``b`` beyond what it is on real images."""

    def of(run: Mapping[str, Any]) -> float | None:
        flips = run["metrics"]["flips"]
        names = flips["classes"]
        row = (flips["matrix"] or {names.index(a): None})[names.index(a)]
        return None if row is None else row[names.index(b)]

    return of


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def points(value: float) -> str:
    return f"{100 * value:+.1f}"


def small(value: float) -> str:
    return f"{value:.3g}"


def spread(values: Iterable[float], form: Callable[[float], str]) -> str:
    """``41.2 (40.1 to 42.9)``: mean, lowest and highest."""
    known = list(values)
    if not known:
        return NONE
    text = form(fmean(known))
    return text if len(known) < 2 else f"{text} ({form(min(known))} to {form(max(known))})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; the first column is text."""
    return markdown_table(head, list(rows), ()).rstrip("\n")
