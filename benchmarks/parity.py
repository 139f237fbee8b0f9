"""Does unflip compute what the published code computes? Same weights, inputs and random numbers, float64, value and gradient.

    python benchmarks/parity.py --cut PATH/OF/CUT --srunit PATH/OF/SRUNIT [--json FILE] [--markdown FILE]

The paths are checkouts of github.com/taesungp/contrastive-unpaired-translation and github.com/SeanJia/SRUNIT; either may be left out.
Nothing is written into them. Both have packages called ``models`` and ``util``, so each is imported in a process of its own.

Every comparison is also made with deliberately broken twins of our side, which must fail it. Exit code 1: something does not agree, a
broken twin went unnoticed, or what docs/decisions/parity.md says of the published code was not observed.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import math
import re
import shlex
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import checkouts
import numpy as np
import torch
import torch.nn.functional as F
from checkouts import replace_layers, table
from torch import Tensor, nn

from unflip.engine.pool import ImagePool
from unflip.losses.draws import Draws, gather
from unflip.losses.nce import patch_nce
from unflip.losses.objective import active
from unflip.losses.robustness import Perturbation, Robustness
from unflip.methods import METHODS, Recipe
from unflip.methods.players import DiscriminatorPlayer, GeneratorPlayer
from unflip.networks import Generator, PatchGANConfig, ProjectorConfig, ResnetConfig
from unflip.networks.blocks import BlurDown, BlurUp
from unflip.seeding import numpy_rng, torch_rng
from unflip.types import Batch, Shown

TOLERANCE = 1e-6
"""Of the largest difference, relative to the largest value."""
SMALLEST_STD = 0.3
"""Of what the networks put out: at the usual initialization everything is nearly gray, and anything agrees."""
SIZE = 64
PATCHES = 64
WIDTH = 8
TAPS = ("pad", "down1", "down2", "block1", "block5")
LAYERS = (0, 4, 8, 12, 16)
"""The published numbers of these layers,"""
STRIDED_LAYERS = (0, 4, 7, 10, 14)
"""and without antialiasing, which leaves out two layers."""
NOISE = 1e-3

Outcome = dict[str, list[Tensor]]
"""Named groups of tensors that two implementations must agree on."""
PublishedModel = Any
"""One of the published model classes, known only at run time."""


# ----------------------------------------------------------------------------------------------------------------------- results


@dataclass
class Row:
    """One comparison: the largest relative differences by group, and those of the broken twins."""

    code: str
    what: str
    std: float
    errors: dict[str, float]
    twins: dict[str, float]

    @property
    def ok(self) -> bool:
        return (
            self.std >= SMALLEST_STD
            and all(e <= TOLERANCE for e in self.errors.values())
            and all(e > TOLERANCE for e in self.twins.values())
        )


@dataclass
class Fact:
    """Something that was observed when the published code ran, and whether it is what the documentation says."""

    code: str
    what: str
    observed: str
    ok: bool


@dataclass
class Findings:
    rows: list[Row] = field(default_factory=list)
    differences: list[Fact] = field(default_factory=list)
    faults: list[Fact] = field(default_factory=list)

    def compare(self, code: str, what: str, std: Tensor, published: Outcome, ours: Outcome, twins: Mapping[str, Outcome]) -> None:
        broken = {name: max(differences(published, twin).values()) for name, twin in twins.items()}
        self.rows.append(Row(code, what, float(std), differences(published, ours), broken))

    @property
    def ok(self) -> bool:
        return all(entry.ok for entry in (*self.rows, *self.differences, *self.faults))


def differences(published: Outcome, ours: Outcome) -> dict[str, float]:
    """By group, the largest over its tensors of ``max |a - b| / max |a|``; where the published group is 0 throughout, of ``max |a - b|``.

    The gradient of a bias ahead of an instance norm is 0 but for rounding: tensors smaller than 1e-9 of their group's largest value are
    measured against that value.
    """
    assert published.keys() == ours.keys()
    result = {}
    for name, reference in published.items():
        largest = max(float(a.abs().max()) for a in reference)
        errors = []
        for a, b in zip(reference, ours[name], strict=True):
            if a.shape != b.shape:
                errors.append(math.inf)
                continue
            error, scale = float((a - b).abs().max()), float(a.abs().max())
            error /= (scale if scale > 1e-9 * largest else largest) or 1.0
            errors.append(error if math.isfinite(error) else math.inf)
        result[name] = max(errors)
    return result


# ---------------------------------------------------------------------------------------------------- weights, images and gradients


@torch.no_grad()
def scatter(network: nn.Module, seed: int) -> None:
    """Weights under which every layer passes on about unit variance, and biases that matter."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.normal_(0, parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1, generator=rng)


@torch.no_grad()
def copy_weights(source: nn.Module, destination: nn.Module) -> None:
    """Copy the parameters over, by their order."""
    for a, b in zip(source.parameters(), destination.parameters(), strict=True):
        assert a.shape == b.shape
        b.copy_(a)


def images(batch: int, seed: int, size: int = SIZE) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def gradients(*networks: nn.Module) -> list[Tensor]:
    parameters = [p for network in networks for p in network.parameters()]
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]


# ------------------------------------------------------------------------------------------------------------------ broken networks


@torch.no_grad()
def swap_blocks(network: nn.Module) -> None:
    stages = next(m for m in network.modules() if isinstance(m, Generator)).stages
    for a, b in zip(stages.get_submodule("block2").parameters(), stages.get_submodule("block4").parameters(), strict=True):
        a.data, b.data = b.data.clone(), a.data.clone()


def box_blur_down(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, BlurDown):
            layer.kernel = torch.full_like(layer.kernel, 1 / 9)


def nearest_up(network: nn.Module) -> None:
    line = torch.tensor([0.0, 1.0, 1.0, 0.0])
    for layer in network.modules():
        if isinstance(layer, BlurUp):
            layer.kernel = torch.outer(line, line).expand_as(layer.kernel).clone()


def batch_statistics(network: nn.Module) -> None:
    replace_layers(network, nn.InstanceNorm2d, lambda norm: nn.BatchNorm2d(norm.num_features, affine=False, track_running_stats=False))


def other_epsilon(network: nn.Module) -> None:
    replace_layers(network, nn.InstanceNorm2d, lambda norm: nn.InstanceNorm2d(norm.num_features, eps=1e-4))


