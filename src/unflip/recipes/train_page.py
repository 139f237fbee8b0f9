"""The report of a training run: how it went, what the last translations look like, and all that it takes to run it again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from unflip.data.images import read_rgb
from unflip.engine.record import EVENTS, LOG, VALIDATION, lines_until
from unflip.losses.balance import BalanceConfig
from unflip.modelcard import NUMBERS, shown
from unflip.modelfolder import ModelConfig
from unflip.report.blocks import Block, Columns, Fact, Facts, Folded, Made, Notes, Section
from unflip.report.charts import Bar, Bars
from unflip.report.curves import Curves
from unflip.report.evaluation import validation_section
from unflip.report.numbers import Amount, number, percent
from unflip.report.page import Page
from unflip.report.pictures import Picture, Row
from unflip.runs import RunConfig, to_yaml

RATES = ("lr", "images_per_second", "contrast", "variety")
"""Of the log: what is no part of a loss."""


def train_page(out: Path, config: RunConfig, model: ModelConfig, chosen: int | None) -> Page:
    """The page of the run folder ``out``; ``chosen``: the images seen by the checkpoint that validation chose."""
    log, validation = _read(out / LOG), _read(out / VALIDATION)
    facts = model.provenance
    parts = sorted({name for line in log for name in line} - {"seen", *RATES})
    numbers = next((point for point in validation if point["seen"] == chosen), {})
    measured = [(key, name[0].upper() + name[1:]) for key, name in NUMBERS.items() if key != "seen" and numbers.get(key) is not None]
    blocks: list[Block] = [
        Facts(
            [
                Fact("Images seen", f"{facts['images_seen']:,}", f"of {config.budget:,}", "source images, as often as shown"),
                *(Fact(name, shown(numbers[key]), "", "of the chosen checkpoint") for key, name in measured),
            ]
        ),
        Notes("Mind this", facts.get("remarks", [])),
        Notes("What happened", [f"At {line['seen']:,} images: {line['event']}" for line in _read(out / EVENTS)]),
    ]
    if validation:
        blocks.append(validation_section(validation, chosen))
    if config.balance is not None:
        blocks.append(_balance(config.balance))
    samples = sorted((out / "samples").glob("*.png"))
    if samples:
        rows = "above source images, below their translations" + ("; then the other direction" if config.sides == 2 else "")
        blocks.append(Section("The last samples", [Row(f"after {int(samples[-1].stem):,} images", [Picture(rows, read_rgb(samples[-1]))])]))
    curves = [Curves(name.replace("_", " "), {name: [(line["seen"], line.get(name)) for line in log]}) for name in parts]
    rates = [name for name in RATES if any(name in line for line in log)]
    speed = [Curves(name.replace("_", " "), {name: [(line["seen"], line.get(name)) for line in log]}) for name in rates]
    note = "Every part of the losses before its weight, averaged between two logs. Adversarial parts that stay even are a game in balance."
    blocks.append(Section("Losses", [Columns(curves), Folded("learning rate, speed and health", [Columns(speed)])], note))
    made = [(name.replace("_", " "), str(value)) for name, value in facts.items() if name not in ("validation", "remarks")]
    blocks.append(Section("How it was made", [Made([*made, ("config.yaml", to_yaml(config))])]))
    lead = f"{config.method}, from {config.data.source} to {config.data.target}, crops of {config.size} pixels, seed {config.seed}."
    return Page(f"Training {out.name}", lead, blocks)


def _balance(balance: BalanceConfig) -> Section:
    """What the discriminator is shown of every class."""
    bars = [Bar(name, [Amount(share) for share in shares]) for name, shares in balance.shares.items()]
    before, after = balance.variation
    note = (
        f"The shares of the classes, measured before training. With weights the target is as the source is, but for a total variation of "
        f"{number(after)} ({number(before)} without), and is worth {percent(balance.effective)} of its places. Read by {balance.segmenter}."
    )
    return Section("The target as the discriminator sees it", [Bars(bars, ("source", "target", "target, weighed"))], note)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_until(path, math.inf)]
