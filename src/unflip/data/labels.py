"""Label maps: which class every pixel of an image shows. Found by the image's name, checked, resized as the image is."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import imagecodecs
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unflip.data.classes import MOST, Stored, listed
from unflip.data.classes import Classes as Classes
from unflip.data.classes import GivenClasses as GivenClasses
from unflip.data.classes import read_classes as read_classes
from unflip.data.folders import Entry, find_label_maps, key_name, keys, refuse_bad
from unflip.data.formats import FORMATS
from unflip.data.limits import pillow
from unflip.data.places import opened
from unflip.data.resize import parse_resize
from unflip.data.store import Store
from unflip.errors import UserError, one_line

Ids = NDArray[np.uint8]

ENDINGS = tuple(ending for ending, kind in FORMATS.items() if kind != "JPEG")
"""Of label maps. JPEG makes colors and ids of its own along every edge."""

IGNORED = 255
"""The id, as uint8, of pixels whose class does not count."""

_UNKNOWN = MOST
_PLAIN = (Stored(),)

Kind = Literal["color", "gray value", "value"]
"""What is stored at a pixel. A value is one of several bands."""


def read_labels(path: Path, classes: Classes, resize: str = "none") -> NDArray[np.int64]:
    """The class ids of a label map, ``(H, W)`` int64, -1 where ignored, resized as the photo of the same ``resize`` is.

    Colored maps (palette or RGB) are read by color. Gray maps (8 or 16 bits) hold ids, of which 255 is ignored; only where all colors of
    the classes are gray, they too are read by color. Where classes are stored in ways of their own, the file's name tells which one it
    is: that whose pattern fits, of several the longest. Raises ``UserError`` for files that are broken or show what is not a class.
    """
    ids = _read(path, classes, resize)
    return np.where(ids == IGNORED, -1, ids.astype(np.int64))


def match_labels(images: Sequence[Path], image_root: Path, label_root: Path, classes: Classes | None = None) -> list[Path]:
    """The label map of every image: that with the same path below its folder, less the ending; in shards, with the same key.

    Where ``classes`` are stored in ways of their own, these say how the path of the label map follows from that of the image; of several
    label maps the first way's is taken. Raises ``UserError`` for images that have none, and for labels that differ in their ending only.
    """
    found = [path for path in find_label_maps(label_root) if path.suffix.lower() in ENDINGS]
    if not found:
        raise UserError(f"no label maps, {label_root}; give a folder with files that end in {' '.join(ENDINGS)}")
    labels: dict[Path, Path] = {}
    for key, path in zip(keys(found, label_root), found, strict=True):
        other = labels.setdefault(key, path)
        if other is not path:
            raise UserError(f"two label maps for one image, {other} and {path}; remove one of them")
    ways, names = _ways(classes), keys(images, image_root)
    wanted = [[label for way in ways if (label := way.label_of(name))] for name in names]
    images_of: dict[Path, Path] = {}
    for key, path in zip(names, images, strict=True):
        other = images_of.setdefault(key, path)
        if other != path:
            raise UserError(f"two images for one label map, {other} and {path}; rename or remove one of them")
    matched = [next((labels[key] for key in candidates if key in labels), None) for candidates in wanted]
    missing = [i for i, match in enumerate(matched) if match is None]
    if missing:
        first = missing[0]
        told = f"no {label_root / wanted[first][0]}{ENDINGS[0]}" if wanted[first] else f"not named {listed([way.image for way in ways])}"
        raise UserError(f"{len(missing)} of {len(images)} images have no label map, such as {images[first]} ({told}); {_rule(ways)}")
    return [match for match in matched if match is not None]


def _ways(classes: Classes | None) -> tuple[Stored, ...]:
    return (classes and classes.stored) or _PLAIN


def _rule(ways: Sequence[Stored]) -> str:
    if ways == _PLAIN:
        return "a label map has the path of its image below its folder, with any lossless ending"
    images, labels = (listed(patterns) for patterns in ([way.image for way in ways], [way.label for way in ways]))
    return f"these classes take {labels} for the label map of {images}, at the same path: name them so, or give other classes"


class Surveyed(NamedTuple):
    """Label maps that were read whole. ``pixels[i]`` of all of them together show class ``i``; of ignored classes none are counted."""

    entries: list[Entry]
    pixels: tuple[int, ...]
    bad: dict[int, str] = {}
    """What is wrong with every other one, by its place among all."""


def survey_labels(
    paths: Sequence[Path],
    images: Sequence[Entry],
    classes: Classes,
    progress: Callable[[int, int], None] | None = None,
    strict: bool = True,
) -> Surveyed:
    """Read every label map, of the images at the same places; ``progress(done, total)`` is called as they are done.

    Raises one ``UserError`` for all that are broken, differ from their image in size or show what is not a class; it names the first few.
    Not ``strict``, it is raised only where they are more than half, and else they are left out.
    """
    entries: list[Entry] = []
    bad: dict[int, str] = {}
    pixels = np.zeros(256, dtype=np.int64)
    with ThreadPoolExecutor(max_workers=min(32, 2 * (os.cpu_count() or 1))) as pool:  # decoding needs the cores, too
        for k, result in enumerate(pool.map(lambda path, image: _checked(path, image, classes), paths, images)):
            if isinstance(result, str):
                bad[k] = result
            else:
                entries.append(result[0])
                pixels += result[1]
            if progress is not None:
                progress(k + 1, len(paths))
    if bad and (strict or 2 * len(bad) > len(paths)):
        refuse_bad("label maps", list(bad.values()), len(paths), "correct them, or the classes")
    if not pixels[: len(classes.names)].any():
        raise UserError(f"all pixels of all {len(paths)} label maps are ignored, such as {paths[0]}; correct them, or the classes")
    return Surveyed(entries, tuple(int(count) for count in pixels[: len(classes.names)]), bad)


class Labels:
    """The label maps of one domain, decoded and resized as its images are, by index; kept in memory as they are."""

    def __init__(self, entries: Sequence[Entry], classes: Classes, resize: str = "none", cache: str = "auto", shared: bool = True) -> None:
        self.paths = [entry.path for entry in entries]
        self.classes = classes
        self.resize = str(parse_resize(resize))
        self.sizes = [parse_resize(resize).size_for(entry.width, entry.height) for entry in entries]
        """(width, height) of each map, resized."""
        self.store = Store([(height, width) for width, height in self.sizes], self._decoded, cache, shared)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """The class ids, ``(H, W)`` uint8, 255 where ignored; not to be written to. Raises ``UserError`` where the file has changed."""
        return self.store[index]

    def _decoded(self, index: int) -> Tensor:
        path, (width, height) = self.paths[index], self.sizes[index]
        ids = torch.from_numpy(_read(path, self.classes, self.resize))
        if ids.shape != (height, width):
            found = f"{ids.shape[1]}x{ids.shape[0]} instead of {width}x{height}"
            raise UserError(f"label map has changed since the run began, {path} ({found}); restore it or start again")
        return ids


def _read(path: Path, classes: Classes, resize: str = "none") -> Ids:
    """The class ids, ``(H, W)``; IGNORED where they do not count."""
    way = _way(path, classes)
    values, kind = _values(path, classes, way)
    if kind == "gray value" and way.values == ():
        named = [other.label for other in classes.stored if other.values != ()]
        advice = f"store colors, or if it holds ids, name it {listed(named)}" if named else "store colors"
        raise UserError(f"label map is gray, and maps of its name hold colors, {path}; {advice}")
    # a table has a place for every value that Pillow's integer gray images can hold, save for those that are no id anyway
    ids = _colors(classes, way)[values] if kind == "color" else _levels(classes, way)[values.clip(-1, 2**16)]
    unknown = values[ids == _UNKNOWN]
    if unknown.size:
        raise UserError(_says_unknown(unknown, kind, path))
    stored = Image.fromarray(ids)
    size = parse_resize(resize).size_for(*stored.size)
    # the nearest pixel of the same grid of pixel areas over which photos are averaged
    return ids if size == stored.size else np.array(stored.resize(size, Image.Resampling.NEAREST))


def _way(path: Path, classes: Classes) -> Stored:
    """How the file is stored, by its name: of several ways that it fits, the one that says most of the name."""
    fitting = [way for way in _ways(classes) if way.names(key_name(path))]
    if not fitting:
        labels = listed([way.label for way in classes.stored])
        raise UserError(f"label map is not named {labels}, {path}; rename it, or give other classes")
    return max(fitting, key=lambda way: len(way.label))


def _values(path: Path, classes: Classes, way: Stored) -> tuple[NDArray[np.int32], Kind]:
    """What is stored at each pixel, and what that is; a color is 0xRRGGBB."""
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"label map of a lossy or unknown format, {path}; use {' '.join(ENDINGS)}")
    try:
        with opened(path) as file, pillow(file, path, set(FORMATS.values()) - {"JPEG"}) as image:
            deep = image.mode not in {"1", "L"} and any(";16" in str(tile[3]) for tile in getattr(image, "tile", []))
            if deep and image.mode in {"RGB", "RGBA"} and image.format == "PNG" and way.band is not None:  # Pillow would halve the depth
                file.seek(0)
                return imagecodecs.png_decode(file.read())[..., way.band].astype(np.int32), "value"
            if image.mode == "F" or (deep and not image.mode.startswith("I")):
                raise UserError(f"label map has 16-bit colors or fractions, {path}; store ids or 8-bit colors")
            image.load()
            if image.mode == "LA":
                image = image.getchannel("L")  # type: ignore[assignment]
            if image.mode == "1":
                return np.asarray(image).astype(np.int32) * (255 if _by_gray(classes, way) else 1), "gray value"
            if image.mode == "L" or image.mode.startswith("I"):
                return np.asarray(image).astype(np.int32), "gray value"
            rgb = np.asarray(image.convert("RGB")).astype(np.int32)
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything from a decoder
        reason = one_line(error)
        raise UserError(f"label map cannot be read, {path} ({reason}); replace it") from error
    if way.band is not None:
        return rgb[..., way.band], "value"
    return rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2], "color"


@functools.lru_cache(maxsize=2)
def _colors(classes: Classes, way: Stored) -> Ids:
    """The id of every color 0xRRGGBB."""
    table = np.full(2**24, IGNORED if way.ignore_others else _UNKNOWN, dtype=np.uint8)
    kept = _kept(classes)
    for r, g, b, i in _all_colors(classes, way):
        table[r << 16 | g << 8 | b] = kept[i]
    return table


@functools.lru_cache(maxsize=8)
def _levels(classes: Classes, way: Stored) -> Ids:
    """The id of every value that is not a color's; the last place is for those out of its range."""
    table = np.full(2**16 + 1, IGNORED if way.ignore_others else _UNKNOWN, dtype=np.uint8)
    kept = _kept(classes)
    if way.values is not None:
        pairs = way.values
    elif _by_gray(classes, way):
        pairs = tuple((r, i) for r, _, _, i in _all_colors(classes, way))
    else:
        pairs = tuple((i, i) for i in range(len(classes.names)))
    for value, i in pairs:
        table[value] = kept[i]
    if table[255] == _UNKNOWN:
        table[255] = IGNORED
    return table


