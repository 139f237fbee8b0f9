"""The page of an evaluation: whether anything flipped, what into what, where, and how it was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from unflip.report.blocks import Block, Cell, Color, Columns, Fact, Facts, Folded, Key, Made, Notes, Section, Table
from unflip.report.charts import Bar, Bars
from unflip.report.curves import Curves
from unflip.report.flips import flips_section
from unflip.report.numbers import NONE, Amount, defined, number, percent
from unflip.report.page import Page
from unflip.report.pictures import Comparison, Picture, Row
from unflip.report.temporal import temporal_section
from unflip.report.verdict import unlabeled, verdict

OPEN = 12
"""Cases that are shown at once; the others unfold."""

REALISM = {
    "frechet": ("Fréchet distance", "to the target; 0: the same mean and covariance of features"),
    "kid": ("KID", "kernel distance to the target, unbiased; about 0: the same features"),
    "cmmd": ("CMMD", "kernel distance to the target in CLIP's features; about 0: the same"),
    "lpips": ("LPIPS", "perceptual distance to the source; 0: nothing was changed"),
}


@dataclass(frozen=True)
class Case:
    """One translated image with what was read in it; pictures are ``(H, W, 3)`` uint8, label and reading in the classes' colors.

    ``flip_rate`` is the share of its pixels read as another class than their label, None or NaN where nothing is labeled.
    """

    name: str
    flip_rate: float | None
    source: np.ndarray | None
    translation: np.ndarray
    label: np.ndarray
    reading: np.ndarray
    flips: np.ndarray
    more: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Other pictures by caption, such as a trust map."""
    note: str = ""
    """Said beside its flip rate, such as what flipped most in it."""


def evaluation_page(
    metrics: Mapping[str, Any],
    cases: Sequence[Case],
    *,
    title: str = "What the translations show",
    lead: str = "",
    colors: Mapping[str, Color] | None = None,
    validation: Sequence[Mapping[str, float | None]] = (),
    chosen: int | None = None,
    sections: Sequence[Section] = (),
    steps: Sequence[tuple[str, str]] = (),
) -> Page:
    """The page of a ``metrics.json``.

    Args:
        colors: Of the classes, by name; they stand beside every name.
        validation: Of the training: ``{"seen", "mean_iou", "excess_flip_rate", "frechet"}`` of every checkpoint; None: not measured.
        chosen: The ``seen`` of the checkpoint taken.
        sections: Shown before how it was made.
        steps: Shown first in how it was made.
    """
    colors = colors or {}
    count = f"{metrics['images']:,} translated image{'' if metrics['images'] == 1 else 's'}"
    lead = lead or f"{count}, read by a segmenter and compared with the labels of their sources."
    blocks: list[Block] = [
        verdict(metrics),
        Notes("Mind this", metrics["warnings"]),
        _summary(metrics),
        flips_section(metrics, colors),
        Section(
            "Classes", [_per_class(metrics, colors)], "Intersection over union of reading and label, lowest first, with 95 % intervals."
        ),
    ]
    if cases:
        blocks.append(_cases(metrics, cases, colors))
    if validation:
        blocks.append(validation_section(validation, chosen))
    blocks += [section for section in (_realism(metrics), _reference(metrics), temporal_section(metrics)) if section is not None]
    made = [*steps, *((key.replace("_", " "), _text(value)) for key, value in metrics["made"].items() if value not in (None, ""))]
    return Page(title, lead, [*blocks, *sections, Section("How it was made", [Made(made)])])


def validation_section(validation: Sequence[Mapping[str, float | None]], chosen: int | None) -> Section:
    """Curves of a training's checkpoints, as far as they were measured; ``chosen`` marks the one taken."""
    wanted = (
        ("mean_iou", "Mean IoU", "higher is better", percent),
        ("excess_flip_rate", "Excess flip rate", "lower is better", percent),
        ("frechet", "Fréchet distance", "lower is better", number),
    )
    curves = [
        Curves(name, {name: [(point["seen"] or 0, point.get(key)) for point in validation]}, chosen, form, better)
        for key, name, better, form in wanted
        if any(point.get(key) is not None for point in validation)
    ]
    note = "" if chosen is None else f"The checkpoint at {chosen:,} images seen was chosen."
    return Section("During training", [Columns(curves)], note)


