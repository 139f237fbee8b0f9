"""The page of an audit: whether two domains match, what is likely to flip, and what to do about their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unflip.report.blocks import Block, Cell, Color, Fact, Facts, Folded, Made, Notes, Section, Table, Text, Tone, Verdict
from unflip.report.charts import Bar, Bars
from unflip.report.numbers import NONE, Amount, number, percent
from unflip.report.page import Page
from unflip.report.pictures import Picture, Row

QUESTION = "Do the domains match?"
TONES: dict[str, Tone] = {"matched": "good", "mildly mismatched": "fair", "strongly mismatched": "bad", "unknown": "plain"}
SIDES = ("source", "target")


@dataclass(frozen=True)
class Shown:
    """A row of pictures, ``(H, W, 3)`` uint8, each under its caption."""

    title: str
    pictures: Sequence[tuple[str, np.ndarray]]

    @property
    def row(self) -> Row:
        """As a block."""
        return Row(self.title, [Picture(caption, pixels) for caption, pixels in self.pictures])


def audit_page(
    audit: Mapping[str, Any], examples: Sequence[Shown], copies: Sequence[Shown], colors: Mapping[str, Color] | None = None
) -> Page:
    """The page of an ``audit.json``, with ``examples`` of both domains and of ``copies`` in them; ``colors`` of the classes, by name."""
    counts = " and ".join(f"{audit[side]['images']:,} {side} images" for side in SIDES)
    blocks: list[Block] = [
        Verdict(QUESTION, audit["verdict"].capitalize(), _sentence(audit["reason"]), TONES[audit["verdict"]]),
        Notes("What to do", [_sentence(line) for line in audit["advice"]], "plain"),
        _summary(audit),
    ]
    if audit["shares"] is not None:
        blocks += [_flips(audit["shares"], colors or {}), _shares(audit["shares"], audit["read"], colors or {})]
    blocks += [Section("Examples", [shown.row for shown in examples]), _files(audit)]
    if copies:
        note = "Neighboring frames of a video look nearly alike, and that is no error: they only teach less than their number says."
        blocks.append(Section("Copies", [shown.row for shown in copies], note))
    made = [(key.replace("_", " "), str(value)) for key, value in audit["made"].items() if value]
    return Page("Two domains before training", f"{counts}.", [*blocks, Section("How it was made", [Made(made)])])


def _summary(audit: Mapping[str, Any]) -> Facts:
    shares, looks = audit["shares"], audit["looks"]
    facts = []
    if shares is not None:
        chance = f"random splits: {number(shares['by_chance'])}, 95 % of them below {number(shares['by_chance_95'])}"
        about = "between the class shares: 0 for equal mixtures, 1 for those that share no class"
        facts.append(Fact("Total variation", number(shares["total_variation"]), chance, about, TONES[audit["verdict"]]))
    if audit["balance"] is not None:
        counts = f"{audit['balance']['source']:,} source and {audit['balance']['target']:,} target images"
        facts.append(
            Fact("After choosing", number(audit["balance"]["total_variation"]), counts, "total variation of the images in the lists")
        )
    if looks is not None and looks["times"] is not None:
        about = "Fréchet distance of color statistics, as a multiple of that of two halves of the target"
        facts.append(Fact("Looks apart", f"{number(looks['times'])} ×", f"{looks['images']:,} images each", about))
    for side in SIDES:
        bad = len(audit[side]["bad"])
        detail = f"and {bad:,} that cannot be used" if bad else "all can be used"
        facts.append(Fact(f"{side.capitalize()} images", f"{audit[side]['images']:,}", detail, tone="bad" if bad else "plain"))
    return Facts(facts)


def _flips(shares: Mapping[str, Any], colors: Mapping[str, Color]) -> Section:
    rows: list[list[Cell | str]] = [
        [
            Cell(flip["name"], strong=True, color=colors.get(flip["name"])),
            percent(flip["source"]),
            percent(flip["target"]),
            ", ".join(f"{name} ({percent(part)})" for name, part in flip["into"].items()),
        ]
        for flip in shares["flips"]
    ]
    if not rows:
        return Section(
            "What is likely to flip", [Text(["No class covers more of the source than of the target, beyond what chance makes."])]
        )
    note = (
        "A discriminator sees too much of a class in the source, and the generator can please it by drawing another. Into which is an "
        "estimate: one of which the target has more, rather one that stands at like heights in the image. Of the pixels not ignored."
    )
    return Section("What is likely to flip", [Table(["class", "in the source", "in the target", "likely to be turned into"], rows)], note)


def _shares(shares: Mapping[str, Any], read: Mapping[str, str], colors: Mapping[str, Color]) -> Section:
    bars = [Bar(name, [Amount(p), Amount(shares["target"][name])], color=colors.get(name)) for name, p in shares["source"].items()]
    if shares["ignored"] is not None:
        bars.append(Bar("(ignored)", [Amount(share) for share in shares["ignored"]]))
    note = f"Of all pixels, every image counting the same. Source: {read['source']}. Target: {read['target']}."
    return Section("What they show", [Bars(bars, SIDES)], note)


def _files(audit: Mapping[str, Any]) -> Section:
    both = [audit[side] for side in SIDES]
    kinds = list(dict.fromkeys(kind for files in both for kind in files["kinds"]))
    rows = [
        ["images", *(f"{files['images']:,}" for files in both)],
        ["cannot be used", *(f"{len(files['bad']):,}" for files in both)],
        ["different sizes", *(f"{files['sizes']:,}" for files in both)],
        *([f"{side}, smallest / median / largest", *(" / ".join(map(str, files[side])) for files in both)] for side in ("width", "height")),
        *([kind, *(f"{files['kinds'].get(kind, 0):,}" for files in both)] for kind in kinds),
        ["copies of others, exactly", *(f"{files['copies']['exact']:,}" for files in both)],
        ["copies of others, nearly", *(f"{files['copies']['near']:,}" for files in both)],
        ["source images that are in the target, exactly / nearly", f"{audit['both']['exact']:,} / {audit['both']['near']:,}", NONE],
    ]
    blocks: list[Block] = [Table(["", *SIDES], rows)]
    for side, files in zip(SIDES, both, strict=True):
        if files["bad"]:
            blocks.append(
                Folded(f"{len(files['bad']):,} {side} images that cannot be used", [Notes("What is wrong with them", files["bad"], "bad")])
            )
    return Section("Files", blocks)


def _sentence(line: str) -> str:
    return f"{line[0].upper()}{line[1:]}."
