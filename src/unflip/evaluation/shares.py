"""Two domains by what they show: how far their class shares are apart, and which classes that will turn into which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unflip.data.labels import Classes
from unflip.data.shares import ClassShares
from unflip.seeding import numpy_rng

Floats = NDArray[np.float64]

SPLITS = 200
"""Random splits that tell how far apart two domains are by chance."""

SOFTNESS = 0.1
"""Of the transport plan, in image heights: places closer together than this are alike."""

SMALLEST = 0.005
"""Of the pixels: the least surplus of a class that is spoken of."""

LEAST_PART = 0.1
"""Of a class's surplus: the least part that is said to go into another class."""


@dataclass(frozen=True)
class Flip:
    """A class of which the source has more than the target, and what a discriminator will want its surplus to be."""

    name: str
    source: float
    target: float
    into: dict[str, float]
    """Classes, most likely first, and the shares of the pixels that they take. All shares are of those pixels that are not ignored."""


@dataclass(frozen=True)
class Comparison:
    """The class shares of two domains, as means over images. Those of ``source``, ``target`` and ``ignored`` are of all pixels."""

    source: dict[str, float]
    target: dict[str, float]
    ignored: tuple[float, float] | None
    """The shares of ignored pixels in source and target; None where there are none."""
    total_variation: float
    """Half the sum of |p - q| over classes, of the pixels that are not ignored."""
    total_variation_with_ignored: float
    """The same with the ignored pixels as one class more."""
    by_chance: float
    """The mean total variation, without ignored pixels, of random splits of all images into domains of these sizes."""
    by_chance_95: float
    """What 95 % of those stay below."""
    flips: list[Flip]
    """Most pixels first; differences that 5 % of random splits exceed are left out."""


def compare(source: ClassShares, target: ClassShares, classes: Classes, seed: int = 0) -> Comparison:
    """Compare the class shares of two domains."""
    names = [classes.names[i] for i in classes.kept]
    p, q = source.images.mean(0), target.images.mean(0)
    kept_p, kept_q = known(source.images), known(target.images)
    difference = random_differences(kept_p, kept_q, seed)
    chance = np.abs(difference).sum(1) / 2
    return Comparison(
        source=dict(zip(names, p.tolist(), strict=False)),
        target=dict(zip(names, q.tolist(), strict=False)),
        ignored=(float(p[-1]), float(q[-1])) if p[-1] or q[-1] else None,
        total_variation=total_variation(kept_p.mean(0), kept_q.mean(0)),
        total_variation_with_ignored=total_variation(p, q),
        by_chance=float(chance.mean()),
        by_chance_95=float(np.quantile(chance, 0.95)),
        flips=_flips(
            names, kept_p.mean(0), kept_q.mean(0), heights_apart(source.bands, target.bands), np.quantile(np.abs(difference), 0.95, axis=0)
        ),
    )


def total_variation(p: Floats, q: Floats) -> float:
    """Half the sum of ``|p - q|``: 0 for equal distributions, 1 for those that share no class."""
    return float(np.abs(p - q).sum() / 2)


def known(images: Floats) -> Floats:
    """Class shares ``(n, K + 1)`` without the last column, of the pixels that are not ignored; images of which none are left out."""
    images = images[:, :-1]  # the ignored share is a sum, which rounding keeps below 1
    images = images[images.any(1)]
    return images / images.sum(1, keepdims=True)


def random_differences(source: Floats, target: Floats, seed: int) -> Floats:
    """The mean shares of one domain less those of the other, ``(SPLITS, K)``, where all images are dealt out anew, in domains as large."""
    images, n = np.concatenate([source, target]), len(source)
    rng = numpy_rng(seed, "random splits")
    taken = np.stack([rng.permutation(len(images)) < n for _ in range(SPLITS)])
    return taken @ images / n - ~taken @ images / (len(images) - n)


def heights_apart(source: Floats, target: Floats) -> Floats:
    """How far apart every class of the source and every class of the target stand, ``(K, K)``, in image heights.

    Of shares by stripe ``(BANDS, K + 1)``: the Wasserstein distance of the heights at which their pixels lie, the integral over the height
    of the difference between what lies above it. 0 for classes without pixels.
    """
    above = []
    for bands in (source[:, :-1], target[:, :-1]):
        total = bands.sum(0)
        above.append(np.cumsum(bands / np.where(total > 0, total, 1), axis=0))
    apart = np.abs(above[0][:, :, None] - above[1][:, None, :]).mean(0)
    there = (source[:, :-1].sum(0) > 0)[:, None] & (target[:, :-1].sum(0) > 0)
    return np.where(there, apart, 0.0)


def transport(surplus: Floats, deficit: Floats, cost: Floats, softness: float = SOFTNESS) -> Floats:
    """How much of each surplus goes to each deficit, ``(len(surplus), len(deficit))``.

    The plan with these row and column sums, both of one total, that minimizes ``sum plan * cost + softness * sum plan * log plan``: the
    cheapest one for a small softness, and proportional to ``surplus * deficit`` where all cost the same (Cuturi, NeurIPS 2013; Sinkhorn's
    iterations on logarithms). Unlike the cheapest plan, it does not rest on differences in cost that mean nothing.
    """
    plan = np.zeros((len(surplus), len(deficit)))
    rows, columns = np.flatnonzero(surplus > 0), np.flatnonzero(deficit > 0)
    if not len(rows) or not len(columns):
        return plan
    a, b, kernel = np.log(surplus[rows]), np.log(deficit[columns]), -cost[np.ix_(rows, columns)] / softness
    u, v = np.zeros(len(rows)), np.zeros(len(columns))
    for _ in range(10_000):
        u = a - np.logaddexp.reduce(kernel + v, axis=1)
        step = b - np.logaddexp.reduce(kernel + u[:, None], axis=0) - v
        v += step
        if np.abs(step).max() < 1e-12:
            break
    plan[np.ix_(rows, columns)] = np.exp(kernel + u[:, None] + v)
    return plan


def _flips(names: list[str], p: Floats, q: Floats, cost: Floats, noise: Floats) -> list[Flip]:
    """``p``, ``q``: shares of the pixels that are not ignored; ``noise``: of each class, the difference that chance makes."""
    change = p - q
    surplus, deficit = change.clip(0), (-change).clip(0)
    if not surplus.any() or not deficit.any():
        return []
    plan = transport(surplus, deficit * surplus.sum() / deficit.sum(), cost)  # both of one sum, but for rounding
    flips = []
    for i in np.argsort(-surplus, kind="stable").tolist():
        if surplus[i] < max(SMALLEST, noise[i]):
            continue
        order = [j for j in np.argsort(-plan[i], kind="stable").tolist() if plan[i, j] >= LEAST_PART * surplus[i]]
        flips.append(Flip(names[i], float(p[i]), float(q[i]), {names[j]: float(plan[i, j]) for j in order}))
    return flips
