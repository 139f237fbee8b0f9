"""The demo: the whole story on mismatched made streets, from the question whether two domains match to a report of what flipped."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from unflip.data import streets
from unflip.data.images import read_rgb
from unflip.errors import Interrupted, UserError
from unflip.evaluation.confusion import mean_iou, pixel_accuracy
from unflip.files import make_folder
from unflip.inference.folders import translate_folder, trust_folder
from unflip.inference.translator import load
from unflip.recipes.audit import audit
from unflip.recipes.evaluate import evaluate
from unflip.recipes.segmenter import segmenter
from unflip.recipes.train import configure, train
from unflip.report.blocks import Notes, Section
from unflip.report.evaluation import evaluation_page
from unflip.report.links import Links
from unflip.report.page import write as write_page
from unflip.report.pictures import Picture, Row

WIDTH, HEIGHT = 96, 64
SCENES, JUDGED, HELD_OUT = 400, 240, 32
SEGMENTER_BUDGET = 1_600
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


PULL = ("nce.weight=10",)
"""Apart from SETTINGS, which benchmarks take as they are; the identity half is left out already."""


def demo(out: Path, say: Callable[[str], None] = print, budget: int = 1_800) -> Path:
    """Run it all in ``out`` and return the path of the report.

    Raises:
        UserError: ``out`` is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is not empty; choose another folder")
    clock = _Clock()
    make_folder(out)

    say("making streets: green renders with labels as source, urban photos as target")
    _make_streets(out)
    clock.lap("streets")
    try:
        say("training a segmenter on labeled photos of other streets: it is to read what images show")
        reading = segmenter(
            out / "judge/photos",
            out / "judge/labels",
            out / "judge/classes.json",
            out / "segmenter",
            budget=SEGMENTER_BUDGET,
            size=f"{WIDTH}x{HEIGHT}",
            device="cpu",
            say=say,
        )
        clock.lap("segmenter")
        say("audit: do the domains match?")
        source, target = out / "train/source", out / "train/target"
        found = audit(
            source,
            target,
            source_labels=out / "train/source_labels",
            classes=out / "train/classes.json",
            segmenter=out / "segmenter",
            out=out / "audit",
            device="cpu",
            progress=False,
        )
        say(f"{found.verdict}: {found.reason}")
        clock.lap("audit")
        settings = (*SETTINGS, *PULL)
        config = configure("srunit", source=source, target=target, size=HEIGHT, budget=budget, device="cpu", settings=settings)
        run = train(config, out / "run", say=say)
        clock.lap("training")
    except Interrupted as stopped:
        raise Interrupted(f"stopped; remove {out} before the next demo", stopped.exit_code) from None

    say("translating scenes that the network has not seen")
    translated = translate_folder(load(run, device="cpu"), out / "test/source", out / "translated", trust=True)
    least = min(translated.trust, key=translated.trust.__getitem__)
    say(f"least trusted, as trust maps say without labels: {least}")
    clock.lap("translation")
    say("did anything flip?")
    result = evaluate(
        out / "translated",
        out / "test/source_labels",
        out / "segmenter",
        out / "evaluation",
        source=out / "test/source",
        target=out / "train/target",
        device="cpu",
        progress=False,
    )
    for line in result.lines():
        say(line)
    clock.lap("evaluation")

    judge = f"pixel accuracy {reading.figure(pixel_accuracy).value:.3f}, mean IoU {reading.figure(mean_iou).value:.3f}"
    photos = [Picture("a target photo", read_rgb(path)) for path in sorted((out / "train/target").glob("*.png"))[:6]]
    truth = [Picture("never shown", read_rgb(path)) for path in sorted((out / "test/as_photo").glob("*.png"))[:6]]
    page = evaluation_page(
        result.metrics,
        result.cases,
        title="From renders to photos, without pairs",
        lead=(
            "Source: rendered streets with many trees. Target: photos of streets with many buildings; no photo shows a rendered scene. "
            f"SRUNIT learned to translate one into the other in {clock.times['training']:.0f} seconds. Do the source's labels still fit?"
        ),
        colors=result.colors,
        sections=[
            Section("Before training: do the domains match?", [Notes(f"{found.verdict}: {found.reason}", found.advice, "plain")]),
            Section(
                "What the target looks like",
                [Row("photos of other streets", photos), Row("the first translated scenes as photos, for comparison", truth)],
            ),
            Section("More", [Links([("the audit", "audit/report.html"), ("the evaluation alone", "evaluation/report.html")])]),
        ],
        steps=[
            ("data", f"{SCENES} renders, {SCENES} photos, {JUDGED} labeled photos for the segmenter, {HELD_OUT} renders to translate"),
            ("segmenter", f"{judge} on photos that it has not seen"),
            ("train", f"unflip train --config {out}/run/config.yaml --out AGAIN"),
            ("translate", f"unflip translate {out}/run {out}/test/source --out AGAIN --trust"),
            ("trust maps", f"in {trust_folder(out / 'translated')}; the least trusted image is {least}"),
            ("times", ", ".join(f"{name} {seconds:.0f} s" for name, seconds in clock.times.items())),
        ],
    )
    return write_page(page, out / "report.html")


class _Clock:
    """How long each part took, in seconds."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self.last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.times[name], self.last = now - self.last, now


def _make_streets(out: Path) -> None:
    scenes = partial(streets.write, width=WIDTH, height=HEIGHT)
    scenes(out / "train/source", count=SCENES, look="render", shares=SOURCE, labels=out / "train/source_labels")
    scenes(out / "train/target", count=SCENES, look="photo", shares=TARGET, first=SCENES)
    held_out = partial(scenes, count=HELD_OUT, shares=SOURCE, first=2 * SCENES)
    held_out(out / "test/source", look="render", labels=out / "test/source_labels")
    held_out(out / "test/as_photo", look="photo")
    scenes(out / "judge/photos", count=JUDGED, look="photo", first=3 * SCENES, labels=out / "judge/labels")
