"""``unflip adapt``"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from unflip.cli.options import CLASSES, Batch, ClassWeights, Crops, Device, Network, Precision, Resize


def adapt(
    context: typer.Context,
    translated: Annotated[
        list[str], typer.Option(metavar="[NAME=]DIR", help="Translations to learn from; several sets with a name each, to compare them.")
    ],
    labels: Annotated[Path, typer.Option(metavar="DIR", help="Label maps of their sources, matched by relative path.")],
    test_images: Annotated[Path, typer.Option(metavar="DIR", help="Real images of the target to test on, which nothing learns from.")],
    test_labels: Annotated[Path, typer.Option(metavar="DIR", help="Their label maps.")],
    classes: Annotated[Path, typer.Option(metavar="FILE|NAME", help=CLASSES)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write, or to go on with.")],
    source: Annotated[Path | None, typer.Option(metavar="DIR", help="The untranslated images: to compare with.")] = None,
    target: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Real images without labels: for color transfer, the cheap rival, and self-training.")
    ] = None,
    target_labels: Annotated[Path | None, typer.Option(metavar="DIR", help="Their labels: for the ceiling, and for --shots.")] = None,
    self_training: Annotated[bool, typer.Option("--self-training", help="Learn from --target as well, by pseudo-labels.")] = False,
    shots: Annotated[
        str, typer.Option(metavar="K,K", help="Pre-train on translations, fine-tune on K labeled target images; such as 5,20,100.")
    ] = "",
    seeds: Annotated[int, typer.Option(metavar="N", help="Networks of each kind.")] = 3,
    budget: Annotated[int, typer.Option(metavar="N", help="Images that each training sees.")] = 20_000,
    model: Network = "unet",
    weights: ClassWeights = "balanced",
    resize: Resize = "none",
    size: Crops = None,
    batch: Batch = 4,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Does it help downstream? Train networks on translations, on the sources, and on what rivals make of them; test on real images."""
    from unflip.recipes.adapt import adapt as run

    result = run(
        _sets(translated),
        labels,
        test_images,
        test_labels,
        classes,
        out,
        source=source,
        target=target,
        target_labels=target_labels,
        self_training=self_training,
        shots=_numbers(shots),
        seeds=seeds,
        budget=budget,
        model=model,
        weights=weights,
        resize=resize,
        size=size,
        batch=batch,
        device=device,
        precision=precision,
        say=lambda line: typer.echo(line, err=True),
        command=context.obj,
    )
    typer.echo(result.markdown)
    typer.echo(f"{out / 'report.html'}: open it in a browser")
    if result.failed:
        raise typer.Exit(1)


def _sets(given: list[str]) -> dict[str, Path]:
    """``NAME=DIR`` by name; what begins with no name is a folder, and the only one."""
    from unflip.errors import UserError
    from unflip.recipes.adapt_plan import TRANSLATED

    found: dict[str, Path] = {}
    for text in given:
        named = None if Path(text).exists() else re.fullmatch(r"([^=/\\]+)=(.+)", text)
        name, folder = (named[1], named[2]) if named else (TRANSLATED, text)
        if name in found:
            raise UserError(f"--translated {text}: there is a set {name} already; give each its own name, NAME=DIR")
        found[name] = Path(folder)
    return found


def _numbers(text: str) -> list[int]:
    from unflip.errors import UserError

    try:
        return [int(number) for number in text.split(",") if number.strip()]
    except ValueError:
        raise UserError(f"--shots {text}: numbers are expected, such as 5,20,100") from None
