"""A term: one weighted part of an objective. Its configuration is the term itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field, NonNegativeFloat
from torch import Tensor

from unflip.config import Config
from unflip.losses.draws import Stream, TapShape
from unflip.networks import Generator, Projector
from unflip.types import Step


@dataclass(frozen=True)
class Nets:
    """The networks of one direction that a term may call. It owns none of them."""

    generator: Generator
    projector: Projector | None
    discriminator: Callable[[Tensor], Tensor]
    """The target's discriminator with its weights held fixed."""


class Term(Config, ABC):
    """The part ``weight * term(step, drawn, nets)`` of a player's total."""

    weight: NonNegativeFloat
    start: float = Field(default=0.0, ge=0, lt=1)
    """The term is off until this share of the budget has been seen."""
    every: int = Field(default=1, ge=1)
    """Evaluate the term only on every k-th step, with k times the weight."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """What the term reads of the step: "fake", "identity", "cycled", "features.source", "features.fake", ..."""
    projects: ClassVar[bool] = False
    """The term calls the projector."""

    def weight_at(self, progress: float, step: int) -> float:
        """The weight in step number ``step``, at ``progress`` in [0, 1]; 0: not evaluated."""
        return self.weight * self.every if progress >= self.start and step % self.every == 0 else 0.0

    def draw(self, stream: Stream, taps: tuple[TapShape, ...]) -> Any:
        """The term's random choices for one step. None where it makes none."""
        return None

    @abstractmethod
    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        """The unweighted loss, a scalar: a mean over the images of the batch."""
