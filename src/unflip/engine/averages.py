"""What a run logs of its steps, added up on the device: reading it is the only thing that waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unflip.engine.team import Team

GRID = 8
"""Images are compared with each other by the means of so many fields a side."""
FEW = 10
"""With fewer images, nothing is said of how they vary."""


class Found(NamedTuple):
    """Since the last reading, over all processes."""

    means: dict[str, float]
    """Of every part, over the steps that evaluated it and in which it was a finite number, if there was one."""
    odd: dict[str, int]
    """How often it was not."""
    contrast: float | None
    """How much the pixels of a translation vary, as a share of what those of a target image do; None: too few images."""
    variety: float | None
    """How much translations vary from one to the next, likewise."""


class Averages:
    """Means of the parts, and how much translations vary within themselves and from each other."""

    def __init__(self) -> None:
        self.enough = False
        self.sums: dict[str, Tensor] = {}
        """By the names of parts that steps had together: (3, parts) sums, counts of finite values, and of all."""
        self.spread: Tensor | None = None
        """(2, 2 + 2 x bands x GRID²) of target images and of translations: count, contrast, and the fields' sums and sums of squares."""

    @torch.no_grad()
    def add(self, parts: Mapping[str, Tensor]) -> None:
        """Count one step's parts, scalars by name."""
        values = torch.stack([value.double() for value in parts.values()])
        finite = values.isfinite()
        rows = torch.stack([torch.where(finite, values, 0), finite.double(), torch.ones_like(values)])
        names = ",".join(parts)
        self.sums[names] = self.sums[names] + rows if names in self.sums else rows

    @torch.no_grad()
    def look(self, real: Tensor, fake: Tensor) -> None:
        """Count a step's target images and translations, ``(N, C, H, W)``."""
        seen = torch.stack([_spread(real), _spread(fake)])
        self.spread = seen if self.spread is None else self.spread + seen

    def read(self, team: Team) -> Found:
        """What was found; all processes call it."""
        means: dict[str, float] = {}
        odd: dict[str, int] = {}
        totals: dict[str, list[float]] = {}
        for names, rows in team.mean(self.sums).items():
            for name, column in zip(names.split(","), rows.T.tolist(), strict=True):
                before = totals.setdefault(name, [0.0] * 3)
                totals[name] = [a + b for a, b in zip(before, column, strict=True)]
        for name, (total, finite, count) in totals.items():
            if finite:
                means[name] = total / finite
            if finite < count:
                odd[name] = round(team.size * (count - finite))
        return Found(means, odd, *self._varies(team))

    def _varies(self, team: Team) -> tuple[float | None, float | None]:
        if self.spread is None:
            return None, None
        real, fake = team.mean({"": self.spread})[""].cpu()
        self.enough = float(fake[0]) * team.size >= FEW
        if not self.enough:
            return None, None
        (within, between), (shown, shown_between) = _variation(real), _variation(fake)
        return tuple(a / b if b > 0 else None for a, b in ((shown, within), (shown_between, between)))  # type: ignore[return-value]

    def clear(self) -> None:
        """Begin anew; images of which there were not enough are counted on."""
        self.sums = {}
        if self.enough:
            self.spread, self.enough = None, False

    def state(self, team: Team) -> dict[str, Tensor]:
        """What is added up so far, the same for every process; all call it."""
        spread = {} if self.spread is None else {"spread": self.spread}
        return {f"sums/{names}": rows for names, rows in team.mean(self.sums).items()} | team.mean(spread)

    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """From :meth:`state`."""
        self.clear()
        self.sums = {key.removeprefix("sums/"): rows.to(device) for key, rows in state.items() if key.startswith("sums/")}
        self.spread = state["spread"].to(device) if "spread" in state else None


def _spread(images: Tensor) -> Tensor:
    images = images.double().nan_to_num()
    fields = F.adaptive_avg_pool2d(images, GRID)
    count = images.new_full((), len(images))
    return torch.cat([torch.stack([count, images.std((2, 3)).mean(1).sum()]), fields.sum(0).flatten(), fields.square().sum(0).flatten()])


def _variation(row: Tensor) -> tuple[float, float]:
    """Standard deviations: of an image's pixels, and of an image's fields from image to image."""
    count, contrast = float(row[0]), float(row[1])
    mean, square = row[2:].view(2, -1) / count
    return contrast / count, float((square - mean.square()).clamp(min=0).sqrt().mean())
