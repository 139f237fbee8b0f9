"""Whether clips flicker: their warping error beside that of their sources."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from unflip.report.blocks import Block, Fact, Facts, Folded, Section
from unflip.report.charts import Bar, Bars
from unflip.report.curves import Curves
from unflip.report.numbers import Amount, number

OPEN = 12
"""Clips that are shown at once; the others unfold."""


def temporal_section(metrics: Mapping[str, Any]) -> Section | None:
    """Of a ``metrics.json``; None where no clips were given."""
    temporal = metrics.get("temporal")
    if not temporal:
        return None
    own, excess = Amount.of(temporal["source_warping_error"]), Amount.of(temporal["excess_warping_error"])
    facts = Facts(
        [
            Fact.of("Excess", excess, number, "what the translation changes from frame to frame beyond what its source does"),
            Fact.of("Warping error", Amount.of(temporal["warping_error"]), number, _gray(temporal["warping_error"]["value"])),
            Fact.of("Pumping", Amount.of(temporal["pumping"]), number, "the part of it that all pixels have in common"),
            Fact.of("Of the sources", own, number, "noise, light, and motion that is not known exactly"),
        ]
    )
    clips = sorted(temporal["per_clip"], key=lambda clip: clip["warping_error"] or 0.0, reverse=True)
    bars = [
        Bar(clip["clip"], [Amount(clip["warping_error"]), Amount(clip["source_warping_error"])], f"{clip['frames']:,} frames")
        for clip in clips
    ]
    blocks: list[Block] = [facts, _curves(clips[0])]
    if len(bars) > 1:
        blocks.append(Bars(bars[:OPEN], ("translation", "source"), form=number, top=_longest(bars)))
    if bars[OPEN:]:
        rest = Bars(bars[OPEN:], ("translation", "source"), form=number, top=_longest(bars))
        blocks.append(Folded(f"{len(bars) - OPEN} more clips", [rest]))
    note = (
        "Frames are laid over the frame before along the motion of the source, and compared where both show the same: the mean squared "
        f"distance of colors from 0 to 1. Motion by {temporal['flow']}; {temporal['visible']:.0%} of the pixels can be seen in both."
    )
    return Section("Flicker", blocks, note)


def _curves(clip: Mapping[str, Any]) -> Curves:
    over_time = clip["over_time"]
    parts = len(over_time["translation"])
    places = [(i + 0.5) * (clip["frames"] - 1) / max(parts, 1) for i in range(parts)]
    series = {name: list(zip(places, over_time[name], strict=True)) for name in ("translation", "source")}
    return Curves(clip["clip"] or "the clip", series, note="lower is steadier", across="frames")


def _gray(value: float | None) -> str:
    """What the mean square means, in gray values."""
    return "" if value is None else f"as if every pixel changed by {number(255 * math.sqrt(value / 3))} of 255 gray values"


def _longest(bars: list[Bar]) -> float:
    return max((amount.value or 0 for bar in bars for amount in bar.amounts), default=0) or 1.0
