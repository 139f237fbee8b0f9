"""``unflip train``"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from unflip.cli.options import CLASSES
from unflip.torchrun import leads


def train(
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run folder to write.")],
    source: Annotated[Path | None, typer.Option(metavar="DIR", help="Source images: a folder, searched in depth, or a text list.")] = None,
    target: Annotated[Path | None, typer.Option(metavar="DIR", help="Target images: a folder, searched in depth, or a text list.")] = None,
    method: Annotated[str | None, typer.Option(metavar="NAME", help="A method of `unflip methods`.  [default: srunit]")] = None,
    size: Annotated[str | None, typer.Option(metavar="PIXELS", help="Of the training crops: 256 or 512x256.  [default: 256]")] = None,
    budget: Annotated[int | None, typer.Option(metavar="N", help="Source images to see.  [default: the paper's epochs]")] = None,
    batch: Annotated[int | None, typer.Option(metavar="B", help="Images per step.  [default: 1]")] = None,
    seed: Annotated[int | None, typer.Option(metavar="K", help="All random choices follow from it.  [default: 0]")] = None,
    device: Annotated[str | None, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.  [default: auto]")] = None,
    precision: Annotated[str | None, typer.Option(metavar="auto|32|bf16", help="bf16: where the device has it.  [default: auto]")] = None,
    init: Annotated[Path | None, typer.Option(metavar="RUN", help="Start from another run's weights.")] = None,
    source_labels: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Label maps of the source, by relative path: for --balance, or else for the term semantic."),
    ] = None,
    classes: Annotated[Path | None, typer.Option(metavar="FILE|NAME", help=CLASSES)] = None,
    balance: Annotated[
        Path | None,
        typer.Option(metavar="M", help="A segmenter that reads the target: weigh its places so that classes have the source's shares."),
    ] = None,
    val_source: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images to validate on, by which the run's checkpoint is chosen.")
    ] = None,
    val_labels: Annotated[Path | None, typer.Option(metavar="DIR", help="Label maps of the validation images.")] = None,
    segmenter: Annotated[Path | None, typer.Option(metavar="M", help="What reads the validation's translations.")] = None,
    val_target: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Target images for the validation's Fréchet distance; without it, mean IoU decides.")
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option("--track", metavar="NAME", help="Tell mlflow or wandb, too, of the run as it goes; can be given several times."),
    ] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="A config.yaml, whole or in part.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any field of the config, such as generator.width=32.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or begin it where there is none yet.")] = False,
) -> None:
    """Train a translation from source to target into a run folder."""
    from unflip.errors import UserError
    from unflip.recipes.resume import holds_run
    from unflip.recipes.train import configure
    from unflip.recipes.train import train as run

    given = {
        "source": source,
        "target": target,
        "size": size,
        "budget": budget,
        "batch": batch,
        "seed": seed,
        "device": device,
        "precision": precision,
        "init": init,
        "source_labels": source_labels,
        "classes": classes,
        "balance": balance,
        "val_source": val_source,
        "val_labels": val_labels,
        "segmenter": segmenter,
        "val_target": val_target,
        "trackers": track or None,
    }
    if resume and config is None:
        if holds_run(out):
            config = out / "config.yaml"
        elif source is None:
            raise UserError(f"--out {out} holds no run to resume")
    chosen = configure(method, file=config, settings=settings or (), **given)
    # by print, which the progress bar lets pass above itself; typer.echo would write into it
    run(chosen, out, resume=resume, say=lambda line: print(line, file=sys.stderr))
    if leads():
        typer.echo(f"{out}: model in {out / 'model'}; translate with: unflip translate {out} INPUT --out DIR")
