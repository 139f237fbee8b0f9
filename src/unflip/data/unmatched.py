"""Mismatched domains out of one labeled set, by the protocol of SRUNIT (Jia et al., ICCV 2021): K-means on the images' class shares."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unflip.data.folders import ROOT
from unflip.errors import MissingExtra, UserError
from unflip.files import make_folder, write_bytes

LISTS = ("source.txt", "target.txt")
"""What :func:`write_lists` writes."""


def split_by_shares(fitted: NDArray[np.float64], *others: NDArray[np.float64]) -> list[NDArray[np.bool_]]:
    """Whether each image falls to the source: ``(n,)`` for ``fitted``, and for each of the ``others``.

    K-means with k = 2 on the rows of ``fitted (n, K)``, the images' class shares (:class:`unflip.data.shares.ClassShares`, whose last
    column counts ignored pixels as a class). The ``others`` go to the nearer of the two centers, so that they tell the split nothing.
    The larger cluster of ``fitted`` is the source; of two of one size, that of the first image. The same shares give the same split.

    Raises:
        MissingExtra: without scikit-learn.
        UserError: all rows are the same, or there is only one.
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise MissingExtra("scikit-learn", "metrics") from error
    if (fitted == fitted[:1]).all():
        raise UserError(f"{len(fitted)} images with one and the same class shares cannot be split; give images that differ")
    kmeans = KMeans(n_clusters=2, n_init=50, random_state=0).fit(fitted)
    sizes = np.bincount(kmeans.labels_, minlength=2)
    source = kmeans.labels_[0] if sizes[0] == sizes[1] else sizes.argmax()
    return [kmeans.predict(shares) == source for shares in (fitted, *others)]


def write_lists(
    folder: Path, source: Iterable[Path], target: Iterable[Path], roots: tuple[Path | None, Path | None] = (None, None)
) -> tuple[Path, Path]:
    """Write ``source.txt`` and ``target.txt``, which every verb takes in place of a folder of images; the paths of both.

    Where the images lie in the folders ``roots``, these are named, so that label maps are found as for them.
    """
    make_folder(folder)
    lists = folder / LISTS[0], folder / LISTS[1]

    def named(path: Path) -> str:
        return f"./{Path(os.path.relpath(path, folder)).as_posix()}"  # ./ so that no name reads as a comment

    for file, images, root in zip(lists, (source, target), roots, strict=True):
        lines = [f"{line}\n" for line in ([] if root is None else [f"{ROOT} {named(root)}"]) + [named(image) for image in images]]
        write_bytes(file, "".join(lines).encode())
    return lists
