"""``unflip compare``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unflip.cli.options import Device, Features, LabelClasses, RealImages, RealLabels


def compare(
    context: typer.Context,
    test_source: Annotated[Path, typer.Option(metavar="DIR", help="Source images to translate and judge, best none that is trained on.")],
    test_labels: Annotated[Path, typer.Option(metavar="DIR", help="Their label maps, matched by relative path.")],
    segmenter: Annotated[str, typer.Option(metavar="M", help="What reads the classes: a segmenter's folder or a hub id.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write, or to go on with.")],
    source: Annotated[Path | None, typer.Option(metavar="DIR", help="Source images to train on.")] = None,
    target: Annotated[Path | None, typer.Option(metavar="DIR", help="Target images to train on.")] = None,
    methods: Annotated[str, typer.Option(metavar="NAME,NAME", help="Methods to train, of `unflip methods`.")] = "",
    seeds: Annotated[int, typer.Option(metavar="N", help="Runs of each method.")] = 3,
    budget: Annotated[int | None, typer.Option(metavar="N", help="Source images that each run sees.")] = None,
    size: Annotated[str | None, typer.Option(metavar="PIXELS", help="Of the training crops: 256 or 512x256.  [default: 256]")] = None,
    batch: Annotated[int | None, typer.Option(metavar="B", help="Images per step.  [default: 1]")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="[METHOD:]KEY=VALUE", help="A field of every method's config; or of one: cut:nce.patches=64."),
    ] = None,
    val_source: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images to validate on, by which each run's checkpoint is chosen.")
    ] = None,
    val_labels: Annotated[Path | None, typer.Option(metavar="DIR", help="Label maps of the validation images.")] = None,
    val_target: Annotated[Path | None, typer.Option(metavar="DIR", help="Target images for the validation's Fréchet distance.")] = None,
    runs: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="NAME=RUN", help="A trained run or model to judge too; several of one name: its seeds."),
    ] = None,
    test_target: Annotated[Path | None, typer.Option(metavar="DIR", help="Target images for the realism.  [default: --target]")] = None,
    real_images: RealImages = None,
    real_labels: RealLabels = None,
    classes: LabelClasses = None,
    features: Features = "segmenter",
    device: Device = "auto",
) -> None:
    """Train methods with several seeds, or take trained runs, and judge all alike: one table, as Markdown, CSV and a page."""
    from unflip.errors import UserError
    from unflip.recipes.compare import compare as run

    taken = []
    for text in runs or ():
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise UserError(f"--run {text}: expected NAME=RUN, such as cut=runs/cut")
        taken.append((name.strip(), Path(path)))
    result = run(
        out,
        test_source=test_source,
        test_labels=test_labels,
        segmenter=segmenter,
        methods=[name.strip() for name in methods.split(",") if name.strip()],
        source=source,
        target=target,
        seeds=seeds,
        budget=budget,
        size=size,
        batch=batch,
        settings=settings or (),
        val_source=val_source,
        val_labels=val_labels,
        val_target=val_target,
        runs=taken,
        test_target=test_target,
        classes=classes,
        features=features,
        real_images=real_images,
        real_labels=real_labels,
        device=device,
        say=lambda line: typer.echo(line, err=True),
        command=context.obj,
    )
    typer.echo(result.markdown)
    typer.echo(f"{out / 'report.html'}: open it in a browser")
    if result.failed:
        raise typer.Exit(1)
