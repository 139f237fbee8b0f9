"""From a batch to what the generators make of it, everything computed once, and only what the active terms need.

With instance norm, and without dropout, an image's features are the same in any batch and in any pass. So G runs once on
[source | target] with the features taken on the way, and encodes once [fake | identity]: exactly CUT's losses at two passes for its five.

A *view* is one look of one direction at a batch. Every method has the plain view of each of its directions. A turned view (GcGAN) sees
source and target turned; a context view (multi-scale) sees the whole crops at half resolution, while the plain view then sees a window of
them at full resolution. All views of a direction share its generator; each has a discriminator of its own; each yields a Step, and a term
applies to every view that has what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unflip.data.transforms import narrowed, widened
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
    generators: Mapping[str, Generator | Multiscale],
    turn: Turn,
    batch: Batch,
    draws: Draws,
    needs: frozenset[str],
    bands: tuple[int, int] | None = None,
) -> dict[str, Step]:
    """One step in every view. ``bands`` of source and target, where a domain has less than its images here, which repeat them."""
    steps: dict[str, Step] = {}
    for side, generator in generators.items():
        source, target = (batch.source, batch.target) if side == FORWARD else (batch.target, batch.source)
        labels = batch.labels if side == FORWARD else None
        valid = batch.valid if side == FORWARD or batch.valid is None else batch.valid[::-1]
        if draws.flip:
            source, labels = source.flip(-1), None if labels is None else labels.flip(-1)
            valid = None if valid is None else (valid[0].flip(-1), valid[1])
        counts = (source.shape[1], target.shape[1]) if bands is None else bands if side == FORWARD else bands[::-1]
        ends = Ends(source, target, valid, counts[1], labels, batch.weights if side == FORWARD else None)
        made: dict[str, Step] = {}
        if isinstance(generator, Multiscale):
            assert draws.windows is not None
            made[side], made[f"{side}_context"] = two_scales(generator, ends, draws.windows, draws.flip, needs)
        else:
            made[side] = one_view(generator, ends, draws.flip, needs)
            if turn != "none":
                there, back = TURNS[turn]
                turned = one_view(generator, ends.each(there), draws.flip, needs)
                made[f"{side}_turned"] = replace(turned, turned=there(made[side].fake))
                made[side] = replace(made[side], turned=back(turned.fake))
        if "cycled" in needs:
            inverse = generators[BACKWARD if side == FORWARD else FORWARD].inner
            made = {name: replace(step, cycled=finished(inverse(step.fake), counts[0], _of(step.valid, 0))) for name, step in made.items()}
        steps |= made
    return steps


def valid_in_views(
    directions: Mapping[str, str], turn: Turn, batch: Batch, flip: bool, windows: Tensor | None
) -> dict[str, dict[str, Tensor]]:
    """Where "source" and "target" of every view hold something; nothing, where all of them do everywhere.

    A mirrored source is looked at as it is shown, and what is found is mirrored back, as its features are.
    """
    if batch.valid is None:
        return {}
    found = {}
    for view, side in directions.items():
        source, target = batch.valid if side == FORWARD else batch.valid[::-1]
        ends: Iterable[Tensor] = (_mirrored(source, flip), target)
        if view.endswith("_turned"):
            ends = map(TURNS[turn][0], ends)
        elif view.endswith("_context"):
            ends = [x[..., ::2, ::2] for x in ends]
        elif windows is not None:
            ends = [cut(x, windows, (x.shape[-2] // 2, x.shape[-1] // 2)) for x in ends]
        source, target = ends
        found[view] = {"source": _mirrored(source, flip), "target": target}
    return found


def _mirrored(x: Tensor, flip: bool) -> Tensor:
    return x.flip(-1) if flip else x


class Ends(NamedTuple):
    """What a view shows: a source and a target image, and what is known of them."""

    source: Tensor
    target: Tensor
    valid: tuple[Tensor, Tensor] | None
    """Where they hold something."""
    bands: int
    """Of translations."""
    labels: Tensor | None
    """Of the source."""
    weights: Tensor | None = None
    """Of the target's pixels."""

    def each(self, change: Callable[[Tensor], Tensor]) -> Ends:
        """All of them changed alike."""
        valid = None if self.valid is None else (change(self.valid[0]), change(self.valid[1]))
        labels, weights = (None if each is None else change(each) for each in (self.labels, self.weights))
        return Ends(change(self.source), change(self.target), valid, self.bands, labels, weights)


