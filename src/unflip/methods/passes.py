"""From a batch to what the generators make of it, everything computed once, and only what the active terms need.

With instance norm, and without dropout, an image's features are the same in any batch and in any pass. So G runs once on
[source | target] with the features taken on the way, and encodes once [fake | identity]: exactly CUT's losses at two passes for its five.

A *view* is one look of one direction at a batch. Every method has the plain view of each of its directions. A turned view (GcGAN) sees
source and target turned; a context view (multi-scale) sees the whole crops at half resolution, while the plain view then sees a window of
them at full resolution. All views of a direction share its generator; each has a discriminator of its own; each yields a Step, and a term
applies to every view that has what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unflip.losses.draws import Draws
from unflip.networks import Generator, Multiscale
from unflip.networks.multiscale import cut, fuse, halve
from unflip.types import Batch, Size, Step

FORWARD, BACKWARD = "to_target", "to_source"  # a module's name cannot be "forward"
SIDES = {1: (FORWARD,), 2: (FORWARD, BACKWARD)}
Turn = Literal["none", "rotate", "flip"]


class View(NamedTuple):
    """One look of one direction at a batch."""

    direction: str
    size: Size
    """Of its images."""
    provides: frozenset[str]
    """What terms can read of its steps."""


def views(sides: int, turn: Turn, multiscale: bool, size: Size, labels: bool) -> dict[str, View]:
    """The views of a method with crops of ``size``, by name."""
    found = {}
    for side in SIDES[sides]:
        provides = {"fake", "identity", "features.source", "features.target", "features.fake", "features.identity"}
        provides |= {"cycled"} if sides == 2 else set()
        provides |= {"labels"} if labels and side == FORWARD else set()
        window = Size(size.width // 2, size.height // 2) if multiscale else size
        plain = frozenset(provides | {"plain"} | ({"detail"} if multiscale else set()) | ({"turned"} if turn != "none" else set()))
        found[side] = View(side, window, plain)
        if multiscale:
            found[f"{side}_context"] = View(side, window, frozenset(provides))
        if turn != "none":
            turned = Size(size.height, size.width) if turn == "rotate" else size
            found[f"{side}_turned"] = View(side, turned, frozenset(provides | {"turned"}))
    return found


def translate(
    generators: Mapping[str, Generator | Multiscale], turn: Turn, batch: Batch, draws: Draws, needs: frozenset[str]
) -> dict[str, Step]:
    """One step in every view."""
    steps: dict[str, Step] = {}
    for side, generator in generators.items():
        source, target = (batch.source, batch.target) if side == FORWARD else (batch.target, batch.source)
        labels = batch.labels if side == FORWARD else None
        if draws.flip:
            source, labels = source.flip(-1), None if labels is None else labels.flip(-1)
        made: dict[str, Step] = {}
        if isinstance(generator, Multiscale):
            assert draws.windows is not None
            made[side], made[f"{side}_context"] = two_scales(generator, source, target, labels, draws.windows, draws.flip, needs)
        else:
            made[side] = one_view(generator, source, target, labels, draws.flip, needs)
            if turn != "none":
                there, back = TURNS[turn]
                turned_labels = None if labels is None else there(labels)
                turned = one_view(generator, there(source), there(target), turned_labels, draws.flip, needs)
                made[f"{side}_turned"] = replace(turned, turned=there(made[side].fake))
                made[side] = replace(made[side], turned=back(turned.fake))
        if "cycled" in needs:
            inverse = generators[BACKWARD if side == FORWARD else FORWARD].inner
            made = {name: replace(step, cycled=inverse(step.fake)) for name, step in made.items()}
        steps |= made
    return steps


def one_view(generator: Generator, source: Tensor, target: Tensor, labels: Tensor | None, flipped: bool, needs: frozenset[str]) -> Step:
    """The generator's step on ``source`` and ``target`` as they are. ``flipped``: the source is shown mirrored; its features are to be
    those of the source as it was."""
    n = len(source)
    shown = torch.cat([source, target]) if _with_identity(needs) else source
    images, taken = generator.run(shown)
    fake, identity = _split(images, n)
    step = Step(source, target, fake, identity if len(identity) else None, labels=labels)
    return _with_features(generator, step, [_split(f, n) for f in taken], flipped, needs)


def two_scales(
    generator: Multiscale,
    source: Tensor,
    target: Tensor,
    labels: Tensor | None,
    windows: Tensor,
    flipped: bool,
    needs: frozenset[str],
) -> tuple[Step, Step]:
    """The plain step, on windows ``(N, C, H/2, W/2)`` at full resolution fused with the context, and the context's own step.

    Both views are of one size, so that the generator runs once on all of them.
    """
    n, (height, width) = len(source), source.shape[-2:]
    ends = (source, target) if _with_identity(needs) else (source,)
    sharp = [cut(x, windows, (height // 2, width // 2)) for x in (source, target)]
    small = [halve(x) for x in (source, target)]
    images, taken = generator.inner.run(torch.cat([*sharp[: len(ends)], *small[: len(ends)]]))
    details, contexts = images.split(n * len(ends))
    share = generator.trust(taken[-1][n * len(ends) :], (height, width))
    fused = fuse(contexts, share, details, windows.repeat(len(ends), 1))

    steps = []
    for k, ((source, target), made) in enumerate(((sharp, fused), (small, contexts))):
        fake, identity = _split(made, n)
        step = Step(source, target, fake, identity if len(ends) == 2 else None)
        here = [_split(f, n * len(ends))[k] for f in taken]
        steps.append(_with_features(generator.inner, step, [_split(f, n) for f in here], flipped, needs))
    plain, context = replace(steps[0], detail=details[:n]), steps[1]
    if labels is not None:
        plain = replace(plain, labels=cut(labels, windows, (height // 2, width // 2)))
        context = replace(context, labels=labels[:, ::2, ::2])
    return plain, context


def _split(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The first ``n`` and the rest. Their gradients are put together at once, where a slice's would be added to zeros."""
    first, rest = x.split([n, len(x) - n])
    return first, rest


