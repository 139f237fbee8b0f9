"""Losses against computations of their own: loops and closed forms in float64, values and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import torch
from torch import Tensor, nn

from helpers import Players, images, lively, noise, rng, same, scale_weights, small_generator, small_recipe
from unflip.losses import TERMS, Nets, adversarial, nce, precision, robustness
from unflip.losses.adversarial import Adversarial, discriminator_loss, generator_loss
from unflip.losses.draws import Draws, Stream, TapShape, gather
from unflip.losses.nce import IdentityNCE, PatchNCE, patch_nce
from unflip.losses.reconstruction import Cycle, Identity, mean_absolute_error
from unflip.losses.robustness import Perturbation, Robustness, distance, magnitudes, unit
from unflip.methods import METHODS
from unflip.methods.passes import FORWARD, translate
from unflip.networks import Generator, Projector, ProjectorConfig
from unflip.networks.blocks import BlurDown
from unflip.types import Batch, Shown, Step

FORMS = ("least_squares", "hinge", "logistic")
ROBUSTNESS = ("paper", "as_released", "relative")


def slope(function: Callable[[np.ndarray], float], x: Tensor, points: int = 12, h: float = 1e-6) -> tuple[list[int], np.ndarray]:
    """Central differences of a NumPy function at some places of ``x``."""
    places = np.random.default_rng(0).choice(x.numel(), min(points, x.numel()), replace=False).tolist()
    values = []
    for place in places:
        ends = []
        for sign in (1, -1):
            moved = x.detach().numpy().copy()
            moved.reshape(-1)[place] += sign * h
            ends.append(function(moved))
        values.append((ends[0] - ends[1]) / (2 * h))
    return places, np.array(values)


def check(ours: Callable[[Tensor], Tensor], theirs: Callable[[np.ndarray], float], x: Tensor, rtol: float = 1e-9) -> None:
    """Value and gradient of ``ours`` are those of the independent ``theirs``."""
    x = x.clone().requires_grad_()
    value = ours(x)
    value.backward()
    assert value.ndim == 0
    assert math.isclose(float(value.detach()), theirs(x.detach().numpy()), rel_tol=rtol, abs_tol=1e-12)
    places, expected = slope(theirs, x)
    assert np.abs(expected).max() > 1e-6, "a gradient to compare with"
    assert np.allclose(x.grad.flatten()[places], expected, rtol=1e-5, atol=1e-7 * np.abs(expected).max() + 1e-9)


# --- the game


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


PER_LOGIT: dict[str, tuple[Callable[[float], float], Callable[[float], float], Callable[[float], float]]] = {
    # on a translation for the generator; on a real image and on a translation for the discriminator
    "least_squares": (lambda x: (x - 1) ** 2, lambda x: (x - 1) ** 2, lambda x: x**2),
    "hinge": (lambda x: -x, lambda x: max(0.0, 1 - x), lambda x: max(0.0, 1 + x)),
    "logistic": (lambda x: -log_sigmoid(x), lambda x: -log_sigmoid(x), lambda x: -log_sigmoid(-x)),
}


def mean_of(f: Callable[[float], float]) -> Callable[[np.ndarray], float]:
    return lambda x: sum(f(float(value)) for value in x.reshape(-1)) / x.size


@pytest.mark.parametrize("form", FORMS)
def test_adversarial_losses(form: Any) -> None:
    logits, other = 2 * noise(2, 1, 3, 4, seed=1), 2 * noise(2, 1, 3, 4, seed=2)
    for_generator, on_real, on_fake = PER_LOGIT[form]
    check(lambda x: generator_loss(x, form), mean_of(for_generator), logits)
    check(lambda x: discriminator_loss(x, other, form)[0], mean_of(on_real), logits)
    check(lambda x: discriminator_loss(other, x, form)[1], mean_of(on_fake), logits)
    assert torch.autograd.gradcheck(lambda x: generator_loss(x, form), logits.requires_grad_())


def test_the_logistic_loss_survives_large_logits() -> None:
    logits = torch.tensor([-1e4, 1e4], dtype=torch.float64)
    assert float(generator_loss(logits, "logistic")) == 5e3
    assert [float(value) for value in discriminator_loss(logits, logits, "logistic")] == [5e3, 5e3]


@pytest.mark.parametrize("form", FORMS)
def test_adversarial_term(form: Any) -> None:
    discriminator = scale_weights(nn.Conv2d(3, 1, 4, stride=2))
    weight, bias = discriminator.weight.detach().numpy(), float(discriminator.bias.detach())

    def independent(x: np.ndarray) -> float:
        windows = np.lib.stride_tricks.sliding_window_view(x, (4, 4), axis=(2, 3))[:, :, ::2, ::2]
        return mean_of(PER_LOGIT[form][0])(np.einsum("nihwyx,oiyx->nohw", windows, weight) + bias)

    def ours(x: Tensor) -> Tensor:
        return Adversarial(form=form)(Step(x, x, x), None, Nets(None, None, discriminator))  # type: ignore[arg-type]

    check(ours, independent, images(2, 10))


@pytest.mark.parametrize("form", FORMS)
def test_discriminators_total_is_half_the_sum(form: Any) -> None:
    recipe = small_recipe(METHODS["cyclegan"].recipe, terms={"adversarial": {"form": form}})
    players = Players.of(recipe)
    reals = {side: images(2, seed=i) for i, side in enumerate(players.discriminator.networks)}
    fakes = {side: images(2, seed=i + 5) for i, side in enumerate(players.discriminator.networks)}
    total, parts = players.discriminator({side: Shown(reals[side], fakes[side]) for side in reals})
    real = sum(mean_of(PER_LOGIT[form][1])(network(reals[s]).detach().numpy()) for s, network in players.discriminator.networks.items())
    fake = sum(mean_of(PER_LOGIT[form][2])(network(fakes[s]).detach().numpy()) for s, network in players.discriminator.networks.items())
    assert math.isclose(float(total.detach()), (real + fake) / 2, rel_tol=1e-12)
    assert math.isclose(float(parts["discriminator_real"]), real, rel_tol=1e-12)
    assert math.isclose(float(parts["discriminator_fake"]), fake, rel_tol=1e-12)
    assert not any(part.requires_grad for part in parts.values())


# --- pixels


def test_mean_absolute_error_and_its_terms() -> None:
    x, reference = noise(2, 3, 4, 5, seed=1), noise(2, 3, 4, 5, seed=2)

    def independent(values: np.ndarray) -> float:
        return sum(abs(a - b) for a, b in zip(values.reshape(-1).tolist(), reference.flatten().tolist(), strict=True)) / values.size

    wrong = torch.zeros_like(x)
    check(lambda y: mean_absolute_error(y, reference), independent, x)
    check(lambda y: Cycle()(Step(reference, wrong, wrong, cycled=y), None, None), independent, x)  # type: ignore[arg-type]
    check(lambda y: Identity()(Step(wrong, reference, wrong, identity=y), None, None), independent, x)  # type: ignore[arg-type]


def test_the_cycle_goes_there_and_back_from_both_sides() -> None:
    players = Players.of(small_recipe(METHODS["cyclegan"].recipe))
    b = Batch(images(1, seed=1), images(1, seed=2), 0, 0)
    weights = players.weights()
    _, parts, shown = players.generator(b, players.draws(weights, n=1), weights, players.discriminator.frozen())
    there, back = players.generator.generators["to_target"], players.generator.generators["to_source"]
    with torch.no_grad():
        assert same(lively(shown["to_target"][1]), there(b.source))
        assert same(lively(shown["to_source"][1]), back(b.target))
        assert [pair.real is x for pair, x in zip(shown.values(), (b.target, b.source), strict=True)] == [True, True]
        cycle = (back(there(b.source)) - b.source).abs().mean() + (there(back(b.target)) - b.target).abs().mean()
        identity = (there(b.target) - b.target).abs().mean() + (back(b.source) - b.source).abs().mean()
        wrong = (there(there(b.source)) - b.source).abs().mean() + (back(back(b.target)) - b.target).abs().mean()
    assert same(parts["cycle"], cycle)
    assert same(parts["identity"], identity)
    assert not same(parts["cycle"], wrong, 1e-3)


# --- PatchNCE


def nce_by_loops(queries: np.ndarray, keys: np.ndarray, temperature: float) -> float:
    """-log of the positive's share of the softmax, for every patch of every image."""
    losses = []
    for image in range(len(queries)):
        for i, query in enumerate(queries[image]):
            scores = [math.fsum(float(a) * float(b) for a, b in zip(query, key, strict=True)) / temperature for key in keys[image]]
            highest = max(scores)
            losses.append(highest + math.log(math.fsum(math.exp(score - highest) for score in scores)) - scores[i])
    return math.fsum(losses) / len(losses)


