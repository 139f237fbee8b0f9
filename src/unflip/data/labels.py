"""Label maps: which class every pixel of an image shows. Found by the image's name, checked, resized as the image is."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import BeforeValidator, Field, ValidationError, model_validator
from torch import Tensor

from unflip.config import Config, problem
from unflip.data.folders import SHOWN, Entry, find_label_maps, keys
from unflip.data.formats import FORMATS
from unflip.data.images import MAX_PIXELS
from unflip.data.places import opened
from unflip.data.resize import parse_resize
from unflip.data.store import Store
from unflip.errors import UserError

Ids = NDArray[np.uint8]

ENDINGS = tuple(ending for ending, kind in FORMATS.items() if kind != "JPEG")
"""Of label maps. JPEG makes colors and ids of its own along every edge."""

IGNORED = 255
"""The id, as uint8, of pixels whose class does not count."""

_UNKNOWN = 254

Channel = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Channel, Channel, Channel]


class Classes(Config):
    """What ``classes.json`` holds: the class with id ``i`` has ``names[i]`` and the RGB color ``palette[i]``; ``ignore`` lists ids."""

    names: tuple[Annotated[str, Field(min_length=1)], ...]
    palette: tuple[Color, ...]
    ignore: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _agree(self) -> Classes:
        if len(self.names) != len(self.palette):
            raise ValueError(f"there are {len(self.names)} names and {len(self.palette)} colors; give each class one of both")
        if len(self.names) > _UNKNOWN:
            raise ValueError(f"{len(self.names)} classes are too many; merge them to at most {_UNKNOWN}")
        for what, values in (("name", self.names), ("color", self.palette)):
            for i, value in enumerate(values):
                if value in values[:i]:
                    raise ValueError(f"classes {values.index(value)} and {i} have one {what}, {value}; make them differ")
        for i in self.ignore:
            if not 0 <= i < len(self.names):
                raise ValueError(f"ignore: {i} is not the id of a class; ids go from 0 to {len(self.names) - 1}")
        if len(self.kept) < 2:
            raise ValueError("fewer than two classes are not ignored; nothing is to be told apart")
        return self

    @property
    def colors(self) -> dict[str, Color]:
        """The color of every class, by name."""
        return dict(zip(self.names, self.palette, strict=True))

    @property
    def kept(self) -> tuple[int, ...]:
        """The ids that are not ignored."""
        return tuple(i for i in range(len(self.names)) if i not in self.ignore)


def read_classes(path: Path) -> Classes:
    """The classes in a ``classes.json``. Raises ``UserError`` where it cannot be read or makes no sense."""
    try:
        return Classes.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise UserError(f"{path}: {problem(error)}") from None
    except (ValueError, RecursionError):
        raise UserError(f'not valid JSON, {path}; it must hold {{"names": [...], "palette": [[r, g, b], ...], "ignore": [ids]}}') from None
    except OSError as error:
        raise UserError(f"cannot read the classes, {path} ({error.strerror}); check the path") from None


def _read_where_a_path(value: Any) -> Any:
    if not isinstance(value, str | Path):
        return value
    try:
        return read_classes(Path(value))
    except UserError as error:
        raise ValueError(str(error)) from None


GivenClasses = Annotated[Classes, BeforeValidator(_read_where_a_path)]
"""A field of a config that takes the path of a ``classes.json``, and holds what is in it from then on."""


def read_labels(path: Path, classes: Classes, resize: str = "none") -> NDArray[np.int64]:
    """The class ids of a label map, ``(H, W)`` int64, -1 where ignored, resized as the photo of the same ``resize`` is.

    Colored maps (palette or RGB) are read by color. Gray maps (8 or 16 bits) hold ids, of which 255 is ignored; only where all colors of
    the classes are gray, they too are read by color. Raises ``UserError`` for files that are broken or show what is not a class.
    """
    ids = _read(path, classes, resize)
    return np.where(ids == IGNORED, -1, ids.astype(np.int64))


def match_labels(images: Sequence[Path], image_root: Path, label_root: Path) -> list[Path]:
    """The label map of every image: that with the same path below its folder, less the ending; in shards, with the same key.

    Raises ``UserError`` for images that have none, and for labels that differ in their ending only.
    """
    found = [path for path in find_label_maps(label_root) if path.suffix.lower() in ENDINGS]
    if not found:
        raise UserError(f"no label maps, {label_root}; give a folder with files that end in {' '.join(ENDINGS)}")
    labels: dict[Path, Path] = {}
    for key, path in zip(keys(found, label_root), found, strict=True):
        other = labels.setdefault(key, path)
        if other is not path:
            raise UserError(f"two label maps for one image, {other} and {path}; remove one of them")
    names = keys(images, image_root)
    missing = [i for i, name in enumerate(names) if name not in labels]
    if missing:
        example = f"{images[missing[0]]} (no {label_root / names[missing[0]]}{ENDINGS[0]})"
        rule = "a label map has the path of its image below its folder, with any lossless ending"
        raise UserError(f"{len(missing)} of {len(images)} images have no label map, such as {example}; {rule}")
    return [labels[name] for name in names]


class Surveyed(NamedTuple):
    """Label maps that were read whole. ``pixels[i]`` of all of them together show class ``i``; of ignored classes none are counted."""

    entries: list[Entry]
    pixels: tuple[int, ...]


def survey_labels(
    paths: Sequence[Path], images: Sequence[Entry], classes: Classes, progress: Callable[[int, int], None] | None = None
) -> Surveyed:
    """Read every label map, of the images at the same places; ``progress(done, total)`` is called as they are done.

    Raises one ``UserError`` for all that are broken, differ from their image in size or show what is not a class; it names the first few.
    """
    entries: list[Entry] = []
    bad: list[str] = []
    pixels = np.zeros(256, dtype=np.int64)
    with ThreadPoolExecutor(max_workers=min(32, 2 * (os.cpu_count() or 1))) as pool:  # decoding needs the cores, too
        for done, result in enumerate(pool.map(lambda path, image: _checked(path, image, classes), paths, images), start=1):
            if isinstance(result, str):
                bad.append(result)
            else:
                entries.append(result[0])
                pixels += result[1]
            if progress is not None:
                progress(done, len(paths))
    if bad:
        more = f" | and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        listed = " | ".join(bad[:SHOWN])
        raise UserError(f"{len(bad)} of {len(paths)} label maps cannot be used: {listed}{more}; correct them, or the classes")
    if not pixels[: len(classes.names)].any():
        raise UserError(f"all pixels of all {len(paths)} label maps are ignored, such as {paths[0]}; correct them, or the classes")
    return Surveyed(entries, tuple(int(count) for count in pixels[: len(classes.names)]))


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
    values, gray = _values(path, classes)
    colors, levels = _tables(classes)
    # a table has a place for every value that Pillow's integer gray images can hold, save for those that are no id anyway
    ids = levels[values.clip(-1, len(levels) - 1)] if gray else colors[values]
    unknown = values[ids == _UNKNOWN]
    if unknown.size:
        raise UserError(_says_unknown(unknown, gray, path))
    stored = Image.fromarray(ids)
    size = parse_resize(resize).size_for(*stored.size)
    # the nearest pixel of the same grid of pixel areas over which photos are averaged
    return ids if size == stored.size else np.array(stored.resize(size, Image.Resampling.NEAREST))


def _values(path: Path, classes: Classes) -> tuple[NDArray[np.int32], bool]:
    """What is stored at each pixel, and whether that is a gray value; else it is a color, as 0xRRGGBB."""
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"label map of a lossy or unknown format, {path}; use {' '.join(ENDINGS)}")
    try:
        with opened(path) as file, Image.open(file, formats=sorted(set(FORMATS.values()) - {"JPEG"})) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"too many pixels ({image.width}x{image.height}), {path}; cut it into tiles")
            deep = image.mode not in {"1", "L"} and any(";16" in str(tile[3]) for tile in getattr(image, "tile", []))
            if image.mode == "F" or (deep and not image.mode.startswith("I")):
                raise UserError(f"label map has 16-bit colors or fractions, {path}; store ids or 8-bit colors")
            image.load()
            if image.mode == "LA":
                image = image.getchannel("L")  # type: ignore[assignment]
            if image.mode == "1":
                return np.asarray(image).astype(np.int32) * (255 if _is_gray(classes) else 1), True
            if image.mode == "L" or image.mode.startswith("I"):
                return np.asarray(image).astype(np.int32), True
            rgb = np.asarray(image.convert("RGB")).astype(np.int32)
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything from a decoder
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"label map cannot be read, {path} ({reason}); replace it") from error
    return rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2], False


@functools.lru_cache(maxsize=2)
def _tables(classes: Classes) -> tuple[Ids, Ids]:
    """The id of every color 0xRRGGBB, and of every gray value; the last place of the latter is for values out of its range."""
    kept = np.arange(len(classes.names), dtype=np.uint8)
    kept[list(classes.ignore)] = IGNORED
    colors = np.full(2**24, _UNKNOWN, dtype=np.uint8)
    colors[[r << 16 | g << 8 | b for r, g, b in classes.palette]] = kept
    levels = np.full(2**16 + 1, _UNKNOWN, dtype=np.uint8)
    levels[[color[0] for color in classes.palette] if _is_gray(classes) else range(len(kept))] = kept
    if levels[255] == _UNKNOWN:
        levels[255] = IGNORED
    return colors, levels


def _is_gray(classes: Classes) -> bool:
    """Whether a gray map can only be a colored one that was stored without its needless channels."""
    return all(r == g == b for r, g, b in classes.palette)


def _says_unknown(unknown: NDArray[np.int32], gray: bool, path: Path) -> str:
    values, counts = np.unique(unknown, return_counts=True)
    value = int(values[counts.argmax()])
    name = f"gray value {value}" if gray else f"color ({value >> 16}, {value >> 8 & 255}, {value & 255})"
    others = f", and {len(values) - 1} more such {'values' if gray else 'colors'}" if len(values) > 1 else ""
    advice = "add it to the classes" if gray else "add it to the classes, or store ids in one channel"
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
