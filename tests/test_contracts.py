"""What everything in the tables must hold, so that what is added is tested for free: TERMS, METHODS, GENERATORS, DISCRIMINATORS."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

import pytest
import torch
import yaml
from torch import Tensor, nn

from helpers import (
    CHANNELS,
    CLASSES,
    SIZE,
    Players,
    batch,
    images,
    labels,
    lively,
    positive,
    reach,
    rng,
    same,
    scale_weights,
    shrunk,
    small_recipe,
    untouched_global_rng,
)
from unflip.config import Config
from unflip.errors import UserError
from unflip.losses import TERMS, Nets, Term
from unflip.losses.objective import active
from unflip.methods import METHODS, Recipe
from unflip.methods.passes import SIDES, Turn, views
from unflip.networks import DISCRIMINATORS, GENERATORS, Generator, MultiscaleConfig, ResnetConfig
from unflip.runs import RunConfig, collect, from_yaml, to_yaml, validate
from unflip.types import Batch, Size, Step

each_method = pytest.mark.parametrize("method", METHODS)
each_term = pytest.mark.parametrize("name", TERMS)
each_generator = pytest.mark.parametrize("kind", GENERATORS)
each_discriminator = pytest.mark.parametrize("kind", DISCRIMINATORS)


def players_of(method: str, **arguments: Any) -> Players:
    return Players.of(small_recipe(METHODS[method].recipe), **arguments)


SHAPES: list[dict[str, Any]] = [
    {"sides": sides, "turn": turn, "multiscale": multiscale}
    for multiscale, turn, sides in product((None, {}), get_args(Turn), SIDES)
    if turn == "none" or multiscale is None
]
"""Everything by which recipes differ in the views that they have, the simplest first."""
SEEN: dict[str, Any] = {"names": ["road", "sky", "tree", "car"], "palette": [[i, i, 9] for i in range(CLASSES)]}
"""The classes of the labels."""
FIELDS: dict[str, dict[str, Any]] = {"semantic": {"classes": SEEN}}
"""What a term must be told before it can do anything."""


def shapes_for(name: str) -> list[dict[str, Any]]:
    """The shapes of recipes in which some view provides what a term needs."""
    found = []
    for shape in SHAPES:
        given = views(shape["sides"], shape["turn"], shape["multiscale"] is not None, Size(SIZE, SIZE), labels=True)
        if any(TERMS[name].needs <= view.provides for view in given.values()):
            found.append(shape)
    assert found, f"no recipe provides {set(TERMS[name].needs)}"
    return found


def recipe_with(name: str, shape: dict[str, Any] | None = None, **fields: Any) -> Recipe:
    """A small recipe with the game and one term more, of the simplest shape that provides what the term needs."""
    terms = {"adversarial": {}} | {name: FIELDS.get(name, {}) | fields}
    return small_recipe(Recipe(**(shape or shapes_for(name)[0]), terms=terms, projector={"width": 16}))


Shown = dict[str, tuple[Tensor, Tensor]]


def losses(players: Players, weights: dict[str, float], **draws: Any) -> tuple[Tensor, dict[str, Tensor], Shown]:
    """The generator side's total, parts, and what the discriminators will see, for one fixed batch and fixed draws."""
    return players.generator(batch(), players.draws(weights, **draws), weights, players.discriminator.frozen())


# --- methods


@each_method
def test_methods_carry_their_tables_name(method: str) -> None:
    entry = METHODS[method]
    assert entry.name == method
    assert all((entry.title, entry.paper, entry.summary))


@each_method
def test_a_methods_terms_get_what_they_need(method: str) -> None:
    recipe = METHODS[method].recipe
    for name, term in recipe.terms.items():
        assert type(term) is TERMS[name]
        assert any(term.needs <= view.provides for view in recipe.views(Size(SIZE, SIZE), labels=True).values())
        assert not term.projects or recipe.projector is not None
    assert Recipe.model_validate(recipe.model_dump()) == recipe


@each_method
def test_three_steps_are_finite_and_move_every_network(method: str) -> None:
    """From the usual initialization, before and after the terms' starts."""
    players = players_of(method, lively_weights=False)
    before = [{n: p.detach().clone() for n, p in player.named_parameters()} for player in (players.generator, players.discriminator)]
    for i in range(3):
        parts = players.play(batch(2 * i), progress=0.4 * i)
        assert all(math.isfinite(value) for value in parts.values()), parts
        assert {"total", "adversarial", "discriminator_total", "discriminator_real", "discriminator_fake"} <= set(parts)
    assert set(players.recipe.terms) <= set(parts)
    for player, old in zip((players.generator, players.discriminator), before, strict=True):
        for name, value in player.named_parameters():
            assert value.isfinite().all()
            assert value.ndim == 1 or not torch.equal(value, old[name]), f"{name} did not move"