def directions(*shape: int, seed: int = 0) -> Tensor:
    x = noise(*shape, seed=seed)
    return x / x.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("n", [1, 3])
def test_patch_nce(n: int) -> None:
    queries, keys = directions(n, 6, 5, seed=1), directions(n, 6, 5, seed=2)
    check(lambda q: patch_nce(q, keys, 0.07), lambda q: nce_by_loops(q, keys.numpy(), 0.07), queries)
    assert torch.autograd.gradcheck(lambda q: patch_nce(q, keys, 0.3), queries.clone().requires_grad_())


def test_patch_nce_gives_keys_no_gradient() -> None:
    queries, keys = directions(2, 6, 5, seed=1).requires_grad_(), directions(2, 6, 5, seed=2).requires_grad_()
    patch_nce(queries, keys, 0.07).backward()
    assert queries.grad.abs().max() > 0
    assert keys.grad is None


def test_patch_nce_does_not_depend_on_batching() -> None:
    """A batch's loss is the mean over its images, also in a short last batch: other images are no negatives."""
    queries, keys = directions(5, 8, 4, seed=1), directions(5, 8, 4, seed=2)
    alone = [patch_nce(queries[i : i + 1], keys[i : i + 1], 0.07) for i in range(5)]
    for first, last in ((0, 5), (0, 4), (4, 5), (1, 3)):
        assert same(patch_nce(queries[first:last], keys[first:last], 0.07), torch.stack(alone[first:last]).mean())
    together = nce_by_loops(queries.reshape(1, 40, 4).numpy(), keys.reshape(1, 40, 4).numpy(), 0.07)
    assert together > float(torch.stack(alone).mean()) + 0.1  # the broken twin: all images' patches as negatives


