"""What two images of the same view show of each other: the clues from which trust maps are made.

Kinds and looks are those of patches of 2 x 2 pixels. A kind is a color that the patches of one image have, found by k-means; a look is what
a patch and its surroundings are like in the other image. A reader is taught by this image pair only how each kind looks, all kinds counting
alike (no prior): else the look of a rare kind would be read as that of a frequent one that was painted like it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unflip.seeding import numpy_rng

Floats = NDArray[np.float64]

NAMES = (
    "color",
    "change",
    *(f"{what} of the {whose}" for whose in ("source", "translation") for what in ("misreading", "surprise", "share", "doubt")),
    *(f"{size} edges of the {whose}" for size in ("fine", "coarse") for whose in ("source", "translation")),
    *(f"{what} likeness within {reach}" for reach in (2, 5) for what in ("more", "other")),
)
"""Of the channels of :func:`clues`."""

KINDS = (6, 10)
"""Into how many kinds patches are sorted; what is read is averaged."""
ROUNDS = 25
"""Of k-means."""
SHARED, RIDGE = 0.5, 0.05
"""Share of the kinds' mean covariance in that of each kind, and what is added to the variances: some kinds have few patches."""
REACHES = (2, 5)
"""How far away the patches are that a patch is set beside."""


def clues(x: Tensor, y: Tensor) -> Tensor:
    """What a source and its translation, both ``(1, 3, H, W)`` in [-1, 1] with even sides, show of each other: ``(1, 18, H/2, W/2)``.

    In the order of :data:`NAMES`: how far the colors moved without and with brightness; what :func:`reading` finds of the kinds of the
    source in the looks of the translation, and of the kinds of the translation in the looks of the source; edges; :func:`likeness`.
    """
    color = (_chroma(y) - _chroma(x)).abs().mean(1, keepdim=True)
    change = (y - x).abs().mean(1, keepdim=True)
    small_x, small_y, looks_x, looks_y = halved(x), halved(y), looks(x), looks(y)
    read = torch.from_numpy(np.concatenate([reading(small_x, looks_y), reading(small_y, looks_x)])).to(x)[None]
    # of both images: the edges of patches of 2 pixels, then of 6
    edges = [each[:, list(channels)].sum(1, keepdim=True) for channels in ((3, 4), (8, 9)) for each in (looks_x, looks_y)]
    alike = [likeness(small_x, small_y, reach) for reach in REACHES]
    return torch.cat(
        [(halved(color) + 0.03).log(), (halved(change) + 0.03).log(), read, *((each + 0.02).log() for each in edges), *alike], dim=1
    )


def reading(colors: Tensor, seen: Tensor) -> NDArray[np.float32]:
    """One image's patches sorted into kinds by their ``colors`` ``(1, 3, h, w)``, and read in how the other looks, ``(1, C, h, w)``.

    With kinds k, those of the patches being k_i, and p(look | k) a Gaussian fitted to the looks of the patches of kind k, the reading of
    patch i is q_i(k) = p(look_i | k) / (sum_l p(look_i | l)).

    Returns:
        ``(4, h, w)``: the logarithm of the misreading sum_k q_i(k) |color of k - color of k_i|, 1 being the mean distance of two kinds; the
        surprise -log q_i(k_i); the logarithm of the share of the patches that are of kind k_i; the doubt, q_i's entropy.
    """
    height, width = colors.shape[-2:]
    points, rows = _rows(colors), _rows(seen)
    total = np.zeros((4, height * width))
    for count in KINDS:
        centers, of = kinds(points, count, numpy_rng(0, "trust", height, width, count))
        apart = np.linalg.norm(centers[:, None] - centers[None], axis=-1)
        # the mean over all pairs, those of a kind with itself included
        apart /= max(apart.mean(), 1e-12)
        read = posteriors(rows, of, len(centers))
        total += (
            (read * apart[of]).sum(1),
            -np.log(read[np.arange(len(of)), of] + 1e-4),
            np.log(np.bincount(of, minlength=len(centers))[of] / len(of)),
            -(read * np.log(read + 1e-9)).sum(1),
        )
    total /= len(KINDS)
    total[0] = np.log(total[0] + 0.02)
    return total.reshape(4, height, width).astype(np.float32)


