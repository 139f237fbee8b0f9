"""Two domains before training: their files, how they look, and what they show."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unflip.data.duplicates import Copy, exact_copies, in_both, near_copies
from unflip.data.inventory import KINDS, Inventory
from unflip.evaluation.realism import frechet
from unflip.evaluation.shares import Comparison, Floats
from unflip.seeding import numpy_rng

CROP = 256
"""The usual size of training crops."""

EXAMPLES = 3
"""Files that are named of each kind of trouble."""

DRAWS, MOST = 20, 1_000
"""Random halves of the target that are compared, and images in each at most."""


@dataclass(frozen=True)
class Copies:
    """How many images are copies of others, and examples: (image, what it is a copy of). Near copies are counted without exact ones."""

    exact: int
    exact_examples: list[tuple[str, str]]
    near: int
    near_examples: list[tuple[str, str]]


@dataclass(frozen=True)
class Files:
    """The images of a domain; all but ``bad`` is about those that can be used."""

    where: str
    images: int
    bad: list[str]
    """A line for each that cannot be used."""
    sizes: int
    """Distinct ones."""
    width: tuple[int, int, int]
    """The smallest, the median and the largest; in pixels, as ``height`` is."""
    height: tuple[int, int, int]
    short: tuple[int, int]
    """The shorter side: of the smallest and of the median image."""
    ratios: tuple[float, float]
    """The least and the largest width / height."""
    small: int
    """Images with a side below CROP."""
    kinds: dict[str, int]
    """How many there are of each of :data:`unflip.data.inventory.KINDS`, by its words; the most frequent first."""
    odd: list[str]
    """The first image of each kind but the most frequent, in their order."""
    copies: Copies

    @property
    def drawn(self) -> bool:
        """Whether most images are of flat colors."""
        return next(iter(self.kinds)) == KINDS["flat"]


@dataclass(frozen=True)
class Looks:
    """How far apart two domains look: Fréchet distances of their images' color statistics, means over random draws."""

    distance: float
    """Of source and target."""
    halves: float
    """Of two halves of the target."""
    images: int
    """In each set: small sets are further apart by chance, and so both distances are of sets of one size."""

    @property
    def times(self) -> float | None:
        """``distance`` in units of ``halves``; None where the target's images all look the same."""
        return self.distance / self.halves if self.halves > 1e-12 else None


@dataclass(frozen=True)
class Balance:
    """Lists of images that were chosen so that their mixtures match."""

    where: str
    """The folder of the lists."""
    source: int
    """Images that were chosen."""
    target: int
    total_variation: float
    """Between their class shares."""


@dataclass(frozen=True)
class Audit:
    """All that is known of two domains."""

    source: Files
    target: Files
    both: Copies
    """Images of the source that are in the target, too."""
    looks: Looks | None
    """None where there are too few images."""
    shares: Comparison | None
    """None without labels and segmenter."""
    read: dict[str, str]
    """Where the classes of ``source`` and ``target`` come from."""
    verdict: str
    reason: str
    advice: list[str]
    balance: Balance | None = None
    """None: not asked for."""


def describe(where: Path, found: Inventory) -> Files:
    """The files of one domain, at least one of which can be used."""
    names = [str(seen.entry.path) for seen in found.seen]
    widths, heights = ([size(seen.entry) for seen in found.seen] for size in (lambda e: e.width, lambda e: e.height))
    shorter = [min(size) for size in zip(widths, heights, strict=True)]
    ratios = [width / height for width, height in zip(widths, heights, strict=True)]
    kinds = Counter(seen.kind for seen in found.seen).most_common()
    exact = exact_copies([seen.digest for seen in found.seen])
    near = near_copies([seen.hash for seen in found.seen])
    return Files(
        where=str(where),
        images=len(names),
        bad=found.bad,
        sizes=len(set(zip(widths, heights, strict=True))),
        width=(min(widths), statistics.median_low(widths), max(widths)),
        height=(min(heights), statistics.median_low(heights), max(heights)),
        short=(min(shorter), statistics.median_low(shorter)),
        ratios=(min(ratios), max(ratios)),
        small=sum(side < CROP for side in shorter),
        kinds={KINDS[kind]: number for kind, number in kinds},
        odd=[next(name for name, seen in zip(names, found.seen, strict=True) if seen.kind == kind) for kind, _ in kinds[1:]],
        copies=_copies(exact, near, {place for copy in exact for place in (copy.image, copy.of)}, names, names),
    )


def shared(source: Inventory, target: Inventory) -> Copies:
    """The images that both domains hold."""
    exact = in_both([seen.digest for seen in source.seen], [seen.digest for seen in target.seen])
    near = near_copies([seen.hash for seen in source.seen], [seen.hash for seen in target.seen])
    names, others = ([str(seen.entry.path) for seen in found.seen] for found in (source, target))
    return _copies(exact, near, {copy.image for copy in exact}, names, others)


def looks_apart(source: Floats, target: Floats, seed: int = 0) -> Looks | None:
    """How far apart two domains look, from the features of their images, ``(n, D)`` and ``(m, D)``."""
    size = min(len(source), len(target) // 2, MOST)
    if size < 2:
        return None
    between, within = [], []
    for draw in range(DRAWS):
        rng = numpy_rng(seed, "halves", draw)
        order = rng.permutation(len(target))
        half, other = target[order[:size]], target[order[size : 2 * size]]
        between.append(frechet(source[rng.permutation(len(source))[:size]], half))
        within.append(frechet(other, half))
    return Looks(statistics.fmean(between), statistics.fmean(within), size)


def _copies(exact: Sequence[Copy], near: Sequence[Copy], known: set[int], names: Sequence[str], others: Sequence[str]) -> Copies:
    """``known``: images that need not be counted as near copies."""
    near = [copy for copy in near if copy.image not in known]
    pairs = [[(names[copy.image], others[copy.of]) for copy in copies[:EXAMPLES]] for copies in (exact, near)]
    return Copies(len(exact), pairs[0], len(near), pairs[1])
