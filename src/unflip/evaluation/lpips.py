"""LPIPS: how far a translation is from its source, as people see it (Zhang et al., CVPR 2018). Low where little changed, good or bad."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from unflip.data.folders import Entry
from unflip.data.images import Array, read_rgb
from unflip.data.transforms import to_network
from unflip.devices import enough_memory
from unflip.errors import MissingExtra, UserError
from unflip.evaluation.confusion import Floats
from unflip.evaluation.features import channels_first, reason

Backbone = Literal["alex", "vgg"]
SMALLEST = 32
"""The least side of an image, in pixels."""


def refuse_small(images: Sequence[Entry]) -> None:
    """Raise ``UserError`` where one is too small for LPIPS."""
    small = next((image for image in images if min(image.width, image.height) < SMALLEST), None)
    if small is not None:
        size = f"{small.width}x{small.height}"
        raise UserError(f"LPIPS sees nothing in images smaller than {SMALLEST} pixels, {small.path} ({size}); go without LPIPS")


class Lpips:
    """The distance of two images ``(H, W, 3)`` uint8 of one size, at that size, by torchmetrics: 0 for the same image.

    ``backbone``: ``alex``, which published figures use, or ``vgg``; torchvision's ImageNet weights, downloaded once (233 and 528 MB).

    Raises:
        UserError: the weights cannot be downloaded.
        MissingExtra: a package is missing.
    """

    def __init__(self, backbone: Backbone = "alex", device: torch.device | str = "cpu") -> None:
        try:
            import torchvision.models as models
        except ImportError:
            raise MissingExtra("torchvision", "metrics") from None
        try:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
        except ImportError:
            raise MissingExtra("torchmetrics", "metrics") from None
        weights = {"alex": models.AlexNet_Weights, "vgg": models.VGG16_Weights}[backbone].IMAGENET1K_V1
        try:
            # torchvision unpickles whatever the file holds. After this, it is known to hold nothing but tensors.
            weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except Exception as error:  # also what a download that was cut short raises when it is read
            raise UserError(f"weights of LPIPS not downloadable, {weights.url} ({reason(error)}); go without LPIPS") from error
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are loaded
            self.metric = LearnedPerceptualImagePatchSimilarity(backbone, reduction="none").to(device)
        self.device = torch.device(device)

    def of_files(self, translated: Sequence[Path], sources: Sequence[Path], progress: Callable[[int], None] = lambda done: None) -> Floats:
        """The distance of every translation to its source, ``(n,)``; ``progress(done)`` is called after each.

        Raises:
            UserError: the two images of a pair differ in size, or are too small, or cannot be read.
        """
        distances = []
        for path, source in zip(translated, sources, strict=True):
            try:
                distances.append(self(read_rgb(path), read_rgb(source)))
            except ValueError as error:
                raise UserError(f"{error}, {path} and {source}; go without LPIPS") from error
            progress(len(distances))
        return np.array(distances)

    @torch.inference_mode()
    def __call__(self, translated: Array, source: Array) -> float:
        if translated.shape != source.shape:
            sizes = " and ".join(f"{width}x{height}" for height, width in (translated.shape[:2], source.shape[:2]))
            raise ValueError(f"a translation and its source differ in size ({sizes})")
        if min(translated.shape[:2]) < SMALLEST:
            raise ValueError(f"LPIPS sees nothing in images smaller than {SMALLEST} pixels")
        height, width = source.shape[:2]
        with enough_memory(self.device, f"for LPIPS of {width}x{height} pixels", "go without LPIPS, or use --device cpu"):
            x, y = (to_network(channels_first(image))[None].to(self.device) for image in (translated, source))
            return float(self.metric.net(x, y))
