"""Draws: functions of seed, purpose and image number alone; even; no two purposes share numbers."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from helpers import Players, small_recipe, untouched_global_rng
from unflip.losses import TERMS, Term
from unflip.losses.draws import Draws, Stream, TapShape
from unflip.losses.robustness import Perturbation, Robustness
from unflip.methods import METHODS, Recipe
from unflip.seeding import derive, numpy_rng, torch_rng
from unflip.types import Batch, Size

CPU = torch.device("cpu")
TAP = TapShape("tap", 3, 6, 7)


def stream(
    first: int = 0, images: int = 1, seed: int = 0, path: tuple[str, ...] = ("term", "side"), step: int = 0, progress: float = 0.5
) -> Stream:
    return Stream(seed, path, first, images, CPU, step, progress)


KINDS: dict[str, Any] = {
    "normal": lambda s: s.normal(3, 4, 5),
    "uniform": lambda s: s.uniform(1, 4, 5),
    "positions": lambda s: s.positions(TAP, 10),
    "each": lambda s: s.each(lambda rng: rng.random(5)),
}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@each_kind
def test_a_batch_draws_what_its_images_draw_alone(kind: Any) -> None:
    """N processes draw what one would have drawn: image 10 is image 10 in any batch."""
    whole = kind(stream(first=8, images=4))
    assert torch.equal(whole, torch.cat([kind(stream(first=8 + i)) for i in range(4)]))
    assert torch.equal(whole, torch.cat([kind(stream(8, 3)), kind(stream(11, 1))]))
    assert not torch.equal(whole[0], whole[1])


@each_kind
def test_draws_are_a_function_of_seed_and_path_only(kind: Any) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = kind(stream(3, 2))
    torch.manual_seed(2)
    np.random.seed(2)
    with untouched_global_rng():
        again = kind(stream(3, 2))
    assert torch.equal(first, again)
    for other in (stream(3, 2, seed=1), stream(3, 2, path=("term", "other")), stream(3, 2, path=("other", "side")), stream(5, 2)):
        assert not torch.equal(first, kind(other))


def test_a_step_shares_one_choice() -> None:
    """Also where processes share the step, each with images of its own."""
    here, beside, next_step = (stream(first, 4, step=step).once().integers(1 << 40) for first, step in ((8, 2), (12, 2), (8, 3)))
    assert here == beside != next_step


@pytest.mark.parametrize("count", [1, 10, 41, 42, 100])
def test_positions_are_different_and_within_the_map(count: int) -> None:
    positions = stream(0, 50).positions(TAP, count)
    expected = min(count, 42)  # a small map has fewer positions than patches asked for
    assert positions.shape == (50, expected)
    assert positions.dtype == torch.int64
    assert positions.min() >= 0
    assert positions.max() < 42
    assert all(len(set(row)) == expected for row in positions.tolist())


def test_positions_are_drawn_evenly() -> None:
    """Every position, and every pair of neighbors, equally often."""
    positions = stream(0, 6000).positions(TAP, 5)
    counts = np.bincount(positions.flatten(), minlength=42)
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    together = Counter(tuple(sorted(row)) for row in stream(0, 6000, path=("pairs",)).positions(TapShape("t", 1, 2, 3), 2).tolist())
    assert len(together) == 15
    assert scipy.stats.chisquare(list(together.values())).pvalue > 1e-4


def test_noise_is_normal_and_uniform() -> None:
    assert scipy.stats.kstest(stream(0, 40).normal(500).flatten(), "norm").pvalue > 1e-4
    uniform = stream(0, 40).uniform(500).flatten()
    assert scipy.stats.kstest(uniform, "uniform").pvalue > 1e-4
    assert 0 <= uniform.min() < uniform.max() < 1


def test_taps_of_one_size_have_patches_of_their_own() -> None:
    here, there = (stream(images=400).positions(TapShape(name, 9, 8, 8), 16).tolist() for name in ("block1", "block5"))
    common = np.mean([len(set(a) & set(b)) for a, b in zip(here, there, strict=True)])
    assert 3.7 < common < 4.3, "16 * 16 / 64 by chance"


def test_the_size_of_noise_tells_nothing_of_its_direction() -> None:
    here = stream(images=400)
    normal, uniform = here.normal(3, 4, 5), here.uniform(1, 4, 5)
    for channel in (normal, normal.abs()):
        for i in range(3):
            assert abs(np.corrcoef(channel[:, i].flatten(), uniform.flatten())[0, 1]) < 0.05


def test_images_are_independent_of_each_other() -> None:
    x = stream(0, 200).normal(300).double()
    correlations = np.corrcoef(x.numpy())[np.triu_indices(200, 1)]
    assert abs(correlations.mean()) < 5 / (300 * len(correlations)) ** 0.5
    assert np.abs(correlations).max() < 0.4


def taps(count: int) -> tuple[TapShape, ...]:
    return tuple(TapShape(f"tap{i}", 2 + i, 4, 5 + i) for i in range(count))


def test_robustness_takes_all_taps_evenly_and_draws_at_that_taps_size() -> None:
    shapes = taps(5)
    drawn = [Robustness(patches=8).draw(stream(first, step=first), shapes) for first in range(1500)]
    assert scipy.stats.chisquare(np.bincount([d.tap for d in drawn], minlength=5)).pvalue > 1e-4
    for d in drawn[:50]:
        shape = shapes[d.tap]
        assert d.direction.shape == (1, shape.channels, shape.height, shape.width)
        assert d.uniform.shape == (1, 1, shape.height, shape.width)
        assert d.positions.shape == (1, 8)
        assert not torch.equal(d.direction[:, :1], d.uniform)


def test_a_steps_images_share_the_tap() -> None:
    """One tap a step: the batch is one graph. Positions and noise are each image's own."""
    for first in range(20):
        four, one = (Robustness().draw(stream(first, images, step=first), taps(5)) for images in (4, 1))
        assert four.tap == one.tap
        assert torch.equal(four.direction[:1], one.direction)
        assert torch.equal(four.positions[:1], one.positions)


