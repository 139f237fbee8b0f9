"""Made street scenes with exact per-pixel labels, in two looks: a flat rendering and a textured, lit "photo".

A scene is a list of flat faces in meters, seen by a driver: x to the right, y up from the ground, z ahead. The faces are drawn far
to near, so nearer things hide farther ones; :mod:`.surface` and :mod:`.photo` paint them. The layout and the look draw from separate
random streams, so the two looks of one scene differ in every color and in no label. That gives an unpaired benchmark whose truth is
known: train on scenes of different indices (or different :class:`Shares`), then compare with the aligned other look.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image

from unflip.data.streets.layout import Shares, layout
from unflip.data.streets.photo import paint_photo
from unflip.data.streets.surface import paint_render, rasterize
from unflip.errors import UserError
from unflip.files import make_folder, write_bytes, write_json
from unflip.seeding import numpy_rng

__all__ = ["BALANCED", "CLASSES", "GREEN", "PALETTE", "URBAN", "Shares", "classes", "scene", "write"]

CLASSES = ("sky", "building", "tree", "road", "sidewalk", "car", "sign", "person")
PALETTE = ((70, 130, 180), (70, 70, 70), (107, 142, 35), (128, 64, 128), (244, 35, 232), (0, 0, 142), (220, 220, 0), (220, 20, 60))
Look = Literal["render", "photo"]
MIN_SIDE = 32

BALANCED = Shares()
GREEN = Shares(sky=0.5, building=0.28, tree=0.95)
URBAN = Shares(sky=0.5, building=0.85, tree=0.12)


def classes() -> dict[str, list]:
    """What ``classes.json`` holds for these scenes: names and RGB colors in the order of the ids, and no ignored id."""
    return {"names": list(CLASSES), "palette": [list(color) for color in PALETTE], "ignore": []}


def scene(
    index: int, *, seed: int = 0, width: int = 64, height: int = 64, look: Look, shares: Shares = BALANCED
) -> tuple[np.ndarray, np.ndarray]:
    """One scene: the (H, W, 3) uint8 image and its (H, W) uint8 class ids, 0 to 7.

    A pure function of its arguments. The same (seed, index, shares, size) gives identical labels in both looks.
    """
    _check(width, height, look)
    view, faces, casters = layout(numpy_rng(seed, "streets", index, "layout"), shares)
    view = view.at_size(width, height)
    surface = rasterize(faces, view, width, height)
    if look == "render":
        return paint_render(surface), surface.labels
    return paint_photo(surface, view, casters, numpy_rng(seed, "streets", index, "look")), surface.labels


def write(
    folder: Path | str,
    *,
    count: int,
    look: Look,
    shares: Shares = BALANCED,
    seed: int = 0,
    width: int = 64,
    height: int = 64,
    first: int = 0,
    labels: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write scenes ``first`` to ``first + count - 1`` as ``NNNNNN.png`` in ``folder``; returns the image paths.

    With ``labels``, the class ids go to that folder as palette PNGs of the same names, and ``classes.json`` beside the folder.
    ``progress(done, count)`` is called after each scene. Every file appears whole or not at all.
    """
    _check(width, height, look)
    if count < 0 or first < 0:
        raise UserError(f"count is {count} and first is {first}; give numbers of 0 or more")
    folder = _folder(folder)
    if labels is not None:
        labels = _folder(labels)
        write_json(labels.parent / "classes.json", classes())
    paths = []
    for done, index in enumerate(range(first, first + count), start=1):
        image, ids = scene(index, seed=seed, width=width, height=height, look=look, shares=shares)
        paths.append(_save(Image.fromarray(image), folder / f"{index:06d}.png"))
        if labels is not None:
            _save(_palette_image(ids), labels / f"{index:06d}.png")
        if progress is not None:
            progress(done, count)
    return paths


def _check(width: int, height: int, look: str) -> None:
    if look not in get_args(Look):
        raise UserError(f"unknown look {look!r}; choose one of: {', '.join(get_args(Look))}")
    if min(width, height) < MIN_SIDE:
        raise UserError(f"scene size {width}x{height} is too small; give at least {MIN_SIDE}x{MIN_SIDE}")


def _folder(path: Path | str) -> Path:
    make_folder(Path(path))
    return Path(path)


def _palette_image(ids: np.ndarray) -> Image.Image:
    image = Image.fromarray(ids)
    image.putpalette([channel for color in PALETTE for channel in color])  # turns the gray image into a palette one, same ids
    return image


def _save(image: Image.Image, path: Path) -> Path:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())
    return path
