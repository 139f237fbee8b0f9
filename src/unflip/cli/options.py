"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")]