def other_slope(network: nn.Module) -> None:
    replace_layers(network, nn.LeakyReLU, lambda relu: nn.LeakyReLU(0.1))


def no_relu(network: nn.Module) -> None:
    replace_layers(network, nn.ReLU, lambda relu: nn.Identity())


# ---------------------------------------------------------------------------------------------------------------- the published code


@dataclass
class Recorded:
    """The random numbers that the published code drew."""

    permutations: list[Tensor] = field(default_factory=list)
    normal: list[Tensor] = field(default_factory=list)
    uniform: list[Tensor] = field(default_factory=list)

    def positions(self, first: int, count: int, batch: int, patches: int = PATCHES) -> tuple[Tensor, ...]:
        """The positions that it looked at, as ours: one row for every image. It uses the same ones for all."""
        return tuple(p[:patches].expand(batch, -1) for p in self.permutations[first : first + count])


@contextlib.contextmanager
def recording(seed: int = 0, tap: int = 0, flip: bool = False) -> Iterator[Recorded]:
    """Seed and record the random numbers of the published code; its choice of a tap, and whether it flips, are given."""
    drawn = Recorded()
    rng, numpy_source = torch.Generator().manual_seed(seed), np.random.RandomState(seed)
    randn, rand = torch.randn, torch.rand

    def permutation(n: int) -> np.ndarray:
        drawn.permutations.append(torch.from_numpy(numpy_source.permutation(n)))
        return drawn.permutations[-1].numpy().copy()

    def normal(*size: Any, **_: Any) -> Tensor:
        drawn.normal.append(randn(*size, generator=rng))
        return drawn.normal[-1].clone()

    def uniform(*size: Any, **_: Any) -> Tensor:
        drawn.uniform.append(rand(*size, generator=rng))
        return drawn.uniform[-1].clone()

    with (
        mock.patch.object(np.random, "permutation", permutation),
        mock.patch.object(np.random, "choice", lambda choices, n: np.array([tap] * n)),
        mock.patch.object(np.random, "random", lambda: 0.0 if flip else 0.9),
        mock.patch.object(torch, "randn", normal),
        mock.patch.object(torch, "rand", uniform),
    ):
        yield drawn


OPTIONS: dict[str, Any] = {
    **{"input_nc": 3, "output_nc": 3, "ngf": WIDTH, "ndf": WIDTH, "netG": "resnet_9blocks", "netD": "basic", "n_layers_D": 3},
    **{"normG": "instance", "normD": "instance", "no_dropout": True, "no_antialias": False, "no_antialias_up": False},
    **{"init_type": "xavier", "init_gain": 0.02, "gpu_ids": [], "isTrain": True, "direction": "AtoB", "preprocess": "none"},
    **{"netF": "mlp_sample", "netF_nc": 256, "num_patches": PATCHES, "nce_layers": ",".join(map(str, LAYERS)), "nce_T": 0.07},
    **{"nce_includes_all_negatives_from_minibatch": False, "nce_idt": True, "lambda_GAN": 1.0, "lambda_NCE": 1.0},
    **{"flip_equivariance": False, "batch_size": 1, "gan_mode": "lsgan", "lr": 2e-4, "beta1": 0.5, "beta2": 0.999},
    **{"lambda_A": 10.0, "lambda_B": 10.0, "lambda_identity": 0.5, "pool_size": 50, "amp": False},
    **{"reg": 1e-3, "reg_type": "v2", "reg_noise": NOISE, "reg_layers": "0,1,2,3,4", "inact_epochs": 100, "D_noise": 0.0},
    **{
        "checkpoints_dir": "checkpoints",
        "name": "parity",
        "epoch": "latest",
        "verbose": False,
        "continue_train": False,
        "pretrained_name": None,
    },
    **{"lr_policy": "linear", "n_epochs": 200, "n_epochs_decay": 200, "epoch_count": 1},
}
"""The published defaults, but for the width and the number of patches."""


