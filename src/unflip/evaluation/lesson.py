"""How a segmenter is trained: what can be set."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from unflip.config import Config
from unflip.types import GivenSize

Weights = Literal["balanced", "plain"]


class SelfTraining(Config):
    """How a segmenter learns from images without labels: from what an average of its own weights reads there for certain.

    The average is the teacher (Tarvainen & Valpola, NeurIPS 2017); threshold and weighting are those of DACS (Tranheden et al., WACV 2021).
    """

    threshold: float = Field(default=0.968, ge=0, le=1)
    """Of the teacher's largest probability, from which on a pixel is believed."""
    start: float = Field(default=0.25, ge=0, lt=1)
    """A share of the budget, before which the teacher knows too little."""
    weight: PositiveFloat = 1.0
    """Beside the loss on labels; the share of believed pixels comes on top of it."""


class Lesson(Config):
    """How a segmenter is trained."""

    budget: PositiveInt
    """Images to see."""
    size: GivenSize
    """Of the crops."""
    batch: PositiveInt = 4
    seed: int = 0
    weights: Weights = "balanced"
    """Of the classes in the loss; see :func:`class_weights`."""
    lr: PositiveFloat = 2e-3
    """The highest: up to it from 0 in a straight line, over the first twentieth of the budget, and down again along a cosine."""
    decay: NonNegativeFloat = 0.01
    """Of the weights, by AdamW (Loshchilov & Hutter, ICLR 2019)."""
    zoom: float = 1.5
    """Crops are enlarged or shrunk by up to this factor."""
    self_training: SelfTraining | None = None
    """None: there are no images without labels."""
