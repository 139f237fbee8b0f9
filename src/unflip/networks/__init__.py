"""Networks. ``GENERATORS`` and ``DISCRIMINATORS`` are the tables of what a config's ``kind`` may name."""

from __future__ import annotations

from unflip.networks.discriminator import DiscriminatorConfig
from unflip.networks.generator import Generator, GeneratorConfig, Tap
from unflip.networks.hypervector import HypervectorDiscriminatorConfig
from unflip.networks.multiscale import Multiscale, MultiscaleConfig
from unflip.networks.patchgan import PatchGANConfig
from unflip.networks.projector import Projector, ProjectorConfig
from unflip.networks.resnet import ResnetConfig

GENERATORS: dict[str, type[GeneratorConfig]] = {"resnet": ResnetConfig}
DISCRIMINATORS: dict[str, type[DiscriminatorConfig]] = {"patchgan": PatchGANConfig, "hypervector": HypervectorDiscriminatorConfig}

__all__ = [
    "DISCRIMINATORS",
    "GENERATORS",
    "DiscriminatorConfig",
    "Generator",
    "GeneratorConfig",
    "Multiscale",
    "MultiscaleConfig",
    "PatchGANConfig",
    "Projector",
    "ProjectorConfig",
    "ResnetConfig",
    "Tap",
]