def _summary(metrics: Mapping[str, Any]) -> Facts:
    reader = metrics.get("segmenter") or {}
    real = reader.get("real", reader.get("held_out")) or {}  # metrics.json of before has held-out images only
    excess, by_sources = Amount.of(metrics["excess_flip_rate"]), unlabeled(metrics)
    beyond = "read as another class, beyond what is confused on real images"
    needs = "needs labels" if by_sources else "needs labeled real images"
    other = "in the source" if by_sources else "the label"
    facts = [
        Fact.of("Excess flip rate", excess, percent, needs if excess.value is None else beyond),
        Fact.of("Flip rate", Amount.of(metrics["flip_rate"]), percent, f"read as another class than {other}, for whatever reason"),
        Fact.of("Mean IoU", Amount.of(metrics["mean_iou"]), percent, _ceiling(real.get("mean_iou"), by_sources)),
        Fact.of("Pixel accuracy", Amount.of(metrics["pixel_accuracy"]), percent, _ceiling(real.get("pixel_accuracy"), by_sources)),
        Fact.of("Class accuracy", Amount.of(metrics["class_accuracy"]), percent, "pixel accuracy, every class counting the same"),
    ]
    realism = metrics.get("realism") or {}
    if "frechet" in realism:
        facts.append(Fact.of("Fréchet distance", Amount.of(realism["frechet"]), number, "to the target images; lower is more alike"))
    return Facts(facts)


def _ceiling(value: float | None, by_sources: bool) -> str:
    if by_sources:
        return "of what is read in translation and source"
    return "" if value is None else f"the segmenter on real images: {percent(value)}"


def _per_class(metrics: Mapping[str, Any], colors: Mapping[str, Color]) -> Bars:
    ious = {name: Amount.of(figure) for name, figure in metrics["per_class_iou"].items()}
    order = sorted(ious, key=lambda name: (ious[name].value is None, ious[name].value or 0))
    shares = metrics["class_shares"]
    return Bars([Bar(name, [ious[name]], f"{percent(shares.get(name))} of pixels", colors.get(name)) for name in order], top=1.0)


def _cases(metrics: Mapping[str, Any], cases: Sequence[Case], colors: Mapping[str, Color]) -> Section:
    ordered = sorted(cases, key=lambda case: -1.0 if (rate := defined(case.flip_rate)) is None else rate, reverse=True)
    rows = [_case(case) for case in ordered]
    rates = [image["flip_rate"] for image in metrics["per_image"] if image["flip_rate"] is not None]
    note = "The images that flipped most come first. Drag the line to lay the source over its translation."
    if len(rates) > 1:
        half, worst = percent(median(rates)), percent(max(rates))
        note += f" In half of all {len(rates):,} images at most {half} of the pixels read as another class; in the worst, {worst}."
    shown = {name: color for name, color in colors.items() if metrics["class_shares"].get(name)}
    blocks: list[Block] = [*([Key(shown)] if shown else []), *rows[:OPEN]]
    if rows[OPEN:]:
        blocks.append(Folded(f"{len(rows) - OPEN} more", rows[OPEN:]))
    return Section("Worst images first", blocks, note)


def _case(case: Case) -> Row:
    translation = Picture("translation", case.translation)
    first = translation if case.source is None else Comparison(Picture("source", case.source), translation)
    small = {"label": case.label, "reading of the translation": case.reading, **case.more}
    pictures = [first, Picture("flips", case.flips), *(Picture(caption, pixels) for caption, pixels in small.items())]
    rate = "" if defined(case.flip_rate) is None else f"{percent(case.flip_rate)} of its pixels read as another class"
    return Row(case.name, pictures, "; ".join(part for part in (rate, case.note) if part), large=2)


def _realism(metrics: Mapping[str, Any]) -> Section | None:
    realism = metrics.get("realism")
    if not realism:
        return None
    rows = []
    for key, value in realism.items():
        if isinstance(value, Mapping) or (value is None and key in REALISM):
            amount = Amount.of(value)
            name, meaning = REALISM.get(key, (key.replace("_", " "), ""))
            rows.append([Cell(name), Cell(number(amount.value), strong=True), amount.interval(number) or NONE, meaning])
    note = (
        f"{metrics['images']:,} translations against {realism.get('target_images') or 0:,} target images. "
        f"Features: {realism.get('features') or NONE}. Distances compare only where features and numbers of images are the same."
    )
    return Section("Realism", [Table(["distance", "value", "95 % interval", "meaning"], rows)], note)


def _reference(metrics: Mapping[str, Any]) -> Section | None:
    reference = metrics.get("reference")
    if not reference:
        return None
    within = Fact.of(
        f"Within {reference['delta']}", Amount.of(reference["within"]), percent, "pixels whose channels all differ by less, of 255"
    )
    rmse = Fact.of(
        "RMSE", Amount.of(reference["rmse"]), number, "root of the mean squared distance of two colors; black and white are 441.7 apart"
    )
    return Section("Against the reference", [Facts([within, rmse])], "Compared pixel by pixel with images of the same scenes.")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2 if isinstance(value, dict | list) else None, ensure_ascii=False)
