"""DECENT: the flow's density is exact, its rate is Adam's, and the term's two gradients go where they belong."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

from helpers import Players, batch, noise, rng, same, small_generator, small_recipe
from unflip.losses import Nets, Site
from unflip.losses.density import Densities, Density, change_variance
from unflip.methods.decent import DECENT
from unflip.networks import Tap
from unflip.networks.flow import Flow
from unflip.types import Step


def a_flow(channels: int = 4, width: int = 3, rate: float = 5.0, seed: int = 1) -> Flow:
    """In float64, with rows long enough for tanh to bend."""
    flow = Flow(channels, width, rate, rng(seed)).double()
    with torch.no_grad():
        flow.expand.length += 1.0 / rate
        flow.contract.length += 1.5 / rate
    return flow


# --- the flow


def layer_by_hand(layer: Any, x: list[float]) -> list[float]:
    weight, length, bias = (layer.rate * p.detach().numpy() for p in (layer.weight, layer.length, layer.bias))
    channels, b, _, a = weight.shape
    result = []
    for i in range(channels):
        for row in range(b):
            entries = [(math.exp(w) if j == i else w if j < i else 0.0) for j in range(channels) for w in weight[i, row, j]]
            norm = math.sqrt(sum(e * e for e in entries))
            dot = sum(e * value for e, value in zip(entries, x, strict=True))
            result.append(math.exp(length[i, row]) * dot / norm + bias[i * b + row])
    assert len(x) == channels * a
    return result


def latent_by_hand(flow: Flow, x: np.ndarray) -> np.ndarray:
    hidden = layer_by_hand(flow.expand, x.tolist())
    return np.array(layer_by_hand(flow.contract, [math.tanh(h) for h in hidden]))


def jacobian_by_hand(flow: Flow, x: np.ndarray, h: float = 1e-5) -> np.ndarray:
    columns = [(latent_by_hand(flow, x + h * e) - latent_by_hand(flow, x - h * e)) / (2 * h) for e in np.eye(len(x))]
    return np.stack(columns, 1)


def density_by_hand(flow: Flow, x: np.ndarray) -> float:
    """The change of variables, with a numerical Jacobian."""
    sign, logarithm = np.linalg.slogdet(jacobian_by_hand(flow, x))
    assert sign == 1
    return float(scipy.stats.norm.logpdf(latent_by_hand(flow, x)).sum() + logarithm)


@pytest.mark.parametrize(("channels", "width"), [(1, 1), (1, 5), (4, 1), (4, 3)])
def test_log_density_is_the_change_of_variables(channels: int, width: int) -> None:
    flow, x = a_flow(channels, width), noise(2, 3, channels)
    found = flow(x)
    assert found.shape == (2, 3)
    expected = [density_by_hand(flow, row) for row in x.reshape(-1, channels).numpy()]
    assert np.allclose(found.detach().flatten().numpy(), expected, rtol=1e-7, atol=1e-7)
    assert np.ptp(expected) > 0.1


def test_log_determinant_is_autograds() -> None:
    """Exactly, in float64, through the network itself."""
    flow, x = a_flow(5, 4), noise(5)

    def latent(x: Tensor) -> Tensor:
        return flow.contract(flow.expand(x)[0].tanh())[0]

    jacobian = torch.autograd.functional.jacobian(latent, x)
    expected = torch.linalg.slogdet(jacobian).logabsdet - (latent(x).square() + math.log(2 * math.pi)).sum() / 2
    assert same(flow(x), expected, 1e-12)


def test_every_dimension_sees_the_ones_before_it_and_increases_in_itself() -> None:
    jacobian = jacobian_by_hand(a_flow(), noise(4).numpy())
    assert (np.diag(jacobian) > 0).all()
    assert (jacobian[np.triu_indices(4, 1)] == 0).all()
    assert (np.abs(jacobian[np.tril_indices(4, -1)]) > 1e-6).all()


def test_the_density_holds_the_probability_of_what_it_can_reach() -> None:
    """tanh bounds the latent: the mass is the normal distribution's between these bounds, and not more than 1."""
    flow = a_flow(1, 4)
    low, high = (float(latent_by_hand(flow, np.array([x]))[0]) for x in (-1e4, 1e4))
    mass, _ = scipy.integrate.quad(
        lambda x: math.exp(flow(torch.tensor([x], dtype=torch.float64)).detach()), -60, 60, limit=500, points=[-1, 0, 1]
    )
    assert mass == pytest.approx(scipy.stats.norm.cdf(high) - scipy.stats.norm.cdf(low), abs=1e-5)
    assert mass > 0.9


def test_gradients_of_the_density() -> None:
    flow, x = a_flow(), noise(1, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: flow(x), x)
    flow(x).sum().backward()
    places: list[tuple[str, str, tuple[int, ...]]] = [
        ("expand", "weight", (2, 1, 1, 0)),
        ("expand", "weight", (2, 1, 2, 0)),
        ("contract", "weight", (3, 0, 0, 2)),
        ("expand", "length", (1, 2)),
        ("contract", "length", (3, 0)),
        ("contract", "bias", (2,)),
    ]
    for layer, name, place in places:
        parameter = getattr(getattr(flow, layer), name)
        ends = []
        with torch.no_grad():
            for moved in (1e-5, -2e-5):
                parameter[place] += moved
                ends.append(density_by_hand(flow, x.detach().numpy()[0]))
            parameter[place] += 1e-5
        assert abs(ends[0] - ends[1]) > 1e-8
        assert float(parameter.grad[place]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3)


