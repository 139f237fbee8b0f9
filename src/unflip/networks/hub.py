"""Names on Hugging Face's hub: ``OWNER/NAME``, or ``OWNER/NAME@REVISION``, which stays the same whatever its owner does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

HUB = "hub:"
"""What tells a name on the hub from others, where both can stand."""

_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w./-]*))?")


class HubName(NamedTuple):
    """A repository, and which of its commits, branches or tags; None: the newest commit."""

    repository: str
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> HubName | None:
        """With or without ``hub:`` before it; None where it is no such name."""
        match = _NAME.fullmatch(text.removeprefix(HUB))
        return None if match is None else cls(match[1], match[2])


def commit_of(folder: Path) -> str | None:
    """The commit that a download is of: the hub's cache calls its folder so. None: not known."""
    return folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else None
