"""The sum of weighted terms that a player minimizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from unflip.losses.term import Nets, Term
from unflip.types import Step


def active(terms: Mapping[str, Term], progress: float, step: int) -> dict[str, float]:
    """The weights of the terms that are evaluated in step number ``step``, at ``progress`` in [0, 1]."""
    weights = {name: term.weight_at(progress, step) for name, term in terms.items()}
    return {name: weight for name, weight in weights.items() if weight > 0}


def needs(terms: Mapping[str, Term], weights: Mapping[str, float]) -> frozenset[str]:
    """What the active terms read of the step."""
    return frozenset().union(*(terms[name].needs for name in weights))


def evaluate(
    terms: Mapping[str, Term],
    weights: Mapping[str, float],
    steps: Mapping[str, Step],
    drawn: Mapping[str, Mapping[str, object]],
    nets: Callable[[str, str], Nets],
) -> tuple[Tensor, dict[str, Tensor]]:
    """``sum over views and terms of weight * term``, and the unweighted parts, detached, each summed over the views.

    ``drawn[view][term]`` holds a term's draws for every view that it applies to; ``nets(view, term)`` are its networks there.
    """
    parts: dict[str, Tensor] = {}
    total: Tensor | None = None
    for name, weight in weights.items():
        values = [terms[name](step, drawn[view][name], nets(view, name)) for view, step in steps.items() if name in drawn[view]]
        part = torch.stack(values).sum()
        parts[name] = part.detach()
        total = weight * part if total is None else total + weight * part
    if total is None:  # all pause in this step
        total = 0 * torch.stack([step.fake.sum() for step in steps.values()]).sum()
    return total, parts