@each_method
def test_gradient_reaches_its_own_player_only(method: str) -> None:
    players = players_of(method)
    total, parts, shown = losses(players, players.weights())
    assert not any(x.requires_grad for x in (*parts.values(), *(x for pair in shown.values() for x in pair[:2])))
    total.backward()
    assert all(p.grad is None for p in players.discriminator.parameters())
    for name, p in players.generator.named_parameters():
        assert p.grad is not None, f"{name} has no gradient"
        assert p.ndim == 1 or p.grad.abs().max() > 0, f"{name} has no gradient"  # a bias before a norm has none, exactly
    own = {n: p.grad.clone() for n, p in players.generator.named_parameters()}

    total, parts = players.discriminator(shown)
    assert not any(part.requires_grad for part in parts.values())
    total.backward()
    assert all(torch.equal(p.grad, own[n]) for n, p in players.generator.named_parameters())
    assert all(p.grad is not None and (p.ndim == 1 or p.grad.abs().max() > 0) for p in players.discriminator.parameters())


@each_method
def test_the_game_pulls_at_the_translation(method: str) -> None:
    """The discriminators are fixed, not absent: the adversarial part's gradient is theirs, at their current weights."""
    players = players_of(method)
    total, parts, shown = losses(players, {"adversarial": 1.0})
    far_from_real = {"least_squares": lambda logits: (logits - 1) ** 2, "hinge": lambda logits: -logits}[players.discriminator.game]
    with torch.no_grad():
        expected = sum(far_from_real(network(lively(shown[view][1]))).mean() for view, network in players.discriminator.networks.items())
        assert same(parts["adversarial"], expected)
        for p in players.discriminator.parameters():
            p.mul_(0.5)
        assert not same(losses(players, {"adversarial": 1.0})[0], total, 1e-3)


@each_method
def test_the_total_is_the_weighted_sum_and_misses_what_is_left_out(method: str) -> None:
    players = players_of(method)
    weights = players.weights()
    assert set(weights) == set(players.recipe.terms)
    with torch.no_grad():
        total, parts, _ = losses(players, weights)
        assert same(total, sum(weights[name] * parts[name] for name in weights))
        for name in set(weights) - {"adversarial"}:
            rest = {n: w for n, w in weights.items() if n != name}
            without, others, _ = losses(players, rest)
            assert same(total - without, weights[name] * parts[name], 1e-9)
            assert abs(float(total - without)) > 1e-4 * float(total), f"{name} changes nothing"
            assert all(same(others[n], parts[n]) for n in rest), f"without {name} the others change"


@each_method
def test_a_methods_total_is_the_mean_over_its_images(method: str) -> None:
    """No loss depends on how images are batched, where all draws are an image's own; a tap and a flip are a step's."""
    recipe = small_recipe(METHODS[method].recipe, flip_equivariance=False)
    players = Players.of(recipe.model_copy(update={"terms": {n: term for n, term in recipe.terms.items() if n != "robustness"}}))
    weights = players.weights()
    whole = batch(0, 3)
    with torch.no_grad():
        opponents = players.discriminator.frozen()
        together = players.generator(whole, players.draws(weights, 0, 3), weights, opponents)[0]
        alone = []
        for i in range(3):
            one = Batch(whole.source[i : i + 1], whole.target[i : i + 1], i, 0, whole.labels[i : i + 1])
            alone.append(players.generator(one, players.draws(weights, i, 1), weights, opponents)[0])
    assert same(together, torch.stack(alone).mean(), 1e-10)
    assert not same(together, alone[0], 1e-4)


@each_method
def test_players_are_functions_of_the_seed(method: str) -> None:
    recipe = small_recipe(METHODS[method].recipe)
    torch.manual_seed(1)
    a = Players.of(recipe, seed=3, lively_weights=False)
    torch.manual_seed(2)
    b, other = Players.of(recipe, seed=3, lively_weights=False), Players.of(recipe, seed=4, lively_weights=False)
    for x, y, z in zip((a.generator, a.discriminator), (b.generator, b.discriminator), (other.generator, other.discriminator), strict=True):
        state, again, different = x.state_dict(), y.state_dict(), z.state_dict()
        assert all(torch.equal(state[n], again[n]) for n in state)
        drawn = [n for n in state if n.endswith("weight") and state[n].any()]  # some begin at 0
        assert len(drawn) > 0.8 * sum(n.endswith("weight") for n in state)
        assert not any(torch.equal(state[n], different[n]) for n in drawn)
    if recipe.sides == 2:
        assert_no_shared_weights([a.generator.generators[side] for side in SIDES[2]])
    assert_no_shared_weights(list(a.discriminator.networks.values()))


def assert_no_shared_weights(networks: list[nn.Module]) -> None:
    weights = [dict(network.named_parameters()) for network in networks]
    for one, other in combinations(weights, 2):
        assert not any(torch.equal(one[n], other[n]) for n in one if n.endswith("weight"))


# --- terms