def likeness(x: Tensor, y: Tensor, reach: int) -> Tensor:
    """How much more alike, and how otherwise alike, a patch is to the eight at ``reach`` patches in ``x`` than in ``y``.

    The likeness of two patches is exp(-|difference of colors| / their spread over the image).

    Returns:
        ``(1, 2, h, w)`` from ``(1, 3, h, w)``: the mean of the differences, and of their absolute values.
    """
    sides = [(a, b) for a in (-reach, 0, reach) for b in (-reach, 0, reach) if a or b]
    more, other = torch.zeros_like(x[:, :1]), torch.zeros_like(x[:, :1])
    height, width = x.shape[-2:]
    padded = [(each, F.pad(each, (reach,) * 4, mode="replicate"), each.std() + 0.05) for each in (x, y)]
    for down, across in sides:
        window = (..., slice(reach + down, reach + down + height), slice(reach + across, reach + across + width))
        in_x, in_y = (torch.exp(-(around[window] - each).norm(dim=1, keepdim=True) / spread) for each, around, spread in padded)
        more += (in_x - in_y) / len(sides)
        other += (in_x - in_y).abs() / len(sides)
    return torch.cat([more, other], dim=1)


def looks(x: Tensor) -> Tensor:
    """Colors and edge strengths, across and down, of patches of 2 pixels, then of 6: ``(1, 10, H/2, W/2)`` from ``(1, 3, H, W)``."""
    light = x.mean(1, keepdim=True)
    across, down = F.pad(light.diff(dim=3).abs(), (0, 1)), F.pad(light.diff(dim=2).abs(), (0, 0, 0, 1))
    fine = halved(torch.cat([x, across, down], dim=1))
    return torch.cat([fine, F.avg_pool2d(F.pad(fine, (1, 1, 1, 1), mode="replicate"), 3, 1)], dim=1)


def halved(x: Tensor) -> Tensor:
    """Means of 2 x 2 pixels."""
    return F.avg_pool2d(x, 2)


def kinds(points: Floats, count: int, rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    """K-means: the centers of up to ``count`` kinds, as many as there are different points, and the kind of every point.

    Not scikit-learn's, which is an extra: trust maps are to work without.
    """
    centers = points[rng.integers(len(points))][None]
    for _ in range(count - 1):  # k-means++ (Arthur & Vassilvitskii, SODA 2007)
        distance = _square_distances(points, centers).min(1)
        if distance.max() < 1e-9:
            break
        centers = np.concatenate([centers, points[rng.choice(len(points), p=distance / distance.sum())][None]])
    for _ in range(ROUNDS):
        of = _square_distances(points, centers).argmin(1)
        sizes = np.bincount(of, minlength=len(centers))[:, None]
        sums = np.stack([np.bincount(of, column, len(centers)) for column in points.T], axis=1)
        centers = np.where(sizes > 0, sums / np.maximum(sizes, 1), centers)
    return centers, _square_distances(points, centers).argmin(1)


def posteriors(looks: Floats, of: NDArray[Any], count: int) -> Floats:
    """The probability of every kind given a look, ``(P, count)``: a Gaussian for each kind, no prior (quadratic discriminant)."""
    looks = (looks - looks.mean(0)) / (looks.std(0) + 1e-6)
    members = [looks[of == kind] for kind in range(count)]
    means = [each.mean(0) if len(each) else np.zeros(looks.shape[1]) for each in members]
    covariances = [(each - mean).T @ (each - mean) / max(len(each), 1) for each, mean in zip(members, means, strict=True)]
    shared = np.mean(covariances, axis=0)
    logs = np.full((len(looks), count), -np.inf)
    for kind, (mean, own) in enumerate(zip(means, covariances, strict=True)):
        if len(members[kind]):
            factor = np.linalg.cholesky((1 - SHARED) * own + SHARED * shared + RIDGE * np.eye(len(mean)))
            logs[:, kind] = -0.5 * np.square(np.linalg.solve(factor, (looks - mean).T)).sum(0) - np.log(np.diag(factor)).sum()
    powers = np.exp(logs - logs.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _chroma(x: Tensor) -> Tensor:
    """The colors less their brightness."""
    return x - x.mean(1, keepdim=True)


def _rows(x: Tensor) -> Floats:
    """``(1, C, h, w)`` to ``(h * w, C)``."""
    return x[0].flatten(1).T.double().numpy()


def _square_distances(a: Floats, b: Floats) -> Floats:
    return np.square(a[:, None] - b[None]).sum(-1)
