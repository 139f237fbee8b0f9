"""Links from a page to its neighbors on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Links:
    """Names, and where each leads: paths relative to the page, so that the folder can be moved as a whole."""

    links: Sequence[tuple[str, str]]
    template: ClassVar[str] = "links.html.j2"
