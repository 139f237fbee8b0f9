"""``unflip bench``"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from unflip.cli.options import Device


def bench(
    method: Annotated[str, typer.Option(metavar="NAME", help="A method of `unflip methods`.")] = "srunit",
    size: Annotated[str, typer.Option(metavar="PIXELS", help="Of the training crops: 256 or 512x256.")] = "256",
    batch: Annotated[int, typer.Option(metavar="B", help="Images per step.")] = 1,
    steps: Annotated[int, typer.Option(metavar="N", help="Steps to measure, after two that are not counted.")] = 5,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(metavar="auto|32|bf16", help="bf16: where the device has it.")] = "auto",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any field of the config, such as generator.width=32.")
    ] = None,
) -> None:
    """How fast is it here? Training and translation, operations, memory, and the share of the machine's peak: one JSON line."""
    from unflip.recipes.bench import bench as run
    from unflip.recipes.bench import configure

    config = configure(method, size=size, batch=batch, device=device, precision=precision, settings=settings or [])
    typer.echo(json.dumps(run(config, steps=steps)))
