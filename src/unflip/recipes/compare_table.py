"""What a comparison found, as records, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from unflip.recipes.apart import read_memory
from unflip.report.numbers import NONE, SPACE, Amount, Form, number, percent

EVALUATION = "evaluation"
"""The folder of an evaluation, in that of its run."""
UNTRANSLATED = "untranslated"
"""The name of the sources as they are, which are judged like translations: what there is to gain, and to lose."""


@dataclass(frozen=True)
class Trial:
    """One run of a method, as far as it came."""

    method: str
    name: str
    """Of the run among the method's, such as ``seed0``; empty for the sources as they are."""
    folder: Path
    """With ``translated`` and ``evaluation``."""
    metrics: Mapping[str, Any] | None
    """What metrics.json holds; None where it failed."""
    numbers: Mapping[str, Any]
    """All that was measured: every metric and the ends of its interval, and what the training took; None: not known."""
    error: str = ""
    """Why it failed."""

    @classmethod
    def read(cls, method: str, name: str, folder: Path, run: Path | None, error: str = "") -> Trial:
        """What lies in ``folder``, and in the run's folder ``run``, where there is one."""
        metrics = None if error else json.loads((folder / EVALUATION / "metrics.json").read_text(encoding="utf-8"))
        numbers: dict[str, Any] = {"images": metrics and metrics["images"]}
        for key, figure in _figures(metrics or {}):
            numbers |= {key: figure["value"], f"{key}_low": figure["low"], f"{key}_high": figure["high"]}
        seen, seconds = training_time(run / "log.jsonl") if run else (None, None)
        memory = (run and read_memory(run)) or {}
        numbers |= {"images_seen": seen, "seconds": seconds, "images_per_second": seen and seconds and seen / seconds}
        numbers |= {"memory_bytes": memory.get("bytes"), "memory": memory.get("what"), "path": run and str(run)}
        return cls(method, name, folder, metrics, numbers, error)


@dataclass(frozen=True)
class Spread:
    """The same number of several runs."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the runs."""
        return fmean(self.values)

    @property
    def low(self) -> float:
        """The lowest of the runs."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The highest of the runs."""
        return max(self.values)

    @property
    def amount(self) -> Amount:
        """For a chart, where several runs have a range."""
        return Amount(self.mean, self.low, self.high) if len(self.values) > 1 else Amount(self.mean)

    def range(self, form: Form) -> str:
        """``28.1 to 34.4 %``; empty for one run."""
        if len(self.values) < 2:
            return ""
        low, high = form(self.low), form(self.high)
        unit = high.rpartition(SPACE)[2] if SPACE in high else ""
        return f"{low.removesuffix(SPACE + unit) if unit else low} to {high}"


@dataclass(frozen=True)
class Row:
    """A method: what its runs have in common."""

    method: str
    trials: tuple[Trial, ...]

    @property
    def done(self) -> list[Trial]:
        """The runs that were judged."""
        return [trial for trial in self.trials if trial.metrics is not None]

    @property
    def translates(self) -> bool:
        """Whether a model made the images."""
        return self.method != UNTRANSLATED

    @property
    def count(self) -> str:
        """How many runs: ``3``, or ``2 of 3`` where one failed."""
        if not self.translates:
            return NONE
        done, asked = len(self.done), len(self.trials)
        return str(done) if done == asked else f"{done} of {asked}"

    def spread(self, key: str) -> Spread | None:
        """Of a column's number; None where no run has it."""
        values = [value for trial in self.done if (value := trial.numbers.get(key)) is not None]
        return Spread(tuple(values)) if values else None


@dataclass(frozen=True)
class Column:
    """A number of every method."""

    key: str
    head: str
    form: Form
    best: Callable[[Iterable[float]], float]
    """``max`` or ``min``."""


def duration(seconds: float | None) -> str:
    """``83 s``, ``12.5 min`` or ``2.30 h``."""
    if seconds is None:
        return NONE
    for limit, length, unit in ((120, 1, "s"), (7200, 60, "min")):
        if seconds < limit:
            return f"{number(seconds / length)}{SPACE}{unit}"
    return f"{number(seconds / 3600)}{SPACE}h"


def gigabytes(count: float | None) -> str:
    """``1.24 GB``, of 10⁹ bytes."""
    return NONE if count is None else f"{number(count / 1e9)}{SPACE}GB"


