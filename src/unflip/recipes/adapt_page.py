"""The page of an adaptation: do the translations help, for which classes, and what do the networks see?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unflip.data.images import Array
from unflip.data.labels import Classes
from unflip.evaluation.pictures import colored
from unflip.evaluation.reader import Reader
from unflip.recipes.adapt_plan import Sets
from unflip.recipes.adapt_table import Outcome, answer, columns
from unflip.recipes.shown import shown
from unflip.report.blocks import Block, Cell, Folded, Key, Made, Notes, Section, Table, Verdict
from unflip.report.charts import Bar, Bars
from unflip.report.numbers import NONE, Amount
from unflip.report.page import Page
from unflip.report.pictures import Picture, Row, shrunk
from unflip.segmenterfolder import load_segmenter


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
    head = columns(outcomes)
    rows = []
    for each in outcomes:
        spreads = [column.of(each) for column in head]
        cells = [Cell(c.form(s.mean), s.range(c.form)) if s else Cell(NONE) for c, s in zip(head, spreads, strict=True)]
        rows.append([Cell(each.arm.name, strong=each.arm.translates), Cell(each.count), *cells])
    return Table(["trained on", "seeds", *(column.head for column in head)], rows)


def _classes(done: Sequence[Outcome], colors: Mapping[str, Any]) -> list[Block]:
    """The plain arms, and folded below them those with more than one thing to learn from: all at once have too many colors."""
    plain = [each for each in done if each.arm.unlabeled is None and each.arm.shots is None]
    others = [each for each in done if each not in plain]
    shots = sorted({each.arm.shots for each in others if each.arm.shots is not None})
    groups = (
        ("Self-training", [each for each in others if each.arm.unlabeled is not None]),
        *((f"{k} labeled images", [each for each in others if each.arm.shots == k]) for k in shots),
    )
    return [_bars(plain, colors), *(Folded(title, [_bars(group, colors)]) for title, group in groups if group)]


def _bars(done: Sequence[Outcome], colors: Mapping[str, Any]) -> Bars:
    ious = [each.class_iou() for each in done]
    bars = [
        Bar(name, [spread.amount if (spread := spreads.get(name)) else Amount(None) for spreads in ious], color=color)
        for name, color in colors.items()
    ]
    return Bars(bars, [each.arm.name for each in done], top=1.0)


def _pictures(done: Sequence[Outcome], out: Path, sets: Sets, classes: Classes) -> list[Row]:
    """Evenly spaced test images: photo, label, and how each arm's first network reads it."""
    tested = list(shown(sets.test_images, sets.test_labels, classes))
    rows = [[Picture("photo", shrunk(photo)), Picture("label", shrunk(label))] for _, photo, label in tested]
    for each in done:
        for row, reading in zip(rows, _readings(each, out, classes, [photo for _, photo, _ in tested]), strict=True):
            row.append(Picture(each.arm.name, reading))
    return [Row(file.as_posix(), row) for row, (file, _, _) in zip(rows, tested, strict=True)]


def _readings(outcome: Outcome, out: Path, classes: Classes, photos: Sequence[Array]) -> list[Array]:
    """How the first network of an arm reads photos, in colors. It is in memory only meanwhile: there can be many, and large ones."""
    folder = out / "arms" / outcome.arm.folder / f"seed{min(outcome.readings)}"
    reader = Reader(load_segmenter(folder), classes)
    return [shrunk(colored(reader(photo), classes)) for photo in photos]
