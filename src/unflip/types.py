"""The records that travel through one training step. Images are ``(N, C, H, W)`` floats in [-1, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """One unpaired batch. ``source[i]`` and ``target[i]`` have nothing to do with each other.

    ``first`` is the running number, since training began, of its first source image, and ``step`` that of the step it belongs to. With
    the run's seed they decide every random choice made for this batch. Processes that share a step share its number, not their images'.
    """

    source: Tensor
    target: Tensor
    first: int
    step: int


@dataclass(frozen=True)
class Step:
    """What the generators produced in one direction of one step; never a discriminator's output, which changes within the step.

    ``features[of]`` holds the generator's activations, one tensor ``(N, C, h, w)`` per tap, of the image named ``of``
    ("source", "target", "fake" or "identity").
    """

    source: Tensor
    target: Tensor
    fake: Tensor
    """The translation, G(source)."""
    identity: Tensor | None = None
    """G(target): a translation that ought to change nothing."""
    cycled: Tensor | None = None
    """The inverse generator's translation back, F(G(source))."""
    turned: Tensor | None = None
    """f^-1(G(f(source))): the translation of the turned source, turned back (in the turned view: f(G(source)))."""
    detail: Tensor | None = None
    """What the detail view alone makes of the source, before it is fused with the context."""
    labels: Tensor | None = None
    """Class ids of the source, ``(N, H, W)`` int64; -1: ignored."""
    features: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
