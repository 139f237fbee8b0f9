"""Features of a fixed, pretrained network: VGG (Simonyan & Zisserman, ICLR 2015) as torchvision trained it on ImageNet.

Not a module, so that no player trains it and no checkpoint holds it: a function, of which one copy serves all that call it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from safetensors.torch import load_file
from torch import Tensor, nn

from unflip.config import Config, unknown
from unflip.errors import MissingExtra, UserError
from unflip.networks.blocks import constant
from unflip.networks.hub import HUB, HubName
from unflip.seeding import torch_rng
from unflip.tensors import digest

Network = Literal["vgg16", "vgg19"]
Inputs = Literal["imagenet", "plain"]

DEPTHS: dict[str, tuple[int, ...]] = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Convolutions per block."""
WIDTHS = (64, 128, 256, 512, 512)
URLS = {name: f"https://download.pytorch.org/models/{name}-{digest}.pth" for name, digest in (("vgg16", "397923af"), ("vgg19", "dcbb9e9d"))}
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's RGB values in [0, 1]."""


class Layer(NamedTuple):
    """A layer whose activations ``(N, channels, H // stride, W // stride)`` can be taken. ``place``: in torchvision's ``.features``."""

    place: int
    channels: int
    stride: int


def layers(network: Network) -> dict[str, Layer]:
    """All layers by name and in order: ``conv1_1``, ``relu1_1``, ``conv1_2``, ``relu1_2``, ``pool1``, ``conv2_1``, ..."""
    table: dict[str, Layer] = {}
    for block, (depth, width) in enumerate(zip(DEPTHS[network], WIDTHS, strict=True), 1):
        for i in range(1, depth + 1):
            for kind in ("conv", "relu"):
                table[f"{kind}{block}_{i}"] = Layer(len(table), width, 2 ** (block - 1))
        table[f"pool{block}"] = Layer(len(table), width, 2**block)
    return table


class FeaturesConfig(Config):
    """Which network looks at the images."""

    network: Network = "vgg16"
    weights: Literal["imagenet", "random"] | str = Field(default="imagenet", min_length=1)
    """``imagenet``: torchvision's, downloaded once. ``random``: always the same random ones, for where there is no network.
    ``hub:OWNER/NAME``: the model.safetensors of a hub id, such as ``hub:timm/vgg16.tv_in1k``; with ``@REVISION``, of that commit. Otherwise
    a file (.safetensors or .pth), whose path is made absolute. Hub and file hold the weights of torchvision's network, or of its
    ``.features``."""
    inputs: Inputs = "imagenet"
    """``imagenet``: images are normalized as in the network's training. ``plain``: it sees them in [-1, 1]."""

    setting: ClassVar[str] = "--set self_similarity.features.weights=FILE"
    """How a run is told the weights."""

    @field_validator("weights")
    @classmethod
    def _from_any_folder(cls, value: str) -> str:
        return value if value in ("imagenet", "random") or value.startswith(HUB) else str(Path(value).absolute())

    def pick(self, names: Iterable[str]) -> tuple[Layer, ...]:
        """The layers of these names.

        Raises:
            ValueError: the network has no layer of that name.
        """
        table = layers(self.network)
        for name in names:
            if name not in table:
                raise ValueError(unknown(f"layer of {self.network}", name, table))
        return tuple(table[name] for name in names)

    def remark(self) -> str | None:
        """What a reader of results must know; None: nothing."""
        if self.weights == "imagenet":
            return None
        if self.weights == "random":
            return f"features of a {self.network} with random weights, not ImageNet's"
        return f"features of a {self.network} with the weights {self.weights if self.weights.startswith(HUB) else Path(self.weights).name}"

    def fixed_weights(self, field: str) -> dict[str, str]:
        """The digest of weights that a user named, by their place in ``field``; the others are the same everywhere."""
        if self.weights in ("imagenet", "random"):
            return {}
        return {f"{field}.weights": digest(_network(self.network, self.weights).state_dict())}


