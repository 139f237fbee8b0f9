"""``unflip translate``"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unflip.cli.options import Device

if TYPE_CHECKING:
    from unflip.inference.outcome import Outcome

LEAST = 5
"""Images that are named as the least trusted."""


def translate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run or model folder, an ONNX file, or a model on the hub.")],
    images: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="An image, a video, a folder searched in depth, a text list, tar shards, a URL, or a data set of Hugging Face.",
        ),
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="The folder to write, or its URL.")],
    trust: Annotated[
        bool, typer.Option("--trust", help="Write OUT_trust beside OUT: where each translation probably flipped (dark), without labels.")
    ] = False,
    labels: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="The label maps: copied, not translated; outside of INPUT to OUT_labels beside OUT."),
    ] = None,
    annotations: Annotated[
        str, typer.Option(metavar="copy|link|none", help="What to do with the annotations, splits and label maps of INPUT.")
    ] = "copy",
    column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a data set of Hugging Face: its images.  [default: the first column of images]")
    ] = None,
    direction: Annotated[
        str, typer.Option(metavar="forward|backward", help="backward: target to source, for methods that learn both.")
    ] = "forward",
    device: Device = "auto",
    tile: Annotated[
        str,
        typer.Option(metavar="auto|none|PIXELS", help="Translate by tiles of this side; auto: where an image is too large for the memory."),
    ] = "auto",
    statistics: Annotated[
        str,
        typer.Option(
            metavar="exact|estimated|frame",
            help="Of the norms, where there are tiles: of the whole image, or of some (faster); of videos: of the clip, or of each frame.",
        ),
    ] = "exact",
    depth: Annotated[
        str | None,
        typer.Option(
            metavar="uint8|uint16|float32", help="Of the translations.  [default: that of the target's images]", show_default=False
        ),
    ] = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Share the work by Ray: on the cluster that RAY_ADDRESS names, else on all of this machine.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Of Ray, at most.  [default: one for each GPU, or core where there are none]")
    ] = None,
) -> None:
    """Translate an image, a video, a folder or shards: same relative names, same sizes; bands and depth of the target's images."""
    from unflip.errors import UserError
    from unflip.inference.folders import How, here, translate_folder, trust_place
    from unflip.inference.translator import load
    from unflip.inference.trust import CALIBRATED_ON

    if workers is not None and not ray:
        raise UserError("--workers counts the workers of Ray; add --ray")
    how: How = here
    if ray:
        from unflip.inference.scale import on_ray

        how = on_ray(workers, device)
    where = "cpu" if ray else device
    side = int(tile) if tile.isdecimal() else tile
    translator = load(run, device=where, direction=direction, tile=side, statistics=statistics, depth=depth)  # type: ignore[arg-type]
    given: Any = annotations  # checked there
    outcome = translate_folder(translator, images, out, trust=trust, labels=labels, annotations=given, column=column, how=how)
    skipped = f", {outcome.skipped} already there" if outcome.skipped else ""
    typer.echo(f"{out}: {outcome.done} translated{skipped}")
    if outcome.trust:
        least = sorted(outcome.trust.items(), key=lambda item: item[1])[:LEAST]
        maps = str(trust_place(out)).rpartition("/")[2]
        typer.echo(f"{maps}: {len(outcome.trust)} trust maps, a score calibrated on {CALIBRATED_ON}; look first at")
        for name, mean in least:
            typer.echo(f"  {mean:.2f}  {name}")
    for line in _of_the_data_set(outcome):
        typer.echo(line)
    for line in outcome.failed:
        typer.echo(f"failed: {line}", err=True)
    if outcome.failed:
        raise typer.Exit(1)


def _of_the_data_set(outcome: Outcome) -> Iterator[str]:
    """What was done with the files beside the images, where there were any."""
    for what, count in (("copied", outcome.copied), ("linked to", outcome.linked)):
        if count:
            yield f"{count} files of the data set {what}"
    if outcome.turned and (outcome.copied or outcome.linked):
        yield f"{outcome.turned} images turned upright, as their EXIF orientation asks for, but not their annotations; check that they fit"
    for folder, count in outcome.labels.items():
        yield f"{folder}: {count} label maps, as their names and colors say; not translated"
    if outcome.left:
        files = ", ".join(f"{count} {ending}" for ending, count in sorted(outcome.left.items()))
        yield f"not copied, as they are no annotations: {files}"
