"""What a tracker is: where the curves, pictures and settings of a run are shown while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

Outcome = Literal["finished", "stopped", "failed"]

PROJECT = "unflip"
"""What servers of many runs file them under, unless their own settings name something else."""


class Run(NamedTuple):
    """What a tracker is opened for."""

    folder: Path
    seen: int
    """Images that have been seen: what was told of later ones, before the run was stopped, is told again."""
    config: Mapping[str, Any]
    """The run's whole configuration."""
    kept: Mapping[str, str]
    """What the tracker kept of this run when it was first opened; nothing where it is new."""
    told: int
    """The last images of which anything was logged, before the run was stopped."""

    @property
    def name(self) -> str:
        """The folder's."""
        return self.folder.absolute().name


class Tracker(Protocol):
    """Each call may take long, and may raise anything: it is made in a thread of the tracker's own (``told.py``)."""

    where: str
    """Where to look, for people."""
    kept: Mapping[str, str]
    """What it takes to go on with the same curves when the run is resumed."""

    def log(self, numbers: Mapping[str, float], seen: int) -> None:
        """Numbers after ``seen`` images."""

    def image(self, name: str, path: Path, seen: int) -> None:
        """A PNG file; the same ``name`` stands for the same kind of picture."""

    def event(self, what: str, seen: int) -> None:
        """What a user should know of how the run went."""

    def rewind(self, seen: int) -> None:
        """The run has gone back to ``seen`` images, and goes on from there by another way."""

    def close(self, outcome: Outcome) -> None:
        """Nothing more comes, for now."""
