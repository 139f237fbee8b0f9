"""Images whose files vanish, break or change as a run goes on: another one of their domain stands in for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from unflip.errors import UserError
from unflip.seeding import numpy_rng

T = TypeVar("T")

TRIES = 8
"""Others that are tried. Where none of them can be read, it is no longer about single files."""


def read_or_stand_in(read: Callable[[int], T], index: int, count: int, side: str, seed: int, item: int) -> tuple[T, str | None]:
    """What ``read`` gives of image ``index`` of ``count``, or where it raises ``UserError``, of another one; and what is to be told of it.

    Which others are tried follows from ``seed``, ``side`` and ``item``, so that it is the same for any number of workers, and in a run
    that is resumed. Raises ``UserError`` where all of them fail, too.
    """
    try:
        return read(index), None
    except UserError as error:
        reason = str(error).rpartition("; ")[0]
    others = numpy_rng(seed, "stand-in", side, item).choice(count, min(count, TRIES + 1), replace=False).tolist()
    tried = [k for k in others if k != index][:TRIES]
    for k in tried:
        try:
            return read(k), f"{reason}; another {side} image stands in for it"
        except UserError:
            continue
    what = f"{len(tried) + 1} {side} images in a row cannot be read, the first: {reason}"
    raise UserError(f"{what}; see whether their disk is there, and go on with --resume")
