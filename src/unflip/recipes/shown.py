"""The test images that pages show: the same ones whatever is compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unflip.data.folders import find_images, relative_names
from unflip.data.images import Array, read_rgb
from unflip.data.labels import IGNORED, Classes, match_labels, read_labels
from unflip.evaluation.pictures import colored

SHOWN = 6


def by_name(images: Path) -> dict[Path, Path]:
    """The images of a folder by their names in it, less the endings, in which translations can differ from their sources."""
    paths = find_images(images)
    return {name.with_suffix(""): path for name, path in zip(relative_names(paths, images), paths, strict=True)}


def shown(images: Path, labels: Path, classes: Classes) -> Iterator[tuple[Path, Array, Array]]:
    """Evenly spaced images: the name below the folder, the image, and its label in the colors of the classes, ``(H, W, 3)`` uint8 each."""
    paths = find_images(images)
    names, maps = relative_names(paths, images), match_labels(paths, images, labels, classes)
    for i in np.unique(np.linspace(0, len(paths) - 1, SHOWN).round().astype(int)).tolist():
        ids = read_labels(maps[i], classes)
        yield names[i], read_rgb(paths[i]), colored(np.where(ids < 0, IGNORED, ids).astype(np.uint8), classes)
