"""The page of an adaptation: do the translations help, for which classes, and what do the networks see?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unflip.data.folders import find_images, relative_names
from unflip.data.images import read_rgb
from unflip.data.labels import IGNORED, Classes, match_labels, read_labels
from unflip.evaluation.pictures import colored
from unflip.evaluation.reader import Reader
from unflip.recipes.adapt_plan import Sets
from unflip.recipes.adapt_table import Outcome, answer, columns
from unflip.report.blocks import Block, Cell, Folded, Key, Made, Notes, Section, Table, Verdict
from unflip.report.charts import Bar, Bars
from unflip.report.numbers import NONE, Amount
from unflip.report.page import Page
from unflip.report.pictures import Picture, Row
from unflip.segmenterfolder import load_segmenter

SHOWN = 6
"""Test images."""


def adapt_page(
    outcomes: Sequence[Outcome],
    out: Path,
    *,
    notes: Sequence[str],
    failed: Sequence[str],
    sets: Sets,
    classes: Classes,
    facts: Mapping[str, Any],
) -> Page:
    """The page that lies in ``out``, below which the networks lie."""
    found = answer(outcomes)
    done = [each for each in outcomes if each.readings]
    colors = {classes.names[i]: classes.palette[i] for i in classes.kept}
    blocks: list[Block] = [
        Verdict("Does it help?", found.headline, found.text, found.tone),
        Notes("Failed", failed, "bad"),
        Section("Networks, by what they were trained on", [_table(outcomes)], " ".join(notes)),
        Section("Classes", _classes(done, colors), "Intersection over union of reading and label: mean of the seeds, lowest to highest."),
        Section("What they see", [Key(colors), *_pictures(done, out, sets, classes)], "Readings by the first network of each arm."),
        Section("How it was made", [Made([(name.replace("_", " "), str(value)) for name, value in facts.items() if value])]),
    ]
    count = sum(len(each.readings) for each in outcomes)
    lead = f"{count} networks of {len(done)} kinds, which differ in nothing but what they were trained on, tested on the same real images."
    return Page("Adaptation", lead, blocks)


def _table(outcomes: Sequence[Outcome]) -> Table:
    shown = columns(outcomes)
    rows = []
    for each in outcomes:
        spreads = [column.of(each) if each.readings else None for column in shown]
        cells = [Cell(c.form(s.mean), s.range(c.form)) if s else Cell(NONE) for c, s in zip(shown, spreads, strict=True)]
        rows.append([Cell(each.arm.name, strong=each.arm.translates), Cell(each.count), *cells])
    return Table(["trained on", "seeds", *(column.head for column in shown)], rows)


def _classes(done: Sequence[Outcome], colors: Mapping[str, Any]) -> list[Block]:
    """The plain arms, and folded below them those with more than one thing to learn from: all at once have too many colors."""
    plain = [each for each in done if each.arm.unlabeled is None and each.arm.shots is None]
    others = [each for each in done if each not in plain]
    groups = (
        ("Self-training", [each for each in others if each.arm.unlabeled is not None]),
        *((f"{k} labeled images", [each for each in others if each.arm.shots == k]) for k in _shots(others)),
    )
    return [_bars(plain, colors), *(Folded(title, [_bars(group, colors)]) for title, group in groups if group)]


def _shots(done: Sequence[Outcome]) -> list[int]:
    return sorted({each.arm.shots for each in done if each.arm.shots is not None})


def _bars(done: Sequence[Outcome], colors: Mapping[str, Any]) -> Bars:
    ious = [each.class_iou() for each in done]

    def amount(spreads: Mapping[str, Any], name: str) -> Amount:
        spread = spreads.get(name)
        if spread is None:
            return Amount(None)
        return Amount(spread.mean, spread.low, spread.high) if len(spread.values) > 1 else Amount(spread.mean)

    bars = [Bar(name, [amount(spreads, name) for spreads in ious], color=color) for name, color in colors.items()]
    return Bars(bars, [each.arm.name for each in done], top=1.0)


def _pictures(done: Sequence[Outcome], out: Path, sets: Sets, classes: Classes) -> list[Row]:
    """Evenly spaced test images: photo, label, and how each arm's first network reads it."""
    paths = find_images(sets.test_images)
    names, maps = relative_names(paths, sets.test_images), match_labels(paths, sets.test_images, sets.test_labels, classes)
    readers = {each.arm.name: _reader(each, out, classes) for each in done}
    rows = []
    for i in np.unique(np.linspace(0, len(paths) - 1, SHOWN).round().astype(int)).tolist():
        photo, ids = read_rgb(paths[i]), read_labels(maps[i], classes)
        label = colored(np.where(ids < 0, IGNORED, ids).astype(np.uint8), classes)
        readings = [Picture(name, colored(reader(photo), classes)) for name, reader in readers.items()]
        rows.append(Row(names[i].as_posix(), [Picture("photo", photo), Picture("label", label), *readings]))
    return rows


def _reader(outcome: Outcome, out: Path, classes: Classes) -> Reader:
    folder = out / "arms" / outcome.arm.folder / f"seed{min(outcome.readings)}"
    return Reader(load_segmenter(folder), classes)
