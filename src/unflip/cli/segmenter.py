"""``unflip segmenter``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unflip.cli.options import CLASSES, Batch, ClassWeights, Crops, Device, Network, Precision, Resize


def segmenter(
    images: Annotated[Path, typer.Option(metavar="DIR", help="Images to learn from: a folder, searched in depth, or a text list.")],
    labels: Annotated[Path, typer.Option(metavar="DIR", help="Their label maps, matched by relative path.")],
    classes: Annotated[Path, typer.Option(metavar="FILE|NAME", help=CLASSES)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.")],
    budget: Annotated[int, typer.Option(metavar="N", help="Images to see.")] = 20_000,
    test_images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images to measure it on.  [default: the last fifth of --images, not learned from]")
    ] = None,
    test_labels: Annotated[Path | None, typer.Option(metavar="DIR", help="Their label maps.")] = None,
    model: Network = "unet",
    weights: ClassWeights = "balanced",
    resize: Resize = "none",
    size: Crops = None,
    batch: Batch = 4,
    unlabeled: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images without labels to learn from, too, by self-training: of the target.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="K", help="All random choices follow from it.")] = 0,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Train the network that reads classes off images, and measure it on images that it has not seen."""
    from unflip.evaluation.confusion import mean_iou, pixel_accuracy
    from unflip.recipes.segmenter import segmenter as run

    reading = run(
        images,
        labels,
        classes,
        out,
        budget=budget,
        test_images=test_images,
        test_labels=test_labels,
        model=model,
        weights=weights,
        resize=resize,
        size=size,
        batch=batch,
        seed=seed,
        device=device,
        precision=precision,
        unlabeled=unlabeled,
        say=lambda line: typer.echo(line, err=True),
    )
    figures = ", ".join(
        f"{name} {reading.figure(of).value:.3f}" for name, of in (("pixel accuracy", pixel_accuracy), ("mean IoU", mean_iou))
    )
    typer.echo(f"{out}: {figures} on {reading.images:,} held-out images; more in {out / 'README.md'}")
