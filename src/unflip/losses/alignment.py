"""Terms that keep source and translation mutually informative: their pixels (SCC), their structure and their texture (SemST)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from unflip.config import unknown
from unflip.losses.mutual_information import Form, rsmi
from unflip.losses.precision import at_least_float32, full_precision
from unflip.losses.term import Nets, Setting, Term
from unflip.networks import Tap
from unflip.networks.blocks import constant, without_margin
from unflip.seeding import numpy_rng
from unflip.types import Step

EDGE = 0.05
"""The gradient, in units of [-1, 1] a pixel, that becomes the middle of the range: between median and upper quartile in street scenes."""
LUMA = (0.299, 0.587, 0.114)
SOBEL = ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1))


def luminance(image: Tensor) -> Tensor:
    """``(N, C, H, W)`` to ``(N, 1, H, W)``: ITU-R BT.601 luma of RGB, the mean of any other channels."""
    image = at_least_float32(image)
    if image.shape[1] != 3:
        return image.mean(1, keepdim=True)
    return (image * constant(LUMA, image).view(3, 1, 1)).sum(1, keepdim=True)


def edges(gray: Tensor) -> Tensor:
    """How steep an image ``(N, 1, H, W)`` is at every pixel, in [-1, 1): ``2 g / (g + EDGE) - 1`` of the Sobel gradient's length g.

    A fixed map, so that no other pixel or image changes a pixel's value; concave, because most pixels of a photo are nearly flat.
    """
    sobel = constant(SOBEL, gray) / 8  # a slope of 1 a pixel is 1
    slopes = F.conv2d(F.pad(gray, (1, 1, 1, 1), mode="replicate"), torch.stack([sobel, sobel.T])[:, None])  # (N, 2, H, W)
    length = (slopes.square().sum(1, keepdim=True) + 1e-12).sqrt()
    return 2 * length / (length + EDGE) - 1


@lru_cache
def directions(count: int, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """``count`` random unit vectors ``(count, channels)``, always the same ones."""
    with torch.inference_mode(False):
        random = torch.from_numpy(numpy_rng(0, "texture", channels).standard_normal((count, channels)))
        return F.normalize(random, dim=1).to(device, dtype)


def standardized(x: Tensor) -> Tensor:
    """``(N, C, h, w)`` with mean 0 and variance 1 in every channel of every image; a constant channel becomes 0."""
    variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


def textures(features: Tensor, count: int, window: int) -> tuple[Tensor, Tensor]:
    """Level and contrast of ``count`` filter responses in half-overlapping windows: two maps ``(N, count, h', w')`` in [-1, 1].

    A response is a fixed random projection of the instance-normalized features ``(N, C, h, w)``, brought to variance 1. Level is the tanh
    of its mean in a window, contrast that of the logarithm of its standard deviation. Windows take at most a quarter of a side.
    """
    features = at_least_float32(features)
    projection = directions(count, features.shape[1], features.device, features.dtype)
    responses = standardized(torch.einsum("dc,nchw->ndhw", projection, standardized(features)))
    window = max(1, min(window, *(side // 4 for side in features.shape[2:])))
    mean, square = (F.avg_pool2d(x, window, max(1, window // 2)) for x in (responses, responses.square()))
    variance = (square - mean.square()).clamp(min=0)
    return mean.tanh(), (variance - 1) / (variance + 1)  # tanh(log s) = (s^2 - 1) / (s^2 + 1), with a finite slope at s = 0


class Alignment(Term, ABC):
    """``E (1 - rSMI)``, in [0, 2], over pairs of maps of source and translation; what the weight multiplies is -rSMI up to a constant."""

    form: Form = "joint"
    """``joint``: the joint density against its mixture with the independent one. ``product``: the independent one against it (SCC)."""
    sigma: PositiveFloat = 0.25
    """Width of the kernels on [-1, 1]."""
    ridge: float = Field(default=0.01, ge=1e-4)
    """Regularization of the fitted density ratio."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """The weight rises linearly from 0 over this share of the budget, from ``start`` on."""

    def weight_at(self, progress: float, step: int) -> float:
        risen = (progress - self.start) / self.warmup if self.warmup else 1.0
        return super().weight_at(progress, step) * min(1.0, max(0.0, risen))

    @abstractmethod
    def pairs(self, step: Step, nets: Nets) -> Iterator[tuple[Tensor, Tensor]]:
        """Maps in [-1, 1] of source and translation, two of one shape ``(N, C, h, w)`` at a time; all pairs count alike."""

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        with full_precision(step.source):
            shared = [
                rsmi(x.detach().flatten(1), y.flatten(1), sigma=self.sigma, ridge=self.ridge, form=self.form)
                for x, y in self.pairs(step, nets)
            ]
            return 1 - torch.stack(shared).mean()


class StructureConsistency(Alignment):
    """SCC: all channels' pixels as one sample. Guo et al., CVPR 2022; weight 5 beside CycleGAN's terms, 0.5 beside CUT's.

    Estimated for each image by itself, so that any batch size will do; with a Gaussian kernel, which the published code lacks.
    """

    weight: NonNegativeFloat = 5.0
    form: Form = "product"
    sigma: PositiveFloat = 1.0
    ridge: float = Field(default=0.05, ge=1e-4)

    needs: ClassVar[frozenset[str]] = frozenset({"fake"})

    def pairs(self, step: Step, nets: Nets) -> Iterator[tuple[Tensor, Tensor]]:
        alike = step.source.shape[1] == step.fake.shape[1]
        yield (step.source, step.fake) if alike else (luminance(step.source), luminance(step.fake))


class Structure(Alignment):
    """SemST's structure: luminance and edges, at full and half resolution.

    That SemST aligns structure by mutual information is published (Zhao et al., WACV 2024, abstract); maps, scales, estimator and weight
    are ours.
    """

    weight: NonNegativeFloat = 0.5
    warmup: float = Field(default=0.1, ge=0, lt=1)

    needs: ClassVar[frozenset[str]] = frozenset({"fake"})

    def pairs(self, step: Step, nets: Nets) -> Iterator[tuple[Tensor, Tensor]]:
        source, fake = luminance(step.source), luminance(step.fake)
        for x, y in ((source, fake), (F.avg_pool2d(source, 2), F.avg_pool2d(fake, 2))):
            yield x, y
            yield edges(x), edges(y)


class Texture(Alignment):
    """SemST's texture: level and contrast of random filter responses on shallow features of source and translation.

    That SemST aligns texture features by mutual information is published (Zhao et al., WACV 2024, abstract); the features, the estimator
    and the weight are ours.
    """

    weight: NonNegativeFloat = 0.5
    warmup: float = Field(default=0.1, ge=0, lt=1)
    taps: tuple[str, ...] = ()
    """The generator's taps whose features are compared. Default: its first two with more channels than the image (CUT: down1, down2)."""
    filters: PositiveInt = 8
    """Random directions in the features' space; the same ones in every step and run."""
    window: PositiveInt = 8
    """Side of the windows of local statistics, in positions of the feature map."""

    needs: ClassVar[frozenset[str]] = frozenset({"features.source", "features.fake"})

    def problem(self, setting: Setting) -> str | None:
        wrong = next((name for name in self.taps if name not in setting.taps), None)
        return None if wrong is None else f"taps: {unknown('tap', wrong, setting.taps)}"

    def places(self, taps: tuple[Tap, ...], image_channels: int) -> list[int]:
        """Which of the generator's taps are compared."""
        if self.taps:
            return [i for i, tap in enumerate(taps) if tap.name in self.taps]
        return [i for i, tap in enumerate(taps) if tap.channels > image_channels][:2] or [0]

    def pairs(self, step: Step, nets: Nets) -> Iterator[tuple[Tensor, Tensor]]:
        taps = nets.generator.taps
        for place in self.places(taps, nets.generator.in_channels):
            source, fake = (without_margin(step.features[of][place], taps[place].margin) for of in ("source", "fake"))
            yield from zip(*(textures(x, self.filters, self.window) for x in (source.detach(), fake)), strict=True)
