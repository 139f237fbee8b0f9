"""LSeSim against loops in NumPy, and its two games kept apart: the translation's and the projection's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from helpers import images, noise, rng, same, scale_weights, untouched_global_rng
from unflip.losses import Nets, Setting, Site
from unflip.losses.draws import Stream
from unflip.losses.self_similarity import Choices, SelfSimilarity, contrast, dissimilarity, places, recolored, self_similarity
from unflip.networks.features import features
from unflip.types import Step

SMALL: dict[str, Any] = {"features": {"weights": "random"}, "queries": 8}


def check(ours: Callable[[Tensor], Tensor], theirs: Callable[[np.ndarray], float], x: Tensor) -> None:
    """Value and some of the gradient of ``ours`` are those of the independent ``theirs``."""
    x = x.clone().requires_grad_()
    value = ours(x)
    value.backward()
    assert math.isclose(float(value.detach()), theirs(x.detach().numpy()), rel_tol=1e-9)
    expected, found = [], []
    for place in np.random.default_rng(0).choice(x.numel(), 12, replace=False):
        ends = []
        for sign in (1, -1):
            moved = x.detach().numpy().copy()
            moved.reshape(-1)[place] += sign * 1e-6
            ends.append(theirs(moved))
        expected.append((ends[0] - ends[1]) / 2e-6)
        found.append(float(x.grad.flatten()[place]))
    assert np.abs(expected).max() > 1e-6, "a gradient to compare with"
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


# --- the maps


def map_of(features: np.ndarray, position: int, window: int, similarity: str) -> list[float]:
    """Features ``(C, h, w)``: how alike the one at ``position`` is to each of its surroundings."""
    c, h, w = features.shape
    features = features - features.mean((1, 2), keepdims=True)
    row, column = divmod(position, w)
    top, left = (min(max(at - window // 2, 0), max(side - window, 0)) for at, side in ((row, h), (column, w)))
    values = []
    for y in range(top, min(top + window, h)):
        for x in range(left, min(left + window, w)):
            a, b = features[:, row, column], features[:, y, x]
            if similarity == "cosine":
                values.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
            else:
                values.append(math.tanh(float(a @ b) / c / 10))
    return values


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("window", [1, 4, 5, 6, 64])
def test_maps_of_every_position(similarity: Any, window: int) -> None:
    f = 4 * noise(2, 7, 5, 6)
    queries = torch.stack([torch.arange(30), torch.arange(29, -1, -1)])
    maps = self_similarity(f, queries, window, similarity)
    assert maps.shape == (2, 30, min(window, 5) * min(window, 6))
    for n in range(2):
        expected = [map_of(f[n].numpy(), int(q), window, similarity) for q in queries[n]]
        assert np.allclose(maps[n], expected, rtol=1e-9, atol=1e-12)
    assert torch.allclose(self_similarity(f + noise(2, 7, 1, 1), queries, window, similarity), maps), "a color cast changes nothing"


def loss_of(source: np.ndarray, fake: np.ndarray, queries: np.ndarray, window: int, share: float, similarity: str, distance: str) -> float:
    """Features ``(N, C, h, w)`` and positions ``(N, P)``."""

    def error(a: float) -> float:
        a = abs(a)
        return a if similarity == "cosine" else (a * a / 2 if a < 1 else a - 0.5)

    values = []
    for s, f, positions in zip(source, fake, queries, strict=True):
        for position in positions:
            a, b = (np.array(map_of(x, int(position), window, similarity)) for x in (s, f))
            compared = max(int(share * len(a)), 1)
            if compared < len(a):
                keep = b >= np.sort(b)[::-1][compared]
                a, b = a * keep, b * keep
            if distance == "cos":
                values.append(error(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
            else:
                values.append(sum(error(len(a) / compared * (x - y)) for x, y in zip(a, b, strict=True)) / len(a))
    return float(np.mean(values))


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("distance", ["cos", "l1"])
@pytest.mark.parametrize(("window", "share"), [(64, 0.25), (3, 0.25), (3, 1.0), (4, 0.01)])
def test_the_loss(similarity: Any, distance: Any, window: int, share: float) -> None:
    source, queries = 5 * noise(2, 4, 5, 6), torch.from_numpy(np.random.default_rng(0).integers(0, 30, (2, 5)))
    fake = source + 4 * noise(2, 4, 5, 6, seed=1)

    def ours(x: Tensor) -> Tensor:
        maps = (self_similarity(f, queries, window, similarity) for f in (source, x))
        return dissimilarity(*maps, share, distance, similarity == "dot").mean()

    check(ours, lambda x: loss_of(source.numpy(), x, queries.numpy(), window, share, similarity, distance), fake)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("distance", ["cos", "l1"])
def test_the_gradient_is_finite_at_its_edges(similarity: Any, distance: Any) -> None:
    """For a translation that is the source, or that shows nothing at all."""
    source = noise(1, 4, 5, 6)
    queries = torch.arange(30)[None]
    for fake in (source.clone(), torch.zeros_like(source), torch.ones_like(source)):
        fake.requires_grad_()
        loss = dissimilarity(*(self_similarity(f, queries, 64, similarity) for f in (source, fake)), 0.25, distance).mean()
        loss.backward()
        assert fake.grad.isfinite().all()
        assert loss.isfinite() and (loss.detach() < 1e-9) == bool(fake.equal(source))


def test_places_are_different_and_all_equally_likely() -> None:
    u = torch.from_numpy(np.random.default_rng(0).random((40_000, 9), dtype=np.float32))
    for size in (5, 8, 11, 16, 27):
        drawn = places(u, size)
        count = min(8, size)
        assert drawn.shape == (40_000, count)
        assert drawn.min() == 0 and drawn.max() == size - 1
        assert (drawn.sort(1).values.diff(dim=1) > 0).all()
        share = drawn.flatten().bincount(minlength=size) / drawn.numel()
        assert (share * size - 1).abs().max() < 0.03
    ends = torch.tensor([[0.0] * 9, [np.nextafter(np.float32(1), np.float32(0))] * 9])
    for size in (3, 10_007):
        assert places(ends, size).min() >= 0 and places(ends, size).max() < size
        assert all(len(set(row.tolist())) == min(8, size) for row in places(ends, size))


# --- the projection's game


def contrast_of(s: np.ndarray, t: np.ndarray, o: np.ndarray, temperature: float) -> float:
    s, t, o = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (s, t, o))
    values = []
    for n in range(len(s)):
        for i in range(s.shape[1]):
            wrong = [x @ y for x, y in [(s[n, i], o[n, j]) for j in range(s.shape[1])] + [(t[n, i], o[n, j]) for j in range(s.shape[1])]]
            found = [s[n, i] @ t[n, j] for j in range(s.shape[1])]
            values.append(math.log(sum(math.exp(x / temperature) for x in found + wrong)) - found[i] / temperature)
    return float(np.mean(values))


def test_contrast() -> None:
    s, t, o = (noise(2, 4, 6, seed=i) for i in range(3))
    t = s + 0.5 * t
    for x, ours, theirs in (
        (s, lambda x: contrast(x, t, o, 0.3).mean(), lambda x: contrast_of(x, t.numpy(), o.numpy(), 0.3)),
        (t, lambda x: contrast(s, x, o, 0.3).mean(), lambda x: contrast_of(s.numpy(), x, o.numpy(), 0.3)),
        (o, lambda x: contrast(s, t, x, 0.3).mean(), lambda x: contrast_of(s.numpy(), t.numpy(), x, 0.3)),
    ):
        check(ours, theirs, x)
    assert contrast(100 * s, s, -s, 1e-3).max() < 1e-9, "lengths do not count, and no exponential overflows"


def test_recolored() -> None:
    x = images(3, 8) * 0.3
    neutral = torch.full((3, 4), 0.5, dtype=torch.float64)
    assert torch.allclose(recolored(x, neutral), x)
    u = torch.from_numpy(np.random.default_rng(1).random((3, 4)))
    changed = recolored(x, u)
    for image, (brightness, contrast_, saturation, hue), ours in zip(x.numpy(), u.numpy(), changed.numpy(), strict=True):
        values = (image + 1) / 2 * (0.5 + brightness)
        values = values.mean() + (0.5 + contrast_) * (values - values.mean())
        turn = Rotation.from_rotvec(2 * np.pi * 0.6 * (hue - 0.5) * np.ones(3) / 3**0.5)
        for place in np.ndindex(8, 8):
            color = values[:, *place]
            gray = np.full(3, color.mean())
            expected = np.clip(gray + (0.5 + saturation) * turn.apply(color - gray), 0, 1)
            assert np.allclose(ours[:, *place], 2 * expected - 1)
    white = recolored(torch.full((1, 3, 2, 2), 0.9), torch.tensor([[0.99, 0.5, 0.9, 0.1]]))
    assert torch.allclose(white, torch.ones(1), atol=1e-6), "values stay in [-1, 1], gray stays gray"


# --- the term


def stream(n: int = 2, first: int = 0) -> Stream:
    return Stream(0, ("term",), first, n, torch.device("cpu"), first, 0.5)


def nets(own: nn.Module | None = None) -> Nets:
    nothing = cast(Any, None)
    return Nets(nothing, None, nothing, own)


def built(term: SelfSimilarity) -> nn.Module | None:
    own = term.build(Site((), (3, 3), rng()))
    return None if own is None else scale_weights(own, gain=1.0)


def step(n: int = 2, size: int = 32) -> Step:
    source, target = images(n, size), images(n, size, seed=1)
    return Step(source, target, (0.6 * source + 0.4 * images(n, size, seed=2)).requires_grad_())


def test_fixed_is_the_mean_over_layers_of_the_loss() -> None:
    term = SelfSimilarity(**SMALL, window=3, layers=("relu2_2", "relu4_1"))
    drawn = term.draw(stream(), ())
    see = features(term.features, term.layers)
    x = step()
    values = []
    for i, (a, b) in enumerate(zip(see(x.source), see(x.fake.detach()), strict=True)):
        queries = places(drawn.queries[:, i], a.shape[-2] * a.shape[-1])
        assert queries.shape == (2, 8)
        values.append(loss_of(a.numpy(), b.numpy(), queries.numpy(), 3, 0.25, "cosine", "cos"))
    value = term(x, drawn, nets())
    assert math.isclose(float(value.detach()), np.mean(values), rel_tol=1e-9)
    value.backward()
    assert x.fake.grad.abs().max() > 0
    assert term.build(Site((), (3, 3), rng())) is None


@pytest.mark.parametrize("form", ["fixed", "learned"])
@pytest.mark.parametrize("size", [(32, 32), (36, 52)])
def test_any_size_and_any_batch(form: Any, size: tuple[int, int]) -> None:
    layers = ("relu2_2", "relu4_1") if form == "fixed" else ("relu1_1", "relu2_1")
    term = SelfSimilarity(form=form, features={"weights": "random"}, layers=layers, window=9)
    own = built(term)
    height, width = size
    source, target, fake = (images(2, 64, seed=i)[..., :height, :width] for i in range(3))

    def value(rows: slice) -> float:
        n = len(source[rows])
        drawn = term.draw(stream(n, rows.start), ())
        with torch.no_grad(), untouched_global_rng():
            return float(term(Step(source[rows], target[rows], fake[rows]), drawn, nets(own)))

    parts = [value(slice(i, i + 1)) for i in range(2)]
    assert min(parts) > 0.01 and max(parts) < 2
    assert math.isclose(value(slice(0, 2)), np.mean(parts), rel_tol=1e-9)


def test_looks_count_less_than_content() -> None:
    term = SelfSimilarity(features={"weights": "random"})
    source = images(2, 32)
    drawn = term.draw(stream(), ())
    looks = recolored(source, torch.tensor([[0.2, 0.3, 0.6, 0.9], [0.7, 0.6, 0.3, 0.2]], dtype=torch.float64))
    values = [float(term(Step(source, source, fake), drawn, nets())) for fake in (source, looks, images(2, 32, seed=1), source.flip(-1))]
    assert values[0] < 1e-9 < values[1] < 0.5 * min(values[2:]), values


def test_learned_keeps_the_two_games_apart() -> None:
    """The value and the translation's gradient are the loss's with a fixed projection, the projection's gradient its contrast's alone."""
    fields: dict[str, Any] = SMALL | {"form": "learned", "layers": ("relu1_2", "relu2_1")}
    term = SelfSimilarity(**fields)
    own = built(term)
    assert isinstance(own, nn.ModuleList)
    drawn = term.draw(stream(), ())
    assert drawn.jitter.shape == (2, 2, 4)
    x = step()
    value = term(x, drawn, nets(own))
    value.backward()
    grads = [p.grad.clone() for p in own.parameters()]
    assert all(g.abs().max() > 0 for g in grads)

    see = features(term.features, term.layers)
    looks = [recolored(images_, drawn.jitter[:, i]) for i, images_ in enumerate((x.source, x.target))]
    own.zero_grad()

    def maps(image: Tensor, i: int) -> Tensor:
        f = own[i](see(image)[i])
        return self_similarity(f, places(drawn.queries[:, i], f.shape[-2] * f.shape[-1]), 64, "cosine")

    fake = x.fake.detach().requires_grad_()
    apart, games = [], []
    for i in range(2):
        apart.append(dissimilarity(maps(x.source, i), maps(fake, i), 0.25, "cos").mean())
        games.append(contrast(maps(x.source, i), maps(fake.detach(), i), maps(x.target.flip(2).flip(3), i), 0.07).mean())
        games.append(contrast(maps(x.source, i), maps(looks[0], i), maps(looks[1].flip(2).flip(3), i), 0.07).mean())
    assert same(value, torch.stack(apart).mean())
    (expected,) = torch.autograd.grad(torch.stack(apart).mean(), fake)
    assert same(x.fake.grad, expected) and expected.abs().max() > 0
    torch.stack(games).mean().backward()
    for g, p in zip(grads, own.parameters(), strict=True):
        assert same(g, p.grad, 1e-9)


def test_training_the_projection_makes_it_find_its_places_again() -> None:
    term = SelfSimilarity(**SMALL, form="learned", layers=("relu2_1",), temperature=0.3)
    own = term.build(Site((), (3, 3), rng()))
    assert own is not None
    own.double()
    adam = torch.optim.Adam(own.parameters(), 3e-3)
    drawn, x = term.draw(stream(), ()), step(2, 16)
    source, fake = (features(term.features, term.layers)(image) for image in (x.source, x.fake.detach()))

    def game() -> float:
        assert isinstance(own, nn.ModuleList)
        with torch.no_grad():
            return float(term._training(x, drawn, [*own], source, fake))

    before = game()
    for _ in range(8):
        adam.zero_grad()
        term(x, drawn, nets(own)).backward()
        adam.step()
    assert game() < 0.8 * before


def test_draws() -> None:
    fixed, learned = (SelfSimilarity(**SMALL, form=form) for form in ("fixed", "learned"))
    assert fixed.draw(stream(), ()).jitter is None
    assert SelfSimilarity(form="learned", recolor=False).draw(stream(), ()).jitter is None
    both, second = learned.draw(stream(2), ()), learned.draw(stream(1, 1), ())
    assert isinstance(both, Choices) and both.queries.shape == (2, 3, 9)
    assert torch.equal(both.queries[1:], second.queries) and torch.equal(both.jitter[1:], second.jitter)
    assert not torch.equal(both.queries[0], both.queries[1]) and not torch.equal(both.queries[0, 0], both.queries[0, 1])


def test_configuration() -> None:
    term = SelfSimilarity()
    assert (term.weight, term.queries, term.window, term.form) == (10.0, 256, 64, "fixed")
    assert term.remark() is None
    assert "random" in str(SelfSimilarity(**SMALL).remark())
    assert term.problem(Setting(16, 16, 1, ())) is None
    assert "at least 16 pixels" in str(term.problem(Setting(64, 12, 1, ())))
    with pytest.raises(ValueError, match="unknown layer of vgg16 'relu9_1'; did you mean relu"):
        SelfSimilarity(layers=("relu9_1",))
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        SelfSimilarity(window=1)
