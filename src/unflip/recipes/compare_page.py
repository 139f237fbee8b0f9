"""The page of a comparison: which method flips least, at what realism and cost, and the same images by all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from unflip.data.images import read_rgb
from unflip.data.labels import Classes
from unflip.recipes.compare_plan import translations
from unflip.recipes.compare_table import COST, EVALUATION, UNTRANSLATED, Column, Row, Trial, best, columns
from unflip.recipes.shown import by_name, shown
from unflip.report.blocks import Block, Cell, Color, Columns, Folded, Made, Notes, Section, Table, Verdict
from unflip.report.charts import Bar, Bars, Matrix
from unflip.report.links import Links
from unflip.report.numbers import NONE, Amount, number, percent
from unflip.report.page import Page
from unflip.report.pictures import Picture, shrunk
from unflip.report.pictures import Row as Pictures

QUESTION = "Which method flips least?"


def compare_page(
    rows: Sequence[Row],
    out: Path,
    *,
    notes: Sequence[str],
    cost: Sequence[str],
    warnings: Sequence[str],
    test_source: Path,
    test_labels: Path,
    classes: Classes,
    made: Sequence[tuple[str, str]],
) -> Page:
    """The page that lies in ``out``, below which the trials of all ``rows`` lie."""
    colors: dict[str, Color] = {classes.names[i]: classes.palette[i] for i in classes.kept}
    methods = [row for row in rows if row.translates]
    failed = [f"{trial.method} {trial.name}: {trial.error}" for row in rows for trial in row.trials if trial.error]
    blocks: list[Block] = [
        verdict(rows),
        Notes("Failed", failed, "bad"),
        Notes("Mind this", warnings),
        Section("Methods", [_table(rows, lambda column: column not in COST)], " ".join(notes)),
        Section(
            "The same images by all",
            _pictures(methods, test_source, test_labels, classes),
            "Translations by the first run of each method.",
        ),
        *_flips(rows, colors),
        Section("Classes", [_classes(rows, colors)], "Intersection over union of reading and label: mean of the runs, lowest to highest."),
        Section("What a training took", [_table(methods, lambda column: column in COST)], " ".join(cost)),
        Section("Every run", [Links(_links(rows, out))], "The report of each evaluation, and of each training."),
        Section("How it was made", [Made(made)]),
    ]
    count = sum(len(row.trials) for row in methods)
    lead = f"{count} runs of {len(methods)} methods, judged on the same labeled test images, and beside them the sources as they are."
    return Page("Methods compared", lead, blocks)


def verdict(rows: Sequence[Row]) -> Verdict:
    """The method of the fewest flips, and whether it is so in all its runs."""
    column = next((column for column in columns(rows) if column.key in ("excess_flip_rate", "flip_rate")), None)
    measured = [(row, spread) for row in rows if row.translates and column and (spread := row.spread(column.key))]
    if column is None or not measured:
        return Verdict(QUESTION, "Not known", "No run got so far.", "bad")
    winner, least = min(measured, key=lambda each: each[1].mean)
    text = f"{column.head.capitalize()} {percent(least.mean)}, over {_runs(winner)}"
    others = [spread for row, spread in measured if row is not winner]
    if not others:
        return Verdict(QUESTION, winner.method, f"{text}. There is no other to compare it with.")
    second = min(spread.mean for spread in others)
    text += f"; {percent(second)} by the next."
    if any(len(spread.values) == 1 for spread in [least, *others]):
        text += " One run of a method says nothing of chance; give more --seeds, in another --out."
    elif least.high < min(spread.low for spread in others):
        text += " Its worst run is better than the best run of any other."
    else:
        text += " But the runs of others reach into its range: these seeds do not tell them apart for certain."
    return Verdict(QUESTION, winner.method, text + _realism(winner, rows))


def _realism(winner: Row, rows: Sequence[Row]) -> str:
    """How far it came, as what leaves the sources as they are flips nothing."""
    here, before = (next(row for row in rows if row.method == name).spread("frechet") for name in (winner.method, UNTRANSLATED))
    if here is None or before is None:
        return ""
    return f" Its Fréchet distance to the target is {number(here.mean)}; that of the untranslated sources, {number(before.mean)}."


def _runs(row: Row) -> str:
    return "one run" if len(row.done) == 1 else f"{len(row.done)} runs"


def _table(rows: Sequence[Row], wanted: Callable[[Column], bool]) -> Table:
    shown = [column for column in columns(rows) if wanted(column)]
    strong = {column.key: best(rows, column) for column in shown}

    def cell(row: Row, column: Column) -> Cell:
        spread = row.spread(column.key)
        return Cell(column.form(spread.mean), spread.range(column.form), row in strong[column.key]) if spread else Cell(NONE)

    return Table(
        ["method", "seeds", *(column.head for column in shown)],
        [[Cell(row.method), Cell(row.count), *(cell(row, column) for column in shown)] for row in rows],
    )


def _pictures(methods: Sequence[Row], sources: Path, labels: Path, classes: Classes) -> list[Pictures]:
    """Evenly spaced test images: source, label, and the translation of each method."""
    rows, made = [], {row.method: by_name(translations(row.done[0].folder, sources)) for row in methods if row.done}
    for file, source, label in shown(sources, labels, classes):
        pictures = [Picture("source", shrunk(source)), Picture("label", shrunk(label))]
        pictures += [Picture(method, shrunk(read_rgb(images[file.with_suffix("")]))) for method, images in made.items()]
        rows.append(Pictures(file.as_posix(), pictures))
    return rows


def _flips(rows: Sequence[Row], colors: dict[str, Color]) -> list[Section]:
    """A matrix for each method, the mean of its runs'."""
    trials = [trial for row in rows for trial in row.done]
    if not trials:
        return []
    signed = all(trial.metrics and trial.metrics["flips"]["matrix"] is not None for trial in trials)
    note = "Of the pixels labeled with the row's class, how many percent read as the column's"
    note += ", more or less than on real images." if signed else "; the segmenter's own confusion is part of this."
    matrices = [
        Matrix(_names(row.done[0]), mean_matrix([_matrix(trial, signed) for trial in row.done]), row.method, signed, colors=colors)
        for row in rows
        if row.done
    ]
    blocks: list[Block] = list(matrices) if matrices[0].crowded else [Columns(matrices)]
    section = Section("What flips into what", blocks, f"{note} Mean of the runs.")
    return (
        [section] if len(matrices) <= 4 else [Section("What flips into what", [Folded("A matrix for each method", blocks)], section.note)]
    )


