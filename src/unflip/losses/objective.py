"""The sum of weighted terms that a player minimizes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unflip.losses.draws import Draws, Stream, TapShape
from unflip.losses.term import Nets, Term
from unflip.types import Step


def active(terms: Mapping[str, Term], progress: float, step: int) -> dict[str, float]:
    """The weights of the terms that are evaluated in step number ``step``, at ``progress`` in [0, 1]."""
    weights = {name: term.weight_at(progress, step) for name, term in terms.items()}
    return {name: weight for name, weight in weights.items() if weight > 0}


def needs(terms: Mapping[str, Term], weights: Mapping[str, float]) -> frozenset[str]:
    """What the active terms read of the step."""
    return frozenset().union(*(terms[name].needs for name in weights))


def draw(
    terms: Mapping[str, Term],
    weights: Mapping[str, float],
    taps: Mapping[str, tuple[TapShape, ...]],
    *,
    seed: int,
    step: int,
    first: int,
    images: int,
    device: torch.device,
    progress: float,
    flip: bool,
) -> Draws:
    """All random choices of one step, for the active terms of every direction in ``taps``."""

    def stream(*path: str) -> Stream:
        return Stream(seed, path, first, images, device, step, progress)

    return Draws(
        flip=flip and bool(stream("flip").once().integers(2)),
        terms={side: {name: terms[name].draw(stream(name, side), shapes) for name in weights} for side, shapes in taps.items()},
    )


def evaluate(
    terms: Mapping[str, Term], weights: Mapping[str, float], steps: Mapping[str, Step], draws: Draws, nets: Mapping[str, Nets]
) -> tuple[Tensor, dict[str, Tensor]]:
    """``sum over directions and terms of weight * term``, and the unweighted parts, detached, each summed over the directions."""
    parts: dict[str, Tensor] = {}
    total: Tensor | None = None
    for name, weight in weights.items():
        values = [terms[name](step, draws.terms[side][name], nets[side]) for side, step in steps.items()]
        part = torch.stack(values).sum()
        parts[name] = part.detach()
        total = weight * part if total is None else total + weight * part
    assert total is not None, "every method has an adversarial term"
    return total, parts
