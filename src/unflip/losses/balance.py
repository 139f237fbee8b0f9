"""Balanced target: places of target images weigh so much that the classes have the source's shares among them.

What matches a target with few trees best is a translation with few trees. With weights, the discriminator is shown as many as the source
has, and a translation that flips nothing is one that it cannot tell from the target.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from unflip.config import Config
from unflip.data.labels import Classes
from unflip.files import nameless
from unflip.losses.fixed import fixed
from unflip.segmenterfolder import load_segmenter

MEASURED = ("side", "tilt", "shift", "shares", "effective")
"""Fields of the configuration that are."""
RIDGE = 1e-4
"""Times half the squared length of lambda: what keeps it finite where no weights reach the source's shares."""
PLACES = 32
"""A side, of a crop, at which shares are measured: neighbors tell nearly the same."""
GOAL = 0.05
"""The total variation of shares that is near enough, as where images are chosen (``unflip audit --balance``)."""


class BalanceConfig(Config):
    """Whether places of target images are weighed for the discriminator, and by whose reading. A place y weighs

        w(y) = min(exp(lambda . m(y) - c), most)

    with m(y), the shares of the classes in the square around it. lambda makes the weighted mean of m over the target what the mean of m
    is over the source: of all weights that do, these are nearest to equal ones (entropy balancing; Hainmueller, Political Analysis 2012).
    c makes the mean weight 1.
    """

    segmenter: Path
    """The folder of a segmenter that reads the target, and the source where that has no labels; or its id on the hub."""
    window: PositiveInt | None = None
    """The side of the square, in pixels. Default: that of the patches that the discriminator judges, whose mixtures are the ones to match;
    halved until the weighed shares are within a total variation of 0.05, as the target may have no such mixtures."""
    most: float = Field(default=20.0, ge=1)
    """The largest weight."""
    side: PositiveInt | None = None
    """The square's, as it is; measured."""
    tilt: dict[str, float] = {}
    """lambda, of every class that the segmenter knows. Empty: measured."""
    shift: float = 0.0
    """c; measured with it."""
    shares: dict[str, tuple[float, float, float]] = {}
    """Of every class: in the source, in the target, and in the target as it is weighed. As measured."""
    effective: float = 1.0
    """Weighted, the target's places are worth this share of their number (Kish: the squared mean weight over the mean squared one)."""

    def remark(self) -> str:
        """What a reader of the run's results must know."""
        before, after = self.variation
        moved = f"total variation of the class shares {before:.3f} -> {after:.3f}"
        worth = f"worth {self.effective:.0%} of its places"
        return f"balance: the target weighs as the segmenter {nameless(self.segmenter)} reads it: {moved}, {worth}"

    @property
    def variation(self) -> tuple[float, float]:
        """The total variation between the class shares of source and target, without and with weights."""
        without, weighed = (sum(abs(of[0] - of[k]) for of in self.shares.values()) / 2 for k in (1, 2))
        return without, weighed

    def measured(self, side: int, source: Tensor, target: Tensor, names: tuple[str, ...]) -> Self:
        """With what makes the target's shares ``(M, K)``, in squares of ``side`` at many places, the source's on average; ``names``: of the
        classes."""
        target, wanted = target.double(), source.double().mean(0)
        found = tilt(target, wanted, self.most)
        means = torch.stack([wanted, target.mean(0), (found.weights[:, None] * target).mean(0)], 1)
        update = {
            "side": side,
            "tilt": {name: round(value, 6) for name, value in zip(names, found.tilt.tolist(), strict=True)},
            "shift": round(found.shift, 6),
            "shares": {name: tuple(round(share, 4) for share in of) for name, of in zip(names, means.tolist(), strict=True)},
            "effective": round(float(found.weights.mean().square() / found.weights.square().mean()), 4),
        }
        return self.model_copy(update=update)


class Tilt(NamedTuple):
    """What :func:`tilt` finds."""

    tilt: Tensor
    """lambda, ``(K,)`` float64."""
    shift: float
    weights: Tensor
    """``(M,)`` float64."""


