"""Schedules against what the papers' epochs give, and against simulation."""

from __future__ import annotations

import math

import pytest

from unflip.schedules import constant_then_linear, ema_decay


@pytest.mark.parametrize(("constant", "decaying"), [(200, 200), (100, 100), (150, 50)])
def test_learning_rate_follows_the_published_epochs(constant: int, decaying: int) -> None:
    """The published rule, 1 - max(0, e + 1 - constant) / (decaying + 1) in epoch e from 0, is a staircase of the same line."""
    epochs = constant + decaying
    for epoch in range(epochs):
        published = 1 - max(0, epoch + 1 - constant) / (decaying + 1)
        assert abs(constant_then_linear(epoch / epochs, constant / epochs) - published) <= 1 / (decaying + 1) + 1e-12


def test_learning_rate_at_its_corners() -> None:
    assert [constant_then_linear(p, 0.5) for p in (0, 0.3, 0.5, 0.75, 1)] == [1, 1, 1, 0.5, 0]
    assert [constant_then_linear(p, 0.75) for p in (0.75, 0.875, 1)] == [1, 0.5, 0]
    assert [constant_then_linear(p, 0) for p in (0, 0.25, 1)] == [1, 0.75, 0]
    values = [constant_then_linear(i / 100, 0.5) for i in range(101)]
    assert values == sorted(values, reverse=True)


def test_the_moving_average_forgets_half_in_its_half_life() -> None:
    """An image's share falls to one half in ``half_life`` images, for any batch size."""
    for batch in (1, 4, 50):
        left = math.prod(ema_decay(1_000_000 + i * batch, batch, 1000, 0.05) for i in range(1000 // batch))
        assert math.isclose(left, 0.5, rel_tol=1e-9)


def test_the_moving_average_ramps_up() -> None:
    """Early on the half-life is a share of what has been seen: after 100 images at most 5; the first weights are all but gone."""
    assert ema_decay(0, 1, 1000, 0.05) == 0
    assert math.isclose(ema_decay(100, 5, 1000, 0.05), 0.5)
    assert math.isclose(ema_decay(100, 10, 1000, 0.05), 0.25)
    assert ema_decay(20_000, 1, 1000, 0.05) == ema_decay(10**9, 1, 1000, 0.05) == 0.5 ** (1 / 1000)
    first = math.prod(ema_decay(seen, 1, 1000, 0.05) for seen in range(1, 200))
    assert first < 1e-9