def _kept(classes: Classes) -> Ids:
    """What each class id is read as; the last place is for -1."""
    kept = np.arange(len(classes.names) + 1, dtype=np.uint8)
    kept[[*classes.ignore, -1]] = IGNORED
    return kept


def _all_colors(classes: Classes, way: Stored) -> list[tuple[int, int, int, int]]:
    return [*((*color, i) for i, color in enumerate(classes.palette)), *way.colors]


def _by_gray(classes: Classes, way: Stored) -> bool:
    """Whether a gray map can only be a colored one that was stored without its needless channels."""
    return way.values is None and all(r == g == b for r, g, b, _ in _all_colors(classes, way))


def _says_unknown(unknown: NDArray[np.int32], kind: Kind, path: Path) -> str:
    values, counts = np.unique(unknown, return_counts=True)
    value = int(values[counts.argmax()])
    name = f"color ({value >> 16}, {value >> 8 & 255}, {value & 255})" if kind == "color" else f"{kind} {value}"
    others = f", and {len(values) - 1} more such {'colors' if kind == 'color' else 'values'}" if len(values) > 1 else ""
    advice = "add it to the classes, or store ids in one channel" if kind == "color" else "add it to the classes"
    return f"{name} is no class ({counts.max()} pixels{others}), {path}; {advice}"


def _checked(path: Path, image: Entry, classes: Classes) -> tuple[Entry, NDArray[np.int64]] | str:
    """The entry and its pixels by id, or what is wrong with the file."""
    try:
        ids = _read(path, classes)
    except UserError as error:
        return str(error).rpartition("; ")[0]  # less the advice: given once for all
    height, width = ids.shape
    if (width, height) != (image.width, image.height):
        return f"{width}x{height} while its image is {image.width}x{image.height}, {path}"
    return Entry(path, width, height), np.bincount(ids.ravel(), minlength=256)