class Checkout:
    """A published repository, imported into this process."""

    def __init__(self, code: str, path: Path) -> None:
        self.code, self.path = code, path
        self.kind = {"CUT": "cut", "SRUNIT": "srunit"}[code]
        """The name of the model that is or contains CUT."""
        self.epoch = [] if code == "CUT" else [OPTIONS["inact_epochs"] + 1]
        """What its training step wants to be told: for SRUNIT an epoch, of those with all terms."""
        for name in ("torchvision", "torchvision.transforms"):  # they are imported by what is imported, and used by nothing here
            sys.modules[name] = mock.MagicMock()
        sys.path.insert(0, str(path))
        self.networks: Any = importlib.import_module("models.networks")
        assert Path(self.networks.__file__).is_relative_to(path), f"models.networks comes from {self.networks.__file__}"

    def model(self, kind: str, batch: int = 1, *, scattered: bool = True, **options: Any) -> PublishedModel:
        """A published model that has been shown a batch, with our weights instead of its initial ones."""
        name = {"cut": "CUTModel", "srunit": "SRUNITModel", "cycle_gan": "CycleGANModel"}[kind]
        opt = SimpleNamespace(**{**OPTIONS, "batch_size": batch, **options})
        model = getattr(importlib.import_module(f"models.{kind}_model"), name)(opt)
        data = {"A": images(batch, 1), "B": images(batch, 2), "A_paths": [], "B_paths": []}
        if kind != "cycle_gan":
            model.data_dependent_initialize(data)
        model.set_input(data)
        for i, side in enumerate(model.model_names):
            network = getattr(model, "net" + side)
            network.zero_grad()
            self.mend(network)
            if scattered:
                scatter(network, i)
        return model

    @staticmethod
    def mend(network: nn.Module) -> None:
        """Hand its instance norms contiguous gradients only.

        On a CPU, PyTorch computes a wrong gradient for an instance norm of one image whose output's gradient has its channels last, as
        where patches are picked by indexing (:func:`measure_instance_norm`). This is no fault of the published code.
        """

        def contiguous(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(lambda gradient: gradient.contiguous())

        for layer in network.modules():
            if isinstance(layer, nn.InstanceNorm2d):
                layer.register_forward_hook(contiguous)

    def step(self, model: PublishedModel) -> None:
        """Its whole training step, but for what the optimizers do with the gradients."""
        for optimizer in model.optimizers:
            optimizer.step = lambda: None
        model.optimize_parameters(*self.epoch)


# -------------------------------------------------------------------------------------------------------------------------- our side


def narrow(recipe: Recipe, **changes: Any) -> Recipe:
    """``recipe`` as it is shipped, with the narrow networks of these comparisons."""
    small = {
        "generator": recipe.generator.model_copy(update={"width": WIDTH}),
        "discriminator": recipe.discriminator.model_copy(update={"width": WIDTH}),
    }
    return recipe.model_copy(update={**small, **changes})


def players(recipe: Recipe, model: PublishedModel) -> tuple[GeneratorPlayer, DiscriminatorPlayer]:
    """Our players with the weights of the published model."""
    generator, discriminator = GeneratorPlayer(recipe, (3, 3), seed=0), DiscriminatorPlayer(recipe, (3, 3), seed=0)
    suffixes = {"to_target": "_A", "to_source": "_B"} if recipe.sides == 2 else {"to_target": ""}
    for side, suffix in suffixes.items():
        copy_weights(getattr(model, "netG" + suffix), generator.generators[side])
        copy_weights(getattr(model, "netD" + suffix), discriminator.networks[side])
        if recipe.projector is not None:
            copy_weights(model.netF, generator.projectors[side])
    return generator, discriminator


def generator_outcome(
    recipe: Recipe,
    model: PublishedModel,
    batch: Batch,
    drawn: Mapping[str, Any],
    *,
    weights: Mapping[str, float] | None = None,
    flip: bool = False,
    breaking: Callable[[nn.Module], None] | None = None,
) -> Outcome:
    """What our generators' player makes of the batch; ``weights``: the recipe's own, late in training."""
    generator, discriminator = players(recipe, model)
    if breaking is not None:
        breaking(generator)
    if weights is None:
        weights = active(recipe.terms, progress=0.9, step=0)
    draws = Draws(flip, {side: {name: drawn.get(name) for name in weights} for side in generator.generators})
    total, _, _ = generator(batch, draws, weights, discriminator.frozen())
    total.backward()
    outcome = {"value": [total.detach()], "gradient of G": gradients(generator.generators)}
    return outcome | ({"gradient of F": gradients(generator.projectors)} if recipe.projector is not None else {})


def discriminator_outcome(recipe: Recipe, model: PublishedModel, reals: Mapping[str, Tensor], fakes: Mapping[str, Tensor]) -> Outcome:
    """What our discriminators' player makes of the images."""
    _, discriminator = players(recipe, model)
    total, _ = discriminator({side: Shown(reals[side].detach(), fakes[side].detach()) for side in reals})
    total.backward()
    return {"value": [total.detach()], "gradient of D": gradients(discriminator)}


def scaled(outcome: Outcome, factor: float) -> Outcome:
    return {name: [factor * a for a in group] for name, group in outcome.items()}


# ---------------------------------------------------------------------------------------------------------------- comparisons: networks


def probe(output: Tensor) -> Tensor:
    """A scalar to whose gradient every output pixel contributes differently."""
    return (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(9))).sum()


def compare_generator(checkout: Checkout, found: Findings, blocks: int, width: int, antialias: bool = True) -> None:
    """Output and taps of the published generator, and the gradient of a random projection of its output."""
    define = {"norm": "instance", "no_antialias": not antialias, "no_antialias_up": not antialias, "opt": SimpleNamespace()}
    published = checkout.networks.define_G(3, 3, width, f"resnet_{blocks}blocks", **define)
    scatter(published, 0)
    resampling = {"downsample": "blur", "upsample": "blur"} if antialias else {"downsample": "stride", "upsample": "transpose"}
    config = ResnetConfig(width=width, blocks=blocks, **resampling)
    x = images(2, 1)

    def outcome(output: Tensor, taps: Sequence[Tensor], network: nn.Module) -> Outcome:
        probe(output).backward()
        return {"output": [output.detach()], "taps": [t.detach() for t in taps], "gradient of G": gradients(network)}

    def ours(breaking: Callable[[nn.Module], None] | None = None) -> Outcome:
        network = config.build(3, 3, torch_rng(0))
        copy_weights(published, network)
        if breaking is not None:
            breaking(network)
        return outcome(*network.run(x), network)

    twins = {"blocks 2 and 4 swapped": swap_blocks}
    if width < 64:
        twins |= {"normalized over the batch": batch_statistics, "norm's epsilon 1e-4": other_epsilon}
    if antialias and width < 64:
        twins |= {"box blur": box_blur_down, "nearest doubling": nearest_up}
    output, taps = published(x, list(LAYERS if antialias else STRIDED_LAYERS))
    what = f"generator, {blocks} blocks, width {width}{'' if antialias else ', strided and transposed convolutions'}"
    broken = {name: ours(twin) for name, twin in twins.items()}
    found.compare(checkout.code, what, output.std(), outcome(output, taps, published), ours(), broken)


def compare_patchgan(checkout: Checkout, found: Findings, antialias: bool) -> None:
    """The published discriminator's logits, and the gradient of a random projection of them."""
    published = checkout.networks.define_D(3, WIDTH, "basic", norm="instance", no_antialias=not antialias)
    scatter(published, 0)
    config = PatchGANConfig(width=WIDTH, downsample="blur" if antialias else "stride")

    def outcome(network: nn.Module) -> Outcome:
        logits = network(images(2, 1))
        probe(logits).backward()
        return {"logits": [logits.detach()], "gradient of D": gradients(network)}

    def ours(breaking: Callable[[nn.Module], None] | None = None) -> Outcome:
        network = config.build(3, torch_rng(0))
        copy_weights(published, network)
        if breaking is not None:
            breaking(network)
        return outcome(network)

    twins = {"slope 0.1": ours(other_slope), "normalized over the batch": ours(batch_statistics)}
    if antialias:
        twins["box blur"] = ours(box_blur_down)
    reference = outcome(published)
    what = f"PatchGAN, width {WIDTH}{'' if antialias else ', strided convolutions'}"
    found.compare(checkout.code, what, reference["logits"][0].std(), reference, ours(), twins)


