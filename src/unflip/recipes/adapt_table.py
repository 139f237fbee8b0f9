"""What an adaptation found, as records, Markdown, CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from unflip.data.labels import Classes
from unflip.errors import UserError
from unflip.evaluation.confusion import Reading, class_accuracy, from_plain, mean_iou, per_class_iou, pixel_accuracy
from unflip.recipes.adapt_plan import CEILING, COLOR, SOURCE, Arm
from unflip.recipes.compare_table import Spread, as_csv, ends, markdown_table, told
from unflip.report.blocks import Tone
from unflip.report.numbers import NONE, SPACE, Form, percent
from unflip.segmenterfolder import HELD_OUT, HeldOut

METRICS = {"mean_iou": mean_iou, "pixel_accuracy": pixel_accuracy, "class_accuracy": class_accuracy}


@dataclass(frozen=True)
class Outcome:
    """Of one arm: how its networks read the test images, by seed, and why those failed that did."""

    arm: Arm
    readings: dict[int, Reading] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)

    def values(self, name: str) -> dict[int, float]:
        """A metric of each seed."""
        return {seed: float(METRICS[name](reading.total)) for seed, reading in self.readings.items()}

    def spread(self, name: str) -> Spread | None:
        """The same, together; None where no seed is done."""
        return Spread(tuple(self.values(name).values())) if self.readings else None

    @property
    def count(self) -> str:
        """How many seeds: ``3``, or ``2 of 3`` where one failed."""
        done, asked = len(self.readings), len(self.readings) + len(self.errors)
        return str(done) if done == asked else f"{done} of {asked}"

    def class_iou(self) -> dict[str, Spread | None]:
        """By class; None for classes that no test image shows."""
        each = [per_class_iou(reading.total) for reading in self.readings.values()]
        names = next(iter(self.readings.values())).names if self.readings else []
        known = {name: tuple(float(ious[i]) for ious in each if ious[i] == ious[i]) for i, name in enumerate(names)}
        return {name: Spread(values) if values else None for name, values in known.items()}


@dataclass(frozen=True)
class Column:
    """A number of every arm, beyond the metrics; None: not defined for it."""

    key: str
    head: str
    of: Callable[[Outcome], Spread | None]
    form: Form


def read(folder: Path, classes: Classes) -> Reading:
    """How the network in ``folder`` read the test images. Raises ``UserError`` where that is not known."""
    try:
        return from_plain(HeldOut.model_validate_json((folder / HELD_OUT).read_bytes()).model_dump(), classes)
    except (OSError, ValueError):
        raise UserError(f"{folder} is damaged; remove it, and call again") from None


def by_name(outcomes: Sequence[Outcome], name: str) -> Outcome | None:
    """The arm of that name, where it is there and has a result."""
    return next((each for each in outcomes if each.arm.name == name and each.readings), None)


def over(a: Outcome, b: Outcome) -> Spread | None:
    """By how much ``a`` has a higher mean IoU than ``b``, seed by seed."""
    ours, theirs = a.values("mean_iou"), b.values("mean_iou")
    both = tuple(ours[seed] - theirs[seed] for seed in ours if seed in theirs)
    return Spread(both) if both else None


def columns(outcomes: Sequence[Outcome]) -> list[Column]:
    """Those that can be told."""
    found = [
        Column(name, name.replace("_iou", " IoU").replace("_", " "), lambda each, name=name: each.spread(name), percent)  # type: ignore[misc]
        for name in METRICS
    ]
    base, ceiling = by_name(outcomes, SOURCE), by_name(outcomes, CEILING)
    if base is not None:
        found.append(Column("gain", "over source only", lambda each: None if each.arm.name == SOURCE else over(each, base), points))
    if ceiling is not None:
        top = ceiling.values("mean_iou")

        def share(each: Outcome) -> Spread | None:
            both = tuple(value / top[seed] for seed, value in each.values("mean_iou").items() if top.get(seed))
            return Spread(both) if both and each.arm.name != CEILING else None

        found.append(Column("share_of_ceiling", "of the ceiling", share, percent))
    return found


def points(value: float | None) -> str:
    """A difference of shares, in percentage points: ``+6.1 points``."""
    if value is None:
        return NONE
    return f"{100 * value:+.1f}{SPACE}points".replace("-", "\N{MINUS SIGN}")


def markdown(outcomes: Sequence[Outcome], notes: Sequence[str]) -> str:
    """The table, and below it how to read it."""
    shown = columns(outcomes)
    rows = [[each.arm.name, each.count, *(told(column.of(each), column.form) for column in shown)] for each in outcomes]
    return markdown_table(["trained on", "seeds", *(column.head for column in shown)], rows, notes)


def arms_csv(outcomes: Sequence[Outcome]) -> str:
    """A line for each arm: of every column the mean, the lowest and the highest."""
    table, shown = [], columns(outcomes)
    for each in outcomes:
        line: dict[str, Any] = {"arm": each.arm.name, "seeds": len(each.readings), "failed": len(each.errors)}
        for column in shown:
            line |= ends(column.key, column.of(each))
        table.append(line)
    return as_csv(table)


def runs_csv(outcomes: Sequence[Outcome]) -> str:
    """A line for each network, with the ends of its 95 % intervals."""
    table = []
    for each in outcomes:
        for seed in sorted(each.readings.keys() | each.errors.keys()):
            line: dict[str, Any] = {"arm": each.arm.name, "seed": seed, "error": each.errors.get(seed, "")}
            if seed in each.readings:
                for name, of in METRICS.items():
                    figure = each.readings[seed].figure(of).plain()
                    line |= {name: figure["value"], f"{name}_low": figure["low"], f"{name}_high": figure["high"]}
            table.append(line)
    return as_csv(table)


def metrics(outcomes: Sequence[Outcome], made: dict[str, Any]) -> dict[str, Any]:
    """What metrics.json holds."""
    found, beyond = {}, [column for column in columns(outcomes) if column.key not in METRICS]
    for each in outcomes:
        seeds = [
            {
                "seed": seed,
                **{name: reading.figure(of).plain() for name, of in METRICS.items()},
                "per_class_iou": {name: figure.plain() for name, figure in zip(reading.names, reading.figures(per_class_iou), strict=True)},
            }
            for seed, reading in each.readings.items()
        ]
        extra = {
            column.key: {"mean": spread.mean, "low": spread.low, "high": spread.high}
            for column in beyond
            if (spread := column.of(each)) is not None
        }
        found[each.arm.name] = {"seeds": seeds, **extra, **({"errors": each.errors} if each.errors else {})}
    return json.loads(json.dumps({"format": 1, "arms": found, "made": made}))


class Answer(NamedTuple):
    """Do the translations help, over what, and by how much?"""

    headline: str
    text: str
    tone: Tone


def answer(outcomes: Sequence[Outcome]) -> Answer:
    """Of the best set of translations, without what else could be the reason, such as self-training."""
    own = [each for each in outcomes if each.arm.translates and each.arm.unlabeled is None and each.readings]
    if not own:
        return Answer("Not known", "No network was trained on translations.", "bad")
    best = max(own, key=_mean)
    said = f"{best.arm.name}: mean IoU {percent(_mean(best))}"
    base, color, ceiling = (by_name(outcomes, name) for name in (SOURCE, COLOR, CEILING))
    gain = over(best, base) if base is not None else None
    if base is None or gain is None:
        given = any(each.arm.name == SOURCE for each in outcomes)
        advice = f"see what became of {SOURCE}" if given else "give --source"
        return Answer("Not known", f"{said}. There is nothing to compare it with; {advice}.", "plain")
    between = f" ({gain.range(points)})" if len(gain.values) > 1 else ""
    text = f"{said}, {points(gain.mean)} over source only{between}."
    if ceiling is not None and (gap := _mean(ceiling) - _mean(base)) > 0:
        text += f" Real labels have {points(gap)} over source only"
        text += f", of which this is {percent(gain.mean / gap)}." if gain.mean > 0 else "."
    if len(gain.values) == 1:
        return Answer("Not for certain", f"{text} One seed says nothing of chance; give more --seeds, in another --out.", "fair")
    if gain.high <= 0:
        return Answer("No", text, "bad")
    if gain.low <= 0:
        return Answer("Not for certain", f"{text} It is not so with every seed.", "fair")
    more = over(best, color) if color is not None else None
    if more is None:
        return Answer("Yes", text, "good")
    text += f" Over color transfer, which needs no training, it has {points(more.mean)}."
    if more.low > 0:
        return Answer("Yes", text, "good")
    return Answer("No more than colors do" if more.high <= 0 else "Yes, but not surely more than colors do", text, "fair")


def _mean(outcome: Outcome) -> float:
    return fmean(outcome.values("mean_iou").values())