# --- a whole step's draws


def leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, tuple) else []


def drawn(method: str, **arguments: Any) -> tuple[Players, Draws]:
    players = Players.of(small_recipe(METHODS[method].recipe))
    with untouched_global_rng():
        return players, players.draws(players.weights(), **arguments)


@pytest.mark.parametrize("method", METHODS)
def test_a_steps_draws_repeat_and_follow_seed_and_images_seen(method: str) -> None:
    def numbers(**arguments: Any) -> list[Tensor]:
        return [leaf for terms in drawn(method, **arguments)[1].terms.values() for term in terms.values() for leaf in leaves(term)]

    def equal(a: list[Tensor], b: list[Tensor]) -> bool:
        return len(a) == len(b) and all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True))

    here = numbers(first=6)
    assert equal(here, numbers(first=6))
    if here:
        assert not equal(here, numbers(first=8))
        assert not equal(here, numbers(first=6, seed=1))


def test_terms_and_sides_draw_different_numbers() -> None:
    players, draws = drawn("srunit")
    terms = draws.terms["to_target"]
    assert set(terms) == set(players.recipe.terms)
    assert terms["adversarial"] is None
    assert len(terms["nce"]) == len(terms["identity_nce"]) == len(players.generator.inner("to_target").taps)
    assert not any(torch.equal(a, b) for a, b in zip(terms["nce"], terms["identity_nce"], strict=True))
    robustness = terms["robustness"]
    assert isinstance(robustness, Perturbation)
    assert not torch.equal(robustness.positions, terms["nce"][robustness.tap])

    two = small_recipe(METHODS["cut"].recipe, sides=2)
    sides = Players.of(two).draws(Players.of(two).weights()).terms
    assert not any(torch.equal(a, b) for a, b in zip(sides["to_target"]["nce"], sides["to_source"]["nce"], strict=True))


