"""What several test files share: tiny networks whose output is far from gray, images, and one step of both players."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unflip import modelfolder
from unflip.config import Config
from unflip.data.labels import Classes
from unflip.engine import trainer
from unflip.engine.training import Training
from unflip.errors import UserError
from unflip.losses.draws import Draws
from unflip.losses.objective import active
from unflip.methods import Recipe
from unflip.methods.passes import SIDES
from unflip.methods.players import DiscriminatorPlayer, GeneratorPlayer
from unflip.modelfolder import ModelConfig
from unflip.networks import Generator, ResnetConfig
from unflip.segmenterfolder import HeldOut, Measured, SegmenterModel, SegmenterModelConfig
from unflip.types import Batch, Size

Network = TypeVar("Network", bound=nn.Module)
SMALL = {"width": 4, "blocks": 2, "layers": 2, "patches": 16, "queries": 16, "dimension": 32, "weights": "random"}
SIZE = 32
CHANNELS = (3, 3)
CLASSES = 4
"""Of the labels."""
NARROW = ("generator.width=8", "generator.blocks=2", "discriminator.width=8")
"""Settings of small networks."""
EXACT = {"srunit": ("robustness.start=0", "robustness.weight=1.875"), "semst": ("structure.warmup=0.5", "texture.warmup=0.5")}
"""Settings of methods under which float32 rounds no term's weight, in steps of a budget that is a power of 2."""


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64, made by NumPy."""
    return torch.from_numpy(np.random.default_rng([seed, *shape]).standard_normal(shape))


def images(n: int = 2, size: int = SIZE, seed: int = 0, channels: int = 3) -> Tensor:
    """Smooth images plus fine detail in [-1, 1], float64, without any symmetry: ``(n, channels, size, size)``."""
    random = np.random.default_rng([seed, n, size])
    y, x = np.mgrid[:size, :size] / size
    across, down, phase = random.uniform([[0.5], [0.5], [0]], [[3], [3], [6]], (3, n * channels))[..., None, None]
    smooth = np.sin(2 * np.pi * (across * x + down * y) + phase).reshape(n, channels, size, size)
    return torch.from_numpy((0.7 * smooth + 0.3 * random.uniform(-1, 1, smooth.shape)).astype(np.float64))


@torch.no_grad()
def scale_weights(network: Network, seed: int = 7, gain: float = 1.5) -> Network:
    """Draw weights at which signals keep their size (standard deviation ``gain / sqrt(fan in)``) and biases that are not 0; in float64.

    At the usual initialization all outputs are nearly gray, and any two networks agree within a tolerance.
    """
    random = np.random.default_rng(seed)
    network.double()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            # a transposed convolution of stride 2 reaches each output pixel with a quarter of its taps
            transposed = isinstance(layer, nn.ConvTranspose2d)
            fan_in = layer.weight[:, 0].numel() / 4 if transposed else layer.weight[0].numel()
            layer.weight.copy_(torch.from_numpy(random.standard_normal(layer.weight.shape)) * gain / fan_in**0.5)
            if layer.bias is not None:
                layer.bias.copy_(torch.from_numpy(random.standard_normal(layer.bias.shape)) * 0.2)
    return network


def lively(output: Tensor) -> Tensor:
    """``output``, after making sure that it is worth comparing."""
    assert output.std() >= 0.3, f"standard deviation {output.std():.3f}: nearly gray, anything would agree"
    return output


def same(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> bool:
    """Whether the two agree within ``tolerance`` of their largest value."""
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1))


def small_generator(seed: int = 7, **fields: Any) -> Generator:
    """A tiny ResNet generator in float64 with lively weights."""
    config = ResnetConfig(**{"width": 4, "blocks": 2, **fields})
    return scale_weights(config.build(3, 3, rng()), seed)


def without_norms(network: Network) -> Network:
    """The network with every instance norm replaced by the identity, so that only the convolutions carry information."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.InstanceNorm2d):
                setattr(module, name, nn.Identity())
    return network


def positive(network: Network) -> Network:
    """Weights above 0 whose sums are 1: no ReLU closes and no contribution cancels, so that a gradient is 0 only where nothing arrives."""
    without_norms(network).double()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.weight.fill_(1 / layer.weight[0].numel())
                layer.bias.fill_(0.01)
    return network


