"""What every discriminator offers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from unflip.config import Config


class DiscriminatorConfig(Config, ABC):
    """How a discriminator is built; ``kind`` is its name in the table DISCRIMINATORS."""

    kind: str

    @property
    @abstractmethod
    def smallest(self) -> int:
        """The shortest image side that it can judge."""

    @property
    @abstractmethod
    def patch(self) -> int:
        """The side of the patch of an image that a logit judges, in pixels."""

    def remark(self) -> str | None:
        """What a reader of the run's results must know, such as features that are not the paper's; None: nothing."""
        return None

    def fixed_weights(self) -> dict[str, str]:
        """The digests of the weights of fixed networks that a user names, by the fields that name them; after ``build``."""
        return {}

    @abstractmethod
    def build(self, in_channels: int, rng: torch.Generator) -> nn.Module:
        """The network with weights freshly drawn from ``rng``: images ``(N, C, H, W)`` to logits of any shape ``(N, ...)``."""