def finished(image: Tensor, bands: int, valid: Tensor | None) -> Tensor:
    """What a generator made, as the domain's images are: with bands that repeat each other alike, and 0 where it has nothing to show."""
    image = widened(narrowed(image, bands), image.shape[1])
    return image if valid is None else torch.where(valid, image, 0.0)


def one_view(generator: Generator, ends: Ends, flipped: bool, needs: frozenset[str]) -> Step:
    """The generator's step on ``ends`` as they are. ``flipped``: the source is shown mirrored; its features are to be those of the source
    as it was."""
    n = len(ends.source)
    shown = torch.cat([ends.source, ends.target]) if _with_identity(needs) else ends.source
    images, taken = generator.run(shown)
    return _with_features(generator, _made(ends, images, flipped), [_split(f, n) for f in taken], flipped, needs)


def two_scales(generator: Multiscale, ends: Ends, windows: Tensor, flipped: bool, needs: frozenset[str]) -> tuple[Step, Step]:
    """The plain step, on windows ``(N, C, H/2, W/2)`` at full resolution fused with the context, and the context's own step.

    Both views are of one size, so that the generator runs once on all of them.
    """
    n, (height, width) = len(ends.source), ends.source.shape[-2:]
    sharp = ends.each(lambda x: cut(x, windows, (height // 2, width // 2)))
    small = ends.each(lambda x: x[..., ::2, ::2])._replace(source=halve(ends.source), target=halve(ends.target))
    if small.valid is not None:
        source, target = (torch.where(valid, x, 0.0) for x, valid in zip((small.source, small.target), small.valid, strict=True))
        small = small._replace(source=source, target=target)
    shown = 2 if _with_identity(needs) else 1
    images, taken = generator.inner.run(torch.cat([*(sharp.source, sharp.target)[:shown], *(small.source, small.target)[:shown]]))
    details, contexts = images.split(n * shown)
    if small.valid is not None:  # before it is enlarged, and mixed with its surroundings
        contexts = torch.where(torch.cat(small.valid[:shown]), contexts, 0.0)
    share = generator.trust(taken[-1][n * shown :], (height, width))
    fused = fuse(contexts, share, details, windows.repeat(shown, 1))

    steps = []
    for k, (view, made) in enumerate(((sharp, fused), (small, contexts))):
        here = [_split(f, n * shown)[k] for f in taken]
        steps.append(_with_features(generator.inner, _made(view, made, flipped), [_split(f, n) for f in here], flipped, needs))
    return replace(steps[0], detail=finished(details[:n], ends.bands, _of(sharp.valid, 0))), steps[1]


def _made(ends: Ends, images: Tensor, flipped: bool) -> Step:
    """The step of translations, and of what was made of target images where they were shown, too."""
    fake, identity = _split(images, len(ends.source))
    valid = None if ends.valid is None else _mirrored(ends.valid[0], flipped)  # the source's features are of what was not mirrored
    fake = finished(fake, ends.bands, _of(ends.valid, 0))
    kept = finished(identity, ends.bands, _of(ends.valid, 1)) if len(identity) else None
    finish = partial(finished, bands=ends.bands, valid=valid)
    return Step(ends.source, ends.target, fake, kept, labels=ends.labels, valid=ends.valid, weights=ends.weights, finish=finish)


def _of(valid: tuple[Tensor, Tensor] | None, end: int) -> Tensor | None:
    return None if valid is None else valid[end]


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