def reach(network: nn.Module, x: Tensor, pixel: Callable[[Tensor], Tensor]) -> tuple[range, range]:
    """The rows and columns of the input that one value of the output depends on."""
    x = x.clone().requires_grad_()
    pixel(network(x)).sum().backward()
    touched = x.grad[0].abs().sum(0) > 0
    rows, columns = (touched.any(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
    assert touched.sum() == len(rows) * len(columns), "what is touched is a rectangle"
    return range(rows[0], rows[-1] + 1), range(columns[0], columns[-1] + 1)


def shrunk(config: Config) -> dict[str, Any]:
    """What is set in the config of a network or term, at a size for tests, and without weights that must be downloaded."""
    return smaller(config.model_dump(exclude={"taps"}))


def smaller(values: dict[str, Any]) -> dict[str, Any]:
    def small(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return smaller(value)
        return value[:2] if isinstance(value, tuple) and name == "layers" else SMALL.get(name, value)

    return {name: small(name, value) for name, value in values.items()}


def small_recipe(recipe: Recipe, **changes: Any) -> Recipe:
    """A method's recipe with small networks and few patches, its terms knowing what they must of the data."""
    values = recipe.model_dump()
    values |= {"generator": shrunk(recipe.generator), "discriminator": shrunk(recipe.discriminator)}
    values["terms"] = {name: shrunk(term) for name, term in recipe.terms.items()}
    if recipe.multiscale is not None:
        values["multiscale"]["attention"] = 4
    if recipe.projector is not None:
        values["projector"]["width"] = 16
    small = Recipe.model_validate(values | changes)
    crops = {side: images(4, seed=100 + i) for i, side in enumerate(("source", "target"))}
    return small.model_copy(update={"terms": {name: term.measure(crops) for name, term in small.terms.items()}})


def in_float64(training: Training, monkeypatch: pytest.MonkeyPatch) -> Training:
    """The training, with its networks and its images in float64."""
    monkeypatch.setattr(trainer, "to_network", lambda pixels: pixels.double() / 127.5 - 1)
    for network in (training.generator, training.discriminator, training.ema.network):
        network.double()
    return training


class Players(NamedTuple):
    """Both players of a recipe, in float64, with lively weights and Adam."""

    recipe: Recipe
    generator: GeneratorPlayer
    discriminator: DiscriminatorPlayer
    optimizers: dict[str, torch.optim.Optimizer]

    @classmethod
    def of(cls, recipe: Recipe, seed: int = 0, lr: float = 2e-4, lively_weights: bool = True) -> Players:
        players = {"generator": GeneratorPlayer(recipe, CHANNELS, seed), "discriminator": DiscriminatorPlayer(recipe, CHANNELS, seed)}
        for i, player in enumerate(players.values()):
            player.double()
            if lively_weights:
                scale_weights(player, seed + i)
        rates = {name: lr * recipe.optimizer.rate(name) / recipe.optimizer.lr for name in players}
        decay = recipe.optimizer.weight_decay
        optimizers = {
            name: torch.optim.Adam(player.parameters(), rates[name], recipe.optimizer.betas, weight_decay=decay)
            for name, player in players.items()
        }
        return cls(recipe, players["generator"], players["discriminator"], optimizers)

    def weights(self, progress: float = 0.5, step: int = 0) -> dict[str, float]:
        return active(self.recipe.terms, progress, step)

    def draws(self, weights: dict[str, float], first: int = 0, n: int = 2, seed: int = 0, size: int = SIZE, progress: float = 0.5) -> Draws:
        """The draws of one step, as the trainer makes them; there are labels."""
        nothing, unlabeled = torch.zeros(n, 3, size, size), torch.full((n, size, size), -1)
        given = Batch(nothing, nothing, first, first // n, unlabeled)
        return self.generator.draw(weights, given, Size(size, size), seed=seed, progress=progress)

    def play(self, batch: Batch, progress: float, seed: int = 0) -> dict[str, float]:
        """One step of both players, as the trainer does it: generators first, then discriminators on the detached translations."""
        n = len(batch.source)
        weights = self.weights(progress, batch.first // n)
        size = Size(batch.source.shape[-1], batch.source.shape[-2])
        draws = self.generator.draw(weights, batch, size, seed=seed, progress=progress)
        total, parts, shown = self.generator(batch, draws, weights, self.discriminator.frozen())
        self.step("generator", total)
        judged_total, judged = self.discriminator(shown)
        self.step("discriminator", judged_total)
        values = {"total": total, **parts, "discriminator_total": judged_total, **judged}
        return {name: float(value.detach()) for name, value in values.items()}

    def step(self, player: str, total: Tensor) -> None:
        self.optimizers[player].zero_grad(set_to_none=True)
        total.backward()
        self.optimizers[player].step()


def make_model(folder: Path, *, sides: int = 1, seed: int = 7, width: int = 4, **fields: Any) -> Path:
    """A model folder whose networks give lively output; ``fields`` of its configuration."""
    described = ModelConfig(generator=ResnetConfig(width=width, blocks=2), sides=sides, **fields)
    ends = (described.channels, described.channels)
    networks = {side: scale_weights(described.generator.build(*ends, rng()), seed + i).float() for i, side in enumerate(SIDES[sides])}
    modelfolder.save(folder, described, nn.ModuleDict(networks), None)
    return folder


def refused(call: Callable[[], Any], *parts: object) -> str:
    """The one line of the ``UserError`` that the call raises, which holds all ``parts``."""
    with pytest.raises(UserError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert str(part) in line, f"{part} is not in: {line}"
    return line


def reader(x: Tensor) -> Callable[[int, int, int, int], Tensor]:
    """What reads parts of the image ``x`` for tiles: from top, left, to bottom, right."""
    return lambda top, left, bottom, right: x[..., top:bottom, left:right]


def labels(n: int = 2, size: int = SIZE, seed: int = 0) -> Tensor:
    """Squares of classes, 0 to CLASSES - 1, and some ignored ones, -1: ``(n, size, size)`` int64."""
    classes = np.random.default_rng([seed, n, size]).integers(-1, CLASSES, (n, -(-size // 4), -(-size // 4)))
    return torch.from_numpy(classes.repeat(4, 1).repeat(4, 2)[:, :size, :size].copy())


def batch(first: int = 0, n: int = 2, size: int = SIZE) -> Batch:
    """With labels, which only the terms that need them see."""
    source, target = images(n, size, seed=2 * first), images(n, size, seed=2 * first + 1)
    return Batch(source, target, first, first // n, labels(n, size, first))


@contextmanager
def untouched_global_rng() -> Iterator[None]:
    """Fails where the block moves NumPy's or torch's global random state."""
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), np.random.get_state()[2]
    yield
    assert torch.equal(torch.get_rng_state(), before[0]), "torch's global random state was used"
    assert (np.random.get_state()[1] == before[1]).all() and np.random.get_state()[2] == before[2], "NumPy's global random state was used"


class ColorReader(nn.Module):
    """A segmenter that reads each class off its color; its features are the mean color and the spread of colors."""

    def __init__(self, classes: Classes) -> None:
        super().__init__()
        self.register_buffer("palette", torch.tensor(classes.palette) / 127.5 - 1, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return -(x[:, None] - self.palette[None, :, :, None, None]).square().sum(2)

    def pooled(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], dim=1)


def color_segmenter(classes: Classes, resize: str = "none", network: nn.Module | None = None, **fields: Any) -> SegmenterModel:
    """A :class:`ColorReader` as what ``load_segmenter`` gives."""
    config = SegmenterModelConfig(classes=classes, resize=resize)
    return SegmenterModel(config, network or ColorReader(classes), Path("colors"), **fields)


def held_out(blocks: np.ndarray) -> HeldOut:
    """What a segmenter's folder says of held-out images, of these counts ``(2, K, K)``; only the counts are used."""
    nothing = Measured(value=None, low=None, high=None, n=5)
    figures = dict.fromkeys(("pixel_accuracy", "class_accuracy", "mean_iou"), nothing)
    return HeldOut(**figures, per_class_iou={}, sizes=(3, 2), voids=(7, 8), blocks=blocks.tolist())
