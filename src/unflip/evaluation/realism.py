"""How far a set of translations is from real images of the target, by their features: Fréchet distance, KID, CMMD.

Features are rows ``(n, D)`` float64, in the order of the files, of which neighbors may be frames of one drive. So intervals keep blocks of
neighboring images together. They are about chance, for these numbers of images, and not about the bias that small samples give the
Fréchet distance: see :func:`small_sample`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from unflip.errors import UserError
from unflip.evaluation.confusion import Counts, Figure, Floats, block_length, interval, ratio, resampled
from unflip.evaluation.features import FeatureNetwork

Kernel = Callable[[Floats, Floats], Floats]

CMMD_WIDTH, CMMD_SCALE = 10.0, 1000.0
GROUPS = 10
"""Of neighboring blocks, each of which the jackknife leaves out once: each costs a Fréchet distance, seconds for thousands of images."""
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""The 97.5 % quantiles of Student's t, for 1 to ``GROUPS - 1`` degrees of freedom."""
ENOUGH = 5
"""Images per feature, see :func:`small_sample`."""


def realism(network: FeatureNetwork, translated: Floats, target: Floats, lpips: Floats | None = None, seed: int = 0) -> dict[str, Any]:
    """Every metric that the network's features allow, each with its interval and the number of translations.

    ``translated (n, D)``, ``target (m, D)``: the network's features; ``lpips (n,)``: the distance of every translation to its source.

    Raises:
        UserError: fewer than two images of either kind.
    """
    for what, features in (("translated", translated), ("target", target)):
        if len(features) < 2:
            raise UserError(f"only one {what} image, and realism compares sets; give more, or leave the target out")
    figures = {"frechet": frechet_figure(translated, target), "kid": kid_figure(translated, target, seed)}
    if network.kind == "clip":
        figures["cmmd"] = cmmd_figure(translated, target, seed)
    if lpips is not None:
        figures["lpips"] = mean_figure(lpips, seed)
    return {"features": network.name, "target_images": len(target), **{name: figure.plain() for name, figure in figures.items()}}


def small_sample(translated: int, target: int, dimension: int) -> str | None:
    """One line where a Fréchet distance says more about the numbers of images than about the images; None: they suffice.

    The rule: ``ENOUGH`` images per feature on both sides. Two samples of one Gaussian are not at distance 0 but, to leading order in
    ``1/n + 1/m``, up to ``(1/n + 1/m) (D + 5) / 4`` times the total variance of its features (that much where all directions vary alike,
    less where few do). At 5 images for each of many features that is a tenth of the variance, at 1 it is half: 0.104 and 0.522 as measured
    for 128. For the 2048 values of Inception the rule asks for the 10,000 images that the authors of the distance recommend
    (https://github.com/bioinf-jku/TTUR).
    """
    needed = ENOUGH * dimension
    if min(translated, target) >= needed:
        return None
    counts = f"{translated} translated and {target} target images for {dimension} features"
    return (
        f"the Fréchet distance is too high from few images ({counts}; {needed} of each suffice); compare it at equal numbers, or take KID"
    )


def frechet(a: Floats, b: Floats) -> float:
    """The Fréchet distance of the Gaussians with the means and covariances of ``a (n, D)`` and ``b (m, D)``.

    ``|mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))``: Heusel et al., NeurIPS 2017, eq. 6. The eigenvalues of ``S_a S_b`` are the
    squared singular values of ``A B^T / sqrt((n - 1) (m - 1))``, with ``A`` and ``B`` less their means. So no square root of a matrix is
    needed, nothing can become complex, and fewer images than features do no harm to the accuracy.
    """
    centered = [x - x.mean(0) for x in (a, b)]
    variance = sum((x**2).sum() / (len(x) - 1) for x in centered)
    # X = Q R, and Q, whose columns are orthonormal, changes no singular value.
    x, y = ((np.linalg.qr(x, mode="r") if len(x) > x.shape[1] else x) / np.sqrt(len(x) - 1) for x in centered)
    trace = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return max(0.0, float(((a.mean(0) - b.mean(0)) ** 2).sum() + variance - 2 * trace))


def frechet_figure(a: Floats, b: Floats) -> Figure:
    """The Fréchet distance, and an interval by a jackknife that leaves out a group of neighboring blocks at a time, of one side.

    Not by bootstrap: a set with repeated images has fewer different ones, which raises the distance of every resample. The jackknife's sets
    are smaller too, but all alike, and only their scatter counts: ``(g - 1) / g`` times its sum of squares is the variance that a side
    contributes (the blockwise jackknife of Künsch 1989, with blocks that do not overlap).
    """
    value, variance, fewest = frechet(a, b), 0.0, GROUPS
    for side, other in ((a, b), (b, a)):
        groups = _groups(len(side))
        if len(groups) < 2 or len(side) - max(map(len, groups)) < 2:
            return Figure(value, np.nan, np.nan, len(a))
        left_out = np.array([frechet(np.delete(side, group, 0), other) for group in groups])
        variance += (len(groups) - 1) / len(groups) * ((left_out - left_out.mean()) ** 2).sum()
        fewest = min(fewest, len(groups))
    half = STUDENT[fewest - 2] * np.sqrt(variance)
    return Figure(value, max(0.0, value - half), value + half, len(a))


