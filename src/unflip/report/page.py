"""One self-contained HTML page: pictures inside, nothing from the network, readable on a phone and in the dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import Environment
from PIL import Image

from unflip.files import write_bytes


@dataclass(frozen=True)
class Picture:
    """An image of a row: ``(H, W, 3)`` uint8, under a short caption."""

    caption: str
    pixels: np.ndarray

    @property
    def data(self) -> str:
        """The picture as a data URL."""
        buffer = io.BytesIO()
        Image.fromarray(self.pixels).save(buffer, "PNG")
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class Row:
    """Pictures of the same scene side by side."""

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Page:
    """What a page says, from top to bottom."""

    title: str
    lead: str
    facts: dict[str, str] = field(default_factory=dict)
    rows: Sequence[Row] = ()
    steps: Sequence[tuple[str, str]] = ()
    """How it was made: what was done, and the command that does it or how long it took."""


def write(page: Page, path: Path) -> Path:
    """Write ``page`` as one HTML file, and return its path."""
    template = files("unflip.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    write_bytes(path, environment.from_string(template).render(page=page).encode())
    return path
