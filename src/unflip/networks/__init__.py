"""Networks. ``GENERATORS`` and ``DISCRIMINATORS`` are the tables of what a config's ``kind`` may name.

``IMPORTED`` are generators that a model folder may hold beside these: they translate, but no method can be trained with them.
"""

from __future__ import annotations

from unflip.networks.discriminator import DiscriminatorConfig
from unflip.networks.generator import Generator, GeneratorConfig, Tap
from unflip.networks.hypervector import HypervectorDiscriminatorConfig
from unflip.networks.multiscale import Multiscale, MultiscaleConfig
from unflip.networks.patchgan import PatchGANConfig
from unflip.networks.projector import Projector, ProjectorConfig
from unflip.networks.resnet import ResnetConfig
from unflip.networks.unet import UnetConfig

GENERATORS: dict[str, type[GeneratorConfig]] = {"resnet": ResnetConfig}
IMPORTED: dict[str, type[GeneratorConfig]] = {"unet": UnetConfig}
DISCRIMINATORS: dict[str, type[DiscriminatorConfig]] = {"patchgan": PatchGANConfig, "hypervector": HypervectorDiscriminatorConfig}

__all__ = [
    "DISCRIMINATORS",
    "GENERATORS",
    "IMPORTED",
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
    "UnetConfig",
]
