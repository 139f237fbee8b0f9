"""Golden losses: three seeded steps of every method give the numbers in golden/METHOD.json, to 1e-6, in float64.

A changed number needs its reason in CHANGELOG.md. ``PYTHONPATH=src python tests/test_golden.py --write [METHOD...]`` writes them anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import Players, batch, lively, small_recipe
from unflip.losses import nce, robustness
from unflip.losses.draws import Draws
from unflip.methods import METHODS, Recipe, passes
from unflip.methods.players import GeneratorPlayer

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 1e-6


def losses(recipe: Recipe, seed: int = 7) -> list[dict[str, float]]:
    """All parts of both players in three steps, at 0, 1/3 and 2/3 of the budget; and how far each player has moved after each.

    The weights are the freshly drawn ones, scaled so that translations are not gray, and rounded to eighths of their spread: processors
    differ in the last bit of what they draw. The seed is one with mirrored steps and others.
    """
    players = Players.of(small_recipe(recipe), seed, lively_weights=False)
    with torch.no_grad():
        for player in (players.generator, players.discriminator):
            for value in player.parameters():
                if value.ndim > 1 and value.std() > 0:  # some begin at 0
                    value.copy_((value / value.std() * 8).round() / 8 * (1.5 / value[0].numel() ** 0.5))
        beginnings = [[value.clone() for value in player.parameters()] for player in (players.generator, players.discriminator)]
        for generator in players.generator.generators.values():
            lively(generator(batch().source))
    steps = []
    for i in range(3):
        values = players.play(batch(2 * i), i / 3, seed)
        for player, beginning in zip(("generator", "discriminator"), beginnings, strict=True):
            moves = [now.detach() - then for now, then in zip(getattr(players, player).parameters(), beginning, strict=True)]
            values[f"{player}_moved"] = float(sum(move.square().sum() for move in moves)) ** 0.5
        steps.append(values)
    return steps


def differences(steps: list[dict[str, float]], golden: list[dict[str, float]]) -> list[str]:
    """What differs, one line each."""
    lines = [f"{len(steps)} steps, not {len(golden)}"] if len(steps) != len(golden) else []
    for i, (ours, theirs) in enumerate(zip(steps, golden, strict=False)):
        for name in sorted(set(ours) | set(theirs)):
            a, b = ours.get(name), theirs.get(name)
            if a is None or b is None or not abs(a - b) <= TOLERANCE * max(abs(b), 1e-3):  # nor NaN
                lines.append(f"step {i}: {name} is {a}, was {b}")
    return lines


def read(method: str) -> list[dict[str, float]]:
    path = GOLDEN / f"{method}.json"
    assert path.is_file(), f"no golden losses of {method}: PYTHONPATH=src python tests/test_golden.py --write {method}"
    return json.loads(path.read_text())


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_the_golden_ones(method: str) -> None:
    found = differences(losses(METHODS[method].recipe), read(method))
    assert not found, "\n".join(found) + "\na changed value needs its reason in CHANGELOG.md"


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_rounding_does_not_change_golden_losses(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processors draw normal numbers that differ in the last bit of float32: no loss may show that."""

    perturbed = []

    def drawn(self: Any, *args: Any, original: Callable[..., Draws] = GeneratorPlayer.draw, **kwargs: Any) -> Draws:
        draws = original(self, *args, **kwargs)
        for terms in draws.terms.values():
            for name, term in terms.items():
                if isinstance(term, robustness.Perturbation):
                    perturbed.append(name)
                    terms[name] = term._replace(direction=term.direction * (1 + 6e-8 * torch.sign(term.direction.roll(1))))
        return draws

    def created(self: type[Players], *args: Any, original: Callable[..., Players] = Players.of, **kwargs: Any) -> Players:
        players = original(*args, **kwargs)
        with torch.no_grad():
            for player in (players.generator, players.discriminator):
                for value in player.parameters():
                    value.mul_(1 + 6e-8 * torch.sign(value.roll(1)))
        return players

    monkeypatch.setattr(GeneratorPlayer, "draw", drawn)
    monkeypatch.setattr(Players, "of", classmethod(created))
    assert not differences(losses(METHODS[method].recipe), read(method))
    assert bool(perturbed) == ("robustness" in METHODS[method].recipe.terms)


TWINS: dict[str, tuple[str, Any, str, Any]] = {
    "temperature": ("cut", nce, "patch_nce", lambda q, k, temperature, *more, f=nce.patch_nce: f(q, k, 1.001 * temperature, *more)),
    "keys": ("cut", nce, "patch_nce", lambda q, k, *more, f=nce.patch_nce: f(k, q, *more)),
    "flip": (
        "fastcut",
        passes,
        "one_view",
        lambda g, ends, flip, needs, call=passes.one_view: call(
            g, ends._replace(source=ends.source.flip(-1)) if flip else ends, False, needs
        ),
    ),
    "mirrored features": (
        "fastcut",
        passes,
        "one_view",
        lambda g, ends, flip, needs, call=passes.one_view: call(g, ends, False, needs),
    ),
    "magnitudes": ("srunit", robustness, "magnitudes", lambda u, noise, floor, f=robustness.magnitudes: f(1 - u, noise, floor)),
    "distance": ("srunit", robustness, "distance", lambda a, b: (a - b).square().sum(-1)),
    "cycle": ("cyclegan", passes, "replace", lambda step, **new: replace(step, **new | {k: 1.01 * new[k] for k in new if k == "cycled"})),
}


@pytest.mark.parametrize(("method", "owner", "name", "broken"), TWINS.values(), ids=TWINS)
def test_a_broken_twin_has_other_losses(method: str, owner: Any, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, name, broken)
    assert differences(losses(METHODS[method].recipe), read(method))


@pytest.mark.parametrize("method", METHODS)
def test_leaving_out_a_term_has_other_losses(method: str) -> None:
    recipe = METHODS[method].recipe
    for name in set(recipe.terms) - {"adversarial"}:
        rest = recipe.model_copy(update={"terms": {n: term for n, term in recipe.terms.items() if n != name}})
        found = differences(losses(rest), read(method))
        assert any("total" in line for line in found), name
        assert any("generator_moved" in line for line in found), name


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--write" not in sys.argv:
        sys.exit(__doc__)
    GOLDEN.mkdir(exist_ok=True)
    for chosen in [name for name in sys.argv[1:] if name != "--write"] or METHODS:
        (GOLDEN / f"{chosen}.json").write_text(json.dumps(losses(METHODS[chosen].recipe), indent=1) + "\n")
        print(GOLDEN / f"{chosen}.json")
