"""A trained segmenter that a run asks and never trains."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from unflip.data.labels import Classes
from unflip.errors import UserError
from unflip.losses.precision import at_least_float32
from unflip.segmenterfolder import SegmenterModel, read_segmenter
from unflip.tensors import digest


class FixedSegmenter(nn.Module):
    """A trained segmenter that nothing trains or saves again: it is not among the modules of this one. Gradients pass through it."""

    lookup: Tensor

    def __init__(self, network: nn.Module, lookup: Tensor) -> None:
        super().__init__()
        self._held = (network.requires_grad_(False).eval(),)
        self.register_buffer("lookup", lookup, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        images = at_least_float32(images)  # before its precision decides that of the weights
        return self._held[0].to(images)(images)

    def digest(self) -> str:
        """Of the segmenter's weights."""
        return digest(self._held[0].state_dict())

    def ids(self, labels: Tensor) -> Tensor:
        """The run's class ids as the segmenter's; -1 stays -1."""
        return self.lookup[labels]  # the last place is for -1


def fixed(model: SegmenterModel, path: Path, classes: Classes | None = None) -> FixedSegmenter:
    """``model``, which is in ``path``, for a run's ``classes``; None: its own."""
    own = model.config.classes
    return FixedSegmenter(model.network, lookup(own, classes or own, path))


def lookup(known: Classes, classes: Classes, path: Path) -> Tensor:
    """The segmenter's id of every class of the run, by name, and -1 for ignored ones and for "none" at the end.

    ``known``: the segmenter's classes. It does not know those that it ignores: no pixel taught it what they look like.
    """
    ids = {known.names[i]: i for i in known.kept}
    counted = [name if i in classes.kept else None for i, name in enumerate(classes.names)]
    missing = [name for name in counted if name is not None and name not in ids]
    if missing:
        what = f"the segmenter does not know the class {missing[0]}, {path}; it knows {', '.join(ids)}"
        raise UserError(f"{what}; ignore {missing[0]} in the run's classes, or name another segmenter")
    return torch.tensor([*(-1 if name is None else ids[name] for name in counted), -1])


def unfit(path: Path, resize: str, classes: Classes | None) -> str | None:
    """Why the segmenter in ``path`` cannot be asked by a run with ``data.resize=resize`` and these ``classes``; None: it can.

    Its weights are not touched.
    """
    try:
        known = read_segmenter(path)[1]
        lookup(known.classes, classes or known.classes, path)
    except UserError as error:
        return str(error)
    if known.resize != resize:  # things would be of another size than it has learned
        what = f"the segmenter {path} reads images at resize {known.resize}, but data.resize is {resize}"
        return f"{what}; set data.resize={known.resize}, or name a segmenter for {resize}"
    return None
