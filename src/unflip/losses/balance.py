"""Balanced domains: the discriminator compares source and target as if their classes had the same shares.

What matches a target with few trees best is a translation with few trees. So places weigh: what one domain has more of than the other
weighs less in it, and where only one of them has something, the discriminator has no say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from unflip.config import Config
from unflip.data.labels import Classes
from unflip.files import nameless
from unflip.losses.fixed import fixed
from unflip.segmenterfolder import load_segmenter
from unflip.types import Batch

MEASURED = ("odds", "base", "means", "shares", "effective")
"""Fields of the configuration that are."""
RIDGE = 1e-8
"""Times half the squared length of beta: what keeps it finite where a class is in one domain only."""
PLACES = 32
"""A side, of a crop, at which shares are measured: neighbors tell nearly the same."""


class BalanceConfig(Config):
    """Whether places weigh in the game of generator and discriminator, and by whose reading. With

        e(m) = sigmoid(beta . m + b)     the chance that a place is the source's, by the shares m of the classes in the square around it

    places of the source weigh 1 - e, and those of the target e, each in proportion to their mean. Where e is a logistic regression, the
    weighted means of m are then the same in both domains (overlap weights; Li, Morgan, Zaslavsky, JASA 2018, theorem 3).
    """

    segmenter: Path
    """The folder of a segmenter that reads the target, and the source where that has no labels; or its id on the hub."""
    window: PositiveInt | None = None
    """The side of the square, in pixels. Default: that of the patches that the discriminator judges, whose mixtures are to be alike."""
    odds: dict[str, float] = {}
    """beta, of every class that the segmenter knows. Empty: measured."""
    base: float = 0.0
    """b; measured with it."""
    means: tuple[float, float] = (1.0, 1.0)
    """The mean of 1 - e over the source, and of e over the target."""
    shares: dict[str, tuple[float, float, float, float]] = {}
    """Of every class: in the source, in the target, and in each of the two as it is weighed. As measured."""
    effective: tuple[float, float] = (1.0, 1.0)
    """Weighed, the places of source and target are worth these shares of their number (Kish: squared mean weight over mean squared one)."""

    def remark(self) -> str:
        """What a reader of the run's results must know."""
        before, after = self.variation
        moved = f"total variation of the class shares {before:.3f} -> {after:.3f}"
        worth = "worth {:.0%} of the source's and {:.0%} of the target's places".format(*self.effective)
        return f"balance: places weigh by what the segmenter {nameless(self.segmenter)} reads around them: {moved}, {worth}"

    @property
    def variation(self) -> tuple[float, float]:
        """The total variation between the class shares of source and target, without and with weights."""
        without, weighed = (sum(abs(of[k] - of[k + 1]) for of in self.shares.values()) / 2 for k in (0, 2))
        return without, weighed

    def measured(self, source: Tensor, target: Tensor, names: tuple[str, ...]) -> Self:
        """With what balances the shares ``(M, K)`` at many places of both domains; ``names``: of the classes."""
        source, target = source.double(), target.double()
        odds, base = regression(source, target)
        of_source, of_target = (-(source @ odds + base)).sigmoid(), (target @ odds + base).sigmoid()  # 1 - e and e
        weighed = [weights @ m / weights.sum() for weights, m in ((of_source, source), (of_target, target))]
        shares = torch.stack([source.mean(0), target.mean(0), *weighed], 1).tolist()
        worth = (float(weights.mean().square() / weights.square().mean()) for weights in (of_source, of_target))
        update = {
            "odds": {name: round(value, 6) for name, value in zip(names, odds.tolist(), strict=True)},
            "base": round(base, 6),
            "means": tuple(float(f"{weights.mean():.6g}") for weights in (of_source, of_target)),
            "shares": {name: tuple(round(share, 4) for share in four) for name, four in zip(names, shares, strict=True)},
            "effective": tuple(round(share, 4) for share in worth),
        }
        return self.model_copy(update=update)


