"""What a page is made of, but for pictures and charts. A block is a record that names the template which shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from unflip.report.numbers import Amount, Form

Tone = Literal["plain", "good", "fair", "bad", "soft"]
"""What a thing means to the reader: the colors are green, amber, red and gray. Never by color alone; the words say it too."""
Color = tuple[int, int, int]
"""RGB of a class, from 0 to 255, for the little square beside its name."""


class Block(Protocol):
    """Anything with a template, which sees the block as ``block``."""

    template: ClassVar[str]


@dataclass(frozen=True)
class Text:
    """Paragraphs."""

    paragraphs: Sequence[str]
    tone: Tone = "plain"
    template: ClassVar[str] = "text.html.j2"


@dataclass(frozen=True)
class Verdict:
    """The answer to the question that the page is about, in large letters: ``headline`` answers, ``text`` says how much."""

    question: str
    headline: str
    text: str
    tone: Tone = "plain"
    template: ClassVar[str] = "verdict.html.j2"


@dataclass(frozen=True)
class Notes:
    """A box with a list: warnings, advice. Shows nothing where there are no lines."""

    title: str
    lines: Sequence[str]
    tone: Tone = "fair"
    template: ClassVar[str] = "notes.html.j2"


@dataclass(frozen=True)
class Fact:
    """A number to be seen at once: ``value`` large, ``detail`` (interval, n) below it, ``about`` in a sentence what it is."""

    name: str
    value: str
    detail: str = ""
    about: str = ""
    tone: Tone = "plain"

    @classmethod
    def of(cls, name: str, amount: Amount, form: Form, about: str = "", tone: Tone = "plain") -> Fact:
        """A measured value with its interval and n."""
        return cls(name, form(amount.value), amount.detail(form), about, tone)


@dataclass(frozen=True)
class Facts:
    """Numbers side by side."""

    facts: Sequence[Fact]
    template: ClassVar[str] = "facts.html.j2"


@dataclass(frozen=True)
class Cell:
    """Of a table: a text, ``detail`` in small print after it (a spread, an interval), ``color`` in a little square before it."""

    text: str
    detail: str = ""
    strong: bool = False
    tone: Tone = "plain"
    color: Color | None = None


@dataclass(frozen=True)
class Table:
    """Rows under a head; a row is as long as the head. The first column names the row. Columns of numbers are set to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    caption: str = ""
    template: ClassVar[str] = "table.html.j2"

    @property
    def cells(self) -> list[list[Cell]]:
        """All rows, every text as a cell."""
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers only."""
        return [all(_is_number(row[i].text) for row in self.cells) for i in range(len(self.head))]


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in "–−+±∞"


@dataclass(frozen=True)
class Key:
    """Which color is which class."""

    colors: Mapping[str, Color]
    template: ClassVar[str] = "key.html.j2"


@dataclass(frozen=True)
class Made:
    """How it was made: what, and the command, value or file that did it; texts of several lines keep their lines."""

    steps: Sequence[tuple[str, str]]
    template: ClassVar[str] = "made.html.j2"


@dataclass(frozen=True)
class Section:
    """Blocks under a heading; ``note`` says below it how to read them."""

    title: str
    blocks: Sequence[Block]
    note: str = ""
    template: ClassVar[str] = "section.html.j2"


@dataclass(frozen=True)
class Columns:
    """Blocks beside each other where there is room, below each other on a phone."""

    blocks: Sequence[Block]
    template: ClassVar[str] = "columns.html.j2"


@dataclass(frozen=True)
class Folded:
    """Blocks that a reader opens: details, the long tail."""

    title: str
    blocks: Sequence[Block]
    template: ClassVar[str] = "folded.html.j2"
