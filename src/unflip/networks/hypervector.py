"""VSAIT's hypervectors: a random, fixed projection of what a pretrained network sees at a place, into a space of thousands of dimensions.

Theiss et al., "Unpaired image translation via vector symbolic architectures", ECCV 2022. In such a space random vectors are nearly
orthogonal, and two are bound into a third, and unbound again, by their elementwise product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from unflip.networks.blocks import initialize
from unflip.networks.discriminator import DiscriminatorConfig
from unflip.networks.features import FeaturesConfig, Inputs, Network, features
from unflip.seeding import torch_rng


class HypervectorConfig(FeaturesConfig):
    """What is hashed, and into how many dimensions. The defaults are VSAIT's."""

    network: Network = "vgg19"
    inputs: Inputs = "plain"
    layers: tuple[str, ...] = Field(default=("relu1_2", "relu2_2", "relu3_2", "relu4_2", "conv5_2"), min_length=1)
    """The published code names the convolutions 1_2 to 5_2; the ReLU after each but the last overwrites what it takes."""
    dimension: int = Field(default=4096, gt=0, le=2**20)

    setting: ClassVar[str] = "--set vsa.vectors.weights=FILE, and for VSAIT's discriminator --set discriminator.vectors.weights=FILE"

    @model_validator(mode="after")
    def _layers_exist(self) -> HypervectorConfig:
        self.pick(self.layers)
        return self

    @property
    def stride(self) -> int:
        """The side, in pixels, of the patch of an image that one hypervector describes."""
        return max(layer.stride for layer in self.pick(self.layers))

    @property
    def scales(self) -> tuple[int, ...]:
        """The side of that patch in positions of each layer's map."""
        return tuple(self.stride // layer.stride for layer in self.pick(self.layers))

    @property
    def values(self) -> int:
        """How many activations, of all layers, lie in that patch."""
        return sum(layer.channels * scale**2 for layer, scale in zip(self.pick(self.layers), self.scales, strict=True))


@lru_cache
def hypervectors(config: HypervectorConfig) -> Callable[[Tensor], Tensor]:
    """The function from images ``(N, C, H, W)`` in [-1, 1] to hypervectors ``(N, dimension, H // stride, W // stride)`` in [-1, 1].

    Raises:
        UserError: the weights of the pretrained network cannot be had.
    """
    see = features(config, config.layers)

    def hypervectors_of(images: Tensor) -> Tensor:
        taken = see(images)
        return hashed(patches(taken, config.scales), directions(config.dimension, config.values, images.device, taken[0].dtype))

    return hypervectors_of


def patches(taken: Sequence[Tensor], scales: Sequence[int]) -> Tensor:
    """All activations of one patch of the image as one vector: maps ``(N, C_k, h * s_k, w * s_k)`` to ``(N, sum C_k * s_k^2, h, w)``.

    Finer maps may have some more rows and columns, which no patch holds.
    """
    h, w = taken[-1].shape[-2] // scales[-1], taken[-1].shape[-1] // scales[-1]
    return torch.cat([F.pixel_unshuffle(f[..., : h * s, : w * s], s) for f, s in zip(taken, scales, strict=True)], 1)


def hashed(z: Tensor, random: Tensor) -> Tensor:
    """Locality-sensitive hashing: ``R z / |z|``, the cosines of z ``(N, C, h, w)`` with directions R ``(D, C)``: ``(N, D, h, w)``."""
    return F.conv2d(z / (z.square().sum(1, keepdim=True) + 1e-12).sqrt(), random[..., None, None])


@lru_cache(maxsize=4)
def directions(dimension: int, values: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Always the same random directions, uniform over the sphere: ``(dimension, values)``. VSAIT's take 0.5 GB in float32."""
    with torch.inference_mode(False):
        return F.normalize(torch.randn(dimension, values, generator=torch_rng(0, "hypervectors")), dim=1).to(device, dtype)


class Mapping(nn.Module):
    """VSAIT's mapping from source to target: for each source hypervector ``(N, D, h, w)`` the one that it is bound with, in (-1, 1).

    Before training it is the same in all dimensions, so that binding keeps every direction.
    """

    def __init__(self, dimension: int, rng: torch.Generator) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            inner, last = nn.Conv2d(dimension, dimension, 1), nn.Conv2d(dimension, dimension, 1)
        with torch.no_grad():
            for parameter in inner.parameters():
                parameter.uniform_(-(dimension**-0.5), dimension**-0.5, generator=rng)
            last.weight.zero_()
            nn.init.ones_(last.bias)  # type: ignore[arg-type]
        self.layers = nn.Sequential(inner, nn.ReLU(), last, nn.Tanh())

    def forward(self, source: Tensor) -> Tensor:
        bound: Tensor = self.layers(source)
        return bound


class Judge(nn.Sequential):
    """Hypervectors ``(N, D, h, w)`` to logits ``(N, 1, h, w)``, each judged for itself."""

    def __init__(self, dimension: int, width: int, rng: torch.Generator) -> None:
        with torch.random.fork_rng(devices=[]):
            layers = [nn.Conv2d(a, b, 1) for a, b in ((dimension, width), (width, width), (width, 1))]
        super().__init__(layers[0], nn.LeakyReLU(0.2), layers[1], nn.LeakyReLU(0.2), layers[2])
        initialize(self, "xavier", rng, gain=0.2)


class HypervectorDiscriminatorConfig(DiscriminatorConfig):
    """``kind: hypervector``. The defaults are VSAIT's: 5.2 M parameters, patches of 16 x 16 pixels."""

    kind: Literal["hypervector"] = "hypervector"
    vectors: HypervectorConfig = HypervectorConfig()
    width: int = Field(default=1024, gt=0, le=2**16)

    @property
    def smallest(self) -> int:
        return self.vectors.stride

    @property
    def patch(self) -> int:
        return self.vectors.stride

    def remark(self) -> str | None:
        return self.vectors.remark()

    def fixed_weights(self) -> dict[str, str]:
        return self.vectors.fixed_weights("vectors")

    def build(self, in_channels: int, rng: torch.Generator) -> HypervectorDiscriminator:
        hypervectors(self.vectors)
        return HypervectorDiscriminator(self, rng)


class HypervectorDiscriminator(nn.Module):
    """``(N, C, H, W)`` in [-1, 1] to logits ``(N, 1, H // 16, W // 16)``. Only the judge is trained and saved."""

    def __init__(self, config: HypervectorDiscriminatorConfig, rng: torch.Generator) -> None:
        super().__init__()
        self.vectors = config.vectors
        self.judge = Judge(config.vectors.dimension, config.width, rng)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.judge(hypervectors(self.vectors)(x))
        return logits