def regression(source: Tensor, target: Tensor) -> tuple[Tensor, float]:
    """beta ``(K,)`` and b of the logistic regression that tells places of the source from places of the target by their shares ``(M, K)``,
    the two domains counting the same; all float64. Classes that neither has have 0.
    """
    found = torch.zeros(source.shape[1] + 1, dtype=torch.float64).requires_grad_()
    solver = torch.optim.LBFGS([found], max_iter=1_000, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        odds, base = found[:-1], found[-1]
        of_source, of_target = (F.softplus(sign * (m @ odds + base)).mean() for sign, m in ((-1, source), (1, target)))
        value = (of_source + of_target) / 2 + RIDGE / 2 * odds.square().sum()
        value.backward()
        return value.detach()

    solver.step(loss)
    return found[:-1].detach(), float(found[-1].detach())


def surroundings(ids: Tensor, classes: int, side: int, valid: Tensor | None = None) -> Tensor:
    """The share of each class in the square of ``side`` around every pixel: ids ``(N, H, W)`` to ``(N, classes, H, W)`` float32.

    Pixels outside, of id -1, or not ``valid`` ``(N, 1, H, W)``, count nowhere; where there are no others, all shares are 0.
    """
    counted = ids >= 0 if valid is None else (ids >= 0) & valid[:, 0]
    hot = F.one_hot(ids.clamp(min=0), classes).movedim(-1, 1) * counted[:, None]
    sums = F.pad(hot.float(), ((side - 1) // 2 + 1, side // 2) * 2)
    for dim, length in ((2, ids.shape[1]), (3, ids.shape[2])):  # counts, which are exact, and no slower for a larger square
        until = sums.cumsum(dim)
        sums = until.narrow(dim, side, length) - until.narrow(dim, 0, length)
    return sums / sums.sum(1, keepdim=True).clamp(min=1)


def at_places(ids: Tensor, classes: int, side: int, valid: Tensor | None = None) -> Tensor:
    """:func:`surroundings` at an even grid of places, at most ``PLACES`` a side: ``(M, classes)``; without those that have no class."""
    down, across = (-(-length // PLACES) for length in ids.shape[1:])
    grid = surroundings(ids, classes, side, valid)[..., down // 2 :: down, across // 2 :: across]
    rows = grid.movedim(1, -1).flatten(0, 2)
    return rows[rows.sum(1) > 0]


class Balance(nn.Module):
    """A segmenter, what is around every pixel as it reads it or as labels of ``classes`` say, and what the pixel weighs by that."""

    odds: Tensor
    kept: Tensor

    def __init__(self, config: BalanceConfig, classes: Classes | None = None) -> None:
        super().__init__()
        assert config.window is not None, "filled in by the run's configuration"
        model = load_segmenter(config.segmenter)
        self.config, self.window, self.known = config, config.window, model.config.classes
        self.segmenter = fixed(model, config.segmenter, classes)
        odds = [config.odds.get(name, 0.0) for name in self.known.names]
        self.register_buffer("odds", torch.tensor(odds), persistent=False)
        self.register_buffer("kept", torch.tensor(self.known.kept), persistent=False)

    def fixed_weights(self) -> dict[str, str]:
        """As :meth:`unflip.losses.Term.fixed_weights`."""
        return {"balance.segmenter": self.segmenter.digest()}

    @torch.no_grad()
    def ids(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The segmenter's class ids ``(N, H, W)`` of source and target: by the source's labels if there are any, else as it reads them."""
        source = self._read(batch.source) if batch.labels is None else self.segmenter.ids(batch.labels)
        return source, self._read(batch.target)

    def _read(self, images: Tensor) -> Tensor:
        """The likeliest of the classes that the segmenter has learned."""
        return self.kept[self.segmenter(images)[:, self.kept].argmax(1)]

    @torch.no_grad()
    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What every pixel of source and target weighs, ``(N, 1, H, W)``: of a batch as the networks see it, with its labels if any."""
        source, target = (self._log_odds(ids, batch.valid and batch.valid[k]) for k, ids in enumerate(self.ids(batch)))
        of_source, of_target = self.config.means
        return (-source).sigmoid() / of_source, target.sigmoid() / of_target  # 1 - e = sigmoid(-(beta . m + b))

    def _log_odds(self, ids: Tensor, valid: Tensor | None) -> Tensor:
        """beta . m + b of every pixel."""
        around = surroundings(ids, len(self.known.names), self.window, valid)
        return torch.einsum("nkhw,k->nhw", around, self.odds.to(around))[:, None] + self.config.base