def _with_identity(needs: frozenset[str]) -> bool:
    return bool(needs & {"identity", "features.target", "features.identity"})


def _with_features(generator: Generator, step: Step, taken: list[tuple[Tensor, Tensor]], flipped: bool, needs: frozenset[str]) -> Step:
    """``step`` with the features that are needed. ``taken``: those of source and target at every tap, out of the forward pass."""
    n = len(step.source)
    features: dict[str, tuple[Tensor, ...]] = {}
    if "features.source" in needs:
        # of the unflipped image, at the price of one more encode: were they mirrored with the source, equivariance would cost nothing
        features["source"] = generator.encode(step.source.flip(-1)) if flipped else tuple(f for f, _ in taken)
    if "features.target" in needs:
        features["target"] = tuple(f for _, f in taken)
    wanted = [image for image in ("fake", "identity") if f"features.{image}" in needs]
    if wanted:
        encoded = generator.encode(torch.cat([getattr(step, image) for image in wanted]))
        for image, found in zip(wanted, zip(*(f.split(n) for f in encoded), strict=True), strict=True):
            features[image] = found
        if flipped and "fake" in features:
            features["fake"] = tuple(f.flip(-1) for f in features["fake"])
    return replace(step, features=features)


def _rotate(x: Tensor) -> Tensor:
    return x.rot90(-1, (-2, -1))  # clockwise, as published


def _rotate_back(x: Tensor) -> Tensor:
    return x.rot90(1, (-2, -1))


def _upside_down(x: Tensor) -> Tensor:
    return x.flip(-2)


TURNS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "rotate": (_rotate, _rotate_back),
    "flip": (_upside_down, _upside_down),
}
"""How the turned view turns images, and how that is undone. Fu et al., GcGAN, CVPR 2019."""