def kid(a: Floats, b: Floats) -> float:
    """Kernel inception distance: the unbiased squared MMD under ``(x.y / D + 1)^3`` (Binkowski et al., ICLR 2018), over all pairs.

    Published figures are means over random subsets of the images: the same in expectation. It is unbiased for independent images; the more
    alike neighboring frames are, the higher it is.
    """
    return _mmd(_sums(a, b, _polynomial)).item()


def cmmd(a: Floats, b: Floats) -> float:
    """CMMD: 1000 times the squared MMD under a Gaussian kernel of width 10 (Jayasumana et al., CVPR 2024), of CLIP's embeddings.

    The unbiased estimate. The published code takes the biased one, which is higher by 1000 / n + 1000 / m times (1 - mean kernel): some
    hundredths for a hundred images, as good as nothing for the tens of thousands in the paper.
    """
    return CMMD_SCALE * _mmd(_sums(a, b, _gaussian)).item()


def kid_figure(a: Floats, b: Floats, seed: int = 0) -> Figure:
    """KID, with an interval by bootstrap over blocks."""
    return _mmd_figure(_sums(a, b, _polynomial), 1.0, seed)


def cmmd_figure(a: Floats, b: Floats, seed: int = 0) -> Figure:
    """CMMD, with an interval by bootstrap over blocks."""
    return _mmd_figure(_sums(a, b, _gaussian), CMMD_SCALE, seed)


def mean_figure(values: Floats, seed: int = 0) -> Figure:
    """The mean of a value per image ``(n,)``, with an interval by bootstrap over blocks."""
    starts = _starts(len(values))
    drawn = resampled(len(starts), seed, "translated")
    means = (drawn @ np.add.reduceat(values, starts)) / (drawn @ _lengths(len(values)))
    low, high = interval(means) if len(starts) > 1 else (np.nan, np.nan)
    return Figure(float(values.mean()), low, high, len(values))


def _polynomial(x: Floats, y: Floats) -> Floats:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _gaussian(x: Floats, y: Floats) -> Floats:
    """``exp(-|x - y|^2 / (2 width^2))``"""
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return np.exp(-squares / (2 * CMMD_WIDTH**2))


class _Sums(NamedTuple):
    """The sums of a kernel over pairs of images, by the blocks of both, and how many pairs they are of; no image is paired with itself."""

    aa: Floats
    bb: Floats
    ab: Floats
    n: Counts
    """Images in each block of ``a``."""
    m: Counts


def _sums(a: Floats, b: Floats, kernel: Kernel) -> _Sums:
    return _Sums(_block_sums(a, a, kernel), _block_sums(b, b, kernel), _block_sums(a, b, kernel), _lengths(len(a)), _lengths(len(b)))


def _block_sums(x: Floats, y: Floats, kernel: Kernel) -> Floats:
    """``(blocks of x, blocks of y)``; rows of the kernel come and go, so that thousands of images need no matrix of all pairs."""
    rows, starts = [], _starts(len(x))
    for begin, end in zip(starts, [*starts[1:], len(x)], strict=True):
        pairs = kernel(x[begin:end], y)
        if x is y:
            pairs[np.arange(end - begin), np.arange(begin, end)] = 0
        rows.append(np.add.reduceat(pairs.sum(0), _starts(len(y))))
    return np.array(rows)


def _mmd(sums: _Sums, a: Counts | None = None, b: Counts | None = None) -> Floats:
    """The unbiased squared MMD, ``(R,)``, of sets that hold every block as often as ``a (R, blocks)`` and ``b`` say; default: once.

    Left out are pairs of an image with itself and, since they show one place and time, all pairs between copies of a block: both would
    raise what resamples give, and no two blocks of the images themselves are so alike.
    """

    def within(pairs: Floats, sizes: Counts, times: Counts) -> Floats:
        def total(blocks: Floats | Counts) -> Floats:
            own = np.diagonal(blocks)
            return ((times @ blocks) * times).sum(1) - times**2 @ own + times @ own

        return ratio(total(pairs), total(np.outer(sizes, sizes) - np.diag(sizes)))  # a resample may hold no two different images

    a, b = (np.ones((1, len(sizes)), dtype=np.int64) if drawn is None else drawn for drawn, sizes in ((a, sums.n), (b, sums.m)))
    across = ((a @ sums.ab) * b).sum(1) / ((a @ sums.n) * (b @ sums.m))
    return within(sums.aa, sums.n, a) + within(sums.bb, sums.m, b) - 2 * across


def _mmd_figure(sums: _Sums, scale: float, seed: int) -> Figure:
    value, images, fewest = scale * _mmd(sums).item(), int(sums.n.sum()), min(len(sums.n), len(sums.m))
    if fewest < 2:
        return Figure(value, np.nan, np.nan, images)
    low, high = interval(scale * _mmd(sums, resampled(len(sums.n), seed, "translated"), resampled(len(sums.m), seed, "target")))
    return Figure(value, low, high, images)


def _starts(images: int) -> Counts:
    """Where the blocks of neighboring images begin."""
    return np.arange(0, images, block_length(images))


def _lengths(images: int) -> Counts:
    return np.diff(_starts(images), append=images)


def _groups(images: int) -> list[Counts]:
    """The images, in at most ``GROUPS`` groups of neighboring blocks."""
    blocks = np.split(np.arange(images), _starts(images)[1:])
    return [np.concatenate(blocks[group[0] : group[-1] + 1]) for group in np.array_split(np.arange(len(blocks)), min(GROUPS, len(blocks)))]