class Fixed:
    """Images ``(N, C, H, W)`` in [-1, 1] to one tensor of activations for every layer, in the order asked for.

    Computes nothing beyond the deepest layer. Gradient flows to the images; the weights never change.
    """

    def __init__(self, config: FeaturesConfig, names: tuple[str, ...]) -> None:
        self.config = config
        self.picked = config.pick(names)
        try:
            _network(config.network, config.weights)  # what is wrong with the weights is said now, not in the first step
        except UserError as error:
            raise UserError(f"{error}; give the file as the weights of its features: {config.setting}") from error

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        x = rgb(images if images.dtype == torch.float64 else images.float())
        if self.config.inputs == "imagenet":
            x = ((x + 1) / 2 - constant(MEAN, x).view(3, 1, 1)) / constant(DEVIATION, x).view(3, 1, 1)
        network = _placed(self.config.network, self.config.weights, x.device, x.dtype)
        places = {layer.place for layer in self.picked}
        taken = {}
        for place in range(1 + max(places)):
            x = network[place](x)
            if place in places:
                taken[place] = x
        return tuple(taken[layer.place] for layer in self.picked)


@lru_cache
def features(config: FeaturesConfig, names: tuple[str, ...]) -> Fixed:
    """The function from images to the activations of the layers ``names``; loads the weights if nothing did before.

    Raises:
        UserError: the weights cannot be had.
        ValueError: the network has no layer of that name.
    """
    return Fixed(config, names)


def rgb(images: Tensor) -> Tensor:
    """``(N, 3, H, W)``: gray is repeated, and more channels are averaged to three, in their order."""
    return images if images.shape[1] == 3 else F.adaptive_avg_pool3d(images, (3, *images.shape[-2:]))


@lru_cache
def _network(name: Network, weights: str) -> nn.Sequential:
    """In float32 on the CPU, so that every device and precision is given the same weights."""
    with torch.inference_mode(False):  # no gradient could be computed through what is made in inference mode
        network = _vgg(name)
        if weights == "random":
            rng = torch_rng(0, "features", name)
            for layer in network:
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=rng)
                    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        else:
            _load(network, name, weights)
    return network.requires_grad_(False).eval()


@lru_cache
def _placed(name: Network, weights: str, device: torch.device, dtype: torch.dtype) -> nn.Sequential:
    with torch.inference_mode(False):
        network = _vgg(name).to(device, dtype)
        network.load_state_dict(_network(name, weights).state_dict())
    return network.requires_grad_(False).eval()


def _vgg(name: Network) -> nn.Sequential:
    """torchvision's ``.features``, but for the ReLUs, which leave the activations before them as they are."""
    body = nn.Sequential()
    channels = 3
    for layer_name, layer in layers(name).items():
        if layer_name.startswith("conv"):
            body.append(nn.Conv2d(channels, layer.channels, 3, padding=1, device="meta").to_empty(device="cpu"))
            channels = layer.channels
        else:
            body.append(nn.ReLU() if layer_name.startswith("relu") else nn.MaxPool2d(2))
    return body


def _load(network: nn.Sequential, name: Network, weights: str) -> None:
    if weights == "imagenet":
        state = _downloaded(name)
    else:
        state = _from_hub(weights.removeprefix(HUB)) if weights.startswith(HUB) else _read(Path(weights))
    if any(key.startswith("features.") for key in state):
        state = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    try:
        network.load_state_dict(state)
    except (RuntimeError, AttributeError) as error:
        raise UserError(f"{weights} does not hold the weights of torchvision's {name}") from error


def _downloaded(name: Network) -> Mapping[str, Tensor]:
    try:
        return torch.hub.load_state_dict_from_url(URLS[name], map_location="cpu", progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the ImageNet weights of {name} cannot be downloaded ({reason}); save {URLS[name]} by other means") from error


def _from_hub(text: str) -> Mapping[str, Tensor]:
    name = HubName.parse(text)
    if name is None:
        raise UserError(f"no name on the hub, {HUB}{text}; give {HUB}OWNER/NAME, or {HUB}OWNER/NAME@REVISION")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise MissingExtra("huggingface_hub", "hub") from None
    try:
        return load_file(hf_hub_download(name.repository, "model.safetensors", revision=name.revision))
    except Exception as error:  # the hub's errors have no common base that all its versions share
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the weights of {HUB}{text} cannot be had ({reason}); save them by other means") from error


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise UserError(f"weights are imagenet, random or a .safetensors or .pth file; there is no file {path}")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the errors of pickle, zip and safetensors have no common base
        raise UserError(f"cannot read weights from {path}, which must be .safetensors, or .pth and nothing but tensors") from error
    if not isinstance(state, Mapping):
        raise UserError(f"{path} holds no state dict of torchvision's network")
    return state
