"""LSeSim: a place of the translation must resemble its surroundings just as the same place of the source resembles its own.

Zheng, Cham, Cai, "The spatially-correlative loss for various image translation tasks", CVPR 2021. What an image shows is described by
how alike its parts are, which survives any change of look. ``fixed`` (F-LSeSim) compares features of a pretrained network; ``learned``
(L-LSeSim) trains a small projection on top of them, for which looks count even less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from unflip.losses.draws import Stream, TapShape, gather
from unflip.losses.precision import at_least_float32, full_precision
from unflip.losses.term import Nets, Setting, Site, Term
from unflip.networks.blocks import constant, detached, initialize
from unflip.networks.features import FeaturesConfig, features, rgb
from unflip.types import Step

Similarity = Literal["cosine", "dot"]
Distance = Literal["cos", "l1"]
Projection = Callable[[Tensor], Tensor]

CROSS = ((0, -1, 1), (1, 0, -1), (-1, 1, 0))
"""Times a vector: (1, 1, 1) x that vector."""


class Choices(NamedTuple):
    """The random choices of one step."""

    queries: Tensor
    """``(N, layers, P + 1)`` in [0, 1): see :func:`places`."""
    jitter: Tensor | None
    """``(N, 2, 4)`` in [0, 1): other colors for source and target, see :func:`recolored`."""


def places(uniform: Tensor, size: int) -> Tensor:
    """Different positions of a map of ``size`` positions, each equally likely, for numbers ``(N, P + 1)`` in [0, 1): ``(N, min(P, size))``.

    One position in each of P equal runs of neighbors, and all of them shifted by the same random amount, round the end.
    """
    count = min(uniform.shape[1] - 1, size)
    ends = torch.arange(count + 1, device=uniform.device) * size // count
    lengths = ends.diff()
    within = (uniform[:, :count] * lengths).long().minimum(lengths - 1)  # rounding may reach the end of the run
    return (ends[:-1] + within + (uniform[:, -1:] * size).long()) % size


def self_similarity(features: Tensor, queries: Tensor, window: int, similarity: Similarity) -> Tensor:
    """How alike each query is to its surroundings: the paper's spatially-correlative map S.

    Args:
        features: ``(N, C, h, w)``.
        queries: ``(N, P)`` positions among the ``h * w``.
        window: side of the surroundings, in positions of the map. Where the map is smaller they are all of it; at its border they are
            shifted inwards.
        similarity: ``cosine`` of the centered features, or ``dot``, their mean product over the channels, as tanh of a tenth of it.

    Returns:
        ``(N, P, K)`` in [-1, 1], K = min(window, h) * min(window, w), ordered by rows.
    """
    h, w = features.shape[-2:]
    centered = features - features.mean((-2, -1), keepdim=True)
    if similarity == "cosine":
        centered = centered / (centered.square().sum(1, keepdim=True) + 1e-12).sqrt()
    whole = gather(centered, queries) @ centered.flatten(2)  # (N, P, h * w)
    if similarity == "dot":
        whole = torch.tanh(whole / centered.shape[1] / 10)
    if window >= h and window >= w:
        return whole
    down, across = (
        (at - window // 2).clamp(0, max(side - window, 0))[..., None] + torch.arange(min(window, side), device=at.device)
        for at, side in ((queries // w, h), (queries % w, w))
    )  # (N, P, rows), (N, P, columns) of the surroundings
    return whole.gather(2, (down[..., :, None] * w + across[..., None, :]).flatten(2))


def dissimilarity(source: Tensor, fake: Tensor, share: float, distance: Distance, smooth: bool = False) -> Tensor:
    """How far the maps ``(N, P, K)`` of the source are from those of the translation, ``(N, P)``.

    Only the ``share`` of the surroundings that the query resembles most, in the translation, is compared. ``cos``: 1 - the cosine of
    the angle between the maps, in [0, 2]. ``l1``: the mean absolute difference over the compared. ``smooth``: an error e < 1 counts
    as e^2 / 2, a larger one as e - 1 / 2.
    """
    k = source.shape[-1]
    compared = max(int(share * k), 1)
    if compared < k:
        least = fake.detach().topk(compared + 1, dim=-1).values[..., -1:]  # one more than the share, as published
        ignored = fake.detach() < least
        source, fake = source.masked_fill(ignored, 0), fake.masked_fill(ignored, 0)
    error = F.smooth_l1_loss if smooth else F.l1_loss
    if distance == "l1":
        return error(fake * k / compared, source * k / compared, reduction="none").mean(-1)
    cosine = (source * fake).sum(-1) / ((source.square().sum(-1) + 1e-12) * (fake.square().sum(-1) + 1e-12)).sqrt()
    return error(cosine, torch.ones_like(cosine), reduction="none")


def contrast(source: Tensor, same: Tensor, other: Tensor, temperature: float) -> Tensor:
    """What trains the projection: a query's map must be found again under other looks, among all queries' maps and another image's.

    Args:
        source: maps ``(N, P, K)``.
        same: of the same places, the image having another look.
        other: of the same places in an unrelated image.
        temperature: of the softmax, > 0.

    Returns:
        ``(N,)``, the means over i of  ``-log  exp(s_i . t_i / T) / sum_j (exp(s_i . t_j / T) + exp(s_i . o_j / T) + exp(t_i . o_j / T))``
        with all maps scaled to length 1.
    """
    s, t, o = (F.normalize(x, dim=-1) for x in (source, same, other))
    logits = torch.cat([s @ t.mT, s @ o.mT, t @ o.mT], -1) / temperature  # (N, P, 3 P)
    return (logits.logsumexp(-1) - logits.diagonal(dim1=1, dim2=2)).mean(-1)


def recolored(images: Tensor, uniform: Tensor) -> Tensor:
    """``images`` ``(N, 3, H, W)`` in [-1, 1] with other brightness, contrast, saturation (each by 0.5 to 1.5) and hue (by up to 0.3 turns).

    ``uniform``: ``(N, 4)`` in [0, 1), a number for each of them. Hue is turned about the gray axis.
    """
    brightness, contrast, saturation = (0.5 + uniform[:, :3].to(images.dtype)).view(-1, 3, 1, 1, 1).unbind(1)
    angle = (2 * torch.pi * 0.6 * (uniform[:, 3].to(images.dtype) - 0.5)).view(-1, 1, 1)
    x = (images + 1) / 2 * brightness
    x = x.mean((1, 2, 3), keepdim=True) * (1 - contrast) + x * contrast
    eye, gray = torch.eye(3, dtype=x.dtype, device=x.device), x.new_full((3, 3), 1 / 3)
    cross = constant(CROSS, x) / 3**0.5
    turn = gray + saturation.view(-1, 1, 1) * (angle.cos() * (eye - gray) + angle.sin() * cross)  # Rodrigues' formula
    return torch.einsum("nij,njhw->nihw", turn, x).clamp(0, 1) * 2 - 1


class SelfSimilarity(Term):
    """``mean over layers, images and queries of d(S(source), S(translation))``.

    ``learned``: the projection is trained by its own :func:`contrast`, which moves nothing else and is left out of the value; the
    generator sees the projection as fixed.
    """

    form: Literal["fixed", "learned"] = "fixed"
    weight: NonNegativeFloat = 10.0
    features: FeaturesConfig = FeaturesConfig()
    layers: tuple[str, ...] = Field(default=("relu3_1", "relu4_1", "relu4_3"), min_length=1)
    """The published code counts them among the ReLUs, as 4, 7 and 9."""
    queries: PositiveInt = 256
    window: int = Field(default=64, ge=2)
    """Side of the surroundings, in positions of the layer's map. Of a single one, every position is as similar to itself."""
    similarity: Similarity = "cosine"
    """``dot`` is what the published code runs by default, with the smooth errors of :func:`dissimilarity`."""
    distance: Distance = "cos"
    share: float = Field(default=0.25, gt=0, le=1)
    """Of the surroundings, the most similar ones, that is compared."""
    temperature: PositiveFloat = 0.07
    """Of ``learned``'s contrast."""
    recolor: bool = True
    """``learned`` also contrasts source and target with recolored copies of themselves."""

    needs: ClassVar[frozenset[str]] = frozenset({"fake"})

    @model_validator(mode="after")
    def _layers_exist(self) -> SelfSimilarity:
        self.features.pick(self.layers)
        return self

    def problem(self, setting: Setting) -> str | None:
        smallest = 2 * max(layer.stride for layer in self.features.pick(self.layers))
        if min(setting.width, setting.height) >= smallest:
            return None
        return f"needs images of at least {smallest} pixels a side for the layers {', '.join(self.layers)}; choose earlier layers"

    def remark(self) -> str | None:
        return self.features.remark()

    def build(self, site: Site) -> nn.Module | None:
        features(self.features, self.layers)
        if self.form == "fixed":
            return None
        heads = nn.ModuleList()  # without a last bias: maps are of centered features
        for layer in self.features.pick(self.layers):
            width = max(32, layer.channels // 4)
            heads.append(nn.Sequential(nn.Conv2d(layer.channels, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1, bias=False)))
        initialize(heads, "normal", site.rng)
        return heads

    def fixed_weights(self, own: nn.Module | None) -> dict[str, str]:
        return self.features.fixed_weights("features")

    def draw(self, stream: Stream, taps: tuple[TapShape, ...]) -> Choices:
        shape = (len(self.layers), self.queries + 1)
        queries = stream.each(lambda rng: rng.random(shape, dtype=np.float32))
        return Choices(queries, stream.uniform(2, 4) if self.form == "learned" and self.recolor else None)

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        see = features(self.features, self.layers)
        heads = [*nets.own] if isinstance(nets.own, nn.ModuleList) else []
        with torch.no_grad():
            source = see(step.source)
        fake = see(step.fake)
        with full_precision(step.fake):
            fixed = [detached(head) for head in heads]
            pairs = zip(self._maps(source, drawn, fixed), self._maps(fake, drawn, fixed), strict=True)
            apart = [dissimilarity(s, f, self.share, self.distance, self.similarity == "dot").mean() for s, f in pairs]
            loss = torch.stack(apart).mean()
        if not heads:
            return loss
        training = self._training(step, drawn, heads, source, [f.detach() for f in fake])
        return loss + (training - training.detach())

    def _maps(self, taken: Sequence[Tensor], drawn: Choices, heads: Sequence[Projection]) -> list[Tensor]:
        """The spatially-correlative maps of every layer."""
        projected = [at_least_float32(f) for f in taken]
        if heads:
            projected = [head(f) for head, f in zip(heads, projected, strict=True)]
        queries = [places(drawn.queries[:, i], f.shape[-2] * f.shape[-1]) for i, f in enumerate(projected)]
        return [self_similarity(f, q, self.window, self.similarity) for f, q in zip(projected, queries, strict=True)]

    def _training(
        self, step: Step, drawn: Choices, heads: Sequence[Projection], source: Sequence[Tensor], fake: Sequence[Tensor]
    ) -> Tensor:
        """The contrast that trains the projection: on given features, so that it moves nothing else."""
        see = features(self.features, self.layers)
        with torch.no_grad():
            # turned by half: an image's own layout (sky above, road below) is no help to tell the two apart
            others = [see(step.target.flip((-2, -1)))]
            same = [fake]
            if drawn.jitter is not None:
                new_source, new_target = (recolored(rgb(x), drawn.jitter[:, i]) for i, x in enumerate((step.source, step.target)))
                same.append([*see(new_source)])
                others.append(see(new_target.flip((-2, -1))))
        with full_precision(step.fake):
            base = self._maps(source, drawn, heads)
            values = [
                contrast(s, t, o, self.temperature).mean()
                for looks, other in zip(same, others, strict=True)
                for s, t, o in zip(base, self._maps(looks, drawn, heads), self._maps(other, drawn, heads), strict=True)
            ]
            return torch.stack(values).mean()