@pytest.mark.parametrize("scale", [0.0, 1e3, 1e5])
def test_densities_and_gradients_are_finite_far_out(scale: float) -> None:
    flow = Flow(4, 3, 5.0, rng())
    x = (scale * noise(6, 4)).float().requires_grad_()
    value = flow(x)
    value.sum().backward()
    assert torch.isfinite(value).all() and torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in flow.parameters())


def test_the_rate_is_a_learning_rate() -> None:
    """Five times faster, step for step, is a five times higher learning rate of Adam, from the same weights."""
    flows = [Flow(4, 3, rate, rng()).double() for rate in (1.0, 5.0, 5.0)]
    for name, value in flows[0].state_dict().items():
        for flow in flows[1:]:
            with torch.no_grad():
                flow.get_parameter(name).copy_(value / 5)
    x = noise(32, 4)
    for flow, lr in zip(flows, (1e-3, 2e-4, 1e-3), strict=True):
        optimizer = torch.optim.Adam(flow.parameters(), lr, (0.5, 0.999), eps=1e-30)
        for _ in range(20):
            optimizer.zero_grad()
            (-flow(x).mean()).backward()
            optimizer.step()
    assert same(flows[1](x), flows[0](x), 1e-9)
    assert not same(flows[2](x), flows[0](x), 1e-3)


def test_likelihood_teaches_the_flow() -> None:
    """Strongly correlated, shifted numbers: the flow comes close to their true density, which independent ones cannot."""
    mean, spread = np.array([1.0, -1.0]), np.array([[1.0, 0.9], [0.9, 1.0]])
    x = torch.from_numpy(np.random.default_rng(0).multivariate_normal(mean, spread, 512)).float()
    flow = Flow(2, 10, 50.0, rng())
    optimizer = torch.optim.Adam(flow.parameters(), 2e-4, (0.5, 0.999))
    for _ in range(300):
        optimizer.zero_grad()
        loss = -flow(x).mean()
        loss.backward()
        optimizer.step()
    true = -scipy.stats.multivariate_normal(mean, spread).logpdf(x.numpy()).mean()
    independent = -scipy.stats.norm.logpdf(x.numpy(), mean, 1).sum(1).mean()
    assert true - 0.1 < float(loss.detach()) < true + 0.15 < independent


def test_first_weights() -> None:
    """Drawn from the generator, on the scales of the flow's paper, at whatever rate it learns."""
    flows = [Flow(16, 10, rate, rng(3)) for rate in (1.0, 5.0)]
    assert all(torch.allclose(a, 5 * b) for a, b in zip(flows[0].parameters(), flows[1].parameters(), strict=True))
    layer = flows[0].contract
    assert float(layer.length.detach().max()) <= 0 and layer.length.detach().exp().mean() == pytest.approx(0.5, abs=0.2)
    for i in (0, 15):  # Xavier's bound for the inputs that the row sees
        bound = math.sqrt(6 / (1 + 10 * (i + 1)))
        assert 0.9 * bound < float(layer.weight[i].detach().abs().max()) <= bound
    assert 0.15 < float(layer.bias.detach().abs().max()) <= 1 / 4


# --- the term


def test_change_variance() -> None:
    before, after = 20 * noise(2, 5, seed=1), (20 * noise(2, 5, seed=2)).requires_grad_()
    change_variance(before, after, 7).backward()

    def by_hand(after: np.ndarray) -> float:
        rows = [
            [(float(b) - float(a)) / (7 * math.log(2)) for a, b in zip(*pair, strict=True)]
            for pair in zip(before.numpy(), after, strict=True)
        ]
        return sum(sum((c - sum(row) / 5) ** 2 for c in row) / 4 for row in rows) / 2

    values = after.detach().numpy()
    assert float(change_variance(before, after, 7).detach()) == pytest.approx(by_hand(values), rel=1e-12)
    for place in np.ndindex(2, 5):
        ends = []
        for moved in (1e-5, -1e-5):
            shifted = values.copy()
            shifted[place] += moved
            ends.append(by_hand(shifted))
        assert float(after.grad[place]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-9)


def test_a_common_change_costs_nothing() -> None:
    before = noise(2, 6)
    shared = torch.tensor([[3.0], [-50.0]], dtype=torch.float64)  # each image has its own
    assert float(change_variance(before, before + shared, 3)) < 1e-25
    assert float(change_variance(before, -before, 3)) > 0.1


