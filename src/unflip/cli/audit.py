"""``unflip audit``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unflip.cli.options import CLASSES, Device


def audit(
    context: typer.Context,
    source: Annotated[Path, typer.Option(metavar="DIR", help="Source images: a folder, searched in depth, or a text list.")],
    target: Annotated[Path, typer.Option(metavar="DIR", help="Target images: a folder, searched in depth, or a text list.")],
    source_labels: Annotated[Path | None, typer.Option(metavar="DIR", help="Label maps of the source, matched by relative path.")] = None,
    target_labels: Annotated[Path | None, typer.Option(metavar="DIR", help="Label maps of the target, matched by relative path.")] = None,
    classes: Annotated[Path | None, typer.Option(metavar="FILE|NAME", help=CLASSES)] = None,
    segmenter: Annotated[
        str | None, typer.Option(metavar="M", help="Reads the classes of a domain without labels: a segmenter's folder or a hub id.")
    ] = None,
    balance: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Choose images whose mixtures match: DIR/source.txt and DIR/target.txt, to train on.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder to write: audit.json and report.html.")] = None,
    device: Device = "auto",
) -> None:
    """Do the domains match at all? Bad files, copies, and what is likely to flip: before training."""
    from unflip.recipes.audit import audit as run
    from unflip.recipes.audit import text

    result = run(
        source,
        target,
        source_labels=source_labels,
        target_labels=target_labels,
        classes=classes,
        segmenter=segmenter,
        balance=balance,
        out=out,
        device=device,
        command=context.obj,
    )
    for line in text(result):
        typer.echo(line)
    bad = result.source.bad + result.target.bad
    for line in bad:
        typer.echo(f"bad: {line}", err=True)
    if bad:
        raise typer.Exit(1)