def compare_projector(checkout: Checkout, found: Findings) -> None:
    """The projected features of patches at the same positions, of all taps, for a batch of two."""
    model = checkout.model(checkout.kind, 2)
    output, features = model.netG(model.real_A, list(LAYERS))
    features = [f.detach() for f in features]
    with recording() as drawn:
        vectors, _ = model.netF(features, PATCHES, None)

    def outcome(vectors: Sequence[Tensor], network: nn.Module) -> Outcome:
        torch.stack([probe(v) for v in vectors]).sum().backward()
        return {"vectors": [v.detach() for v in vectors], "gradient of F": gradients(network)}

    def ours(breaking: Callable[[nn.Module], None] | None = None, offset: int = 0) -> Outcome:
        network = ProjectorConfig().build([f.shape[1] for f in features], torch_rng(0))
        copy_weights(model.netF, network)
        if breaking is not None:
            breaking(network)
        places = [(p + offset) % f[0, 0].numel() for p, f in zip(drawn.positions(0, 5, 2), features, strict=True)]
        return outcome([network(tap, gather(f, p)).flatten(0, 1) for tap, (f, p) in enumerate(zip(features, places, strict=True))], network)

    twins = {"without its ReLU": ours(no_relu), "one position further": ours(offset=1)}
    found.compare(checkout.code, "projector, five taps", output.std(), outcome(vectors, model.netF), ours(), twins)


# ------------------------------------------------------------------------------------------------------------------ comparisons: CUT


def compare_patch_nce_of_vectors(checkout: Checkout, found: Findings, batch: int) -> None:
    """PatchNCE as a function of given vectors: value, and gradients of queries and keys."""
    rng = torch.Generator().manual_seed(5)
    keys = F.normalize(torch.randn(batch, PATCHES, 256, generator=rng), dim=-1)
    queries = F.normalize(keys + F.normalize(torch.randn(batch, PATCHES, 256, generator=rng), dim=-1), dim=-1)
    criterion = importlib.import_module("models.patchnce").PatchNCELoss(SimpleNamespace(**{**OPTIONS, "batch_size": batch}))

    def outcome(nce: Callable[[Tensor, Tensor], Tensor]) -> Outcome:
        leaves = [v.clone().requires_grad_() for v in (queries, keys)]
        value = nce(*leaves)
        value.backward()
        return {"value": [value.detach()], "gradient": [torch.zeros_like(v) if v.grad is None else v.grad for v in leaves]}

    twins = {
        "temperature 0.08": outcome(lambda q, k: patch_nce(q, k, 0.08)),
        "gradient into the keys": outcome(lambda q, k: (patch_nce(q, k, 0.07) + patch_nce(k, q, 0.07)) / 2),
    }
    if batch > 1:
        twins["negatives from the whole batch"] = outcome(lambda q, k: patch_nce(q.flatten(0, 1)[None], k.flatten(0, 1)[None], 0.07))
    published = outcome(lambda q, k: criterion(q.flatten(0, 1), k.flatten(0, 1)).mean())
    std = 256**0.5 * queries.std()  # as if the vectors had length 16
    found.compare(
        checkout.code, f"PatchNCE of given vectors, batch {batch}", std, published, outcome(lambda q, k: patch_nce(q, k, 0.07)), twins
    )


