"""Images of two domains chosen so that the mixtures of their classes match: then a translation has nothing to flip for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unflip.data.shares import ClassShares
from unflip.evaluation.shares import Floats, total_variation

GOAL = 0.05
"""The total variation at which enough have been left out: half of what is called matched."""

LEAST = 0.25
"""Of each domain's images: what is left at least, however far apart the mixtures still are."""

STEPS = 1_000
"""Of so many images one is left out at a time; of more, more."""


class Chosen(NamedTuple):
    """Whether each image of source and target is chosen, ``(n,)``, and how far apart those are."""

    source: NDArray[np.bool_]
    target: NDArray[np.bool_]
    total_variation: float


def choose(source: ClassShares, target: ClassShares, goal: float = GOAL, least: float = LEAST) -> Chosen:
    """Leave out images, of either domain, until the total variation of the mean class shares is at most ``goal``.

    At every step it is the image without which the means come nearest to each other, in squares, for what of its domain it is: each
    domain's images are worth the more, the fewer are left of them. A domain keeps ``least`` of its images, and one at least; images that
    are ignored as a whole are never chosen. The same shares give the same choice.
    """
    images, kept = [], []
    for shares in (source, target):
        seen = shares.images[:, :-1].sum(1, keepdims=True)
        images.append(shares.images[:, :-1] / np.where(seen > 0, seen, 1))
        kept.append(seen[:, 0] > 0)
    fewest = [max(1, int(np.ceil(least * there.sum()))) for there in kept]
    while True:
        means = [x[there].mean(0) for x, there in zip(images, kept, strict=True)]
        apart = total_variation(*means)
        if apart <= goal:
            break
        best = max((_leaver(images[k], kept[k], means[k], (1, -1)[k] * (means[0] - means[1]), fewest[k]), k) for k in (0, 1))
        (gain, leaving), k = best
        if gain <= 0:
            break
        kept[k][list(leaving)] = False
    return Chosen(kept[0], kept[1], apart)


def _leaver(images: Floats, kept: NDArray[np.bool_], mean: Floats, apart: Floats, fewest: int) -> tuple[float, tuple[int, ...]]:
    """Which images of a domain to leave out next, and what is gained by the first of them, of its domain; ``apart``: this domain's mean
    less the other's."""
    left = int(kept.sum())
    if left <= fewest:
        return 0.0, ()
    moved = apart + (mean - images) / (left - 1)  # what would be, without each
    gains = np.where(kept, (apart @ apart - (moved * moved).sum(1)) * left, -np.inf)
    several = min(1 + left // STEPS, left - fewest)
    best = np.argsort(-gains, kind="stable")[:several]
    return float(gains[best[0]]), tuple(i for i in best.tolist() if gains[i] > 0)