def test_patch_nce_of_a_perfect_match() -> None:
    """Orthogonal keys, each its own query: log(1 + (P - 1) exp(-1/T))."""
    q = torch.eye(6, dtype=torch.float64)[None]
    assert math.isclose(float(patch_nce(q, q, 0.5)), math.log(1 + 5 * math.exp(-2)), rel_tol=1e-12)
    assert math.isclose(float(patch_nce(q, q.roll(1, 1), 0.5)), math.log(1 + 5 * math.exp(-2)) + 2, rel_tol=1e-12)


class Mlp:
    """One head of a projector in NumPy."""

    def __init__(self, projector: Projector, tap: int) -> None:
        self.w1, self.b1, self.w2, self.b2 = (p.detach().numpy().copy() for p in projector.heads[tap].parameters())

    def __call__(self, x: np.ndarray) -> np.ndarray:
        y = np.maximum(x @ self.w1.T + self.b1, 0) @ self.w2.T + self.b2
        return y / np.sqrt((y**2).sum(-1, keepdims=True))


def patches(features: np.ndarray, positions: Tensor) -> np.ndarray:
    """``(N, P, C)``: the features at row-major positions, by loops."""
    width = features.shape[3]
    return np.array([[image[:, p // width, p % width] for p in row] for image, row in zip(features, positions.tolist(), strict=True)])


def projector_for(*channels: int, width: int = 8) -> Projector:
    return scale_weights(ProjectorConfig(width=width).build(channels, rng()))


@pytest.mark.parametrize(("term", "output", "source"), [(PatchNCE(), "fake", "source"), (IdentityNCE(), "identity", "target")])
def test_nce_terms(term: PatchNCE, output: str, source: str) -> None:
    """The mean over the taps, and which features are the queries and which the keys."""
    projector = projector_for(3, 4)
    names = ("source", "target", "fake", "identity")
    others = {name: (noise(2, 3, 4, 5, seed=i), noise(2, 4, 2, 3, seed=i)) for i, name in enumerate(names)}
    positions = (torch.tensor([[0, 7, 19, 3], [1, 2, 18, 5]]), torch.tensor([[5, 0, 2], [1, 3, 4]]))
    nets = Nets(None, projector, None)  # type: ignore[arg-type]

    def independent(first: np.ndarray) -> float:
        taps = []
        for tap, values in enumerate((first, others[output][1].numpy())):
            mlp = Mlp(projector, tap)
            keys = mlp(patches(others[source][tap].numpy(), positions[tap]))
            taps.append(nce_by_loops(mlp(patches(values, positions[tap])), keys, 0.07))
        return sum(taps) / 2

    def ours(first: Tensor) -> Tensor:
        features = {**others, output: (first, others[output][1])}
        return term(Step(*[images(2, 8)] * 3, features=features), positions, nets)

    check(ours, independent, others[output][0])


def test_nce_gives_the_source_no_gradient_and_moves_the_projector() -> None:
    projector = projector_for(3)
    source, fake = noise(2, 3, 4, 4, seed=1).requires_grad_(), noise(2, 3, 4, 4, seed=2).requires_grad_()
    step = Step(*[images(2, 8)] * 3, features={"source": (source,), "fake": (fake,)})
    PatchNCE()(step, (torch.arange(8).expand(2, 8),), Nets(None, projector, None)).backward()  # type: ignore[arg-type]
    assert source.grad is None
    assert fake.grad.abs().max() > 0
    assert all(p.grad.abs().max() > 0 for p in projector.parameters())


@pytest.mark.parametrize("name", [name for name, term in TERMS.items() if "patches" in term.model_fields and name != "robustness"])
def test_one_patch_has_no_other_to_be_compared_with(name: str) -> None:
    """Its loss would be 0, whatever its weight."""
    assert TERMS[name](patches=2).patches == 2
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        TERMS[name](patches=1)


# --- robustness


def test_expected_factor_is_one() -> None:
    """E[c/m] = 1 by quadrature over the uniform number, and by sampling; also where the floor is elsewhere."""
    for noise_, floor in ((1e-3, 0.1), (0.1, 0.1), (1e-3, 0.01), (2.0, 0.7)):

        def factor(u: float, noise_: float = noise_, floor: float = floor) -> float:
            m, c = magnitudes(torch.tensor(u, dtype=torch.float64), noise_, floor)
            return c / float(m)

        assert math.isclose(scipy.integrate.quad(factor, 0, 1)[0], 1, rel_tol=1e-9)
        u = torch.from_numpy(np.random.default_rng(0).random(200_000))
        m, c = magnitudes(u, noise_, floor)
        assert floor * noise_ <= m.min() <= 1.01 * floor * noise_
        assert 0.99 * noise_ <= m.max() <= noise_
        assert abs(float((c / m).mean()) - 1) < 5 * float((c / m).std()) / 200_000**0.5
    m, c = magnitudes(u, 1e-3, 0.1)
    assert abs(float(c / 5e-4 - 1)) > 0.2  # the twin that divides by the mean magnitude is off


def test_the_default_weight_is_the_published_codes_expected_one() -> None:
    """1e-3 * E[1/m] / 5 with m uniform in [1e-7, 1e-3], by quadrature in log m."""
    span = 1e-3 - 1e-7
    mean_inverse = scipy.integrate.quad(lambda t: math.exp(-t) / span * math.exp(t), math.log(1e-7), math.log(1e-3))[0]
    assert round(1e-3 * mean_inverse / 5, 2) == 1.84
    assert Robustness().weight == Robustness(form="relative").weight == 1.84
    assert Robustness(form="as_released").weight == 1e-3

    # and the released form's own factor has that mean
    term = Robustness(form="as_released")
    h = torch.zeros(1, 1, 1, 1, dtype=torch.float64)

    def factor(t: float) -> float:  # t: the logarithm of the uniform number, which spreads its peak at 0
        u = torch.full((1, 1, 1, 1), math.exp(t), dtype=torch.float64)
        return float(term.perturb(h, Perturbation(0, torch.zeros(1, 1), torch.ones_like(h), u))[1]) * math.exp(t)

    assert math.isclose(1e-3 * scipy.integrate.quad(factor, -40, 0, limit=200)[0] / 5, 1e-3 * mean_inverse / 5, rel_tol=1e-4)


def perturbation(n: int, c: int, h: int, w: int, p: int, tap: int = 0, seed: int = 0) -> Perturbation:
    random = np.random.default_rng([seed, n, c, h, w])
    positions = np.stack([random.permutation(h * w)[:p] for _ in range(n)])
    uniform = torch.from_numpy(random.random((n, 1, h, w)))
    return Perturbation(tap, torch.from_numpy(positions), torch.from_numpy(random.standard_normal((n, c, h, w))), uniform)


def perturbed_by_loops(h: np.ndarray, drawn: Perturbation, form: str, size: float, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Perturbed features and the factor at each position, as the docstrings and papers.md 1.2 say."""
    out, factor = h.copy(), np.empty((h.shape[0], *h.shape[2:]))
    for n in range(h.shape[0]):
        for y in range(h.shape[2]):
            for x in range(h.shape[3]):
                direction = drawn.direction[n, :, y, x].double().numpy()
                direction = direction / np.linalg.norm(direction)
                u = float(drawn.uniform[n, 0, y, x])
                if form == "as_released":
                    added, divisor = size, (1 - u) * 1e-7 + u * size
                    factor[n, y, x] = 1 / divisor
                else:
                    m = (1 - u) * floor * size + u * size
                    added = m * (np.linalg.norm(h[n, :, y, x]) if form == "relative" else 1)
                    factor[n, y, x] = size * (1 - floor) / math.log(1 / floor) / m
                out[n, :, y, x] += added * direction
    return out, factor


@pytest.mark.parametrize("form", ROBUSTNESS)
def test_perturbation(form: Any) -> None:
    term = Robustness(form=form)
    h, drawn = 3 * noise(2, 4, 5, 6), perturbation(2, 4, 5, 6, 10)
    moved, factor = term.perturb(h, drawn)
    expected, expected_factor = perturbed_by_loops(h.numpy(), drawn, form, term.noise, term.floor)
    assert np.allclose(moved - h, expected - h.numpy(), rtol=1e-9, atol=1e-14)
    assert np.allclose(factor[:, 0], expected_factor, rtol=1e-9)
    length = (moved - h).norm(dim=1, keepdim=True)
    c = term.noise * 0.9 / math.log(10)
    if form == "paper":  # what is added is what is divided by
        assert torch.allclose(length, c / factor, rtol=1e-9)
    elif form == "relative":  # a share of the features' length, between a tenth of the noise and all of it
        share = length / h.norm(dim=1, keepdim=True)
        assert torch.allclose(share, c / factor, rtol=1e-9)
        assert term.floor * term.noise <= share.min() < share.max() <= term.noise
        assert share.max() > 3 * share.min()
    else:  # the published code's slip: always the largest is added, while the divisor varies
        assert torch.allclose(length, torch.full_like(length, 1e-3), rtol=1e-9)
        assert factor.max() > 3 * factor.min()


class Linear(nn.Module):
    """A generator simple enough to be written down again: one tap, pointwise maps around it."""

    def __init__(self) -> None:
        super().__init__()
        random = np.random.default_rng(3)
        self.into = nn.Parameter(torch.from_numpy(random.standard_normal((4, 3))))
        self.out = nn.Parameter(torch.from_numpy(random.standard_normal((3, 4)) * 0.7))

    def encode(self, x: Tensor, last: int | None = None) -> tuple[Tensor, ...]:
        h = torch.einsum("oi,nihw->nohw", self.into, x)
        return (x, h)[: 2 if last is None else last + 1]

    def decode(self, features: Tensor, tap: int) -> Tensor:
        h = features if tap == 1 else self.encode(features)[1]
        return torch.einsum("oi,nihw->nohw", self.out, h).tanh()


@pytest.mark.parametrize("tap", [0, 1])
@pytest.mark.parametrize("form", ROBUSTNESS)
def test_robustness_term(form: Any, tap: int) -> None:
    """The whole term against loops: perturb, decode, encode again, project both, distance times factor, mean over positions."""
    # the noise is larger than the default so that its share of the value is far above rounding
    term, network, projector = Robustness(form=form, noise=0.3), Linear(), projector_for(3, 4)
    drawn = perturbation(2, (3, 4)[tap], 4, 5, 9, tap)
    into, out, mlp = network.into.detach().numpy(), network.out.detach().numpy(), Mlp(projector, tap)
    h = noise(2, (3, 4)[tap], 4, 5)

    def independent(h: np.ndarray, length_of: np.ndarray | None = None) -> float:
        moved, factor = perturbed_by_loops(h, drawn, form, 0.3, 0.1)
        if form == "relative":  # its length is a constant to the gradient
            moved = h + perturbed_by_loops(length_of, drawn, form, 0.3, 0.1)[0] - length_of
        if tap == 0:
            moved = np.einsum("oi,nihw->nohw", into, moved)
        image = np.tanh(np.einsum("oi,nihw->nohw", out, moved))
        again = image if tap == 0 else np.einsum("oi,nihw->nohw", into, image)
        clean, other = mlp(patches(h, drawn.positions)), mlp(patches(again, drawn.positions))
        factors = patches(factor[:, None], drawn.positions)[..., 0]
        value = (factors * np.sqrt(((clean - other) ** 2).sum(-1))).mean()
        return float(value / 2 if form == "as_released" else value)  # its two taps, of which one is in the sum

    def ours(h: Tensor) -> Tensor:
        features = {"source": (h, noise(1, 1, 1, 1)) if tap == 0 else (noise(1, 1, 1, 1), h)}
        return term(Step(*[images(2, 8)] * 3, features=features), drawn, Nets(network, projector, None))  # type: ignore[arg-type]

    check(ours, lambda x: independent(x, h.numpy()), h)


def test_distance_has_a_gradient_at_zero() -> None:
    a = noise(3, 4).requires_grad_()
    distance(a, a.detach().clone()).sum().backward()
    assert a.grad.isfinite().all()
    assert np.allclose(distance(a, a + 1).detach(), 2, rtol=1e-9)
    assert torch.allclose(unit(noise(2, 5, 3, 3)).norm(dim=1), torch.ones(2, 3, 3, dtype=torch.float64), atol=1e-11)


def robust_step(term: Robustness, dtype: torch.dtype = torch.float64) -> tuple[Step, Perturbation, Nets, Tensor]:
    """A real generator's features of the source, with their graph, for one tap of the term."""
    generator = small_generator(taps=("pad", "down1", "down2", "block1")).to(dtype)
    projector = projector_for(*(tap.channels for tap in generator.taps)).to(dtype)
    source = images(2).to(dtype)
    image, features = generator.run(source)
    lively(image)
    shape = generator.taps[2].shape(32, 32)
    drawn = perturbation(2, *shape, 16, tap=2)
    return Step(source, source, image, features={"source": features}), drawn, Nets(generator, projector, None), source  # type: ignore[arg-type]


@pytest.mark.parametrize("update", ["v1", "v2"])
def test_robustness_moves_the_projector_in_v2_only(update: Any) -> None:
    term = Robustness(update=update)
    step, drawn, nets, _ = robust_step(term)
    term(step, drawn, nets).backward()
    moved = {name for name, p in nets.generator.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-12}
    assert {"stages.stem.weight", "stages.down2.weight", "stages.block1.body.1.weight", "stages.head.1.weight"} <= moved
    grads = {name: p.grad for name, p in nets.projector.named_parameters()}
    if update == "v1":
        assert all(grad is None for grad in grads.values())
    else:
        pulled = {name for name, grad in grads.items() if grad is not None and grad.abs().max() > 0}
        assert pulled == {name for name in grads if name.startswith("heads.2.")}
        assert all(p.requires_grad for p in nets.projector.parameters())


def test_v1_and_v2_have_one_value_and_one_gradient_for_the_generator() -> None:
    values, grads = [], []
    for update in ("v1", "v2"):
        term = Robustness(update=update)
        step, drawn, nets, _ = robust_step(term)
        value = term(step, drawn, nets)
        value.backward()
        values.append(value.detach())
        grads.append(torch.cat([p.grad.flatten() for p in nets.generator.parameters() if p.grad is not None]))
    assert same(*values, 1e-14), "but for rounding: MKL may multiply weights that have a gradient in another order"
    assert same(*grads, 1e-10)


@pytest.mark.parametrize("form", ROBUSTNESS)
def test_robustness_can_be_a_float32_island(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With float32=true, its value under bfloat16 autocast is float32's, for the same features; without the island it is not."""
    term = Robustness(form=form, float32=True)
    step, _, nets, _ = robust_step(term, torch.float32)
    step = Step(step.source, step.target, step.fake, features={"source": tuple(f.detach() for f in step.features["source"])})
    draws = [perturbation(2, *step.features["source"][2].shape[1:], 16, tap=2, seed=seed) for seed in range(6)]
    with torch.no_grad():
        expected = torch.stack([term(step, drawn, nets) for drawn in draws])

        def relative_error() -> float:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                values = torch.stack([term(step, drawn, nets) for drawn in draws])
            assert values.dtype == torch.float32
            return float(((values - expected) / expected).abs().max())

        assert relative_error() < 1e-5
        monkeypatch.setattr(robustness, "full_precision", lambda x: nullcontext())
        assert relative_error() > 1e-4


def test_the_noise_would_vanish_in_bfloat16() -> None:
    """Features as long as CUT's deep ones: noise of 1e-3 keeps its size where it is added in float32, and is lost in bfloat16."""
    h, drawn = (10 * noise(1, 16, 8, 8)).bfloat16(), perturbation(1, 16, 8, 8, 16)
    term = Robustness()
    features = precision.at_least_float32(h)
    moved, factor = term.perturb(features, drawn)
    added = (moved - features).norm(dim=1, keepdim=True)
    meant = term.noise * 0.9 / math.log(10) / factor
    assert meant.max() <= 1e-3 * 1.0001
    assert ((added - meant).abs() < 0.05 * meant).all()  # float32 at 10 has steps of 1e-6
    lost = (h + drawn.direction.bfloat16() / 4 * meant.bfloat16()) - h
    assert float((lost == 0).double().mean()) > 0.9

    seen: list[Tensor] = []
    generator = small_generator(taps=("down2",)).float()
    nets = Nets(generator, projector_for(16).float(), None)  # type: ignore[arg-type]
    generator.decode = lambda x, tap: seen.append(x) or images(1).float()  # type: ignore[method-assign, func-returns-value, assignment]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        term(Step(*[images(1)] * 3, features={"source": (h,)}), drawn, nets)
    assert seen[0].dtype == torch.float32
    assert same(seen[0], moved, 0)


def test_nce_logits_are_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The projections come in bfloat16; what is compared is computed from them in float32."""
    term, projector = PatchNCE(), projector_for(4).float()
    features = {"source": (noise(2, 4, 6, 6, seed=1).float(),), "fake": (noise(2, 4, 6, 6, seed=2).float(),)}
    positions = torch.arange(20).expand(2, 20)
    step, nets = Step(*[images(2)] * 3, features=features), Nets(None, projector, None)  # type: ignore[arg-type]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        value = term(step, (positions,), nets)
        q, k = (projector(0, gather(features[name][0], positions)) for name in ("fake", "source"))
    assert value.dtype == torch.float32
    expected = nce_by_loops(q.double().numpy(), k.double().numpy(), 0.07)
    assert abs(float(value) - expected) < 1e-5 * expected

    monkeypatch.setattr(nce, "full_precision", lambda x: nullcontext())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert abs(float(term(step, (positions,), nets)) - expected) > 1e-4 * expected


def test_the_adversarial_loss_is_float32_under_autocast() -> None:
    logits = noise(1, 1, 30, 30).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = Adversarial()(Step(*[images(1)] * 3), None, Nets(None, None, lambda x: logits))  # type: ignore[arg-type]
    assert value.dtype == torch.float32
    assert math.isclose(float(value), mean_of(PER_LOGIT["least_squares"][0])(logits.double().numpy()), rel_tol=1e-6)
    assert adversarial.full_precision is precision.full_precision


def test_float64_stays_float64() -> None:
    for x, dtype in ((noise(2), torch.float64), (noise(2).float(), torch.float32), (noise(2).bfloat16(), torch.float32)):
        assert precision.at_least_float32(x).dtype == dtype


# --- flip equivariance (FastCUT)


def fastcut(flip: bool) -> tuple[Players, Batch, Draws]:
    players = Players.of(small_recipe(METHODS["fastcut"].recipe))
    shapes = tuple(TapShape(tap.name, *tap.shape(32, 32)) for tap in players.generator.inner(FORWARD).taps)
    positions = PatchNCE(patches=16).draw(Stream(0, ("x",), 0, 2, torch.device("cpu"), 0, 0.5), shapes)
    return players, Batch(images(2, seed=1), images(2, seed=2), 0, 0), Draws(flip, {FORWARD: {"adversarial": None, "nce": positions}})


def nce_part(players: Players, batch: Batch, draws: Draws) -> Tensor:
    with torch.no_grad():
        return players.generator(batch, draws, {"adversarial": 1.0, "nce": 10.0}, players.discriminator.frozen())[1]["nce"]


def nce_from_the_definition(players: Players, batch: Batch, draws: Draws, mirrored_keys: bool = False) -> float:
    """Queries: the features of G(mirrored x), mirrored back. Keys: those of x as it is (or, wrongly, of mirrored x, mirrored back)."""
    generator, projector = players.generator.generators[FORWARD], players.generator.projectors[FORWARD]

    def mirror(x: np.ndarray) -> np.ndarray:
        return x[..., ::-1].copy()

    shown = torch.from_numpy(mirror(batch.source.numpy()))
    with torch.no_grad():
        queries = [mirror(f.numpy()) for f in generator.encode(lively(generator(shown)))]
        keys = [f.numpy() for f in generator.encode(batch.source)]
        if mirrored_keys:
            keys = [mirror(f.numpy()) for f in generator.encode(shown)]
    losses = []
    for tap, places in enumerate(draws.terms[FORWARD]["nce"]):
        mlp = Mlp(projector, tap)
        losses.append(nce_by_loops(mlp(patches(queries[tap], places)), mlp(patches(keys[tap], places)), 0.07))
    return sum(losses) / len(losses)


def test_fastcut_asks_for_equivariance() -> None:
    """Keys are those of the source as it is: with a generator that is not equivariant, mirrored keys give another loss."""
    players, batch, draws = fastcut(flip=True)
    value = float(nce_part(players, batch, draws))
    assert math.isclose(value, nce_from_the_definition(players, batch, draws), rel_tol=1e-11)
    assert abs(value - nce_from_the_definition(players, batch, draws, mirrored_keys=True)) > 1e-3 * value


def test_an_equivariant_generator_is_not_punished() -> None:
    """Kernels symmetric along the width, halving by 2 x 2 means: mirroring changes nothing. With random kernels it does."""
    (players, batch, flipped), (_, _, plain) = fastcut(flip=True), fastcut(flip=False)
    assert abs(float(nce_part(players, batch, flipped)) - float(nce_part(players, batch, plain))) > 1e-2
    generator = players.generator.generators[FORWARD]
    with torch.no_grad():
        for module in list(generator.modules()):
            if isinstance(module, nn.Conv2d):
                module.weight.copy_((module.weight + module.weight.flip(-1)) / 2)
            for name, child in list(module.named_children()):
                if isinstance(child, BlurDown):  # which takes every second pixel, beginning at the left
                    setattr(module, name, nn.AvgPool2d(2))
        assert same(lively(generator(batch.source.flip(-1))).flip(-1), generator(batch.source), 1e-11)
    assert same(nce_part(players, batch, flipped), nce_part(players, batch, plain), 1e-10)


def plain_step(generator: Generator, x: Tensor, y: Tensor, flip: bool, needs: frozenset[str]) -> Step:
    """The step of the one view that a method with one direction has."""
    (step,) = translate({FORWARD: generator}, "none", Batch(x, y, 0, 0), Draws(flip, {}), needs).values()
    return step


def test_under_flip_the_translation_is_of_the_mirrored_source() -> None:
    generator, (x, y) = small_generator(), (images(2, seed=1), images(2, seed=2))
    with torch.no_grad():
        step = plain_step(generator, x, y, True, frozenset({"fake", "identity", "features.target", "features.identity"}))
        assert same(step.source, x.flip(-1), 0)
        assert same(lively(step.fake), generator(x.flip(-1)))
        assert not same(step.fake, generator(x).flip(-1), 1e-2)
        assert same(step.identity, generator(y))
        for ours, theirs in ((step.features["target"], generator.encode(y)), (step.features["identity"], generator.encode(generator(y)))):
            assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))


NEEDS = ("fake", "identity", "features.source", "features.target", "features.fake", "features.identity")


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("needs", [*((need,) for need in NEEDS), NEEDS, (NEEDS[2], NEEDS[4])], ids="+".join)
def test_one_pass_gives_what_five_give(needs: tuple[str, ...], flip: bool) -> None:
    """Whatever is asked for: translation, identity and features are those of passes of their own."""
    generator, x, y = small_generator(), images(2, seed=1), images(2, seed=2)
    with torch.no_grad():
        step = plain_step(generator, x, y, flip, frozenset(needs))
        fake = generator(x.flip(-1) if flip else x)
        mirrored = tuple(f.flip(-1) if flip else f for f in generator.encode(fake))
        expected = {"source": generator.encode(x), "target": generator.encode(y), "fake": mirrored}
        expected["identity"] = generator.encode(generator(y))
        assert same(lively(step.fake), fake)
        assert {f"features.{name}" for name in step.features} == {need for need in needs if need.startswith("features.")}
        for name, features in step.features.items():
            assert all(same(a, b) for a, b in zip(features, expected[name], strict=True)), name
        if "identity" in needs:
            assert same(step.identity, generator(y))


def test_tap_shape_names_what_positions_index() -> None:
    shape = TapShape("x", 4, 3, 5)
    positions = Stream(0, ("p",), 0, 3, torch.device("cpu"), 0, 0.5).positions(shape, 15)
    assert sorted(positions[0].tolist()) == list(range(15))