def compare_patch_nce(checkout: Checkout, found: Findings, batch: int) -> None:
    """PatchNCE of a translation and its source, through generator and projector."""
    model = checkout.model("cut", batch)
    with recording() as drawn:
        model.forward()
        value = model.calculate_NCE_loss(model.real_A, model.fake_B)
    value.backward()
    published = {"value": [value.detach()], "gradient of G": gradients(model.netG), "gradient of F": gradients(model.netF)}
    places = drawn.positions(0, 5, batch)

    def ours(places: tuple[Tensor, ...], breaking: Callable[[nn.Module], None] | None = None) -> Outcome:
        recipe, pair = narrow(METHODS["cut"].recipe), Batch(model.real_A, model.real_B, 0, 0)
        return generator_outcome(recipe, model, pair, {"nce": places}, weights={"nce": 1.0}, breaking=breaking)

    shifted = (*places[:4], (places[4] + 1) % (SIZE // 4) ** 2)
    twins = {"one tap's positions one further": ours(shifted), "blocks 2 and 4 swapped": ours(places, swap_blocks)}
    found.compare(checkout.code, f"PatchNCE of a translation, batch {batch}", model.fake_B.std(), published, ours(places), twins)


def step_outcomes(model: PublishedModel, value: Tensor) -> tuple[Outcome, Outcome]:
    """What a published step left behind: the generator side's loss and gradients, the discriminator's."""
    generator = {"value": [value.detach()], "gradient of G": gradients(model.netG), "gradient of F": gradients(model.netF)}
    return generator, {"value": [model.loss_D.detach()], "gradient of D": gradients(model.netD)}


def compare_discriminator(
    checkout: Checkout, found: Findings, what: str, recipe: Recipe, model: PublishedModel, published: Outcome
) -> None:
    reals, fakes = {"to_target": model.real_B}, {"to_target": model.fake_B}
    ours = discriminator_outcome(recipe, model, reals, fakes)
    twins = {"not halved": scaled(ours, 2), "real and fake exchanged": discriminator_outcome(recipe, model, fakes, reals)}
    found.compare(checkout.code, f"{what}: discriminator's step", model.fake_B.std(), published, ours, twins)


def compare_cut(checkout: Checkout, found: Findings, batch: int) -> None:
    """The losses and gradients of a whole CUT step: in SRUNIT's code, one with ``reg`` 0."""
    model = checkout.model(checkout.kind, batch, reg=0.0)
    with recording() as record:
        checkout.step(model)
    published, published_d = step_outcomes(model, model.loss_G)
    recipe, pair = narrow(METHODS["cut"].recipe), Batch(model.real_A, model.real_B, 0, 0)
    drawn = {"nce": record.positions(0, 5, batch), "identity_nce": record.positions(5, 5, batch)}

    def ours(**how: Any) -> Outcome:
        return generator_outcome(recipe, model, pair, drawn, **how)

    twins = {
        "identity half left out": ours(weights={"adversarial": 1.0, "nce": 0.5}),
        "halves not halved": ours(weights={"adversarial": 1.0, "nce": 1.0, "identity_nce": 1.0}),
        "blocks 2 and 4 swapped": ours(breaking=swap_blocks),
    }
    found.compare(checkout.code, f"CUT, batch {batch}: generator's step", model.fake_B.std(), published, ours(), twins)
    compare_discriminator(checkout, found, f"CUT, batch {batch}", recipe, model, published_d)


def compare_fastcut(checkout: Checkout, found: Findings, flip: bool) -> None:
    """The losses and gradients of a whole FastCUT step."""
    model = checkout.model("cut", 2, nce_idt=False, lambda_NCE=10.0, flip_equivariance=True)
    with recording(flip=flip) as record:
        checkout.step(model)
    published, published_d = step_outcomes(model, model.loss_G)
    recipe = narrow(METHODS["fastcut"].recipe)

    def ours(flip: bool, source: Tensor = model.real_A, **how: Any) -> Outcome:
        drawn = {"nce": record.positions(0, 5, 2)}
        return generator_outcome(recipe, model, Batch(source, model.real_B, 0, 0), drawn, flip=flip, **how)

    twins = {"flip the other way around": ours(not flip), "weight 1": ours(flip, weights={"adversarial": 1.0, "nce": 1.0})}
    if flip:
        twins["source mirrored, features not mirrored back"] = ours(False, model.real_A.flip(-1))
    what = f"FastCUT, {'mirrored' if flip else 'not mirrored'}, batch 2"
    found.compare(checkout.code, f"{what}: generator's step", model.fake_B.std(), published, ours(flip), twins)
    compare_discriminator(checkout, found, what, recipe, model, published_d)


def compare_cyclegan(checkout: Checkout, found: Findings, antialias: bool) -> None:
    """Both players of CycleGAN; its pool is still filling, so that the discriminators see the new translations."""
    model = checkout.model("cycle_gan", 2, no_antialias=not antialias, no_antialias_up=not antialias)
    checkout.step(model)
    published = {"value": [model.loss_G.detach()], "gradient of G": gradients(model.netG_A, model.netG_B)}
    published_d = {"value": [(model.loss_D_A + model.loss_D_B).detach()], "gradient of D": gradients(model.netD_A, model.netD_B)}
    recipe = narrow(METHODS["cyclegan"].recipe)
    if antialias:
        recipe = narrow(recipe, generator=ResnetConfig(width=WIDTH), discriminator=PatchGANConfig(width=WIDTH))

    def ours(source: Tensor = model.real_A, target: Tensor = model.real_B, **how: Any) -> Outcome:
        return generator_outcome(recipe, model, Batch(source, target, 0, 0), {}, **how)

    twins = {
        "identity left out": ours(weights={"adversarial": 1.0, "cycle": 10.0}),
        "source and target exchanged": ours(model.real_B, model.real_A),
        "blocks 2 and 4 swapped": ours(breaking=swap_blocks),
    }
    what = f"CycleGAN{', antialiased' if antialias else ''}, batch 2"
    std = torch.stack([model.fake_B.std(), model.fake_A.std()]).min()
    found.compare(checkout.code, f"{what}: generators' step", std, published, ours(), twins)

    def ours_d(fake_b: Tensor, fake_a: Tensor) -> Outcome:
        reals, fakes = {"to_target": model.real_B, "to_source": model.real_A}, {"to_target": fake_b, "to_source": fake_a}
        return discriminator_outcome(recipe, model, reals, fakes)

    right = ours_d(model.fake_B, model.fake_A)
    twins = {"translations exchanged": ours_d(model.fake_A, model.fake_B), "not halved": scaled(right, 2)}
    found.compare(checkout.code, f"{what}: discriminators' step", std, published_d, right, twins)


def compare_pools(checkout: Checkout, found: Findings) -> None:
    """The pool of earlier translations over 12 batches, given our random numbers."""
    module: Any = importlib.import_module("util.image_pool")
    batches = [images(2, 100 + i, size=4) for i in range(12)]

    def ours(size: int) -> Outcome:
        pool = ImagePool(size, seed=3, side="to_target")
        return {"images": [torch.cat([pool.query(batch, 2 * i) for i, batch in enumerate(batches)])]}

    published_pool, shown = module.ImagePool(5), []
    for i, batch in enumerate(batches):
        for j, image in enumerate(batch):
            rng = numpy_rng(3, "pool", "to_target", 2 * i + j)
            with (
                mock.patch.object(module.random, "uniform", lambda low, high, rng=rng: 1 - rng.random()),
                mock.patch.object(module.random, "randint", lambda low, high, rng=rng: int(rng.integers(high + 1))),
            ):
                shown.append(published_pool.query(image[None]))
    twins = {"one image larger": ours(6), "no pool": ours(0)}
    found.compare(
        checkout.code, "CycleGAN: pool of 5 over 24 images", torch.cat(shown).std(), {"images": [torch.cat(shown)]}, ours(5), twins
    )


# --------------------------------------------------------------------------------------------------------------- comparisons: SRUNIT


def srunit(update: str, form: str = "as_released") -> Recipe:
    recipe = METHODS["srunit"].recipe
    return narrow(recipe, terms={**recipe.terms, "robustness": Robustness(form=form, update=update)})


def perturbation(drawn: Recorded, tap: int, place: int, batch: int) -> Perturbation:
    return Perturbation(tap, drawn.positions(place, 1, batch)[0], drawn.normal[0], drawn.uniform[0])


def compare_robustness(checkout: Checkout, found: Findings, update: str, batch: int, tap: int) -> None:
    """The semantic robustness alone."""
    model = checkout.model("srunit", batch, reg_type=update)
    with recording(seed=tap, tap=tap) as record:
        model.forward()
        model.set_requires_grad(model.netF, update == "v2")  # as optimize_parameters does for this part
        value = model.compute_reg_loss()
    value.backward()
    published = {"value": [value.detach()], "gradient of G": gradients(model.netG), "gradient of F": gradients(model.netF)}
    drawn = perturbation(record, tap, 0, batch)

    def ours(drawn: Perturbation, update: str = update, form: str = "as_released", weight: float = 1.0) -> Outcome:
        pair = Batch(model.real_A, model.real_B, 0, 0)
        return generator_outcome(srunit(update, form), model, pair, {"robustness": drawn}, weights={"robustness": weight})

    other = {"v1": "v2", "v2": "v1"}[update]
    twins = {
        "the paper's form": ours(drawn, form="paper"),
        other: ours(drawn, other),
        "not divided by the taps": ours(drawn, weight=5.0),
        "no noise": ours(drawn._replace(direction=torch.zeros_like(drawn.direction))),
        "another tap": ours(perturbation_at(model, drawn, (tap + 1) % 5)),
    }
    found.compare(checkout.code, f"robustness {update}, tap {TAPS[tap]}, batch {batch}", model.fake_B.std(), published, ours(drawn), twins)


def perturbation_at(model: PublishedModel, drawn: Perturbation, tap: int) -> Perturbation:
    """``drawn`` with numbers of the right shape for another tap."""
    batch, channels, height, width = model.feats_real_A[tap].shape
    rng = torch.Generator().manual_seed(4)
    positions = drawn.positions % (height * width)
    direction = torch.randn(batch, channels, height, width, generator=rng)
    return Perturbation(tap, positions, direction, torch.rand(batch, 1, height, width, generator=rng))


def compare_srunit(checkout: Checkout, found: Findings, update: str, batch: int) -> None:
    """The losses and gradients of a whole SRUNIT step, after ``inact_epochs``."""
    tap = 2 + batch  # block1 and block5
    model = checkout.model("srunit", batch, reg_type=update)
    with recording(tap=tap) as record:
        checkout.step(model)
    published, _ = step_outcomes(model, model.loss_G + model.reg * model.loss_reg)
    drawn = {
        "nce": record.positions(0, 5, batch),
        "identity_nce": record.positions(5, 5, batch),
        "robustness": perturbation(record, tap, 10, batch),
    }

    def ours(update: str = update, form: str = "as_released", weights: Mapping[str, float] | None = None) -> Outcome:
        return generator_outcome(srunit(update, form), model, Batch(model.real_A, model.real_B, 0, 0), drawn, weights=weights)

    other = {"v1": "v2", "v2": "v1"}[update]
    twins = {
        other: ours(other),
        "the paper's form": ours(form="paper"),
        "robustness left out": ours(weights={"adversarial": 1.0, "nce": 0.5, "identity_nce": 0.5}),
    }
    what = f"SRUNIT {update}, tap {TAPS[tap]}, batch {batch}: generator's step"
    found.compare(checkout.code, what, model.fake_B.std(), published, ours(), twins)


# --------------------------------------------------------------------------------------------------------------------- what differs


def measure_instance_norm(found: Findings) -> None:
    """A fault of PyTorch on a CPU that the published code runs into at its default batch size; see :meth:`Checkout.mend`."""
    rng = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(1, 8, 16, 16, generator=rng) for _ in range(2))
    right, got = (x.clone().requires_grad_() for _ in range(2))
    F.instance_norm(right).backward(gradient)
    F.instance_norm(got).backward(gradient.contiguous(memory_format=torch.channels_last))
    error = differences({"": [right.grad]}, {"": [got.grad]})[""]
    what = "PyTorch's own: the gradient of an instance norm of one image, given a gradient with its channels last"
    found.differences.append(
        Fact("both", what, f"off by {error:.0e}, relative; only contiguous ones are handed to the published code here", True)
    )


def measure_differences(checkout: Checkout, found: Findings) -> None:
    """Where we compute something else on purpose, and by how much."""
    norm = "x / |x| after adding 1e-12 to every entry" if checkout.code == "SRUNIT" else "x / (|x| + 1e-7)"

    model = checkout.model(checkout.kind, 1, scattered=False)
    features = [f.detach() for f in model.netG(model.real_A, list(LAYERS))[1]]
    with recording() as drawn, torch.no_grad():
        vectors, _ = model.netF(features, PATCHES, None)
        network = ProjectorConfig().build([f.shape[1] for f in features], torch_rng(0))
        copy_weights(model.netF, network)
        places = drawn.positions(0, 5, 1)
        errors, norms = [], []
        for tap, (f, p, v) in enumerate(zip(features, places, vectors, strict=True)):
            errors.append(differences({"": [v]}, {"": [network(tap, gather(f, p))[0]]})[""])
            norms.append(float(network.heads[tap](gather(f, p)).norm(dim=-1).min()))
    found.differences.append(
        Fact(
            checkout.code,
            f"projected features: {norm}; ours: x / max(|x|, 1e-7)",
            f"at the published initialization (shortest |x| {min(norms):.1e}) they differ by {max(errors):.1e}",
            max(errors) < 1e-2,
        )
    )

    vectors = F.normalize(torch.randn(1, 256, 256, generator=torch.Generator().manual_seed(0)), dim=-1)
    criterion = importlib.import_module("models.patchnce").PatchNCELoss(SimpleNamespace(**OPTIONS))
    apart = abs(float(criterion(vectors[0], vectors[0]).mean() - patch_nce(vectors, vectors, 0.07)))
    found.differences.append(
        Fact(
            checkout.code,
            "PatchNCE: the positive as an extra logit, the diagonal filled with -10; ours: the diagonal is the positive",
            f"exp(-10 / 0.07) = {math.exp(-10 / 0.07):.0e}; the losses differ by {apart:.0e}",
            apart < 1e-12,
        )
    )

    model = checkout.model(checkout.kind, 2)
    calls: list[int] = []
    model.netG.model[1].register_forward_hook(lambda layer, inputs, output: calls.append(len(inputs[0])))
    with recording(tap=4) as drawn:
        checkout.step(model)
    # of SRUNIT's, the re-encoding of the perturbed translation belongs to a term and is the same in ours
    calls = calls if checkout.code == "CUT" else [*calls[:2], *calls[3:]]
    recipe = narrow(METHODS["cut"].recipe)
    player, opponents = players(recipe, model)
    own: list[int] = []
    stage = next(m for m in player.modules() if isinstance(m, Generator)).stages.get_submodule("stem")
    stage.register_forward_hook(lambda layer, inputs, output: own.append(len(inputs[0])))
    terms = {"nce": drawn.positions(0, 5, 2), "identity_nce": drawn.positions(5, 5, 2), "adversarial": None}
    player(Batch(model.real_A, model.real_B, 0, 0), Draws(False, {"to_target": terms}), active(recipe.terms, 0.0, 0), opponents.frozen())
    found.differences.append(
        Fact(
            checkout.code,
            "CUT's part of a step: passes from the image through the encoder; ours: each image once",
            f"{len(calls)} passes over {sum(calls)} images for a batch of 2; ours: {len(own)} over {sum(own)}",
            len(own) == 2 and sum(own) == 8 and len(calls) >= 4,
        )
    )
    found.differences.append(
        Fact(
            checkout.code,
            "positions of patches: the same for all images of a batch; ours: drawn for each image",
            f"{len(drawn.permutations)} permutations for {10 + len(checkout.epoch)} sets of features of 2 images",
            len(drawn.permutations) == 10 + len(checkout.epoch),
        )
    )

    order = []
    model = checkout.model(checkout.kind, 1)
    for name in "DG":
        getattr(model, f"optimizer_{name}").step = lambda name=name: order.append(name)
    model.optimizer_F.step = lambda: None
    model.optimize_parameters(*checkout.epoch)
    found.differences.append(
        Fact(
            checkout.code,
            "order of the two players: discriminator first; ours: generator first",
            f"{' then '.join(order)}; one step apart, so the terms are compared at equal weights",
            order == ["D", "G"],
        )
    )


# ---------------------------------------------------------------------------------------------- what the published code does wrong


def outcome_of(action: Callable[[], Any]) -> str:
    """The exception that ``action`` ends in, in one line."""
    try:
        action()
    except BaseException as error:
        text = str(error).strip().splitlines()
        return f"{type(error).__name__}: {text[0][:110]}" if text else type(error).__name__
    return "no error"


def fault(found: Findings, checkout: Checkout, what: str, action: Callable[[], Any], expected: str) -> None:
    """Record that ``action`` fails as expected."""
    observed = outcome_of(action)
    found.faults.append(Fact(checkout.code, what, observed, observed.startswith(expected)))


def show_common_faults(checkout: Checkout, found: Findings) -> None:
    loss = importlib.import_module("models.patchnce").PatchNCELoss
    rng = torch.Generator().manual_seed(6)

    def values(batch: int, option: int, patches: int = PATCHES) -> tuple[float, float]:
        vectors = [F.normalize(torch.randn(batch, patches, 256, generator=rng), dim=-1) for _ in range(2)]
        published = loss(SimpleNamespace(**{**OPTIONS, "batch_size": option}))
        return float(published(*(v.flatten(0, 1) for v in vectors)).mean()), float(patch_nce(*vectors, 0.07))

    for batch in (1, 3):
        wrong, right = values(batch, option=2)
        found.faults.append(
            Fact(
                checkout.code,
                f"PatchNCE groups patches by the option batch_size, not by image: {batch} image{'s' * (batch > 1)} at batch_size 2",
                f"silently {batch * PATCHES // 2} candidates in a group instead of {PATCHES}: loss {wrong:.4f} instead of {right:.4f}",
                abs(wrong - right) > 1e-3,
            )
        )
    fault(found, checkout, "the same, 1 image of 256 patches at batch_size 3", lambda: values(1, 3, 256), "RuntimeError")

    def no_contrast() -> None:
        checkout.step(checkout.model(checkout.kind, lambda_NCE=0.0, scattered=False))

    fault(found, checkout, "training with lambda_NCE 0", no_contrast, "AttributeError")

    network = checkout.networks.define_G(3, 3, WIDTH, "resnet_9blocks", norm="instance", no_antialias=True, no_antialias_up=True)
    with torch.no_grad():
        lowest = float(network(images(1, 1), list(LAYERS))[1][2].min())
    at = list(LAYERS[3:])
    blocks = [sum("ResnetBlock" in type(layer).__name__ for layer in list(network.model)[: i + 1]) for i in at]
    found.faults.append(
        Fact(
            checkout.code,
            "no_antialias at the default nce_layers: layers 8, 12, 16",
            f"8: a norm, overwritten in place by its ReLU (smallest value {lowest:g}); 12 and 16: blocks {blocks[0]} and {blocks[1]}",
            type(network.model[8]).__name__ == "InstanceNorm2d" and lowest == 0 and blocks == [3, 7],
        )
    )

    with tempfile.TemporaryDirectory() as folder:
        model = checkout.model(checkout.kind, checkpoints_dir=folder)
        Path(model.save_dir).mkdir(parents=True)
        model.parallelize()
        model.save_networks("latest")
        fresh = checkout.model(checkout.kind, checkpoints_dir=folder)
        fault(found, checkout, "loading what was saved on a CPU", lambda: fresh.load_networks("latest"), "RuntimeError")


def show_srunit_faults(checkout: Checkout, found: Findings) -> None:
    def note(what: str, observed: str, ok: bool) -> None:
        found.faults.append(Fact(checkout.code, what, observed, ok))

    model = checkout.model("srunit")
    before = {name: [p.detach().clone() for p in getattr(model, "net" + name).parameters()] for name in "GFD"}
    with recording():
        model.optimize_parameters(1)
    moved = {
        name: max(float((a - b).detach().abs().max()) for a, b in zip(before[name], getattr(model, "net" + name).parameters(), strict=True))
        for name in "GFD"
    }
    note(
        "one whole step in epoch 1 of inact_epochs 100, reg 0.001",
        "largest change of a weight: " + ", ".join(f"{name} {moved[name]:.0e}" if moved[name] else f"{name} 0" for name in "GFD"),
        moved["G"] == moved["F"] == 0 < moved["D"],
    )

    model, seen = checkout.model("srunit"), []
    model.netG.model[LAYERS[4] + 1].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].detach().clone()))
    with recording(tap=4):
        model.forward()
    added, divisor = (seen[1] - seen[0]).norm(dim=1), model.noise_magnitude[0]
    note(
        "length of the noise that is added, and of the noise by which is divided, reg_noise 0.001",
        f"added {added.min():.4e} to {added.max():.4e}; divided by {divisor.min():.1e} to {divisor.max():.1e}",
        float(added.min()) > 0.999 * NOISE and float(divisor.min()) < 0.1 * NOISE,
    )

    with recording() as record:
        value = float(model.compute_reg_loss())
        ids = record.permutations[0][:PATCHES]
        clean, moved_on = (model.netF([f], PATCHES, [ids], choice=4)[0][0] for f in (model.feats_real_A[4], model.feats_perturbed[0]))
    mean = float(((clean - moved_on).norm(dim=-1) / divisor.flatten()[ids]).mean())
    note(
        "divisor of the robustness, which has one tap in it",
        f"mean over its positions / its value = {mean / value:.6f}",
        abs(mean / value - 5) < 1e-5,
    )

    flipping = {"flip_equivariance": True, "nce_idt": False, "lambda_NCE": 10.0}

    def fastcut(flip: bool) -> PublishedModel:
        with recording():
            model = checkout.model("srunit", **flipping)
        with recording(flip=flip):
            checkout.step(model)
        return model

    fault(found, checkout, "FastCUT (flip_equivariance), when the coin says to flip", lambda: fastcut(True), "AssertionError")
    unflipped = fastcut(False)
    note(
        "the same, when not: the real images that the discriminator sees",
        f"{len(unflipped.real_B)} of 1 image; loss on real {float(unflipped.loss_D_real)}",
        len(unflipped.real_B) == 0 and math.isnan(float(unflipped.loss_D_real)),
    )

    note(*options_of_readme(checkout))

    define = checkout.networks.define_D
    fault(found, checkout, "--netD pixel", lambda: define(3, WIDTH, "pixel", norm="instance"), "TypeError")
    fault(found, checkout, "--netD patch, a listed choice", lambda: define(3, WIDTH, "patch", norm="instance"), "NotImplementedError")

    model = checkout.model("srunit", continue_train=True)
    with mock.patch.object(model, "load_networks") as load, contextlib.redirect_stdout(io.StringIO()):
        model.setup(model.opt)
    note("--continue_train", f"checkpoints loaded: {load.call_count}", load.call_count == 0)