@each_term
def test_a_term_falls_when_it_alone_is_minimized(name: str) -> None:
    """On one fixed pair with fixed draws, from lively weights; the passes give it what it declares, and nothing else."""
    players = Players.of(recipe_with(name), lr=2e-3)
    weights = {name: 1.0}
    values = []
    for _ in range(30):
        total, parts, _ = losses(players, weights)
        assert set(parts) == {name}
        players.step("generator", total)
        values.append(float(parts[name]))
    assert values[0] > 1e-3
    assert values[-1] < 0.97 * values[0], values


@each_term
def test_a_term_reads_what_it_needs(name: str) -> None:
    """Without any one of the things that it declares, it cannot be computed (or it declares too much, which costs a pass)."""
    players = Players.of(recipe_with(name))
    term = players.recipe.terms[name]
    given = players.recipe.views(Size(SIZE, SIZE), labels=True)
    view, (side, (width, height), _) = next((view, found) for view, found in given.items() if term.needs <= found.provides)
    assert width == height, "images are square here"
    generator, own = players.generator.inner(side), dict(players.generator.own.items()).get(f"{side}_{name}")
    drawn = players.draws({name: 1.0}).terms[view][name]
    nets = Nets(generator, players.generator.projectors[side], players.discriminator.frozen()[view], own)
    x = images(2, width)
    features = {of: generator.encode(images(2, width, seed=i)) for i, of in enumerate(("source", "target", "fake", "identity"))}
    whole = {"fake": x, "identity": x + 0.1, "cycled": x - 0.1, "turned": x - 0.2, "detail": x + 0.2, "labels": labels(2, width)}
    known = {"plain", *whole, *(f"features.{of}" for of in features)}  # plain is of the view, not of the step
    assert term.needs <= known, "a new kind of need is to be added here"

    def value(needs: frozenset[str]) -> Tensor:
        given = {key: item if key in needs else None for key, item in whole.items()}
        taken = {of: f for of, f in features.items() if f"features.{of}" in needs}
        return term(Step(images(2, width, seed=8), images(2, width, seed=9), features=taken, **given), drawn, nets)

    with torch.no_grad():
        assert value(term.needs).isfinite()
        for need in term.needs - {"plain"}:
            with pytest.raises((KeyError, AssertionError, AttributeError, TypeError)):
                value(term.needs - {need})


@each_term
def test_a_term_leaves_no_choice_to_its_call(name: str) -> None:
    """What is random was drawn before: two calls agree to the last bit, and no random state is touched."""
    players = Players.of(recipe_with(name))
    with torch.no_grad(), untouched_global_rng():
        first, second = (losses(players, {name: 1.0})[0] for _ in range(2))
    assert torch.equal(first, second)


def each_shape() -> Any:
    return pytest.mark.parametrize(
        ("name", "shape"),
        [(name, shape) for name in TERMS for shape in shapes_for(name)],
        ids=lambda value: value if isinstance(value, str) else "-".join(str(part).replace("{}", "multiscale") for part in value.values()),
    )


@each_shape()
def test_a_term_is_evaluated_in_every_view_that_provides_for_it(name: str, shape: dict[str, Any]) -> None:
    """And in no other; its part is the sum over them. The passes give it what it declares, and nothing else."""
    players = Players.of(recipe_with(name, shape))
    given = players.recipe.views(Size(SIZE, SIZE), labels=True)
    draws = players.draws({name: 1.0})
    applying = [view for view, found in given.items() if players.recipe.terms[name].needs <= found.provides]
    assert list(draws.terms) == list(given)
    assert [view for view in given if name in draws.terms[view]] == applying
    with torch.no_grad():
        opponents = players.discriminator.frozen()
        _, parts, shown = players.generator(batch(), draws, {name: 1.0}, opponents)
        assert list(shown) == list(given) == list(opponents)
        assert set(parts) == {name} and parts[name].isfinite()
        alone = [
            players.generator(
                batch(),
                draws._replace(terms={view: {name: draws.terms[view][name]} if view == only else {} for view in given}),
                {name: 1.0},
                opponents,
            )[1][name]
            for only in applying
        ]
    assert same(parts[name], torch.stack(alone).sum(), 1e-9)


@each_term
def test_a_terms_configuration_survives_and_is_checked(name: str) -> None:
    term = TERMS[name]()
    assert TERMS[name].model_validate(json.loads(term.model_dump_json())) == term
    for wrong in ({"weight": float("nan")}, {"start": 1.0}, {"start": -0.1}, {"every": 0}, {"every": 1.5}, {"wieght": 1}):
        with pytest.raises(ValueError):
            TERMS[name].model_validate(wrong)
    with pytest.raises(ValueError, match="unknown key 'wieght'; did you mean weight"):
        TERMS[name].model_validate({"wieght": 1})
    with pytest.raises(ValueError):
        term.weight = 2.0  # frozen


@each_term
def test_a_weight_below_zero_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        TERMS[name](weight=-1)


