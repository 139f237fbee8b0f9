"""Distance preservation: images, or halves of one, that are far apart must stay far apart, in units of their own domain's spread.

Benaim & Wolf, "One-sided unsupervised domain mapping", NeurIPS 2017, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_args

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from unflip.losses.precision import at_least_float32, full_precision
from unflip.losses.term import Nets, Setting, Term
from unflip.types import Step

Form = Literal["self", "pairs"]
Moment = Literal["source_mean", "source_std", "target_mean", "target_std"]
MOMENTS: tuple[Moment, ...] = get_args(Moment)


class Moments(NamedTuple):
    """Mean and standard deviation of the distances within one data set."""

    mean: float
    std: float


def distances(images: Tensor, form: Form) -> Tensor:
    """Mean absolute differences within ``images`` ``(N, C, H, W)``, in [0, 2] for values in [-1, 1].

    Returns:
        ``self``: those between the upper and the lower half of each image, ``(N,)``; an odd height's middle row is in neither.
        ``pairs``: those between all images i < j, ``(N * (N - 1) / 2,)``, which is empty for a single image.
    """
    if form == "pairs":
        return F.pdist(images.flatten(1), p=1) / images[0].numel()
    half = images.shape[-2] // 2
    return (images[..., :half, :] - images[..., -half:, :]).abs().mean((1, 2, 3))


def moments(images: Tensor, form: Form) -> Moments:
    """Of the :func:`distances` in a data set ``(M, C, H, W)``; population statistics.

    Distances that do not vary, such as those in a set of one image, are left in the images' own units: their spread is given as 1.
    """
    parts = [images] if form == "pairs" else images.split(1)  # the halves' differences of all at once would fill half the set's memory
    found = torch.cat([distances(part, form) for part in parts]).double()
    if len(found) == 0:
        return Moments(0.0, 1.0)
    std = float(found.std(correction=0))
    return Moments(float(found.mean()), std if std > 1e-6 else 1.0)


def distance_change(source: Tensor, fake: Tensor, before: Moments, after: Moments, form: Form) -> Tensor:
    """``E |(d(x_i, x_j) - m_X) / s_X  -  (d(G(x_i), G(x_j)) - m_Y) / s_Y|``, a scalar; 0 without a pair."""
    gap = (distances(source, form) - before.mean) / before.std - (distances(fake, form) - after.mean) / after.std
    return gap.abs().sum() / max(len(gap), 1)


class Distance(Term):
    """What is far apart in the source is far apart in the translation."""

    weight: NonNegativeFloat = 1.0
    form: Form = "self"
    """``self``: the upper and the lower half of each image, as released (the paper's text: left and right). ``pairs``: the images of
    a batch."""
    source_mean: NonNegativeFloat | None = None
    """Of the distances in the source's data set; ``source_std``, ``target_mean`` and ``target_std`` likewise. None: measured."""
    source_std: PositiveFloat | None = None
    target_mean: NonNegativeFloat | None = None
    target_std: PositiveFloat | None = None
    measured: tuple[Moment, ...] = ()
    """Which of the four were measured, not given: they are measured anew when a configuration is used again."""

    needs: ClassVar[frozenset[str]] = frozenset({"fake", "plain"})  # the moments are those of plain crops

    def problem(self, setting: Setting) -> str | None:
        if self.form == "pairs" and setting.batch < 2:
            return "form pairs compares the images of a batch; give --batch 2 or more, or set form=self"
        return None

    def compares_images(self) -> bool:
        return self.form == "pairs"

    def unmeasured(self) -> bool:
        return bool(self._missing())

    def measure(self, crops: Mapping[str, Tensor]) -> Self:
        """With the moments that are not given filled in, from crops ``(M, C, H, W)`` of the "source" and the "target" set."""
        missing = self._missing()
        found: dict[str, float] = {}
        for domain in ("source", "target"):
            if any(name.startswith(domain) for name in missing):
                mean, std = moments(at_least_float32(crops[domain]), self.form)
                found |= {f"{domain}_mean": mean, f"{domain}_std": std}
        measured = tuple(name for name in MOMENTS if name in missing or name in self.measured)
        return self.model_copy(update={**{name: found[name] for name in missing}, "measured": measured}) if missing else self

    def _missing(self) -> tuple[Moment, ...]:
        return tuple(name for name in MOMENTS if getattr(self, name) is None)

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        assert self.source_mean is not None and self.source_std is not None, "measured before training"
        assert self.target_mean is not None and self.target_std is not None
        ends = Moments(self.source_mean, self.source_std), Moments(self.target_mean, self.target_std)
        before, after = reversed(ends) if nets.backward else ends
        with full_precision(step.fake):
            return distance_change(at_least_float32(step.source), at_least_float32(step.fake), before, after, self.form)
