"""A term: one weighted part of an objective. Its configuration is the term itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from unflip.config import Config
from unflip.losses.draws import Stream, TapShape
from unflip.networks import Generator, Projector, Tap
from unflip.types import Step

Game = Literal["least_squares", "hinge", "logistic"]


@dataclass(frozen=True)
class Nets:
    """The networks of one view that a term may call. The player owns them."""

    generator: Generator
    projector: Projector | None
    discriminator: Callable[[Tensor], Tensor]
    """The view's discriminator with its weights held fixed."""
    own: nn.Module | None = None
    """What the term's ``build`` returned: networks that nothing but this term uses."""
    game: Game = "least_squares"
    """The adversarial term's form."""
    backward: bool = False
    """The step translates target to source: the other half of a two-sided method."""


class Site(NamedTuple):
    """What a term's own networks are built for."""

    taps: tuple[Tap, ...]
    """Of the generator."""
    channels: tuple[int, int]
    """Of source and target images."""
    rng: torch.Generator
    """For their first weights."""


class Setting(NamedTuple):
    """What a run offers a term, for :meth:`Term.problem`."""

    width: int
    """Of the images in a step, in pixels; ``height`` likewise."""
    height: int
    batch: int
    taps: tuple[str, ...]
    resize: str = "none"
    """What is done to images before they are cut, as in ``data.resize``."""


class Term(Config, ABC):
    """The part ``weight * term(step, drawn, nets)`` of a player's total."""

    weight: NonNegativeFloat
    start: float = Field(default=0.0, ge=0, lt=1)
    """The term is off until this share of the budget has been seen."""
    every: int = Field(default=1, ge=1)
    """Evaluate the term only on every k-th step, with k times the weight."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """What the term reads of the step: "fake", "identity", "cycled", "turned", "detail", "labels", "features.source", ...

    With "plain", it applies to no other view than a direction's plain one."""
    projects: ClassVar[bool] = False
    """The term calls the projector."""

    def weight_at(self, progress: float, step: int) -> float:
        """The weight in step number ``step``, at ``progress`` in [0, 1]; 0: not evaluated."""
        return self.weight * self.every if progress >= self.start and step % self.every == 0 else 0.0

    def problem(self, setting: Setting) -> str | None:
        """Why the term cannot work in this setting, in one line that says what to do; None where it can."""
        return None

    def compares_images(self) -> bool:
        """Whether the loss is about several images of a batch together, and no mean over images: then a batch cannot be played in parts."""
        return False

    def unmeasured(self) -> bool:
        """Whether the term lacks what :meth:`measure` finds."""
        return False

    def measure(self, crops: Mapping[str, Tensor]) -> Self:
        """The term with what it must know of the data, from training crops ``(M, C, H, W)`` of "source" and "target", before training."""
        return self

    def remark(self) -> str | None:
        """What a reader of the run's results must know, such as features that are not the paper's; None: nothing."""
        return None

    def chance(self, taps: tuple[TapShape, ...]) -> float | None:
        """The value of a loss that tells things apart, where it tells nothing apart at these taps; None: there is no such value."""
        return None

    def build(self, site: Site) -> nn.Module | None:
        """Networks of the term's own, for one direction; its player trains their parameters. None where it has none.

        A fixed network (pretrained features, say) must not be a submodule of it: what is one is trained and saved with every checkpoint.
        """
        return None

    def fixed_weights(self, own: nn.Module | None) -> dict[str, str]:
        """The digests of the weights of fixed networks that a user names, by the fields that name them; ``own``: what ``build`` returned.

        A run is not resumed with others in the same place.
        """
        return {}

    def draw(self, stream: Stream, taps: tuple[TapShape, ...]) -> Any:
        """The term's random choices for one step. None where it makes none."""
        return None

    @abstractmethod
    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        """The unweighted loss, a scalar: a mean over the images of the batch."""
