"""The base of every configuration record, and how what is wrong with one is said."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from unflip.errors import cut

WeightFile = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+\.safetensors$")]
"""The name of a file of weights: it leads nowhere, as ``../x`` would."""

LONGEST = 200
"""Characters of a value that an error quotes."""


class Config(BaseModel):
    """A frozen, validated record. Unknown keys are refused, with the nearest right one; NaN and infinity are not numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(unknown("key", key, cls.model_fields))
        return data

    def _fill(self, **derived: Any) -> None:
        """For validators: set derived defaults without marking them as given, so that a method's recipe does not pin them."""
        for key, value in derived.items():
            object.__setattr__(self, key, value)


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """One line that names the nearest right name, or all of them."""
    names = list(known)
    name = shortened(name)
    near = difflib.get_close_matches(name, names, n=1)
    return f"unknown {what} {name!r}; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}")


class Misplaced(ValueError):
    """For validators that validate a value of their own: what is wrong with it, and where in it."""

    def __init__(self, error: ValidationError, *place: str) -> None:
        inner, self.message = _place_and_message(error)
        self.place = (*place, *inner)
        super().__init__(problem(error))


def problem(error: ValidationError) -> str:
    """The first thing wrong, in one line: ``generator.width: Input should be greater than 0 (given 0)``."""
    place, message = _place_and_message(error)
    return f"{'.'.join(place)}: {message}" if place else message


def _place_and_message(error: ValidationError) -> tuple[tuple[str, ...], str]:
    first = error.errors()[0]
    place = tuple(shortened(part) for part in first["loc"])
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, Misplaced):
        return place + cause.place, cause.message
    if first["type"] == "missing":
        return place, "is missing"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] != "value_error" and not isinstance(first["input"], dict):
        message += f" (given {_quoted(first['input'])})"
    return place, message


def _quoted(value: Any) -> str:
    short = reprlib.Repr()  # which does not enter what is deep
    short.maxlevel, short.maxstring, short.maxother = 4, LONGEST, LONGEST
    return shortened(short.repr(value))


def shortened(value: object) -> str:
    """A value as text of one line, of which an error is made."""
    return cut(" ".join(str(value).split()), LONGEST)


def by_kind(value: Any, table: Mapping[str, type[Config]], what: str) -> Any:
    """A configuration from a mapping, by its ``kind``, a name in ``table``; the first name is the default."""
    if not isinstance(value, dict):
        return value
    kind = value.get("kind", next(iter(table)))
    if not isinstance(kind, str) or kind not in table:
        raise ValueError(unknown(f"{what} kind", kind, table))
    return validated(table[kind], value)


def validated(model: type[Config], value: Any, name: str = "") -> Any:
    """``value`` as a ``model``; what is wrong with it is reported at its own place, below ``name``."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise Misplaced(error, *([name] if name else [])) from None
