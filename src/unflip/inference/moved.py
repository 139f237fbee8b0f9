"""Texts that name the folder of a data set, made to name the folder of its translation."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

from unflip.data.places import Place, is_remote, local

Spelling = Callable[[str], str]

SPELLINGS: tuple[Spelling, ...] = (
    str,
    lambda path: json.dumps(path)[1:-1],  # Python's json: \u00e9
    lambda path: json.dumps(path, ensure_ascii=False)[1:-1],  # of Windows: two backslashes
    lambda path: json.dumps(path)[1:-1].replace("/", "\\/"),  # PHP's
    escape,
)
"""How a path is written in texts: as it is, in JSON, in XML."""


END = rb"|".join(
    (
        rb"\Z",
        rb"[/\\\"'`<>,;:?|)\]}\x00]",
        rb"&(?:quot|apos|lt|gt|#)",
        rb"\.(?!\w)",
        rb"[^\S ]",
        rb" (?![^\s/#\"'<>,][^/\n\"'<>]*/)",
    )
)
"""What follows a path of a folder: neither more of a name, as in /data/set+more, nor, after a space, what looks like more of a path, as in
/data/set two/a.png. (A comment of YAML's does not.)"""


class Moved:
    """``Moved(old, new)(text)``: the text with every path in or of the folder ``old`` changed to be in ``new``; all other bytes are kept.

    Only whole, absolute paths count: where ``old`` is /data/set, neither /data/set2, "/data/set 2/a" nor /mnt/data/set does.
    """

    def __init__(self, old: Path | str, new: Place) -> None:
        to = new.where if new.remote else os.path.abspath(new.where)
        self.spelled = {_bytes(spell(path)): _bytes(spell(to)) for spell in SPELLINGS for path in _names(old)}
        longest_first = sorted(self.spelled, key=len, reverse=True)
        one = b"|".join(map(re.escape, longest_first))
        self.paths = (
            re.compile(rb"(?:(?<=file://)|(?<=\xef\xbb\xbf)|(?<![\w./~\\\x80-\xff-]))(?:" + one + rb")(?=" + END + rb")") if one else None
        )

    def __call__(self, text: bytes) -> bytes:
        if self.paths is None or not any(path in text for path in self.spelled):  # most: and a hundred times as fast as the expression
            return text
        return self.paths.sub(lambda found: self.spelled[found[0]], text)


def _names(folder: Path | str) -> set[str]:
    """The absolute paths by which a folder is known. None of the root of all: every path begins with that."""
    if is_remote(folder):
        return {str(folder).rstrip("/")}
    path = local(folder)
    names = {os.path.abspath(path), str(path.resolve()), Path(os.path.abspath(path)).as_posix()}
    return {name for name in names if Path(name).parent != Path(name)}


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")  # names of files need not be UTF-8
