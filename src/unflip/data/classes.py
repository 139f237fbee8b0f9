"""What label maps show, and how it is stored: ``classes.json``, and the sets that are known by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from unflip.config import Config, problem
from unflip.data.known import KNOWN, joined
from unflip.errors import UserError

MOST = 254
"""Classes. Their ids are kept in 8 bits, beside two that are none."""

Channel = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Channel, Channel, Channel]
Pattern = Annotated[str, Field(pattern=r"^[^*/\\]*\*[^*/\\]*$")]
StoredId = Annotated[int, Field(ge=0, lt=2**16)]


def _items(value: Any) -> Any:
    return tuple(value.items()) if isinstance(value, dict) else value


# tables as pairs: so that classes can be told apart by their hash
Values = Annotated[tuple[tuple[StoredId, int], ...], BeforeValidator(_items), PlainSerializer(dict)]
Folders = Annotated[tuple[tuple[str, str], ...], BeforeValidator(_items), PlainSerializer(dict)]


class Stored(Config):
    """One way in which label maps are named and stored. By default they are named as their images, and hold the ids of the classes."""

    image: Pattern = "*"
    """The name of an image, less its ending."""
    label: Pattern = "*"
    """The name of its label map, less its ending, where ``*`` is what it was in the image's."""
    folders: Folders = ()
    """Images in a folder of the one name have their label maps in one of the other, at the same place: ``{"rgb": "labels"}``."""
    values: Values | None = None
    """``{stored value: class id}`` of gray maps; -1: ignored. None: the values are the class ids."""
    colors: tuple[tuple[Channel, Channel, Channel, int], ...] = ()
    """``(r, g, b, class id)`` of colors that stand for a class, or for none (-1), beside the one that it has in the palette."""
    band: int | None = Field(default=None, ge=0, le=2)
    """Maps in color hold values, in the red (0), green (1) or blue (2) of each pixel. None: the colors are meant."""
    ignore_others: bool = False
    """Whether values and colors that are not listed are ignored; else they are an error."""

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if getattr(self, key) != type(self).model_fields[key].default}

    def names(self, label: str) -> bool:
        """Whether a label map of this name, less its ending, is one of these."""
        return _middle(self.label, label) is not None

    def label_of(self, image: Path) -> Path | None:
        """The path of the label map of an image, both below their folders and less their endings; None for images of other names."""
        middle = _middle(self.image, image.name)
        if middle is None:
            return None
        renamed = dict(self.folders)
        return Path(*(renamed.get(part, part) for part in image.parts[:-1]), self.label.replace("*", middle))


class Classes(Config):
    """What ``classes.json`` holds: the class with id ``i`` has ``names[i]`` and the RGB color ``palette[i]``; ``ignore`` lists ids.

    ``stored``: the ways in which label maps are named and stored, the preferred one first; none: as by :class:`Stored`'s defaults.
    """

    names: tuple[Annotated[str, Field(min_length=1)], ...]
    palette: tuple[Color, ...]
    ignore: tuple[int, ...] = ()
    stored: tuple[Stored, ...] = ()

    @model_validator(mode="after")
    def _agree(self) -> Classes:
        if len(self.names) != len(self.palette):
            raise ValueError(f"there are {len(self.names)} names and {len(self.palette)} colors; give each class one of both")
        if len(self.names) > MOST:
            raise ValueError(f"{len(self.names)} classes are too many; merge them to at most {MOST}")
        for what, values in (("name", self.names), ("color", self.palette)):
            for i, value in enumerate(values):
                if value in values[:i]:
                    raise ValueError(f"classes {values.index(value)} and {i} have one {what}, {value}; make them differ")
        for i in self.ignore:
            if not 0 <= i < len(self.names):
                raise ValueError(f"ignore: {i} is not the id of a class; ids go from 0 to {len(self.names) - 1}")
        if len(self.kept) < 2:
            raise ValueError("fewer than two classes are not ignored; nothing is to be told apart")
        for way in self.stored:
            self._check(way)
        for label in {way.label for way in self.stored}:
            if len({way.model_copy(update={"image": "*", "folders": ()}) for way in self.stored if way.label == label}) > 1:
                raise ValueError(f"stored: label maps named {label} are stored in two ways; which one, their names must tell")
        return self

    def _check(self, way: Stored) -> None:
        own = {color: i for i, color in enumerate(self.palette)}
        known: dict[Any, int] = {**own}
        for value, i in (*((color[:3], color[3]) for color in way.colors), *(way.values or ())):
            what = f"color {value}" if isinstance(value, tuple) else f"value {value}"
            if not -1 <= i < len(self.names):
                raise ValueError(f"stored: {what} is of class {i}; ids go from 0 to {len(self.names) - 1}, and -1 is ignored")
            if known.setdefault(value, i) != i:
                raise ValueError(f"stored: {what} is of class {known[value]} and of {i}; give it one")

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if key != "stored" or self.stored}

    @property
    def colors(self) -> dict[str, Color]:
        """The color of every class, by name."""
        return dict(zip(self.names, self.palette, strict=True))

    @property
    def kept(self) -> tuple[int, ...]:
        """The ids that are not ignored."""
        return tuple(i for i in range(len(self.names)) if i not in self.ignore)


def read_classes(path: Path) -> Classes:
    """The classes in a ``classes.json``; where there is no such file, those of a known set, or of several: ``gta5+cityscapes``.

    Raises ``UserError`` where they are not known, cannot be read or make no sense.
    """
    try:
        names = str(path).split("+")
        if all(name in KNOWN for name in names) and not path.is_file():
            return Classes.model_validate(joined(names))
        return Classes.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise UserError(f"{path}: {problem(error)}") from None
    except (ValueError, RecursionError):
        raise UserError(f'not valid JSON, {path}; it must hold {{"names": [...], "palette": [[r, g, b], ...], "ignore": [ids]}}') from None
    except OSError as error:
        what = f"cannot read the classes, {path} ({error.strerror})"
        raise UserError(f"{what}; check the path, or name known ones: {', '.join(KNOWN)}") from None


def _read_where_a_path(value: Any) -> Any:
    if not isinstance(value, str | Path):
        return value
    try:
        return read_classes(Path(value))
    except UserError as error:
        raise ValueError(str(error)) from None


GivenClasses = Annotated[Classes, BeforeValidator(_read_where_a_path)]
"""A field of a config that takes the path of a ``classes.json`` or a known set's name, and holds what is in it from then on."""


def listed(patterns: Sequence[str]) -> str:
    """``*_a, *_b or *_c``, each once."""
    *most, last = dict.fromkeys(patterns)
    return f"{', '.join(most)} or {last}" if most else last


def _middle(pattern: str, name: str) -> str | None:
    """What ``*`` stands for in the name, which is not nothing; None where the name is not of this pattern."""
    before, after = pattern.split("*")
    fits = name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after)
    return name[len(before) : len(name) - len(after)] if fits else None