def _names(trial: Trial) -> list[str]:
    assert trial.metrics is not None
    return trial.metrics["flips"]["classes"]


def _matrix(trial: Trial, signed: bool) -> list[list[float | None] | None]:
    assert trial.metrics is not None
    return trial.metrics["flips"]["matrix" if signed else "confusion"]


def mean_matrix(matrices: Sequence[list[list[float | None] | None]]) -> list[list[float | None] | None]:
    """Element by element. All are of the same labels, so what is not defined is so in all of them."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return fmean(known) if known else None

    return [
        None if any(row is None for row in lines) else [mean(values) for values in zip(*(row or [] for row in lines), strict=True)]
        for lines in zip(*matrices, strict=True)
    ]


def _classes(rows: Sequence[Row], colors: dict[str, Color]) -> Bars:
    """The methods' IoU, class by class."""
    shown = [row for row in rows if row.done]
    names = _names(shown[0].done[0]) if shown else []

    def amount(row: Row, name: str) -> Amount:
        spread = row.spread(f"iou_{name}")
        return spread.amount if spread else Amount(None)

    return Bars(
        [Bar(name, [amount(row, name) for row in shown], color=colors.get(name)) for name in names], [row.method for row in shown], top=1.0
    )


def _links(rows: Sequence[Row], out: Path) -> list[tuple[str, str]]:
    links = []
    for trial in (trial for row in rows for trial in row.done):
        name, training = f"{trial.method} {trial.name}".strip(), trial.folder / "run/report.html"
        links.append((name, (trial.folder / EVALUATION / "report.html").relative_to(out).as_posix()))
        if training.is_file():
            links.append((f"{name}, training", training.relative_to(out).as_posix()))
    return links
