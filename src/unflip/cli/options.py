"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unflip.data.known import KNOWN

SETS = f"or a known set: {', '.join(KNOWN)}; several of the same classes: NAME+NAME."
CLASSES = f"classes.json of the labels: names, palette, ignored ids; {SETS}"

Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")]

# of the verbs that judge translations

RealImages = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Real images that show what the segmenter confuses anyway.  [default: its held-out ones]")
]
RealLabels = Annotated[Path | None, typer.Option(metavar="DIR", help="Their label maps.")]
LabelClasses = Annotated[
    Path | None, typer.Option(metavar="FILE|NAME", help=f"classes.json of the labels; {SETS}  [default: the segmenter's]")
]
Features = Annotated[
    str, typer.Option(metavar="NAME", help="For the realism: segmenter, inception, dinov2 or clip; the last three also NAME:PATH.")
]

# of the verbs that train segmenters

Network = Annotated[
    str,
    typer.Option(
        metavar="unet|ID", help="unet: from scratch. Or to go on from: a segmenter's folder, a transformers model's, or OWNER/NAME."
    ),
]
ClassWeights = Annotated[
    str, typer.Option(metavar="balanced|plain", help="Of the classes. balanced: rare ones count more, by the root of their rarity.")
]
Resize = Annotated[str, typer.Option(metavar="none|short:N|WxH", help="Resize images before anything else.")]
Crops = Annotated[str | None, typer.Option(metavar="PIXELS", help="Of the crops: 256 or 512x256.  [default: up to 256]")]
Batch = Annotated[int, typer.Option(metavar="B", help="Images per step.")]
Precision = Annotated[str, typer.Option(metavar="auto|32|bf16", help="bf16: where the device has it.")]