@each_term
def test_weight_start_and_every(name: str) -> None:
    at_once = {"warmup": 0.0} if "warmup" in TERMS[name].model_fields else {}
    term = TERMS[name](weight=0.5, start=0.25, every=3, **at_once)
    assert [term.weight_at(0.5, step) for step in range(6)] == [1.5, 0, 0, 1.5, 0, 0]
    assert [term.weight_at(progress, 0) for progress in (0, 0.2499, 0.25, 1)] == [0, 0, 1.5, 1.5]
    assert active({name: term}, 0.1, 0) == {}
    assert active({name: TERMS[name](weight=0)}, 0.5, 0) == {}


class Poison(Term):
    """A term that must not be evaluated."""

    weight: float = 0.0
    needs: ClassVar[frozenset[str]] = frozenset({"identity", "features.identity"})

    def draw(self, stream: Any, taps: Any) -> Any:
        raise AssertionError("drew for a term that is off")

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        raise AssertionError("evaluated a term that is off")


class Counted(Term):
    """The mean of the translation, and how often it was asked for."""

    weight: float = 2.0
    needs: ClassVar[frozenset[str]] = frozenset({"fake"})
    calls: ClassVar[list[int]] = []

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        self.calls.append(1)
        return step.fake.mean() + 3


def test_a_term_that_is_off_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TERMS, "poison", Poison)
    recipe = METHODS["cut"].recipe.model_dump()
    recipe["terms"] = {"adversarial": {}, "nce": {"weight": 0.5, "patches": 16}}
    players = Players.of(small_recipe(Recipe.model_validate(recipe | {"terms": recipe["terms"] | {"poison": {}}})))
    assert "poison" in players.recipe.terms
    ran: list[int] = []
    generator = next(iter(players.generator.generators.values()))
    monkeypatch.setattr(generator, "_walk", lambda x, *a, walk=generator._walk: ran.append(len(x)) or walk(x, *a))
    players.play(batch(), 0.5)
    assert ran == [2, 2]  # the source once, the fake encoded once: no target was translated for the term that is off

    with pytest.raises(AssertionError, match="drew for a term that is off"):  # the twin that is on
        Players.of(small_recipe(Recipe.model_validate(recipe | {"terms": recipe["terms"] | {"poison": {"weight": 1}}}))).play(batch(), 0.5)


def test_every_third_step_counts_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TERMS, "counted", Counted)
    monkeypatch.setattr(Counted, "calls", [])
    recipe = small_recipe(METHODS["cyclegan"].recipe, sides=1, terms={"adversarial": {}, "counted": {"every": 3, "start": 0.5}})
    players = Players.of(recipe, lr=1e-12)
    excess = []
    for step in range(9):
        values = players.play(batch(2 * step)._replace(source=images(2), target=images(2)), progress=step / 8)
        excess.append(values["total"] - values["adversarial"])
        assert ("counted" in values) == (step == 6)  # on from step 4; of 0, 3 and 6 only 6
        if step == 6:
            assert math.isclose(excess[-1], 3 * 2.0 * values["counted"], rel_tol=1e-9)
    assert len(Counted.calls) == 1
    assert [abs(value) > 1e-9 for value in excess] == [False] * 6 + [True] + [False] * 2


def test_a_method_needs_the_game_and_what_its_terms_need() -> None:
    for terms, message in (
        ({"nce": {}}, "needs the term adversarial"),
        ({"adversarial": {"weight": 0}}, "needs the term adversarial"),
        ({"adversarial": {}, "nce": {}}, "term nce needs a projector"),
        ({"adversarial": {}, "cycle": {}}, "term cycle needs cycled, which a method with sides=1"),
        ({"adversarial": {}, "ncee": {}}, "unknown term 'ncee'; did you mean nce"),
    ):
        with pytest.raises(ValueError, match=message):
            Recipe(terms=terms)
    Recipe(terms={"adversarial": {}, "nce": {"weight": 0}})  # what is off needs nothing


# --- generators and discriminators


def generator_of(kind: str) -> Generator:
    config = GENERATORS[kind].model_validate(shrunk(GENERATORS[kind]()))
    return scale_weights(config.build(*CHANNELS, rng()))


@each_generator
def test_a_generator_keeps_its_contract(kind: str) -> None:
    generator, x = generator_of(kind), images(2)
    assert isinstance(generator, Generator)
    assert (generator.in_channels, generator.out_channels) == CHANNELS
    assert GENERATORS[kind]().kind == kind
    assert GENERATORS[kind].stride == generator.stride
    assert SIZE % generator.stride == 0 and generator.smallest <= SIZE
    with torch.no_grad():
        image, features = generator.run(x)
        assert lively(image).shape == x.shape
        assert image.abs().max() <= 1
        assert [tuple(f.shape) for f in features] == [(2, *tap.shape(SIZE, SIZE)) for tap in generator.taps]
        assert len({tap.name for tap in generator.taps}) == len(generator.taps) > 0
        assert same(generator(x), image)
        for tap in range(len(generator.taps)):
            encoded = generator.encode(x, tap)
            assert len(encoded) == tap + 1
            assert all(same(a, b) for a, b in zip(encoded, features, strict=False))
            assert same(generator.decode(encoded[-1], tap), image)
            changed = encoded[-1] + 0.5 * torch.randn(encoded[-1].shape, generator=rng(1), dtype=torch.float64)
            assert not same(generator.decode(changed, tap), image, 1e-2)
        assert all(same(a, b) for a, b in zip(generator.encode(x), features, strict=True))
        for i in range(2):  # the images of a batch do not meet
            alone, alone_features = generator.run(x[i : i + 1])
            assert same(alone, image[i : i + 1])
            assert all(same(a, b[i : i + 1]) for a, b in zip(alone_features, features, strict=True))


