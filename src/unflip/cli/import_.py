"""``unflip import``"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file of a published generator, such as latest_net_G.pth.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The model folder to write.")],
    backward: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The other direction's, for --direction backward: latest_net_G_B.pth beside G_A.")
    ] = None,
    resize: Annotated[
        str,
        typer.Option(
            metavar="none|short:N|WxH", help="Resize images before they are translated, and back after, as the network knows them."
        ),
    ] = "none",
) -> None:
    """Weights of others: a generator of CUT, CycleGAN, SRUNIT or pix2pix becomes a model folder. No code of the file is run."""
    from unflip.recipes.imports import import_weights

    found = import_weights(file, out, backward=backward, resize=resize)
    typer.echo(f"{found.what}; translate with: unflip translate {shlex.quote(str(out))} INPUT --out DIR")
