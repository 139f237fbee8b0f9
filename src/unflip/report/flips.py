"""The section on what flips into what: the flip matrix as a picture, and the largest flips as bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unflip.report.blocks import Block, Color, Columns, Folded, Section, Text
from unflip.report.charts import CROWDED, Bar, Bars, Matrix, Values
from unflip.report.numbers import Amount, percent
from unflip.report.verdict import Flip, counted, top_flips, unjudged, unlabeled

TOP, LEAST = 6, 0.005
"""How many flips are listed at most, and from which share of the class's pixels on: that which the matrix shows as 1 %."""


def flips_section(metrics: Mapping[str, Any], colors: Mapping[str, Color]) -> Section:
    """The flip matrix of a ``metrics.json``, or the plain confusion where no real images are known; and the flips of the most pixels."""
    flips = _worst_first(metrics["flips"])
    known = flips["matrix"] is not None
    top = [flip for flip in top_flips(metrics) if flip.excess >= LEAST][:TOP]
    sets = ("on translations", "on real images") if known else ("on translations",)
    bars = Bars([_bar(flip, counted(metrics), colors) for flip in top], sets, ("bad", "soft"))
    if known:
        shown = Matrix(flips["classes"], flips["matrix"], "In percent of the row's pixels, more or less than on real images", colors=colors)
        note = (
            "How much more often (red) or less often (blue) pixels of a class are read as another class, on translations than on real "
            "images. Where nothing flipped there is no color."
        )
    else:
        shown = Matrix(flips["classes"], flips["confusion"], "In percent of the row's pixels", signed=False, colors=colors)
        why = "There were no labeled real images" if not unlabeled(metrics) else "The class is what is read in the source, not a label"
        note = f"What pixels of a class are read as, on translations. {why}, so the segmenter's own confusion is part of this."
    if shown.crowded:
        note += " The classes that flip most come first."
    nothing = "Nothing is read as another class" + (" more often than on real images." if known else ".")
    listed: Block = bars if top else Text([nothing])
    blocks: list[Block] = [listed, shown] if shown.crowded else [Columns([shown, listed])]
    missing = unjudged(metrics)
    if missing:
        blocks.append(Text([f"No real image shows {', '.join(missing)}, so their flips cannot be told from confusion."], "soft"))
    if known:
        parts = (("on translations", flips["confusion"]), ("on real images", flips["real"]))
        both = [
            Matrix(flips["classes"], rows, f"The segmenter's reading {where}, in percent of the row's pixels", False, colors=colors)
            for where, rows in parts
        ]
        blocks.append(Folded("The two confusions that this is the difference of", [Columns(both)] if not shown.crowded else both))
    return Section("What flips into what", blocks, note)


def _bar(flip: Flip, of: str, colors: Mapping[str, Color]) -> Bar:
    amounts = [Amount(flip.translated)] if flip.real is None else [Amount(flip.translated), Amount(flip.real)]
    return Bar(f"{flip.source} → {flip.target}", amounts, f"{percent(flip.of_all)} of {of}", colors.get(flip.target))


def _worst_first(flips: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where the classes are too many to be seen at once, those that flip most first; else as they are."""
    count = len(flips["classes"])
    if count <= CROWDED:
        return flips
    rows = flips["matrix"] if flips["matrix"] is not None else flips["confusion"]
    worst = [0.0] * count
    for i, row in enumerate(rows):
        for j, value in enumerate(row or ()):
            if i != j:
                worst[i], worst[j] = max(worst[i], value or 0), max(worst[j], value or 0)
    order = sorted(range(count), key=lambda i: -worst[i])

    def ordered(matrix: Values | None) -> Values | None:
        if matrix is None:
            return None
        return [None if (row := matrix[i]) is None else [row[j] for j in order] for i in order]

    return {"classes": [flips["classes"][i] for i in order], **{key: ordered(flips[key]) for key in ("confusion", "real", "matrix")}}