@each_generator
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 71), (7, 9), (33, 47)])
def test_a_generator_takes_any_size(kind: str, height: int, width: int) -> None:
    x = images(1, 72)[..., :height, :width]
    with torch.no_grad():
        y = generator_of(kind)(x)
    assert y.shape == x.shape
    assert y.isfinite().all()


@each_generator
def test_a_generators_receptive_radius_bounds_what_it_sees(kind: str) -> None:
    generator = positive(generator_of(kind))
    stride, radius = generator.stride, generator.receptive_radius
    center = stride * (radius // stride + 3)
    for at in range(center, center + stride):
        x = torch.full((1, 3, 2 * center, 2 * center), 0.01, dtype=torch.float64)
        rows, columns = reach(generator, x, lambda y, at=at: y[0, 0, at, at])
        for seen in (rows, columns):
            assert at - seen[0] <= radius
            assert seen[-1] - at <= radius


@each_generator
def test_in_and_out_channels_may_differ(kind: str) -> None:
    generator = GENERATORS[kind].model_validate(shrunk(GENERATORS[kind]())).build(2, 5, rng())
    with torch.no_grad():
        assert generator(torch.zeros(1, 2, SIZE, SIZE)).shape == (1, 5, SIZE, SIZE)


@each_discriminator
def test_a_discriminator_keeps_its_contract(kind: str) -> None:
    config = DISCRIMINATORS[kind].model_validate(shrunk(DISCRIMINATORS[kind]()))
    assert config.kind == kind
    network = scale_weights(config.build(3, rng()))
    for size in (config.smallest, config.smallest + 3, SIZE):
        x = images(2, size)
        with torch.no_grad():
            logits = network(x)
            assert logits.ndim == 4 and logits.shape[:2] == (2, 1)
            assert logits.isfinite().all()
            assert logits.std() > 0.05 * logits.abs().max() > 0
            assert same(logits, torch.cat([network(x[:1]), network(x[1:])]))
    assert config.build(5, rng())(torch.zeros(1, 5, SIZE, SIZE)).shape[0] == 1


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("discriminator", DISCRIMINATORS)
@each_term
def test_every_term_goes_with_every_network(name: str, generator: str, discriminator: str) -> None:
    values = recipe_with(name).model_dump()
    values["generator"], values["discriminator"] = shrunk(GENERATORS[generator]()), shrunk(DISCRIMINATORS[discriminator]())
    players = Players.of(Recipe.model_validate(values))
    total, parts, _ = losses(players, {"adversarial": 1.0} | {name: 1.0})
    total.backward()
    assert all(part.isfinite() for part in parts.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in players.generator.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in players.generator.generators.parameters())


# --- configurations


def configured(method: str | None, *settings: str, **fields: Any) -> RunConfig:
    return validate(collect(method, settings=settings, **{"source": "a", "target": "b", "budget": 1000} | fields))


@each_method
def test_a_runs_recipe_is_the_methods(method: str) -> None:
    config = configured(method)
    assert config.method == method
    for name in Recipe.model_fields:
        ours, theirs = getattr(config, name), getattr(METHODS[method].recipe, name)
        if name == "multiscale" and theirs is not None:
            theirs = theirs.model_copy(update={"window": Size(128, 128)})  # half of the default crop
        assert ours == theirs and type(ours) is type(theirs), name
    assert configured(None).method == "srunit"


@each_method
def test_a_configuration_survives_yaml(method: str, tmp_path: Path) -> None:
    settings = ("generator.blocks=3", "optimizer.lr=3e-4", "ema.share=0.01", "data.resize=short:300", "adversarial.form=hinge")
    for config in (configured(method), configured(method, *settings, size=128, seed=3, init="run", precision=32)):
        path = tmp_path / "config.yaml"
        path.write_text(to_yaml(config), encoding="utf-8")
        again = from_yaml(path)
        assert again == config
        assert to_yaml(again) == to_yaml(config)
        assert type(again.generator) is type(config.generator)
        assert {name: type(term) for name, term in again.terms.items()} == {name: type(term) for name, term in config.terms.items()}
        assert set(yaml.safe_load(path.read_text())) == set(RunConfig.model_fields)  # complete
        assert validate(collect(file=path)) == config


Leaf = tuple[str, Any, Any]


def leaves(config: Config, path: str = "") -> Iterator[Leaf]:
    """(dotted path, value, annotation) of every field that holds no further record."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Config):
            yield from leaves(value, f"{path}{name}.")
        elif name == "terms":
            for term, record in value.items():
                yield from leaves(record, f"{term}.")
        elif name not in ("projector", "multiscale") or value is not None:
            yield f"{path}{name}", value, field.annotation


def fields(config: Config) -> dict[str, Any]:
    return {path: value for path, value, _ in leaves(config)}


def options(annotation: Any) -> list[Any]:
    """All values of a Literal, also inside a Union."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [option for part in get_args(annotation) for option in options(part)]


def others(path: str, value: Any, annotation: Any) -> list[Any]:
    """Values to try instead of ``value``, of the same type."""
    choices = [option for option in options(annotation) if option != value]
    choices += [True, False] if bool in get_args(annotation) else []
    if path == "data.classes":
        choices.append(SEEN)
    elif isinstance(value, bool):
        choices.append(not value)
    elif isinstance(value, int):
        choices += [value * 2, value + 1, max(value // 2, 1)]
    elif isinstance(value, float):
        choices += [value / 2, value + 0.25]
    elif isinstance(value, Size):
        choices.append("192x128")
    elif isinstance(value, tuple):
        choices += [list(value[:-1]), [0.1, 0.2], ["down1"], ["wandb"]]
    elif isinstance(value, Path) or value is None:
        choices += ["elsewhere", 0.001, 3, [[0, 9]], [1, 99]]
    elif path == "data.resize":
        choices.append("short:300")
    elif path == "data.workers":
        choices.append(3)
    return choices


def text(value: Any) -> str:
    """``value`` as one types it."""
    if isinstance(value, Size):
        value = value.short
    return str(value) if isinstance(value, str | Path) else json.dumps(value)


def at(config: Config, path: str) -> Any:
    """The value at a dotted path; a term's name stands for ``terms.<name>``."""
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part) if part in type(value).model_fields else value.terms[part]
    return value


LABELED = f"data.classes={json.dumps(SEEN)}", "data.source_labels=labels", "semantic.weight=1"
BESIDES: dict[tuple[str | None, str], tuple[str, ...]] = {
    (None, "data.source_labels"): LABELED,
    (None, "data.classes"): LABELED,
    (None, "distance.form"): ("batch=2",),
    ("fastcut", "turn"): ("flip_equivariance=false",),
    ("semst", "turn"): ("multiscale=null", "detail.weight=0"),
    ("gcgan", "flip_equivariance"): ("turn=none", "geometry.weight=0"),
    ("cyclegan", "sides"): ("cycle.weight=0",),
    ("scc", "sides"): ("cycle.weight=0",),
}
"""What else must be set where a field, of one method or of any, is to have another value."""


def with_(method: str, path: str, value: Any) -> RunConfig:
    """A method's configuration with one more setting, as a user types it, and with what that asks for."""
    return configured(method, *BESIDES.get((None, path), ()), *BESIDES.get((method, path), ()), f"{path}={text(value)}")


@each_method
def test_every_field_can_be_set(method: str) -> None:
    """``--set path=value`` of each leaf of a method's configuration, as a user types it, changes that leaf."""
    config = configured(method)
    reached = 0
    for path, value, annotation in leaves(config):
        if path in ("method", "balance") or path.endswith(".measured"):  # bookkeeping; what needs a segmenter's folder, in test_balance.py
            continue
        assert at(configured(method, f"{path}={text(value)}"), path) == value
        tried, changed = others(path, value, annotation), []
        for other in tried:
            with contextlib.suppress(UserError):  # this value is not allowed here; another will be
                changed += [now for now in [at(with_(method, path, other), path)] if now != value]
        if path.endswith("kind"):
            continue
        assert changed, f"{path}: none of {tried} can be set"
        reached += 1
    assert reached > 30


def literals() -> dict[tuple[str, str], str]:
    """Every option of every field that has options, in configurations that have all terms and networks, and a method that has it."""
    found: dict[tuple[str, str], str] = {}
    for method in METHODS:
        for path, _, annotation in leaves(configured(method)):
            for option in options(annotation) if path != "sides" and not path.endswith(".measured") else ():
                found.setdefault((path, str(option)), method)
    return found


@pytest.mark.parametrize(("path", "option"), sorted(literals()))
def test_every_option_can_be_typed(path: str, option: str) -> None:
    config = with_(literals()[path, option], path, option)
    assert str(at(config, path)) == option


@each_method
def test_unknown_keys_are_refused_with_the_nearest(method: str) -> None:
    """At every depth of the configuration: a misspelled field names the right one."""
    for path, _, _ in leaves(configured(method)):
        *places, name = path.split(".")
        if len(name) < 4:
            continue
        misspelled = ".".join([*places, name + "e"])
        with pytest.raises(UserError) as refused:
            configured(method, f"{misspelled}=1")
        assert "unknown" in str(refused.value), misspelled
        assert f"did you mean {name}?" in str(refused.value), str(refused.value)
        assert "\n" not in str(refused.value)
    for setting, expected in (
        ("robustnes.weight=1", "did you mean robustness?"),
        ("terms.robustnes.weight=1", "did you mean robustness?"),
        ("generator.kind=resnett", "did you mean resnet?"),
        ("generator.kind=[]", "unknown generator kind"),
        ("discriminator.kind={}", "unknown discriminator kind"),
        ("xyzzy=1", "there are"),
        ("generator.width", "expected key=value"),
        ("seed=[1", "cannot be read"),
        ("generator.width=0", "generator.width"),
        ("optimizer.lr=.inf", "optimizer.lr"),
    ):
        with pytest.raises(UserError, match=expected.replace("?", r"\?")):
            configured(method, setting)
    with pytest.raises(UserError, match="did you mean srunit"):
        configured("srunitt")


def test_precedence() -> None:
    """The method's defaults, then the file, then fields, then settings; a file of another method is refused."""
    assert configured("fastcut").terms["nce"].weight == 10
    assert configured("fastcut", "nce.weight=3").terms["nce"].weight == 3
    assert configured("fastcut", "nce.weight=3").terms["nce"].temperature == 0.07
    assert configured("fastcut", "seed=5", seed=4).seed == 5
    assert configured("fastcut", "data.source=c").data.source == Path("c")


def test_a_file_comes_after_the_method_and_before_settings(tmp_path: Path) -> None:
    path = tmp_path / "part.yaml"
    path.write_text("method: fastcut\nseed: 7\nterms:\n  nce: {patches: 9}\ngenerator: {width: 5}\n")
    config = configured(None, "generator.blocks=2", file=path)
    assert (config.method, config.seed, config.generator.width, config.generator.blocks) == ("fastcut", 7, 5, 2)
    assert (config.terms["nce"].patches, config.terms["nce"].weight) == (9, 10)
    assert configured(None, "seed=9", file=path, seed=8).seed == 9
    assert configured(None, file=path, seed=8).seed == 8
    with pytest.raises(UserError, match="fastcut, not cut"):
        configured("cut", file=path)


def test_the_form_of_robustness_brings_its_weight_and_noise() -> None:
    for form, weight, noise in (("paper", 1.84, 1e-3), ("as_released", 1e-3, 1e-3), ("relative", 1.84, 0.1)):
        term = configured("srunit", f"robustness.form={form}").terms["robustness"]
        assert (term.weight, term.noise) == (weight, noise)
        assert configured("srunit", f"robustness.form={form}", "robustness.noise=0.5").terms["robustness"].noise == 0.5
        assert configured("srunit", f"robustness.form={form}", "robustness.weight=0.5").terms["robustness"].weight == 0.5
        assert configured("srunit", f"robustness.form={form}", "robustness.start=0").terms["robustness"].weight == weight


def test_taps_follow_the_number_of_blocks() -> None:
    assert configured("cut").generator.taps == ("pad", "down1", "down2", "block1", "block5")
    assert configured("cut", "generator.blocks=4").generator.taps == ("pad", "down1", "down2", "block1", "block4")
    assert configured("cut", "generator.blocks=1").generator.taps == ("pad", "down1", "down2", "block1")
    assert configured("cut", "generator.taps=[down1, block9]").generator.taps == ("down1", "block9")


def test_intervals_follow_the_budget() -> None:
    config = configured("cut", budget=5000)
    assert (config.log_every, config.sample_every) == (50, 500)
    assert 500 <= config.checkpoint_every <= 5000
    config = configured("cut", budget=10**6)
    assert (config.log_every, config.sample_every) == (100, 5000)
    assert config.checkpoint_every <= 10_000
    config = configured("cut", budget=3)
    assert config.log_every == config.sample_every == config.checkpoint_every == 1
    assert configured("cut", "log_every=7").log_every == 7


def test_the_size_must_fit_the_networks() -> None:
    with pytest.raises(UserError, match=r"size 30 is not a multiple of 4, .*; try 32"):
        configured("cut", size=30)
    with pytest.raises(UserError, match="size 16 is too small for the discriminator, which needs 32"):
        configured("cut", size=16)
    assert configured("cut", "discriminator.layers=2", size=16).size == Size(16, 16)
    with pytest.raises(UserError, match=r"size 64x30 is not a multiple of 4, .*; try 64x32"):
        configured("cut", size="64x30")
    with pytest.raises(UserError, match=r"size 30x64 is not a multiple of 4, .*; try 32x64"):
        configured("cut", size="30x64")
    for oblong in ("64x16", "16x64"):
        with pytest.raises(UserError, match=f"size {oblong} is too small for the discriminator, which needs 32"):
            configured("cut", size=oblong)
    assert configured("cut", size="64x32").size == Size(width=64, height=32)


def test_the_size_must_fit_both_scales() -> None:
    with pytest.raises(UserError, match=r"size 68 is not a multiple of 8, .*; try 72"):
        configured("cut", "multiscale={}", size=68)
    with pytest.raises(UserError, match=r"size 56 is too small for the discriminator with multiscale, .*, which needs 64"):
        configured("cut", "multiscale={}", size=56)
    assert configured("cut", "multiscale={}", size="96x64").multiscale.window == Size(48, 32)
    assert configured("cut", "multiscale.window=64x32", size=128).multiscale.window == Size(64, 32)


def test_two_scales_can_be_switched_on_and_off() -> None:
    assert configured("cut").multiscale is None
    assert configured("cut", "multiscale.attention=8").multiscale == MultiscaleConfig(attention=8, window="128")
    for setting in ("multiscale=null", "multiscale=elsewhere"):
        with pytest.raises(UserError):
            configured("cut", setting, "detail.weight=1")
    assert configured("cut", "multiscale={}", "multiscale=null").multiscale is None
    with pytest.raises(UserError, match="term detail needs detail, which a method without multiscale does not produce"):
        configured("cut", "detail.weight=1")
    with pytest.raises(UserError, match="turn and multiscale cannot be combined"):
        configured("cut", "multiscale={}", "turn=flip")
    with pytest.raises(UserError, match="turn and flip_equivariance cannot be combined"):
        configured("fastcut", "turn=flip")


def test_a_term_of_another_method_can_be_added() -> None:
    config = configured("cut", "robustness.weight=1")
    assert config.terms["robustness"] == TERMS["robustness"](weight=1)
    with pytest.raises(UserError, match="term cycle needs cycled, which a method with sides=1 does not produce"):
        configured("cut", "cycle.weight=1")
    assert set(configured("cut", "cycle.weight=1", "sides=2").terms) == {"adversarial", "nce", "identity_nce", "cycle"}


class Second(ResnetConfig):
    """A second kind of generator, as somebody would add one."""

    kind: Literal["second"] = "second"  # type: ignore[assignment]
    extra: int = 1


def test_a_second_kind_of_network_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(GENERATORS, "second", Second)
    config = configured("cut", "generator.kind=second", "generator.extra=2")
    assert type(config.generator) is Second and config.generator.extra == 2
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert from_yaml(path) == config and type(from_yaml(path).generator) is Second


def test_a_method_may_use_the_second_kind_of_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GENERATORS, "second", Second)
    cut = METHODS["cut"]
    recipe = cut.recipe.model_copy(update={"generator": Second(blocks=2)})
    monkeypatch.setitem(METHODS, "other", cut.model_copy(update={"name": "other", "recipe": recipe}))
    assert type(configured("other").generator) is Second


def test_settings_do_not_rename_the_method() -> None:
    try:
        config = configured("srunit", "method=cut")
    except UserError:
        return
    assert set(config.terms) == set(METHODS[config.method].recipe.terms)


def test_a_term_is_no_field() -> None:
    with pytest.raises(UserError) as refused:
        configured("cut", "cycle=1")
    assert "unknown" not in str(refused.value)


def test_unions_are_walked() -> None:
    """The check of every field would be empty if the options of fields were not found."""
    assert options(Union[Literal["a", "b"], int]) == ["a", "b"]  # noqa: UP007
    assert len(literals()) > 20


def test_another_kind_leaves_nothing_of_the_first() -> None:
    config = configured("semst", "nce.negatives.kind=uniform")
    assert config.terms["nce"].model_dump()["negatives"] == {"kind": "uniform"}
    assert configured("cut", "nce.negatives.beta=2", "nce.negatives.kind=hard").terms["nce"].negatives.beta == 2, "in any order"
    assert configured("cyclegan", "discriminator.kind=hypervector").discriminator.kind == "hypervector"


def test_another_kind_than_a_files(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(configured("semst")))
    assert configured(None, "nce.negatives.kind=uniform", file=path).terms["nce"].negatives.kind == "uniform"
    path.write_text("data: foo\n")
    with pytest.raises(UserError, match=r"^data"):
        validate(collect("cut", file=path, budget=5))


def test_a_window_must_fit_the_generator() -> None:
    for window in (10, 4):
        with pytest.raises(UserError, match=r"window 10: sides must be|window 4: sides must be"):
            configured("semst", f"multiscale.window={window}", size=64)
    assert configured("semst", size="256x128").multiscale.window == (128, 64)


def test_a_step_in_which_all_terms_pause() -> None:
    recipe = small_recipe(METHODS["cut"].recipe)
    terms = {name: term.model_copy(update={"every": 2}) for name, term in recipe.terms.items()}
    players = Players.of(recipe.model_copy(update={"terms": terms}))
    assert players.weights(step=1) == {}
    total, parts, _ = losses(players, {})
    assert float(total.detach()) == 0 and parts == {}
    total.backward()
    assert all(p.grad is None or not p.grad.any() for p in players.generator.parameters())
