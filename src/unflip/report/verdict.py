"""What flipped into what, in words: read off the matrices of ``metrics.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from unflip.report.blocks import Tone, Verdict
from unflip.report.numbers import Amount, percent

MUCH, SOME = 0.05, 0.01
"""From these shares of the labeled pixels on, flips are called much, or a little."""

QUESTION = "Did anything flip?"


class Flip(NamedTuple):
    """Pixels labeled ``source`` that are read as ``target``: shares of the class's pixels, on translations and on real images."""

    source: str
    target: str
    translated: float
    real: float | None
    of_all: float
    """Of all labeled pixels of the translations; beyond what is confused on real images, where that is known."""

    @property
    def excess(self) -> float:
        """Beyond what is confused on real images, where that is known."""
        return self.translated - (self.real or 0)


def top_flips(metrics: Mapping[str, Any]) -> list[Flip]:
    """What flips, most pixels first; against real images where they are known, and then only what is beyond them."""
    flips = metrics["flips"]
    names, confusion, real = flips["classes"], flips["confusion"], flips["real"]
    found = []
    for i, name in enumerate(names):
        share = metrics["class_shares"].get(name) or 0
        for j, translated in enumerate(confusion[i] or ()):
            if i == j or translated is None:
                continue
            before = _entry(real, i, j)
            if real is not None and before is None:
                continue  # a class that no real image shows: its flips cannot be told from confusion
            flip = Flip(name, names[j], translated, before, share * (translated - (before or 0)))
            if flip.of_all > 0:
                found.append(flip)
    return sorted(found, key=lambda flip: -flip.of_all)


def unjudged(metrics: Mapping[str, Any]) -> list[str]:
    """Classes that translations are labeled with and no real image shows."""
    flips = metrics["flips"]
    if flips["real"] is None:
        return []
    rows = zip(flips["classes"], flips["confusion"], flips["real"], strict=True)
    return [name for name, confusion, real in rows if _known(confusion) and not _known(real)]


def unlabeled(metrics: Mapping[str, Any]) -> bool:
    """Whether no labels were given, so that what the segmenter reads in the sources stands for them."""
    made = metrics.get("made") or {}
    return "labels" in made and made["labels"] is None


def counted(metrics: Mapping[str, Any]) -> str:
    """The pixels that shares are of, in words: label maps can leave some out, and what is read in the sources leaves out none."""
    return "all pixels" if unlabeled(metrics) else "the labeled pixels"


def verdict(metrics: Mapping[str, Any]) -> Verdict:
    """Whether anything flipped, how much, and what most."""
    raw, excess = Amount.of(metrics["flip_rate"]), Amount.of(metrics["excess_flip_rate"])
    top = next(iter(top_flips(metrics)), None)
    if excess.value is None:
        return _unknown(raw, top, metrics)
    tone, answer = _judge(excess, top)
    missing = unjudged(metrics)
    rate = f"{percent(raw.value)} of the labeled pixels"
    text = f"{rate} read as another class than their label: no more than the segmenter confuses on real images."
    if excess.value > 0:
        interval = excess.interval(percent)
        judged = "the pixels of classes that real images show" if missing else "the labeled pixels"
        rate = f"{percent(excess.value)} of {judged}{f' ({interval})' if interval else ''}"
        text = f"{rate} read as another class than their label, beyond what the segmenter confuses on real images."
    if missing:
        seen = sum(share or 0 for name, share in metrics["class_shares"].items() if name not in missing)
        text += f" Classes that real images show are {percent(seen)} of the labeled pixels."
    if top is not None:
        where = f"in {percent(top.translated)} of its pixels, against {percent(top.real)} on real images"
        text += f" Most of all, {top.source} reads as {top.target}: {where}."
    return Verdict(QUESTION, answer, text, tone)


def _judge(excess: Amount, top: Flip | None) -> tuple[Tone, str]:
    shown = excess.value if excess.value is not None and (excess.low is None or excess.low > 0) else 0
    what = f": {top.source} reads as {top.target}" if top is not None else ""
    if shown >= MUCH:
        return "bad", f"Yes{what}"
    # flips and better reading elsewhere can cancel in the rate
    if shown >= SOME or (top is not None and top.of_all >= SOME):
        return "fair", f"A little{what}"
    return "good", "No, nothing beyond the segmenter’s own confusion"


def _unknown(raw: Amount, top: Flip | None, metrics: Mapping[str, Any]) -> Verdict:
    text = "How much of it is the segmenter’s own confusion, only labeled real images can tell, and there were none."
    if unlabeled(metrics):
        text = "What the segmenter reads in the sources stands for labels. How much of it is its own confusion, only labels can tell."
    if top is not None:
        text = f"Most of all, {top.source} reads as {top.target}, in {percent(top.translated)} of its pixels. {text}"
    other = "in their source" if unlabeled(metrics) else "their label"
    how_much = "" if raw.value is None else f": {percent(raw.value)} of {counted(metrics)} read as another class than {other}"
    return Verdict(QUESTION, f"Not known{how_much}", text)


def _entry(rows: Any, i: int, j: int) -> float | None:
    return None if rows is None or rows[i] is None else rows[i][j]


def _known(row: Any) -> bool:
    return row is not None and any(value is not None for value in row)
