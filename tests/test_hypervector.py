"""VSAIT against direct computation: hashing, binding, and the mapping's own game."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers import images, noise, rng, same, scale_weights, untouched_global_rng
from unflip.errors import UserError
from unflip.losses import Nets, Setting, Site
from unflip.losses.hypervector import HypervectorConsistency, Symbols, consistency
from unflip.methods import METHODS
from unflip.networks.features import features
from unflip.networks.hypervector import (
    HypervectorConfig,
    HypervectorDiscriminatorConfig,
    Judge,
    Mapping,
    directions,
    hashed,
    hypervectors,
    patches,
)
from unflip.types import Step

SMALL = HypervectorConfig(weights="random", layers=("relu1_2", "relu2_2", "conv3_1"), dimension=24)


def test_patches_and_hashing_are_the_cosines_of_what_lies_in_a_patch() -> None:
    fine, middle, coarse = noise(2, 3, 9, 13), noise(2, 4, 4, 6), noise(2, 5, 2, 3)
    random = noise(7, 3 * 16 + 4 * 4 + 5)
    z = patches((fine, middle, coarse), (4, 2, 1))
    vectors = hashed(z, random / random.norm(dim=1, keepdim=True))
    assert z.shape == (2, 69, 2, 3) and vectors.shape == (2, 7, 2, 3)
    for n, y, x in np.ndindex(2, 2, 3):
        inside = (
            fine[n, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4],
            middle[n, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2],
            coarse[n, :, y, x],
        )
        patch = np.concatenate([part.numpy().reshape(-1) for part in inside])
        assert np.allclose(z[n, :, y, x], patch)
        for d in range(7):
            r = random[d].numpy()
            assert math.isclose(float(vectors[n, d, y, x]), r @ patch / np.linalg.norm(r) / np.linalg.norm(patch), abs_tol=1e-9)
    flat = torch.zeros(1, 69, 1, 1, dtype=torch.float64, requires_grad=True)
    hashed(flat, random).sum().backward()
    assert flat.grad.isfinite().all(), "also where nothing was seen"


def test_directions_are_fixed_unit_and_nearly_orthogonal() -> None:
    with untouched_global_rng():
        r = directions(64, 4000, torch.device("cpu"), torch.float64)
    directions.cache_clear()
    assert torch.equal(r, directions(64, 4000, torch.device("cpu"), torch.float64))
    products = r @ r.T
    assert torch.allclose(products.diag(), torch.ones(64, dtype=torch.float64), atol=1e-6)
    others = products[~torch.eye(64, dtype=torch.bool)]
    assert others.abs().max() < 0.1 and 0.9 < others.std() * 4000**0.5 < 1.1
    assert not r.requires_grad


def test_the_defaults_are_the_papers() -> None:
    config = HypervectorConfig()
    assert (config.network, config.inputs, config.weights, config.dimension, config.stride) == ("vgg19", "plain", "imagenet", 4096, 16)
    assert config.scales == (16, 8, 4, 2, 1)
    assert config.values == 64 * 256 + 128 * 64 + 256 * 16 + 512 * 4 + 512
    assert config.remark() is None and "random" in str(SMALL.remark())
    with pytest.raises(ValueError, match="unknown layer of vgg19 'conv5_6'; did you mean conv5_"):
        HypervectorConfig(layers=("conv5_6",))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (39, 58), (4, 4)])
def test_hypervectors_of_images(height: int, width: int) -> None:
    x = images(2, 64)[..., :height, :width]
    with untouched_global_rng():
        vectors = hypervectors(SMALL)(x)
    assert vectors.shape == (2, 24, height // 4, width // 4)
    taken = features(SMALL, SMALL.layers)(x)
    assert same(vectors, hashed(patches(taken, (4, 2, 1)), directions(24, SMALL.values, x.device, x.dtype)))
    assert same(vectors[1:], hypervectors(SMALL)(x[1:]))
    assert 0.3 < vectors.std() * SMALL.values**0.5 < 3, "as for random vectors"


def test_weights_that_cannot_be_had(tmp_path: Path) -> None:
    """What is said names the keys that there are: the term's and the discriminator's."""
    config = {"weights": str(tmp_path / "absent.pth")}
    term, discriminator = HypervectorConsistency(vectors=config), HypervectorDiscriminatorConfig(vectors=config)
    for build in (lambda: term.build(Site((), (3, 3), rng())), lambda: discriminator.build(3, rng())):
        with pytest.raises(UserError, match="there is no file") as caught:
            build()
        message = str(caught.value)
        assert "--set vsa.vectors.weights=FILE" in message and "--set discriminator.vectors.weights=FILE" in message
    recipe = METHODS["vsait"].recipe
    assert recipe.terms["vsa"].vectors.weights == recipe.discriminator.vectors.weights == "imagenet"


# --- the loss


def test_consistency() -> None:
    source, mapping, fake = (noise(2, 6, 2, 3, seed=i) for i in range(3))
    fake.requires_grad_()
    values = consistency(source, fake, mapping)
    (grad,) = torch.autograd.grad(values.sum(), fake)
    for n, y, x in np.ndindex(2, 2, 3):
        s, m, f = (a.detach().numpy()[n, :, y, x] for a in (source, mapping, fake))

        def direct(f: np.ndarray, s: np.ndarray = s, m: np.ndarray = m) -> float:
            return float(1 - (f * m) @ s / np.linalg.norm(f * m) / np.linalg.norm(s))

        assert math.isclose(float(values[n, y, x].detach()), direct(f), rel_tol=1e-9)
        slopes = [(direct(f + 1e-6 * e) - direct(f - 1e-6 * e)) / 2e-6 for e in np.eye(6)]
        assert np.allclose(grad[n, :, y, x], slopes, atol=1e-7)
    nothing = torch.zeros_like(source, requires_grad=True)
    consistency(source, nothing, mapping).sum().backward()
    assert nothing.grad.isfinite().all()


def test_what_was_bound_is_unbound() -> None:
    """Bipolar hypervectors are their own inverse; a foreign one leaves nothing that resembles the source."""
    source, symbol, foreign = (noise(1, 4096, 2, 2, seed=i).sign() for i in range(3))
    assert consistency(source, source * symbol, symbol).abs().max() < 1e-9
    assert (consistency(source, source * symbol, foreign) - 1).abs().max() < 0.1


def test_the_mapping_begins_as_the_identity() -> None:
    with untouched_global_rng():
        mapping = Mapping(8, rng(1)).double()
    x = noise(2, 8, 3, 3)
    assert torch.allclose(mapping(x), torch.full_like(x, math.tanh(1)))
    assert consistency(x, x, mapping(x)).abs().max() < 1e-9
    assert torch.equal(Mapping(8, rng(1)).layers[0].weight, Mapping(8, rng(1)).layers[0].weight)
    first = mapping.layers[0]
    assert first.weight.std() > 0.1 and first.weight.abs().max() <= 8**-0.5 and first.bias.abs().max() > 0
    scale_weights(mapping)
    w1, b1, w2, b2 = (p.detach().numpy() for p in mapping.parameters())
    hidden = np.maximum(w1[:, :, 0, 0] @ x[0, :, 1, 2].numpy() + b1, 0)
    assert np.allclose(mapping(x)[0, :, 1, 2].detach(), np.tanh(w2[:, :, 0, 0] @ hidden + b2))


def test_judge_and_discriminator() -> None:
    config = HypervectorDiscriminatorConfig(vectors=SMALL, width=5)
    with untouched_global_rng():
        network = scale_weights(config.build(3, rng()))
    x = images(2, 16)
    vectors = hypervectors(SMALL)(x)
    weights = [p.detach().numpy() for p in network.parameters()]
    assert [w.shape[:2] for w in weights[::2]] == [(5, 24), (5, 5), (1, 5)]
    value = vectors[1, :, 2, 3].numpy()
    for i in range(3):
        value = weights[2 * i][:, :, 0, 0] @ value + weights[2 * i + 1]
        value = np.where(value < 0, 0.2 * value, value) if i < 2 else value
    logits = network(x)
    assert logits.shape == (2, 1, 4, 4)
    assert math.isclose(float(logits[1, 0, 2, 3].detach()), value[0], rel_tol=1e-9)
    assert set(network.state_dict()) == {f"judge.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")}
    x.requires_grad_()
    network(x).sum().backward()
    assert x.grad.abs().max() > 0
    assert config.smallest == 4 and HypervectorDiscriminatorConfig().smallest == 16
    fresh = Judge(4096, 1024, rng())
    assert sum(p.numel() for p in fresh.parameters()) == 5_245_953
    assert math.isclose(float(fresh[2].weight.detach().std()), 0.2 * (2 / 2048) ** 0.5, rel_tol=0.02)


# --- the term


def nets(own: nn.Module | None) -> Nets:
    nothing = cast(Any, None)
    return Nets(nothing, None, nothing, own)


@pytest.mark.parametrize("weight", [10.0, 0.5])
def test_the_term_keeps_the_two_games_apart(weight: float) -> None:
    """The value, and what moves the translation, is the consistency alone; mapping and judge play only against each other."""
    term = HypervectorConsistency(vectors=SMALL, width=5, weight=weight)
    own = scale_weights(term.build(Site((), (3, 3), rng())))
    assert isinstance(own, Symbols)
    x = Step(images(2, 16), images(2, 16, seed=1), images(2, 16, seed=2).requires_grad_())
    with untouched_global_rng():
        value = term(x, term.draw(cast(Any, None), ()), nets(own))
    value.backward()
    mapping, judge = ([p.grad.clone() for p in part.parameters()] for part in (own.mapping, own.judge))

    source, target = (hypervectors(SMALL)(image) for image in (x.source, x.target))
    fake = x.fake.detach().requires_grad_()
    expected = consistency(source, hypervectors(SMALL)(fake), own.mapping(source).detach()).mean()
    assert same(value, expected)
    assert same(x.fake.grad, torch.autograd.grad(expected, fake)[0])

    def equal(grads: list[Tensor], loss: Tensor, network: nn.Module) -> bool:
        others = torch.autograd.grad(10 * loss / weight, [*network.parameters()])  # times the weight, 10: whatever the weight is
        return all(same(a, b) and (b.ndim == 1 or b.abs().max() > 0) for a, b in zip(grads, others, strict=True))

    bound = source * own.mapping(source)
    assert equal(mapping, -own.judge(bound).mean(), own.mapping)
    losses = (1 - own.judge(target)).relu().mean() + (1 + own.judge(bound.detach())).relu().mean()
    assert equal(judge, losses / 2, own.judge)


def test_other_channels_and_more_images() -> None:
    """A mean over images, of gray sources as of those in color."""
    term = HypervectorConsistency(vectors=SMALL, width=5)
    own = scale_weights(term.build(Site((), (1, 3), rng())))
    source, target, fake = images(3, 16, channels=1), images(3, 16, seed=1), images(3, 16, seed=2)

    def value(rows: slice, x: Tensor) -> Tensor:
        with torch.no_grad():
            return term(Step(x[rows], target[rows], fake[rows]), None, nets(own))

    alone = torch.stack([value(slice(i, i + 1), source) for i in range(3)])
    assert same(value(slice(3), source), alone.mean()) and alone.std() > 1e-3
    assert same(value(slice(3), source.expand(-1, 3, -1, -1)), alone.mean())


def test_the_mapping_learns_to_pass_for_the_target() -> None:
    """Where source and target differ by a fixed symbol, the game finds it: its signs, in most dimensions."""
    torch_rng = rng(3)
    own = Symbols(16, 32, torch_rng)
    term = HypervectorConsistency(vectors=SMALL, width=32)
    symbol = torch.where(torch.arange(16) < 8, 1.0, -1.0).view(1, 16, 1, 1)
    adam = torch.optim.Adam(own.parameters(), 1e-2, (0.0, 0.9))
    for _ in range(60):
        source, target = (1 + 0.5 * torch.randn(1, 16, 4, 4, generator=torch_rng) for _ in range(2))
        adam.zero_grad()
        term.game(own, source * own.mapping(source), target * symbol).backward()
        adam.step()
    agree = (own.mapping(source).mean((0, 2, 3)) * symbol.flatten() > 0).float().mean()
    assert agree > 0.9, agree


def test_settings() -> None:
    term = HypervectorConsistency()
    assert term.weight == 10.0 and term.remark() is None
    assert "random" in str(HypervectorConsistency(vectors=SMALL).remark())
    assert term.problem(Setting(16, 16, 1, ())) is None
    assert "at least 16 pixels" in str(term.problem(Setting(32, 15, 1, ())))
