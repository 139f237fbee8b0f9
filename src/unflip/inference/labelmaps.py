"""Label maps among the images of a data set: they are not to be translated. Found by where they lie, and which images they belong to."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from unflip.data.images import is_label_map
from unflip.data.limits import pillow
from unflip.data.places import is_remote, local, opened

_CALLED = """
label labels labelmap labelmaps label_map label_maps mask masks gt groundtruth ground_truth annot annots annotation annotations
seg segmentation segmentations segmentationclass segmentationclassaug segmentationobject semantic semantics instance instances panoptic
gtfine gtcoarse trainannot valannot testannot stuffthingmaps trimaps color_labels
"""
FOLDERS = set(_CALLED.split())
"""What folders of label maps are called, in lower case: in ADE20K, VOC, Cityscapes, CamVid, Mapillary, COCO-Stuff, BDD100K and others."""

SAMPLES = 8
"""So many images of a folder of such a name are looked at."""

_FIELD = re.compile(r"_(leftImg8bit|gt(Fine|Coarse)(_[A-Za-z]+)?|masks?|labels?|labelIds|label_ids|seg|gt|L)$")
"""What the names of images and of label maps have more than their common part: Cityscapes' and CamVid's, and usual ones."""


def within(source: Path | str, labels: Path | str) -> str | None:
    """Where the folder ``labels`` lies in the folder ``source``, as a relative path; ``.`` if it is that; None if elsewhere."""
    if is_remote(source) or is_remote(labels):
        root, folder = str(source).rstrip("/"), str(labels).rstrip("/")
        return "." if folder == root else folder[len(root) + 1 :] if folder.startswith(f"{root}/") else None
    if not local(source).is_dir():
        return None
    for real in (os.path.abspath, os.path.realpath):  # first as they are named: a folder of labels can be linked to from the source
        name = PurePosixPath(Path(os.path.relpath(real(local(labels)), real(local(source)))).as_posix())
        if ".." not in name.parts:
            return name.as_posix()
    return None


def recognized(where: Path | str, names: Sequence[str]) -> dict[str, list[str]]:
    """The folders of label maps among the images ``names`` below ``where``, each with its images.

    A folder is one if it is called so (:data:`FOLDERS`), at least half of its images have the name of one outside of all such folders, and
    they look like label maps: of few colors, a palette or 16 bits. So neither is ``where`` itself, nor a class of images that is called
    "mask".
    """
    folders: dict[str, list[str]] = defaultdict(list)
    others: list[str] = []
    for name in names:
        parts = PurePosixPath(name).parts[:-1]
        at = next((i for i, part in enumerate(parts) if part.lower() in FOLDERS), None)
        if at is None:
            others.append(name)
        else:
            folders["/".join(parts[: at + 1])].append(name)
    if not folders or not others:
        return {}
    images = Pairs(others)
    return {
        folder: maps
        for folder, maps in folders.items()
        if 2 * sum(bool(images.of(name, folder)) for name in maps) >= len(maps) and _flat([f"{where}/{name}" for name in maps])
    }


class Pairs:
    """Which images a label map belongs to, in any of the usual layouts.

    ``labels/train/a.png`` belongs to ``images/train/a.jpg``, ``train/labels/a.png`` to ``train/images/a.jpg``, ``masks/a.png`` to
    ``a.jpg``, and ``gtFine/val/x/1_gtFine_color.png`` to ``leftImg8bit/val/x/1_leftImg8bit.png``: the same names in the same folders,
    apart from one folder of each. Where no folders fit, the name alone does if only one image has it.
    """

    def __init__(self, images: Iterable[str]) -> None:
        self.images: dict[tuple[str, ...], list[str]] = defaultdict(list)
        self.stems: dict[str, list[str]] = defaultdict(list)
        for name in images:
            folders, stem = _parts(name)
            self.stems[stem].append(name)
            for rest in set(_less_one(folders)):
                self.images[*rest, stem].append(name)

    def of(self, label_map: str, folder: str) -> tuple[str, ...]:
        """The images of a label map in ``folder``: none or one, or several that nothing tells apart."""
        folders, stem = _parts(label_map)
        at = len(PurePosixPath(folder).parts) - 1
        rest = folders[:at] + folders[at + 1 :]
        for less in _less_one(rest):  # first: nothing less
            if (*less, stem) in self.images:
                return tuple(self.images[*less, stem])
        alone = self.stems.get(stem, [])
        return tuple(alone) if len(alone) == 1 else ()


def _parts(name: str) -> tuple[tuple[str, ...], str]:
    path = PurePosixPath(name)
    return path.parts[:-1], _FIELD.sub("", path.stem)


def _less_one(folders: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield folders
    for i in range(len(folders)):
        yield folders[:i] + folders[i + 1 :]


def _flat(paths: Sequence[str]) -> bool:
    """Whether images look like label maps; broken ones tell nothing."""
    found: list[bool] = []
    for path in paths[:: max(1, len(paths) // SAMPLES)][:SAMPLES]:
        try:
            with opened(path) as file, pillow(file, path) as image:
                found.append(image.mode.startswith("I") or is_label_map(image))
        except Exception:  # a damaged file can raise anything from a decoder
            continue
    return bool(found) and all(found)
