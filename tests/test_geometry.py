"""GcGAN's consistency: the sum over both views is the published loss, in both directions, and moves what it ought to move."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import Players, batch, images, lively, small_recipe
from unflip.losses.geometry import Geometry
from unflip.methods.gcgan import GCGAN
from unflip.types import Step

TURNS: dict[str, tuple[Any, Any]] = {
    "rotate": (lambda x: np.rot90(x, -1, (-2, -1)), lambda x: np.rot90(x, 1, (-2, -1))),  # clockwise, and back
    "flip": (lambda x: x[..., ::-1, :], lambda x: x[..., ::-1, :]),
}


def step(fake: Tensor, turned: Tensor) -> Step:
    return Step(source=torch.zeros_like(fake), target=torch.zeros_like(fake), fake=fake, turned=turned)


def test_value_and_gradient() -> None:
    fake, turned = (images(2, 8, seed=seed).requires_grad_() for seed in (0, 1))
    loss = Geometry()(step(fake, turned), None, None)
    loss.backward()

    total = 0.0
    for index in np.ndindex(*fake.shape):
        gap = float(fake[index].detach()) - float(turned[index].detach())
        total += abs(gap)
        assert float(fake.grad[index]) == pytest.approx(np.sign(gap) / fake.numel(), abs=1e-15)
    assert float(loss.detach()) == pytest.approx(total / fake.numel(), rel=1e-12)
    assert turned.grad is None, "the other view's translation is a reference that stays where it is"


def test_a_translation_that_agrees_costs_nothing_and_has_a_finite_gradient() -> None:
    fake = images(1, 8).requires_grad_()
    loss = Geometry()(step(fake, fake.detach().clone()), None, None)
    loss.backward()
    assert float(loss.detach()) == 0 and torch.isfinite(fake.grad).all()


@pytest.mark.parametrize("turn", TURNS)
def test_both_views_together_are_the_published_loss(turn: Any) -> None:
    """``E |f(G(x)) - G(f(x))|`` once for each side of the difference to learn from, summed, times 20."""
    recipe = small_recipe(GCGAN.recipe, turn=turn, terms={"adversarial": {}, "geometry": {}})
    players = Players.of(recipe)
    weights = players.weights()
    data = batch()
    _, parts, shown = players.generator(data, players.draws(weights), weights, players.discriminator.frozen())

    there, back = TURNS[turn]
    generator = players.generator.generators["to_target"]
    with torch.no_grad():
        plain = lively(generator(data.source)).numpy()
        turned = generator(torch.from_numpy(there(data.source.numpy()).copy())).numpy()
    expected = np.abs(plain - back(turned)).mean() + np.abs(turned - there(plain)).mean()
    assert expected > 0.1, "the generator is not equivariant: there is something to compare"
    assert float(parts["geometry"]) == pytest.approx(expected, rel=1e-9)
    assert weights["geometry"] == 20
    assert sorted(shown) == ["to_target", "to_target_turned"]
    target = data.target.numpy()
    assert np.array_equal(shown["to_target_turned"][0].numpy(), there(target)), "each view's discriminator sees its view's target"