def tilt(shares: Tensor, wanted: Tensor, most: float) -> Tilt:
    """The weights ``min(exp(lambda . m - c), most)`` of ``shares`` m ``(M, K)`` whose mean is 1 and whose weighted mean share is ``wanted``
    ``(K,)``, as nearly as ``most`` lets them.

    lambda minimizes the convex ``log mean exp(lambda . m) - lambda . wanted + RIDGE / 2 |lambda|^2``, whose gradient is the difference of
    the means. Classes that ``shares`` lack have 0.
    """
    shares, wanted = shares.double(), wanted.double()
    there = shares.amax(0) > 0
    found = torch.zeros_like(wanted).requires_grad_()
    solver = torch.optim.LBFGS([found], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def dual() -> Tensor:
        solver.zero_grad()
        by = found * there
        value = (shares @ by).logsumexp(0) - by @ wanted + RIDGE / 2 * by.square().sum()
        value.backward()
        return value.detach()

    solver.step(dual)
    exponents = shares @ (by := (found * there).detach())
    shift = _shift(exponents, most)
    return Tilt(by, shift, (exponents - shift).exp().clamp(max=most))


def _shift(exponents: Tensor, most: float) -> float:
    """c, for which ``min(exp(exponents - c), most)`` has mean 1: it falls as c rises."""
    low, high = (float(end) for end in exponents.aminmax())
    for _ in range(60):
        middle = (low + high) / 2
        if float((exponents - middle).exp().clamp(max=most).mean()) > 1:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def surroundings(ids: Tensor, classes: int, side: int) -> Tensor:
    """The share of each class in the square of ``side`` around every pixel: ids ``(N, H, W)`` to ``(N, classes, H, W)`` float32.

    Pixels outside, and those of id -1, count nowhere; where there are no others, all shares are 0.
    """
    hot = F.one_hot(ids.clamp(min=0), classes).movedim(-1, 1) * (ids >= 0)[:, None]
    sums = F.pad(hot.float(), ((side - 1) // 2 + 1, side // 2) * 2)
    for dim, length in ((2, ids.shape[1]), (3, ids.shape[2])):  # counts, which are exact, and no slower for a larger square
        until = sums.cumsum(dim)
        sums = until.narrow(dim, side, length) - until.narrow(dim, 0, length)
    return sums / sums.sum(1, keepdim=True).clamp(min=1)


def at_places(ids: Tensor, classes: int, side: int) -> Tensor:
    """:func:`surroundings` at an even grid of places, at most ``PLACES`` a side: ``(M, classes)``; without those that have no class."""
    down, across = (-(-length // PLACES) for length in ids.shape[1:])
    grid = surroundings(ids, classes, side)[..., down // 2 :: down, across // 2 :: across]
    rows = grid.movedim(1, -1).flatten(0, 2)
    return rows[rows.sum(1) > 0]


class Balance(nn.Module):
    """A segmenter, what is around every pixel as it reads it, and, where that has been measured, what the pixel weighs."""

    tilt: Tensor
    kept: Tensor

    def __init__(self, config: BalanceConfig, classes: Classes | None = None) -> None:
        super().__init__()
        model = load_segmenter(config.segmenter)
        self.config, self.known = config, model.config.classes
        self.segmenter = fixed(model, config.segmenter, classes)
        by = [config.tilt.get(name, 0.0) for name in self.known.names]
        self.register_buffer("tilt", torch.tensor(by), persistent=False)
        self.register_buffer("kept", torch.tensor(self.known.kept), persistent=False)

    def fixed_weights(self) -> dict[str, str]:
        """As :meth:`unflip.losses.Term.fixed_weights`."""
        return {"balance.segmenter": self.segmenter.digest()}

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """Ids ``(N, H, W)`` of images ``(N, 3, H, W)`` in [-1, 1]: the likeliest of the classes that the segmenter has learned."""
        return self.kept[self.segmenter(images)[:, self.kept].argmax(1)]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """What every pixel of target images ``(N, 3, H, W)`` weighs: ``(N, 1, H, W)`` float32."""
        assert self.config.side is not None, "measured before training"
        around = surroundings(self.read(images), len(self.known.names), self.config.side)
        exponents = torch.einsum("nkhw,k->nhw", around, self.tilt.to(around))
        return (exponents - self.config.shift).exp().clamp(max=self.config.most)[:, None]
