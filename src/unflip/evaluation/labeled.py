"""Images with their label maps: found, matched and checked before anything is computed from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unflip.data.folders import Entry, find_images, relative_names, survey
from unflip.data.images import Array, read_rgb
from unflip.data.labels import Classes, Ids, Labels, Surveyed, match_labels, survey_labels
from unflip.errors import UserError
from unflip.evaluation.reader import Reader
from unflip.progress import Bar


class Readings:
    """What a segmenter reads in images, by their index, in the place of their labels."""

    def __init__(self, paths: list[Path], reader: Reader) -> None:
        self.paths, self.reader = paths, reader

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.reader(read_rgb(self.paths[index])))


@dataclass(frozen=True)
class Labeled:
    """A set of images and their labels, in natural order."""

    images: list[Entry]
    names: list[Path]
    """Of the images, relative to their folder."""
    label_maps: Labels | Readings

    def __len__(self) -> int:
        return len(self.images)

    def rgb(self) -> Iterator[Array]:
        """The images one after the other, ``(H, W, 3)`` uint8."""
        return (read_rgb(image.path) for image in self.images)

    def ids(self, index: int) -> Ids:
        """The class ids of an image, ``(H, W)`` uint8, 255 where ignored."""
        return self.label_maps[index].numpy()


def find_labeled(images: Path, labels: Path, classes: Classes, progress: bool = True, what: str = "images") -> Labeled:
    """Find the images of a folder (or list) and the label map of each, and read all of the latter.

    Raises:
        UserError: files that are broken, have no partner, differ from it in size or show what is not a class.
    """
    entries = find_entries(images, progress, what)
    found = find_labels(entries, images, labels, classes, progress, f"labels of {what}")
    names = relative_names([entry.path for entry in entries], images)
    return Labeled(entries, names, Labels(found.entries, classes, cache="none"))


def find_read(images: Path, sources: Path, reader: Reader, progress: bool = True, what: str = "images") -> Labeled:
    """Find the images of a folder (or list); what ``reader`` reads in the image of the same name in ``sources`` stands for labels.

    Raises ``UserError`` as :func:`same_names` does.
    """
    entries = find_entries(images, progress, what)
    names = relative_names([entry.path for entry in entries], images)
    return Labeled(entries, names, Readings(_partners(entries, names, sources, "source"), reader))


def find_entries(images: Path, progress: bool = True, what: str = "images") -> list[Entry]:
    """The images of a folder (or list), looked at. Raises ``UserError`` where some are broken or of a kind that segmenters do not read, or
    none are there."""
    paths = find_images(images)
    with Bar(f"checking {what}", len(paths), quiet=not progress or len(paths) < 2_000) as bar:
        return _common(survey(paths, lambda done, _: bar.show(done)))


def _common(found: list[Entry]) -> list[Entry]:
    """The same, all of which are 8-bit gray or color."""
    odd = [entry for entry in found if not entry.kind.common]
    if odd:
        what = f"{len(odd)} of {len(found)} images are not 8-bit gray or color, such as {odd[0].path} ({odd[0].kind})"
        raise UserError(f"{what}; convert them, or leave them out")
    return found


def find_labels(
    entries: list[Entry], images: Path, labels: Path, classes: Classes, progress: bool = True, what: str = "labels"
) -> Surveyed:
    """The label map of each of the ``entries`` of ``images``, read whole; raises ``UserError`` as :func:`find_labeled` does."""
    maps = match_labels([entry.path for entry in entries], images, labels, classes)
    with Bar(f"checking {what}", len(maps), quiet=not progress or len(maps) < 500) as bar:
        return survey_labels(maps, entries, classes, lambda done, _: bar.show(done))


def same_names(images: Path, like: Labeled, what: str) -> list[Path]:
    """The image of every image of ``like``, by its path below the folder, less the ending.

    Raises ``UserError`` where one has none, two, or one of another size or of a kind that is not read.
    """
    return _partners(like.images, like.names, images, what)


def _by_name(names: list[Path], paths: list[Path], what: str) -> dict[Path, Path]:
    """The path of every image by its name, less the ending; ``what`` is said of two of one name."""
    found: dict[Path, Path] = {}
    for name, path in zip(names, paths, strict=True):
        other = found.setdefault(name.with_suffix(""), path)
        if other != path:
            raise UserError(f"two {what}, {other} and {path}; remove one of them")
    return found


def _partners(entries: list[Entry], names: list[Path], images: Path, what: str) -> list[Path]:
    _by_name(names, [entry.path for entry in entries], "translations of one image")
    paths = find_images(images)
    found = _by_name(relative_names(paths, images), paths, f"{what} images for one translation")
    missing = [name for name in names if name.with_suffix("") not in found]
    if missing:
        first = f"{missing[0]}, {images}"
        raise UserError(f"{len(missing)} of {len(names)} images have no {what} image, such as {first}; give those of the same names")
    partners = _common(survey([found[name.with_suffix("")] for name in names]))
    for image, partner in zip(entries, partners, strict=True):
        if (image.width, image.height) != (partner.width, partner.height):
            sizes = f"{partner.width}x{partner.height} and {image.width}x{image.height}"
            raise UserError(f"a {what} image and its translation differ in size ({sizes}), {partner.path}; give images of one size")
    return [partner.path for partner in partners]
