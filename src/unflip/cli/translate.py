"""``unflip translate``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unflip.cli.options import Device

LEAST = 5
"""Images that are named as the least trusted."""


def translate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder or a model folder.")],
    images: Annotated[Path, typer.Argument(metavar="INPUT", help="An image, a folder searched in depth, or a text list.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.")],
    trust: Annotated[
        bool, typer.Option("--trust", help="Write OUT_trust beside OUT: where each translation probably flipped (dark), without labels.")
    ] = False,
    direction: Annotated[
        str, typer.Option(metavar="forward|backward", help="backward: target to source, for methods that learn both.")
    ] = "forward",
    device: Device = "auto",
) -> None:
    """Translate an image or a folder: same relative names, same sizes."""
    from unflip.inference.folders import translate_folder, trust_folder
    from unflip.inference.translator import load
    from unflip.inference.trust import CALIBRATED_ON

    translator = load(run, device=device, direction=direction)  # type: ignore[arg-type]
    outcome = translate_folder(translator, images, out, trust=trust)
    skipped = f", {outcome.skipped} already there" if outcome.skipped else ""
    typer.echo(f"{out}: {outcome.done} translated{skipped}")
    if outcome.trust:
        least = sorted(outcome.trust.items(), key=lambda item: item[1])[:LEAST]
        typer.echo(f"{trust_folder(out).name}: {len(outcome.trust)} trust maps, a score calibrated on {CALIBRATED_ON}; look first at")
        for name, mean in least:
            typer.echo(f"  {mean:.2f}  {name}")
    for line in outcome.failed:
        typer.echo(f"failed: {line}", err=True)
    if outcome.failed:
        raise typer.Exit(1)
