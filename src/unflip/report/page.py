"""One self-contained HTML page: pictures inside, nothing from the network, readable on a phone and in the dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from unflip.files import write_bytes
from unflip.report.blocks import Block


@dataclass(frozen=True)
class Page:
    """What a page says, from top to bottom."""

    title: str
    lead: str
    blocks: Sequence[Block]


def write(page: Page, path: Path) -> Path:
    """Write ``page`` as one HTML file, and return its path."""
    environment = Environment(
        loader=PackageLoader("unflip.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.get_template("page.html.j2").render(page=page)
    write_bytes(path, html.encode("utf-8", "backslashreplace"))  # some files have names that are no text
    return path
