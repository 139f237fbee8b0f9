"""From a batch to what the generators make of it, everything computed once, and only what the active terms need.

With instance norm, and without dropout, an image's features are the same in any batch and in any pass. So G runs once on
[source | target] with the features taken on the way, and encodes once [fake | identity]: exactly CUT's losses at two passes for its five.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unflip.losses.draws import Draws
from unflip.networks import Generator
from unflip.types import Batch, Step

FORWARD, BACKWARD = "to_target", "to_source"  # a module's name cannot be "forward"
SIDES = {1: (FORWARD,), 2: (FORWARD, BACKWARD)}

_EVERY_SIDE = frozenset({"fake", "identity", "features.source", "features.target", "features.fake", "features.identity"})


def provided(sides: int) -> frozenset[str]:
    """What the steps of a method with this many directions can hold."""
    return _EVERY_SIDE if sides == 1 else _EVERY_SIDE | {"cycled"}


def translate(generators: Mapping[str, Generator], batch: Batch, draws: Draws, needs: frozenset[str]) -> dict[str, Step]:
    """One step in every direction that has a generator."""
    steps = {}
    for side, generator in generators.items():
        source, target = (batch.source, batch.target) if side == FORWARD else (batch.target, batch.source)
        steps[side] = one_sided(generator, source, target, draws.flip, needs)
    if "cycled" in needs:
        back = {FORWARD: BACKWARD, BACKWARD: FORWARD}
        steps = {side: _with_cycled(step, generators[back[side]]) for side, step in steps.items()}
    return steps


def one_sided(generator: Generator, source: Tensor, target: Tensor, flip: bool, needs: frozenset[str]) -> Step:
    """One direction. ``flip``: G translates the mirrored source, while the source's features stay those of the source as it is."""
    with_identity = bool(needs & {"identity", "features.target", "features.identity"})
    n = source.shape[0]
    shown = source.flip(-1) if flip else source
    images, taken = generator.run(torch.cat([shown, target]) if with_identity else shown)

    features: dict[str, tuple[Tensor, ...]] = {}
    if "features.source" in needs:
        # of the unflipped image, at the price of one more encode: were they mirrored with the source, equivariance would cost nothing
        features["source"] = generator.encode(source) if flip else tuple(f[:n] for f in taken)
    if "features.target" in needs:
        features["target"] = tuple(f[n:] for f in taken)
    wanted = [name for name in ("fake", "identity") if f"features.{name}" in needs]
    if wanted:
        parts = {"fake": images[:n], "identity": images[n:]}
        encoded = generator.encode(torch.cat([parts[name] for name in wanted]))
        for i, name in enumerate(wanted):
            features[name] = tuple(f[i * n : (i + 1) * n] for f in encoded)
        if flip and "fake" in features:
            features["fake"] = tuple(f.flip(-1) for f in features["fake"])
    return Step(shown, target, images[:n], images[n:] if with_identity else None, None, features)


def _with_cycled(step: Step, inverse: Generator) -> Step:
    return Step(step.source, step.target, step.fake, step.identity, inverse(step.fake), step.features)
