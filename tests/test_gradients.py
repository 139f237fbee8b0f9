"""The total's gradient against finite differences at batch 1: what PyTorch's instance norm gets wrong there must not reach us."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers import Players, batch, noise, same, small_recipe
from unflip.losses import geometry, negatives
from unflip.losses.reconstruction import mean_absolute_error
from unflip.methods import METHODS
from unflip.networks import ResnetConfig
from unflip.networks.blocks import reflect
from unflip.networks.norm import InstanceNorm


class Held:
    """``function`` in a first pass; in later ones what it gave then, call by call: so does a gradient see what has none."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function, self.given, self.calls = function, [], 0

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        value = self.given[self.calls] if self.calls < len(self.given) else self.function(*args, **kwargs)
        self.given[self.calls :] = [value, *self.given[self.calls + 1 :]]
        self.calls += 1
        return value


HELD = [(negatives, "hard_log_weights"), (negatives, "relative_weights"), (negatives, "transport_log_plan")]
"""What losses are weighted by, and what has no gradient by definition."""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("images", [1, 2])
def test_the_gradient_is_the_slope(method: str, images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Along a direction in the decoder's weights: there only queries move, and no detached key."""
    held = [Held(getattr(owner, name)) for owner, name in HELD]
    for (owner, name), function in zip(HELD, held, strict=True):
        monkeypatch.setattr(owner, name, function)
    other = Held(Tensor.detach)  # geometry: each view learns from the other one's translation, and does not move it
    monkeypatch.setattr(geometry, "mean_absolute_error", lambda a, b: mean_absolute_error(a, other(b)))
    held.append(other)
    players = Players.of(small_recipe(METHODS[method].recipe))
    weights = players.weights(progress=0.5)
    draws = players.draws(weights, n=images)
    parameters = [
        (value, noise(*value.shape, seed=i))
        for i, (name, value) in enumerate(players.generator.named_parameters())
        if any(f".{stage}." in name for stage in ("up1", "up2", "head"))
    ]
    assert parameters

    def total() -> Tensor:
        for function in held:
            function.calls = 0
        return players.generator(batch(n=images), draws, weights, players.discriminator.frozen())[0]

    total().backward()
    slope = sum((value.grad * direction).sum().item() for value, direction in parameters)

    def moved(by: float) -> float:
        with torch.no_grad():
            for value, direction in parameters:
                value += by * direction
        return total().item()

    step = 1e-8  # larger ones cross the kinks of ReLU and |x|
    high = moved(step)
    low = moved(-2 * step)
    assert slope == pytest.approx((high - low) / (2 * step), rel=5e-3)


def test_gather_hands_back_a_gradient_in_memory_order() -> None:
    """With one image and a gradient in channels_last order, instance norm's gradient is wrong on CPU (PyTorch 2.15)."""
    from unflip.losses.draws import gather

    features = noise(1, 4, 6, 6).requires_grad_()
    seen = []
    normed = F.instance_norm(features)
    normed.register_hook(lambda gradient: seen.append(gradient.is_contiguous()))
    gather(normed, torch.tensor([[3, 7, 11]])).square().sum().backward()
    assert seen == [True]


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_instance_norm_has_the_gradient_of_its_formula(images: int, layout: torch.memory_format) -> None:
    """In whatever order of memory what comes in is, and what comes back: in networks with channels last, every convolution hands that."""
    x, gradient = noise(images, 4, 6, 5).requires_grad_(), noise(images, 4, 6, 5, seed=1)
    variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    (expected,) = torch.autograd.grad((x - mean) / (variance + 1e-5).sqrt(), x, gradient)
    for order in (torch.contiguous_format, torch.channels_last):
        (found,) = torch.autograd.grad(InstanceNorm(4)(x.contiguous(memory_format=layout)), x, gradient.contiguous(memory_format=order))
        assert found.abs().max() > 0.1 and same(found, expected, 1e-12)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("size", [(4, 4), (7, 9), (12, 5)])
def test_reflection_has_its_gradient(n: int, size: tuple[int, int]) -> None:
    """PyTorch's, in any order of memory, also twice; where the margins overlap, too."""
    x = noise(2, 3, *size).requires_grad_()
    padded = F.pad(x, (n, n, n, n), mode="reflect")
    assert torch.equal(reflect(x, n), padded)
    gradient = torch.randn_like(padded)
    (expected,) = torch.autograd.grad(padded, x, gradient)
    for order in (torch.contiguous_format, torch.channels_last):
        (found,) = torch.autograd.grad(reflect(x, n), x, gradient.contiguous(memory_format=order))
        assert same(found, expected, 1e-14)
    assert torch.autograd.gradgradcheck(lambda x: reflect(x.square(), n), x)


def test_gradients_of_single_images_by_functions_of_functions() -> None:
    """``torch.func``, as some use a translator in: also of a batch, each image's own."""
    network = ResnetConfig(width=4, blocks=1).build(3, 3, torch.Generator()).double().requires_grad_(False)
    x = noise(2, 3, 16, 16)
    one = torch.func.grad(lambda image: network(image[None]).square().sum())
    wanted = x.clone().requires_grad_()
    network(wanted).square().sum().backward()
    assert same(one(x[0]), wanted.grad[0], 1e-10)
    assert same(torch.func.vmap(one)(x), wanted.grad, 1e-10)
