"""A trained model as a transform: wherever a data set takes one of torchvision's, it takes this."""

from __future__ import annotations

import random
import sys
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unflip.errors import UserError
from unflip.inference.translator import Translator, load


class Translate:
    """``Translate("runs/first")``, alone or in ``torchvision.transforms.v2.Compose``: translates the images of a sample, leaves its labels.

    A sample is an image, or tuples, lists and dictionaries of anything, as torchvision's transforms (version 2) take it. Its images are
    those that they would change: PIL images and ``tv_tensors.Image``; without any, the first tensor of at least three dimensions, or array
    of three, of floats, uint8 or uint16. Masks, boxes, ids and all else come back as they are. Images are translated as
    :class:`unflip.Translator` does it, at their size.

    Args:
        model: a translator, or a run folder, model folder or ONNX file.
        p: the probability with which a sample is translated; all its images are, or none. It is drawn from ``torch``'s generator where
            PyTorch is loaded, so that it follows the seeds of loader workers, else from Python's ``random``.
        device: of a model that is given by its path. Loader workers that are forked cannot use a GPU: use "cpu" there, or
            translate in the training loop.

    Raises:
        UserError: no model there, ``p`` outside of [0, 1], or, when called, a sample without an image.
    """

    def __init__(self, model: Translator | str | Path, p: float = 1.0, device: str = "cpu") -> None:
        if not isinstance(p, int | float) or not 0 <= p <= 1:
            raise UserError(f"not a probability, p={p}; use 0 to 1")
        self.translator = model if isinstance(model, Translator) else load(model, device=device)
        self.p = p

    def __call__(self, *sample: Any) -> Any:
        if not sample:
            raise UserError("no sample; give an image, or what holds one")
        given = sample if len(sample) > 1 else sample[0]
        marked = [each for each in _leaves(given) if _is_image(each)]
        chosen = marked or [each for each in _leaves(given) if _may_be_image(each)][:1]
        if not chosen:
            raise UserError(f"no image to translate in a {type(given).__name__}; give a PIL image, a tensor or an array with colors")
        if self.p < 1 and _drawn() >= self.p:
            return given
        known = {id(each): self._translated(each) for each in chosen}
        return _replaced(given, known)

    def _translated(self, image: Any) -> Any:
        made: Any = self.translator(image)
        if type(image) is type(made) or isinstance(image, Image.Image):
            return made
        from torchvision import tv_tensors

        return tv_tensors.wrap(made, like=image)

    def __repr__(self) -> str:
        return f"Translate({str(getattr(self.translator, 'folder', ''))!r}, p={self.p})"


def _leaves(sample: Any) -> list[Any]:
    if isinstance(sample, dict):
        return [leaf for each in sample.values() for leaf in _leaves(each)]
    if isinstance(sample, list | tuple):
        return [leaf for each in sample for leaf in _leaves(each)]
    return [sample]


def _replaced(sample: Any, known: dict[int, Any]) -> Any:
    if id(sample) in known:
        return known[id(sample)]
    if isinstance(sample, dict):
        made = copy(sample)  # whatever its type wants to be made of
        made.update((key, _replaced(each, known)) for key, each in sample.items())
        return made
    if isinstance(sample, tuple) and hasattr(sample, "_fields"):
        return type(sample)(*(_replaced(each, known) for each in sample))
    if isinstance(sample, list | tuple):
        return type(sample)(_replaced(each, known) for each in sample)
    return sample


def _is_image(value: Any) -> bool:
    """Whether it says so itself. Tensors that say so are torchvision's, which is then loaded."""
    tv_tensors = sys.modules.get("torchvision.tv_tensors")
    return isinstance(value, Image.Image) or (tv_tensors is not None and isinstance(value, tv_tensors.Image))


def _may_be_image(value: Any) -> bool:
    torch = sys.modules.get("torch")
    if torch is not None and type(value) is torch.Tensor:  # masks and boxes of torchvision are subclasses
        return value.ndim >= 3 and (value.is_floating_point() or value.dtype in (torch.uint8, torch.uint16))
    return isinstance(value, np.ndarray) and value.ndim == 3 and value.dtype.name in ("uint8", "uint16", "float32", "float64")


def _drawn() -> float:
    torch = sys.modules.get("torch")
    return float(torch.rand(())) if torch is not None else random.random()
