"""``unflip export``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run or model folder, or a model on the hub.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The ONNX file to write.")],
    direction: Annotated[
        str, typer.Option(metavar="forward|backward", help="backward: target to source, for methods that learn both.")
    ] = "forward",
) -> None:
    """Write a model as one ONNX file, for images of any size, and compare it with PyTorch: for other runtimes, and without PyTorch."""
    from unflip.export.onnx import export_onnx
    from unflip.progress import Bar

    with Bar("exporting", 2) as bar:
        parity = export_onnx(run, out, direction, bar.show)  # type: ignore[arg-type]
        bar.show(2)
    size = out.stat().st_size / 1e6
    typer.echo(f"{out}: {size:.1f} MB; {parity}")
    if not parity.holds:
        raise typer.Exit(1)