COST = (
    Column("seconds", "training time", duration, min),
    Column("images_per_second", "images/s", number, max),
    Column("memory_bytes", "memory", gigabytes, min),
)
COLUMNS = (
    Column("mean_iou", "mean IoU", percent, max),
    Column("pixel_accuracy", "pixel accuracy", percent, max),
    Column("excess_flip_rate", "excess flip rate", percent, min),
    Column("flip_rate", "flip rate", percent, min),
    Column("frechet", "Fréchet distance", number, min),
    Column("kid", "KID", number, min),
    *COST,
)


def columns(rows: Sequence[Row]) -> list[Column]:
    """Those that say something; the raw flip rate only where no excess is known, being 1 - pixel accuracy."""
    known = {column.key for column in COLUMNS if any(row.spread(column.key) for row in rows)}
    return [column for column in COLUMNS if column.key in known - ({"flip_rate"} if "excess_flip_rate" in known else set())]


def best(rows: Sequence[Row], column: Column) -> list[Row]:
    """The methods of the best mean, where there is another to compare it with."""
    means = [(row, spread.mean) for row in rows if row.translates and (spread := row.spread(column.key)) is not None]
    return [row for row, mean in means if mean == column.best(mean for _, mean in means)] if len(means) > 1 else []


def training_time(log: Path) -> tuple[int | None, float | None]:
    """Images seen, and the seconds that their steps took, of a run's log.jsonl; None where there is none.

    Without the start, samples, checkpoints and validation, and without what a stopped run had to do again: what the method costs.
    """
    seen, seconds = 0, 0.0
    for text in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
        try:
            line = json.loads(text)
            seconds += (line["seen"] - seen) / line["images_per_second"]
            seen = line["seen"]
        except (ValueError, KeyError, TypeError, ZeroDivisionError):
            continue  # of a validation, or cut short by a killed process
    return (seen, seconds) if seen else (None, None)


def markdown(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """The table, and below it how to read it."""
    shown = columns(rows)
    strong = {column.key: best(rows, column) for column in shown}
    lines = []
    for row in rows:
        cells = []
        for column in shown:
            spread = row.spread(column.key)
            cells.append(told(spread, column.form, strong=row in strong[column.key]))
        lines.append([row.method, row.count, *cells])
    return markdown_table(["method", "seeds", *(column.head for column in shown)], lines, notes)


def told(spread: Spread | None, form: Form, strong: bool = False) -> str:
    """``**28.1 %** (25.0 to 31.2 %)``: a cell of a table."""
    if spread is None:
        return NONE
    mean, between = form(spread.mean), spread.range(form)
    return (f"**{mean}**" if strong else mean) + (f" ({between})" if between else "")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """A table whose first column is text and whose others are numbers, and notes below it."""
    lines = [head, ["---", *("--:" for _ in head[1:])], *rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return (table + "".join(f"\n{note}\n" for note in notes)).replace(SPACE, " ")


def methods_csv(rows: Sequence[Row]) -> str:
    """A line for each method: of every column the mean, the lowest and the highest."""
    table = []
    for row in rows:
        line: dict[str, Any] = {
            "method": row.method,
            "seeds": len(row.done) if row.translates else None,
            "failed": len(row.trials) - len(row.done),
        }
        for column in COLUMNS:
            spread = row.spread(column.key)
            line |= ends(column.key, spread)
        table.append(line)
    return as_csv(table)


def ends(key: str, spread: Spread | None) -> dict[str, float | None]:
    """Of a line of CSV: mean, lowest and highest; None where it is not known."""
    values = (None, None, None) if spread is None else (spread.mean, spread.low, spread.high)
    return dict(zip((key, f"{key}_low", f"{key}_high"), values, strict=True))


def runs_csv(rows: Sequence[Row]) -> str:
    """A line for each run, with all that was measured; ``_low`` and ``_high`` are the ends of 95 % intervals."""
    trials = [trial for row in rows for trial in row.trials]
    return as_csv([{"method": trial.method, "run": trial.name, "error": trial.error, **trial.numbers} for trial in trials])


def _figures(metrics: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Every value with an interval in a metrics.json, by name."""
    classes = {f"iou_{name}": figure for name, figure in metrics.get("per_class_iou", {}).items()}
    for part in (metrics, metrics.get("realism", {}), metrics.get("reference", {}), classes):
        yield from (
            (name, value) for name, value in part.items() if isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys()
        )


def as_csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """A table whose columns are all keys, in the order in which they come first."""
    text = io.StringIO()
    fields = list(dict.fromkeys(key for line in lines for key in line))
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
