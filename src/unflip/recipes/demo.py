"""The demo: mismatched made streets, SRUNIT trained on them, held-out scenes translated, and a report to look at."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from unflip.data import streets
from unflip.data.images import read_rgb
from unflip.errors import Interrupted, UserError
from unflip.files import make_folder
from unflip.inference.folders import translate_folder
from unflip.inference.translator import load
from unflip.recipes.train import configure, train
from unflip.report.page import Page, Picture, Row, write

WIDTH, HEIGHT = 96, 64
SCENES, HELD_OUT, SHOWN = 400, 32, 8
SOURCE = streets.Shares(building=0.45, tree=0.75)
TARGET = streets.Shares(building=0.75, tree=0.4)

SETTINGS = (
    # small networks and few patches, so that two CPU cores take some 70 ms for a step; a discriminator of smaller patches, for textures
    "generator.width=16",
    "generator.blocks=3",
    "generator.taps=[down2,block1,block3]",
    "discriminator.width=32",
    "discriminator.layers=2",
    "projector.width=64",
    "nce.patches=64",
    "robustness.patches=64",
    "robustness.every=4",
    # these steps are all there is: a high rate, and photos shown as their own translations, which teaches the decoder fast
    "optimizer.lr=0.001",
    "nce.weight=1",
    "identity_nce.weight=0",
    "identity.weight=10",
)


def demo(out: Path, say: Callable[[str], None] = print, budget: int = 2_100) -> Path:
    """Run it all in ``out`` and return the path of the report.

    Raises:
        UserError: ``out`` is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is not empty; choose another folder")
    began = time.monotonic()
    times: dict[str, float] = {}
    make_folder(out)

    say("making streets: green renders as source, urban photos as target")
    _make_streets(out)
    times["data"] = time.monotonic() - began

    config = configure(
        "srunit",
        source=out / "train/source",
        target=out / "train/target",
        size=HEIGHT,
        budget=budget,
        device="cpu",
        settings=SETTINGS,
    )
    try:
        run = train(config, out / "run", say=say)
    except Interrupted as stopped:
        raise Interrupted(f"stopped; remove {out} before the next demo", stopped.exit_code) from None
    times["training"] = time.monotonic() - began - sum(times.values())

    say("translating scenes that the network has not seen")
    translate_folder(load(run, device="cpu"), out / "test/source", out / "translated")
    times["translation"] = time.monotonic() - began - sum(times.values())
    return _report(out, times)


def _make_streets(out: Path) -> None:
    scenes = partial(streets.write, width=WIDTH, height=HEIGHT)
    scenes(out / "train/source", count=SCENES, look="render", shares=SOURCE, labels=out / "train/source_labels")
    scenes(out / "train/target", count=SCENES, look="photo", shares=TARGET, first=SCENES)
    held_out = partial(scenes, count=HELD_OUT, shares=SOURCE, first=2 * SCENES)
    held_out(out / "test/source", look="render", labels=out / "test/source_labels")
    held_out(out / "test/as_photo", look="photo")


def _report(out: Path, times: dict[str, float]) -> Path:
    rows = []
    for path in sorted((out / "test/source").glob("*.png"))[:SHOWN]:
        folders = {
            "source (render)": "test/source",
            "its labels": "test/source_labels",
            "translation": "translated",
            "the same scene as a photo, never shown": "test/as_photo",
        }
        rows.append(
            Row(f"scene {int(path.stem)}", [Picture(caption, read_rgb(out / folder / path.name)) for caption, folder in folders.items()])
        )
    logged = [json.loads(line) for line in (out / "run/log.jsonl").read_text().splitlines()]
    targets = [Picture("a target photo", read_rgb(path)) for path in sorted((out / "train/target").glob("*.png"))[:4]]
    page = Page(
        title="From renders to photos, without pairs",
        lead=(
            "Source: rendered streets with many trees. Target: photos of streets with many buildings; no photo shows a rendered "
            "scene. SRUNIT learned to translate one into the other while keeping what the images show, so the source's labels "
            f"({', '.join(streets.CLASSES)}) still fit the translations below. None of these scenes was seen in training."
        ),
        facts={
            "images seen": f"{logged[-1]['seen']:,}",
            "made streets": f"{times['data']:.0f} s",
            "training": f"{times['training']:.0f} s",
            "translation": f"{times['translation']:.1f} s for {HELD_OUT}",
        },
        rows=[*rows, Row("what the target looks like: photos of other streets", targets)],
        steps=[
            ("data", f"{SCENES} + {SCENES} scenes of {WIDTH} x {HEIGHT}"),
            ("train", f"unflip train --config {out}/run/config.yaml --out AGAIN"),
            ("translate", f"unflip translate {out}/run {out}/test/source --out AGAIN"),
        ],
    )
    return write(page, out / "report.html")
