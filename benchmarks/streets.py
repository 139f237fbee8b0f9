"""Which methods flip where the domains differ in what they show? On made streets, whose truth is known.

    python benchmarks/streets.py --out DIR [--mix urban] [--methods cut,srunit,...] [--seeds 3] [--budget 4000] [--set METHOD:KEY=VALUE]

Source: renders with many trees. Target: photos of other streets, in two mixtures. ``urban``: they have about as many more buildings as they
have fewer trees, so that taking trees for buildings and buildings for trees matches the target best of all. ``leafy``: they have more sky
instead, and no exchange of classes matches. All methods get the same small networks, rate and budget. Translations of held-out renders are
read by a segmenter that was trained on photos of yet other streets, with their labels.

Prints a table in Markdown; DIR/MIX/compare/report.html shows the images. Called again, it goes on where it stopped. ``--draw FILE`` puts
scenes of a comparison (``--name``, also one that ``unflip compare --run`` made) side by side: source, photo of the same scene, translations
of every method's first run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from unflip.data import streets
from unflip.data.images import read_rgb
from unflip.data.save import write
from unflip.errors import Interrupted, UserError
from unflip.recipes.compare import compare
from unflip.recipes.evaluate import evaluate
from unflip.recipes.segmenter import segmenter

WIDTH, HEIGHT, CROP = 96, 64, 48
TRAIN, TEST, JUDGE, JUDGE_TEST = 400, 96, 600, 150
SOURCE = streets.Shares(building=0.45, tree=0.75)
MIXES = {"urban": streets.Shares(building=0.75, tree=0.4), "leafy": streets.Shares(building=0.2, tree=0.3)}

EVERY = ("generator.width=16", "generator.blocks=3", "discriminator.width=32", "discriminator.layers=2", "optimizer.lr=0.0005")
CONTRASTIVE = ("generator.taps=[down2,block1,block3]", "projector.width=64", "nce.patches=64")
"""Of the methods with patches; those that CycleGAN lacks."""
OWN = {
    "cut": ("identity_nce.patches=64",),
    "srunit": ("identity_nce.patches=64", "robustness.patches=64"),
    "semst": ("identity_nce.patches=64", "texture.taps=[down2]"),
}


def make(out: Path, mix: str) -> Path:
    """The scenes of a mixture, and those of the segmenter. No scene is in two sets, but for the photos of the test scenes."""
    data = out / mix
    sets = (
        (data / "train/source", "render", SOURCE, 0, TRAIN, "source_labels"),
        (data / "train/target", "photo", MIXES[mix], 10_000, TRAIN, "target_labels"),
        (data / "test/source", "render", SOURCE, 20_000, TEST, "labels"),
        (data / "test/photos", "photo", SOURCE, 20_000, TEST, None),
        (out / "judge/images", "photo", streets.BALANCED, 50_000, JUDGE, "labels"),
        (out / "judge/test", "photo", streets.BALANCED, 60_000, JUDGE_TEST, "test_labels"),
    )
    for folder, look, shares, first, count, labels in sets:
        if not folder.is_dir() or len(list(folder.glob("*.png"))) < count:
            where = labels and folder.parent / labels
            streets.write(folder, count=count, look=look, shares=shares, first=first, width=WIDTH, height=HEIGHT, labels=where)
    return data


def settings(methods: list[str]) -> list[str]:
    """What is set in every method, and in some."""
    contrastive = [method for method in methods if method != "cyclegan"]
    some = [f"{','.join(contrastive)}:{setting}" for setting in CONTRASTIVE] if contrastive else []
    return [*EVERY, *some, *(f"{method}:{setting}" for method in methods for setting in OWN.get(method, ()))]


def draw(data: Path, comparison: Path, file: Path, rows: int = 6) -> None:
    """Evenly spaced test scenes, a row each, enlarged twice."""
    found = [sorted(method.glob("*/translated")) for method in sorted(comparison.iterdir())]
    runs = [each[0].parent for each in found if each]
    columns = [data / "test/source", data / "test/photos", *(run / "translated" for run in runs)]
    names = sorted(path.name for path in columns[0].glob("*.png"))
    picked = [names[i * len(names) // rows] for i in range(rows)]
    grid = np.concatenate([np.concatenate([read_rgb(folder / name) for folder in columns], axis=1) for name in picked])
    write(file, grid.repeat(2, 0).repeat(2, 1))
    print(f"{file}: source, photo, {', '.join(run.parent.name for run in runs)}")


def main() -> None:
    """The study; what stops it is one line."""
    try:
        study()
    except (UserError, Interrupted) as stopped:
        sys.exit(str(stopped))


def study() -> None:
    """Make what is not there, train, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mix", choices=MIXES, default="urban")
    parser.add_argument("--methods", default="cut,srunit,semst,fastcut,cyclegan")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=4_000)
    parser.add_argument("--name", default="compare", help="of the folder, for several studies of one mixture")
    parser.add_argument("--set", action="append", default=[], metavar="METHOD:KEY=VALUE")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="draw a comparison that is there, and do nothing else")
    asked = parser.parse_args()
    data = make(asked.out, asked.mix)
    if asked.draw:
        draw(data, data / asked.name, asked.draw)
        return
    judge = asked.out / "segmenter"
    if not judge.is_dir():
        images, labels, classes = (asked.out / "judge" / name for name in ("images", "labels", "classes.json"))
        test = {"test_images": asked.out / "judge/test", "test_labels": asked.out / "judge/test_labels"}
        segmenter(images, labels, classes, judge, budget=9_600, size=f"{WIDTH}x{HEIGHT}", batch=8, device=asked.device, **test)
    if not (data / "photos").is_dir():
        found = evaluate(
            data / "test/photos", data / "test/labels", judge, data / "photos", target=data / "train/target", device=asked.device
        )
        print("photos of the test scenes, which nothing translated:", *found.lines(), sep="\n")
    methods = asked.methods.split(",")
    found = compare(
        data / asked.name,
        test_source=data / "test/source",
        test_labels=data / "test/labels",
        segmenter=judge,
        methods=methods,
        source=data / "train/source",
        target=data / "train/target",
        seeds=asked.seeds,
        budget=asked.budget,
        size=CROP,
        settings=[*settings(methods), *asked.set],
        device=asked.device,
    )
    print(found.markdown)


if __name__ == "__main__":
    main()
