"""What came of a translation, as whoever asked for it is told."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Outcome:
    """What came of translating a folder."""

    done: int = 0
    skipped: int = 0
    """Translated already by an earlier call."""
    failed: list[str] = field(default_factory=list)
    """A line for each."""
    trust: dict[str, float] = field(default_factory=dict)
    """The mean of the trust map of each image that was translated now, by relative name."""
    copied: int = 0
    linked: int = 0
    """Files of the data set beside its images: annotations, splits, label maps. Those that were there already do not count."""
    turned: int = 0
    """Images that were turned upright, as their EXIF orientation asks for, and so may no longer fit their annotations."""
    labels: dict[str, int] = field(default_factory=dict)
    """How many images of each folder within the source were taken for label maps, without having been named as such."""
    left: dict[str, int] = field(default_factory=dict)
    """How many files of each ending were not copied, as they are no annotations."""
