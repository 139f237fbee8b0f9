"""``unflip evaluate``"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from unflip.cli.options import Device, Features, LabelClasses, RealImages, RealLabels


def evaluate(
    context: typer.Context,
    translated: Annotated[Path, typer.Option(metavar="DIR", help="The translated images, searched in depth.")],
    segmenter: Annotated[str, typer.Option(metavar="M", help="What reads the classes: a segmenter's folder or a hub id.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write: metrics.json and report.html.")],
    labels: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Label maps of their sources, by relative path.  [default: as M reads --source]"),
    ] = None,
    target: Annotated[Path | None, typer.Option(metavar="DIR", help="Target images, for the realism.")] = None,
    source: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The source images, for the report, and to be read where there are no labels.")
    ] = None,
    reference: Annotated[Path | None, typer.Option(metavar="DIR", help="What the translations ought to be, pixel by pixel.")] = None,
    clips: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Translated videos, or a folder of frames for each: do they flicker?")
    ] = None,
    source_clips: Annotated[Path | None, typer.Option(metavar="DIR", help="Their sources, by the same names.")] = None,
    real_images: RealImages = None,
    real_labels: RealLabels = None,
    classes: LabelClasses = None,
    features: Features = "segmenter",
    lpips: Annotated[bool, typer.Option("--lpips", help="LPIPS to the source, too; downloads its weights.")] = False,
    require: Annotated[
        list[str] | None, typer.Option(metavar="METRIC=VALUE", help="Exit with 1 unless it is reached, such as mean_iou=0.3.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Did anything flip? Read translations with a segmenter and compare them with their labels: metrics.json and report.html."""
    from unflip.errors import UserError
    from unflip.recipes.evaluate import evaluate as run

    bars = {}
    for text in require or ():
        name, _, value = text.partition("=")
        try:
            bars[name.strip()] = float(value)
            if not math.isfinite(bars[name.strip()]):  # whatever is compared with NaN holds
                raise ValueError
        except ValueError:
            raise UserError(f"--require {text}: expected METRIC=VALUE, such as mean_iou=0.3") from None
    result = run(
        translated,
        labels,
        segmenter,
        out,
        source=source,
        target=target,
        reference=reference,
        clips=clips,
        source_clips=source_clips,
        real_images=real_images,
        real_labels=real_labels,
        classes=classes,
        features=features,
        lpips=lpips,
        require=bars,
        device=device,
        command=context.obj,
    )
    for line in result.lines():
        typer.echo(line)
    for line in result.broken:
        typer.echo(f"not reached: {line}", err=True)
    if result.broken:
        raise typer.Exit(1)
