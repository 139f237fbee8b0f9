"""Networks. ``GENERATORS`` and ``DISCRIMINATORS`` are the tables of what a config's ``kind`` may name."""

from __future__ import annotations

from unflip.networks.generator import Generator, Tap
from unflip.networks.patchgan import PatchGANConfig
from unflip.networks.projector import Projector, ProjectorConfig
from unflip.networks.resnet import ResnetConfig

GENERATORS = {"resnet": ResnetConfig}
DISCRIMINATORS = {"patchgan": PatchGANConfig}

__all__ = ["DISCRIMINATORS", "GENERATORS", "Generator", "PatchGANConfig", "Projector", "ProjectorConfig", "ResnetConfig", "Tap"]