def test_a_terms_draws_do_not_depend_on_the_other_terms() -> None:
    """Adding a term to a method leaves what the others draw: CUT's positions are SRUNIT's."""
    cut, srunit = drawn("cut")[1].terms["to_target"], drawn("srunit")[1].terms["to_target"]
    assert all(torch.equal(a, b) for a, b in zip(cut["nce"], srunit["nce"], strict=True))


class Asking(Term):
    """Draws nothing, and keeps what it was offered to draw with."""

    weight: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({"fake"})

    def draw(self, stream: Stream, taps: tuple[TapShape, ...]) -> Any:
        return stream, taps

    def __call__(self, step: Any, drawn: Any, nets: Any) -> Tensor:
        raise AssertionError("only drawn for")


def test_terms_draw_with_their_steps_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seed, what the draws are for, the images' and the step's numbers, the share of the budget; and the shapes of the taps."""
    monkeypatch.setitem(TERMS, "asking", Asking)
    players = Players.of(small_recipe(Recipe(sides=2, terms={"adversarial": {}, "asking": {}})))
    source, target = torch.zeros(3, 3, 24, 40), torch.zeros(3, 3, 24, 40)
    draws = players.generator.draw({"asking": 1.0}, Batch(source, target, 12, 4), Size(40, 24), seed=5, progress=0.25)
    assert not draws.flip and draws.windows is None
    assert set(draws.terms) == {"to_target", "to_source"}
    for side, terms in draws.terms.items():
        drew, shapes = terms["asking"]
        assert drew == Stream(5, ("asking", side), 12, 3, CPU, 4, 0.25)
        features = players.generator.inner(side).encode(source.double())
        assert [(shape.name, *shape[1:]) for shape in shapes] == [
            (tap.name, *f.shape[1:]) for tap, f in zip(players.generator.inner(side).taps, features, strict=True)
        ]


def test_every_other_step_is_mirrored() -> None:
    players = Players.of(small_recipe(METHODS["fastcut"].recipe))
    flips = [players.draws({"adversarial": 1.0}, first=2 * i).flip for i in range(400)]
    assert scipy.stats.binomtest(sum(flips), 400).pvalue > 1e-4
    runs = sum(a != b for a, b in pairwise(flips))
    assert scipy.stats.binomtest(runs, 399).pvalue > 1e-4
    assert not any(drawn("cut", first=i)[1].flip for i in range(20))


@pytest.mark.parametrize("name", TERMS)
def test_every_terms_draw_is_a_pure_function_per_image(name: str) -> None:
    """For whatever stands in the table: image i draws the same in any batch; a single number is what all images of a step share."""
    term, shapes = TERMS[name](), taps(3)
    with untouched_global_rng():
        pair, first = leaves(term.draw(stream(8, 2), shapes)), leaves(term.draw(stream(8, 1), shapes))
    assert len(pair) == len(first)
    assert all(torch.equal(a[:1] if a.ndim else a, b) for a, b in zip(pair, first, strict=True))


# --- seeds


def test_seeds_differ_by_every_part_of_their_path() -> None:
    names = [("a",), ("a", 0), ("a", "0"), ("b",), (0, "a"), ("a", "b"), ("ab",), ("a", 0, 0)]
    paths = [(seed, *path) for seed in range(5) for path in names]
    assert len({derive(*path) for path in paths}) == len(paths)
    assert all(0 <= derive(*path) < 1 << 64 for path in paths)


def test_seeds_are_the_same_on_every_machine_and_in_every_version() -> None:
    """Runs resume under later versions: these numbers never change."""
    assert derive(0, "crop", 3) == 3_089_192_358_314_557_729
    assert numpy_rng(0, "crop", 3).integers(1 << 30, size=2).tolist() == [16614206, 51255458]
    assert torch.randint(1 << 30, (2,), generator=torch_rng(0, "crop", 3)).tolist() == [202069965, 543659375]
