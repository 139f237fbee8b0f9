"""Trust maps: where does a translation probably still show what its source shows? Judged from the two images alone.

No labels, no segmenter, and nothing of the model: any translator's output can be judged, that of CycleGAN or of another program too.
What the two images, shrunk to a shorter side of 64 pixels, show of each other (:mod:`unflip.inference.clues`) is turned into a probability
by a small convolutional network (:mod:`unflip.networks.trust`). It was fitted on made streets (benchmarks/trust.py, docs/trust.md), where
it is known what flipped. Everywhere else its output is a score that orders pixels rather than a probability.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from unflip.data.images import Array
from unflip.data.transforms import to_network
from unflip.inference.clues import NAMES, clues
from unflip.networks.trust import TrustNetwork
from unflip.tensors import load_exactly, read_tensors

WEIGHTS = Path(__file__).with_name("trust.safetensors")
CALIBRATED_ON = "made streets"
CALLED = "unflip trust map:"
"""So begins the description of a map."""
SHORTER_SIDE = 64
"""Images are shrunk to it, never enlarged: the patches then show as much as those of the images that the network was fitted on."""
MOST_PIXELS = SHORTER_SIDE * 1024
"""Long panoramas are shrunk further, so that memory is bounded."""


def trust_map(source: Array, translation: Array) -> NDArray[np.float32]:
    """The probability at every pixel of a translation that it shows the class that its source shows there.

    Args:
        source: ``(h, w, 3)`` uint8.
        translation: ``(H, W, 3)`` uint8, of the same view.

    Returns:
        ``(H, W)`` in [0, 1]: 1 is trust, 0 probably flipped. A function of the two images only.
    """
    with torch.inference_mode():
        flipped = fitted()(clues_of(source, translation), translation.shape[:2]).sigmoid()
    return (1 - flipped)[0].numpy()


def clues_of(source: Array, translation: Array) -> Tensor:
    """The clues of two images as they are judged, ``(1, C, h, w)``."""
    size = working_size(*translation.shape[:2])
    return clues(shrunk(source, size), shrunk(translation, size))


def trust_png(trust: NDArray[np.float32]) -> bytes:
    """A trust map, ``(H, W)`` in [0, 1], as an 8-bit gray PNG, 255 for trust, that says what it is."""
    info = PngInfo()
    info.add_text("Description", f"{CALLED} 255 trust, 0 probably flipped; a score calibrated on {CALIBRATED_ON}")
    buffer = io.BytesIO()
    Image.fromarray((trust * 255).round().astype(np.uint8)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def is_trust_png(data: bytes) -> bool:
    """Whether a file is one that :func:`trust_png` made."""
    return CALLED.encode() in data


@lru_cache(1)
def fitted() -> TrustNetwork:
    """The network with the weights that are shipped."""
    fitted = TrustNetwork(len(NAMES))
    load_exactly(fitted, read_tensors(WEIGHTS), WEIGHTS)
    return fitted.eval()


def working_size(height: int, width: int) -> tuple[int, int]:
    """The even (height, width), of at least 8, at which an image is judged."""
    scale = min(1.0, SHORTER_SIDE / min(height, width), math.sqrt(MOST_PIXELS / (height * width)))
    rows, columns = (max(8, 2 * round(side * scale / 2)) for side in (height, width))
    most = MOST_PIXELS // min(rows, columns)  # of strips, whose short side was made larger
    return min(rows, most), min(columns, most)


def shrunk(image: Array, size: tuple[int, int]) -> Tensor:
    """``(h, w, 3)`` uint8 to ``(1, 3, *size)`` in [-1, 1], every pixel the mean of those that it replaces."""
    x = to_network(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])
    return x if x.shape[-2:] == size else F.adaptive_avg_pool2d(x, size)