class Setup:
    """The term at two taps of 3 and 4 channels, with features of its own making."""

    def __init__(self, **fields: Any) -> None:
        self.term = Density(width=3, patches=8, **fields)
        taps = (Tap("pad", 3, 1), Tap("down1", 4, 2))
        own = self.term.build(Site(taps, (3, 3), rng(4)))
        self.own = own.double()
        shapes = [(2, 3, 6, 5), (2, 4, 3, 4)]
        self.features = {of: [noise(*s, seed=i).requires_grad_() for s in shapes] for i, of in enumerate(("source", "target", "fake"))}
        here = [torch.tensor([[0, 7, 29, 3], [12, 1, 2, 20]]), torch.tensor([[11, 4, 5], [0, 8, 9]])]
        there = [torch.tensor([[5, 2, 8, 9], [1, 0, 22, 21]]), torch.tensor([[3, 4, 1], [2, 7, 9]])]
        self.places = {"source": here, "target": there, "fake": here}
        self.nets = Nets(small_generator(), None, lambda x: x, self.own)

    def __call__(self) -> Tensor:
        image = torch.zeros(2, 3, 6, 5, dtype=torch.float64)
        features = {of: tuple(values) for of, values in self.features.items()}
        return self.term(
            Step(image, image, image, features=features), tuple(zip(self.places["source"], self.places["target"], strict=True)), self.nets
        )

    def patches(self, of: str, tap: int, image: int) -> list[np.ndarray]:
        feature = self.features[of][tap].detach().numpy()[image]
        return [feature[:, place // feature.shape[2], place % feature.shape[2]] for place in self.places[of][tap][image].tolist()]

    def log_density(self, domain: str, of: str, tap: int, image: int) -> list[float]:
        return [density_by_hand(getattr(self.own, domain)[tap], patch) for patch in self.patches(of, tap, image)]

    def variance(self) -> float:
        total = 0.0
        for tap, channels in enumerate((3, 4)):
            for image in range(2):
                before, after = self.log_density("source", "source", tap, image), self.log_density("target", "fake", tap, image)
                total += np.var((np.array(after) - np.array(before)) / (channels * math.log(2)), ddof=1) / 4
        return float(total)


def test_the_terms_value_is_the_variance() -> None:
    setup = Setup()
    assert float(setup().detach()) == pytest.approx(setup.variance(), rel=1e-6)


def test_the_variance_moves_the_translation_only() -> None:
    setup = Setup()
    setup().backward()
    assert all(feature.grad is None for of in ("source", "target") for feature in setup.features[of])
    for tap, place in ((0, (0, 1, 1, 2)), (1, (1, 3, 2, 0))):  # positions 7 and 8, which are drawn
        values, ends = setup.features["fake"][tap], []
        with torch.no_grad():
            for moved in (1e-4, -2e-4):
                values[place] += moved
                ends.append(setup.variance())
            values[place] += 1e-4
        assert abs(ends[0] - ends[1]) > 1e-8
        assert float(values.grad[place]) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-4)
    assert float(setup.features["fake"][0].grad[0, :, 0, 1].abs().max()) == 0, "position 1 is not drawn in the first image"


@pytest.mark.parametrize("weight", [0.01, 3.0])
def test_the_likelihood_moves_the_flows_only_and_alike_at_any_weight(weight: float) -> None:
    setup = Setup(weight=weight)
    (weight * setup()).backward()
    found = {name: p.grad.clone() for name, p in setup.own.named_parameters()}

    setup.own.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for domain in ("source", "target"):
        for tap, flow in enumerate(getattr(setup.own, domain)):
            patches = [torch.from_numpy(patch) for image in range(2) for patch in setup.patches(domain, tap, image)]
            total = total - flow(torch.stack(patches)).mean() / 2  # the mean of two taps
    total.backward()
    assert len(found) == 2 * 2 * 6
    assert all(same(found[name], p.grad, 1e-10) and float(p.grad.abs().max()) > 1e-6 for name, p in setup.own.named_parameters())


def test_networks_of_the_term() -> None:
    with_taps = Site((Tap("pad", 3, 1), Tap("stem", 8, 1)), (3, 3), rng(1))
    before = torch.get_rng_state()
    own = Density().build(with_taps)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(own, Densities)
    assert [flow.expand.weight.shape for flow in own.target] == [(3, 10, 3, 1), (8, 10, 8, 1)]
    flows = [*own.source, *own.target]
    assert all(not torch.equal(a.contract.bias[:3], b.contract.bias[:3]) for a, b in pairwise(flows)), "each is drawn for itself"


def test_steps_of_the_method() -> None:
    """Together with the rest of a method: the flows learn, and a short last batch of one image is like any other."""
    recipe = small_recipe(DECENT.recipe)
    assert {name: term.weight for name, term in recipe.terms.items()} == {"adversarial": 1.0, "identity": 10.0, "density": 0.01}
    players = Players.of(recipe)
    start = {name: p.detach().clone() for name, p in players.generator.own.named_parameters()}
    values = [players.play(batch(first, n), 0.5)["density"] for first, n in ((0, 2), (2, 1))]
    assert all(math.isfinite(value) and value > 0 for value in values)
    moved = {name: float((p.detach() - start[name]).abs().max()) for name, p in players.generator.own.named_parameters()}
    assert len(moved) == 2 * 5 * 6 and min(moved.values()) > 1e-4, "Adam's first steps are as long as its rate"