def options_of_readme(checkout: Checkout) -> tuple[str, str, bool]:
    """Whether the training command of the README is accepted by the parser."""
    command = re.search(r"python train\.py((?:.*\\\n)*.*)", (checkout.path / "README.md").read_text())
    assert command is not None
    arguments = shlex.split(re.sub(r"\$\w+", "X", command[1].replace("\\\n", " ")))
    parser = importlib.import_module("options.train_options").TrainOptions()
    errors = io.StringIO()
    with mock.patch.object(sys, "argv", ["train.py", *arguments]), contextlib.redirect_stderr(errors):
        result = outcome_of(parser.gather_options)
    last = (errors.getvalue().strip().splitlines() or [""])[-1].split("error: ")[-1]
    return "the README's training command", f"{result}: {last}", result.startswith("SystemExit: 2") and "--init_epochs" in last


# ---------------------------------------------------------------------------------------------------------------------------- driver


def examine(code: str, path: Path) -> Findings:
    """All that is to be said of one checkout, in this process."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")
    checkout, found = Checkout(code, path), Findings()
    for blocks, width in ((9, WIDTH), (6, 2 * WIDTH), (9, 64)):
        compare_generator(checkout, found, blocks, width)
    compare_generator(checkout, found, 9, WIDTH, antialias=False)
    for antialias in (True, False):
        compare_patchgan(checkout, found, antialias)
    compare_projector(checkout, found)
    for batch in (1, 2):
        compare_patch_nce_of_vectors(checkout, found, batch)
        compare_cut(checkout, found, batch)
    if code == "CUT":
        for batch in (1, 2):
            compare_patch_nce(checkout, found, batch)
        for yes in (False, True):
            compare_fastcut(checkout, found, flip=yes)
            compare_cyclegan(checkout, found, antialias=yes)
        compare_pools(checkout, found)
    else:
        for update in ("v1", "v2"):
            for batch in (1, 2):
                for tap in range(len(TAPS)):
                    compare_robustness(checkout, found, update, batch, tap)
                compare_srunit(checkout, found, update, batch)
    measure_differences(checkout, found)
    show_common_faults(checkout, found)
    if code == "SRUNIT":
        show_srunit_faults(checkout, found)
    return found


def markdown(found: Findings) -> str:
    """The tables of docs/decisions/parity.md."""

    def listed(numbers: Mapping[str, float]) -> str:
        return "; ".join(f"{name}: {value:.0e}" for name, value in numbers.items())

    def facts(rows: Iterable[Fact]) -> list[tuple[str, str, str, str]]:
        return [(fact.code, fact.what, fact.observed, "yes" if fact.ok else "**no**") for fact in rows]

    compared = [
        (row.code, row.what, f"{row.std:.2f}", listed(row.errors), listed(row.twins), "yes" if row.ok else "**NO**") for row in found.rows
    ]
    twins = sum(len(row.twins) for row in found.rows)
    worst = max((error for row in found.rows for error in row.errors.values()), default=math.nan)
    least = min((error for row in found.rows for error in row.twins.values()), default=math.nan)
    held = f"{sum(row.ok for row in found.rows)} of {len(found.rows)} comparisons hold"
    return "\n".join(
        [
            f"PyTorch {torch.__version__.split('+')[0]}, CPU, float64. {held}: the largest relative difference is {worst:.0e}, where "
            f"{TOLERANCE:.0e} is allowed; the closest of the {twins} broken twins differs by {least:.0e}.\n",
            "### Comparisons\n",
            table(("code", "what", "std", "largest relative difference", "broken twin: differs by", "holds"), compared),
            "### Deliberate differences\n",
            table(("code", "what", "observed", "as expected"), facts(found.differences)),
            "### What the published code does wrong\n",
            table(("code", "what", "observed", "as expected"), facts(found.faults)),
        ]
    )


REPOSITORIES = {"CUT": "taesungp/contrastive-unpaired-translation", "SRUNIT": "SeanJia/SRUNIT"}


def main() -> int:
    parser = checkouts.parser(__doc__, REPOSITORIES)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    args = parser.parse_args()
    if args.examine:
        code, path, file = args.examine
        Path(file).write_text(json.dumps(asdict(examine(code, Path(path)))))
        return 0

    given = checkouts.given(parser, args, REPOSITORIES)
    found = Findings()
    measure_instance_norm(found)
    for code, path in given.items():
        part = checkouts.in_own_process(__file__, code, path)
        found.rows += [Row(**row) for row in part["rows"]]
        found.differences += [Fact(**fact) for fact in part["differences"]]
        found.faults += [Fact(**fact) for fact in part["faults"]]
    text = markdown(found)
    print(text)
    if args.json:
        args.json.write_text(
            json.dumps({"torch": torch.__version__, "tolerance": TOLERANCE, "ok": found.ok, **asdict(found)}, indent=1) + "\n"
        )
    if args.markdown:
        args.markdown.write_text(text)
    return 0 if found.ok else 1


if __name__ == "__main__":
    sys.exit(main())
