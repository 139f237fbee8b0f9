"""Color transfer by means and standard deviations: an image gets the color cast and contrast of another, and nothing else of it.

Reinhard, Ashikhmin, Gooch & Shirley, "Color transfer between images", IEEE Computer Graphics and Applications 21(5), 2001. The cheap rival
of every translation: no training, no flips, no texture.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unflip.data.folders import find_images, relative_names, survey
from unflip.data.images import Array, read_rgb
from unflip.data.save import write
from unflip.errors import UserError
from unflip.files import make_folder
from unflip.progress import Bar
from unflip.seeding import numpy_rng

Floats = NDArray[np.float64]

TO_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
"""RGB to the responses of the eye's cones (their eq. 4)."""
TO_OPPONENT = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3], [6], [2]])
"""Their logarithms to the decorrelated axes l, alpha, beta (eq. 6): light, yellow against blue, red against green."""
DARKEST = 1 / 255
"""What is darker counts as so bright: the logarithm of black does not exist."""


class ColorStatistics(NamedTuple):
    """Of an image's pixels in l-alpha-beta."""

    mean: Floats
    """``(3,)``."""
    std: Floats
    """``(3,)``."""


def to_lab(rgb: Array) -> Floats:
    """``(H, W, 3)`` uint8 to l-alpha-beta, float64."""
    lms = np.maximum(rgb / 255.0, DARKEST) @ TO_LMS.T
    opponent: Floats = np.log10(lms) @ TO_OPPONENT.T
    return opponent


def to_rgb(lab: Floats) -> Array:
    """l-alpha-beta ``(H, W, 3)`` to uint8; what no screen shows is cut off."""
    lms = 10.0 ** (lab @ np.linalg.inv(TO_OPPONENT).T)
    rgb = lms @ np.linalg.inv(TO_LMS).T  # exactly inverse, as the printed matrix is not
    return np.rint(255 * rgb.clip(0, 1)).astype(np.uint8)


def color_statistics(rgb: Array) -> ColorStatistics:
    """Of an image ``(H, W, 3)`` uint8."""
    return _statistics(to_lab(rgb))


def _statistics(lab: Floats) -> ColorStatistics:
    pixels = lab.reshape(-1, 3)
    return ColorStatistics(pixels.mean(0), pixels.std(0))


def transferred(rgb: Array, target: ColorStatistics) -> Array:
    """``rgb (H, W, 3)`` uint8 with the ``target``'s mean and standard deviation on each axis (eq. 10 and 11).

    An axis on which all pixels are equal keeps no contrast that could be stretched: it gets the mean.
    """
    lab = to_lab(rgb)
    own = _statistics(lab)
    scale = np.divide(target.std, own.std, out=np.zeros(3), where=own.std > 1e-9)
    return to_rgb((lab - own.mean) * scale + target.mean)


def transfer_folder(source: Path, targets: Path, out: Path, *, seed: int = 0, progress: bool = True) -> list[Path]:
    """Give every image of ``source`` the colors of a target image, drawn by ``seed`` and its place, and write it to ``out`` as PNG.

    Files keep their relative names, less the ending. One target image for each, as is usual in domain adaptation: the set gets the variety
    of the targets' light. What is there already is not done again. Returns the written paths.

    Raises:
        UserError: no images, broken ones, or two of one name; ``out`` cannot be written, or lies in one of the folders.
    """
    for folder in (source, targets):
        if folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{out} lies in the image folder {folder}; choose another folder")
    paths = [entry.path for entry in survey(find_images(source))]
    theirs = [entry.path for entry in survey(find_images(targets))]
    names = [name.with_suffix(".png") for name in relative_names(paths, source)]
    if twice := [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []:
        raise UserError(f"two images would be written to {twice[0]}, {source}; rename one of them")
    make_folder(out)
    known: dict[Path, ColorStatistics] = {}
    written = []
    whole = all((out / name).exists() for name in names)
    with Bar("transferring colors", len(paths), quiet=not progress or whole) as bar:
        for i, (path, name) in enumerate(zip(paths, names, strict=True)):
            if not (out / name).exists():
                chosen = theirs[int(numpy_rng(seed, "color transfer", i).integers(len(theirs)))]
                if chosen not in known:
                    known[chosen] = color_statistics(read_rgb(chosen))
                write(out / name, transferred(read_rgb(path), known[chosen]))
            written.append(out / name)
            bar.show(i + 1)
    return written
