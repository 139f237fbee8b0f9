"""A pool of earlier translations for the discriminator."""

from __future__ import annotations

import torch
from torch import Tensor

from unflip.seeding import numpy_rng


class ImagePool:
    """Half of what it returns are translations of earlier steps. Shrivastava et al., "Learning from simulated images", CVPR 2017.

    While it fills, images pass unchanged. Full, it returns the new image, or, half the time, an old one whose place the new one takes.
    """

    def __init__(self, size: int, seed: int, side: str) -> None:
        self.size, self.seed, self.side = size, seed, side
        self.images: list[Tensor] = []

    def query(self, images: Tensor, first: int) -> Tensor:
        """The images ``(N, C, H, W)`` to show instead of the new ``images``, of which the first has the running number ``first``."""
        if not self.size:
            return images
        shown = []
        for i, image in enumerate(images.nan_to_num()):  # what a step that is not taken made must not come back
            if len(self.images) < self.size:
                self.images.append(image.clone())  # a view would keep its whole batch alive
            else:
                rng = numpy_rng(self.seed, "pool", self.side, first + i)
                if rng.random() < 0.5:
                    place = int(rng.integers(self.size))
                    image, self.images[place] = self.images[place], image.clone()
            shown.append(image)
        return torch.stack(shown)
