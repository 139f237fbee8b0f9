"""Whose weights are these? Published generators, told by the names and shapes of their tensors, as generators of this package.

Known are the ResNets of CycleGAN, CUT and SRUNIT and the U-Nets of pix2pix. What fits one of them in every name and shape is that network;
everything else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from unflip.errors import UserError, short
from unflip.networks.generator import GeneratorConfig
from unflip.networks.published_resnet import resnet
from unflip.networks.published_unet import unet
from unflip.networks.resnet import ResnetConfig, ResnetGenerator
from unflip.networks.unet import UnetConfig, UnetGenerator
from unflip.networks.wiring import Wiring

KNOWN = "known are ResNets with instance norm (CycleGAN, CUT, SRUNIT) and U-Nets (pix2pix)"
OTHERS = {
    r"mlp_\d+\.": "the projector of CUT (latest_net_F)",
    r"(encoder|decoder)\.": "a StyleGAN2 generator",
    r"(enc_content|enc_style|dec)\.": "a generator of the kind resnet_cat",
    r"stages\.|to_(target|source)\.|(downs|ups)\.": "of unflip, which needs no import",
}
"""Networks that are published beside these, by how their tensors' names begin."""


class Published(NamedTuple):
    """A published generator, found."""

    generator: GeneratorConfig
    ends: tuple[int, int]
    """Bands of its images, in and out."""
    tensors: dict[str, Tensor]
    """As a generator of ``generator`` names them that has the larger number of bands at both ends."""
    what: str
    """In words."""


def recognize(tensors: Mapping[str, Tensor], where: Path) -> Published:
    """The generator of which ``tensors`` are the weights, read from ``where``.

    Tensors are looked into only where their shapes are right. Statistics that old versions kept of instance norms are left out: the
    published code does so, too.

    Raises:
        UserError: they are those of another network, or not whole, or not finite numbers in float32.
    """
    tensors = _bare(tensors)
    if not tensors:
        raise UserError(f"{where} holds no tensors; give the file of a generator, such as latest_net_G.pth")
    wiring = _wiring(tensors, where)
    shapes = _shapes(wiring)
    _check_names(tensors, wiring, where)
    for name, value in tensors.items():
        if tuple(value.shape) != shapes[name]:
            raise UserError(f"{where}: tensor {name} is {tuple(value.shape)} instead of {shapes[name]}, as in {wiring.what}; {KNOWN}")
    for name, value in tensors.items():
        if name not in wiring.left_out:
            _check_values(name, value, wiring, where)
    found = {ours: tensors[name] for name, ours in wiring.names.items() if name in tensors}
    found |= {ours: torch.tensor(0) for name, ours in wiring.names.items() if name not in tensors}  # of batches that are counted
    return Published(wiring.generator, wiring.ends, _shared(found, wiring), wiring.what)


def _bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix of ``DataParallel``, where all have it."""
    prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


def _wiring(tensors: Mapping[str, Tensor], where: Path) -> Wiring:
    """What the network would be, by some of its names."""
    for kind, beginning in OTHERS.items():
        if all(re.match(kind, name) for name in tensors):
            raise UserError(f"{where} is {beginning}; {KNOWN}")
    wiring = resnet(tensors) or unet(tensors, where)
    if wiring is not None:
        return wiring
    first = tensors.get("model.0.weight")
    if first is not None and first.ndim == 4 and first.shape[-1] in (1, 4):
        raise UserError(f"{where} is a discriminator; give the file of the generator, such as latest_net_G.pth")
    raise UserError(f"{where} is no generator that is known: it has a tensor {short(next(iter(tensors)))}; {KNOWN}")


def _shapes(wiring: Wiring) -> dict[str, tuple[int, ...]]:
    """Of all tensors that may be there. Our network is not made, as nothing is known of its size yet but what the file says."""
    kind = {ResnetConfig: ResnetGenerator, UnetConfig: UnetGenerator}[type(wiring.generator)]  # type: ignore[index]
    with torch.device("meta"):
        ours = kind(wiring.generator, *wiring.ends).state_dict()
    taken = {name: ours[own] for name, own in wiring.names.items()} | wiring.kernels
    return wiring.left_out | {name: tuple(value.shape) for name, value in taken.items()}


def _check_names(tensors: Mapping[str, Tensor], wiring: Wiring, where: Path) -> None:
    known = wiring.names.keys() | wiring.kernels.keys() | wiring.left_out.keys()
    norms = [name.rpartition(".")[0] for name in tensors if name.endswith(".running_mean")]
    scaled = next((norm for norm in norms if f"{norm}.weight" in tensors and f"{norm}.weight" not in known), None)
    if scaled is not None:
        raise UserError(f"{where} is a ResNet with batch norm ({scaled}); {KNOWN}")
    lacking = sorted(name for name in wiring.names.keys() | wiring.kernels.keys() if name not in tensors and name not in wiring.optional)
    if lacking:
        if len(lacking) > 2 and all(name.endswith(".bias") for name in lacking):
            raise UserError(f"{where} has no tensor {lacking[0]}, as networks without norms; {KNOWN}")
        raise UserError(f"{where} is not whole, or another network than {wiring.what}: it lacks tensor {lacking[0]}; {KNOWN}")
    unknown = sorted(name for name in tensors if name not in known)
    if unknown:
        raise UserError(f"{where} is another network than {wiring.what}: it has a tensor {short(unknown[0])}; {KNOWN}")


def _check_values(name: str, value: Tensor, wiring: Wiring, where: Path) -> None:
    wanted = torch.int64 if name.endswith("num_batches_tracked") else torch.float32
    if value.dtype != wanted:
        raise UserError(f"{where}: tensor {name} is {value.dtype} instead of {wanted}; save net.float().state_dict()")
    if not bool(value.isfinite().all()) or (name.endswith("running_var") and bool((value < 0).any())):
        raise UserError(f"{where}: tensor {name} is not finite, or a variance below 0: that training broke down; take another epoch")
    kernel = wiring.kernels.get(name)
    if kernel is not None and not torch.allclose(value, kernel, rtol=1e-6, atol=0):
        raise UserError(f"{where}: {name} is not the binomial kernel that antialiasing is done with; only the published ones are known")


def _shared(tensors: dict[str, Tensor], wiring: Wiring) -> dict[str, Tensor]:
    """The weights of a network that has the larger number of bands at both ends, and does the same.

    Fewer bands are repeated on their way in, and the mean is taken of their repetitions on their way out: the first layer leaves the
    repetitions out, and the last one makes all alike.
    """
    given, made = wiring.ends
    count = max(wiring.ends)
    first, last = wiring.first, wiring.last
    if given < count:
        weight = tensors[f"{first}.weight"]
        zeros = weight.new_zeros(weight.shape[0], count - given, *weight.shape[2:])
        tensors = tensors | {f"{first}.weight": torch.cat([weight, zeros], 1)}
    if made < count:
        turns = [k % made for k in range(count)]
        weight, bias = tensors[f"{last}.weight"], tensors[f"{last}.bias"]
        weight = weight[:, turns] if wiring.transposed else weight[turns]
        tensors = tensors | {f"{last}.weight": weight, f"{last}.bias": bias[turns]}
    return tensors
