"""Weighted negatives, hDCE and SRC, against loops in float64, linear programming and finite differences."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.spatial.distance
import torch
from torch import Tensor

from helpers import images, noise, rng, same, scale_weights
from unflip.losses.draws import Stream, TapShape
from unflip.losses.nce import IdentityNCE, PatchNCE, patch_nce
from unflip.losses.negatives import NEGATIVES, Hard, NegativesConfig, Source, Transport, Uniform, hard_log_weights, transport_log_plan
from unflip.losses.relation import Hdce, IdentityHdce, Relations, Src, hdce, jensen_shannon, relation_consistency
from unflip.losses.term import Nets
from unflip.methods import METHODS
from unflip.networks import ProjectorConfig
from unflip.types import Step

T = 0.3
Matrix = np.ndarray  # (P, P)


def directions(*shape: int, seed: int = 0, common: float = 0.0) -> Tensor:
    """Unit vectors; the larger ``common``, the more alike."""
    x = noise(*shape, seed=seed) + common * noise(*shape[:-2], 1, shape[-1], seed=seed + 50)
    return x / x.norm(dim=-1, keepdim=True)


def pair(n: int = 2, p: int = 6, d: int = 5, common: float = 0.7) -> tuple[Tensor, Tensor]:
    """Queries and keys, with two patches of the source that show the same thing and a query close to its key."""
    queries, keys = directions(n, p, d, seed=1, common=common), directions(n, p, d, seed=2, common=common)
    keys[:, 1] = keys[:, 0]
    queries[:, 2] = keys[:, 2]
    return queries, keys


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    function(x).backward()
    assert x.grad is not None and x.grad.isfinite().all()
    return x.grad


def slope(function: Callable[[np.ndarray], float], x: Tensor, h: float = 1e-6) -> np.ndarray:
    """Central differences at every place of ``x``."""
    x0 = x.numpy()
    steps = h * np.eye(x0.size).reshape(-1, *x0.shape)
    return np.array([(function(x0 + s) - function(x0 - s)) / (2 * h) for s in steps]).reshape(x0.shape)


def agree(ours: Callable[[Tensor], Tensor], theirs: Callable[[np.ndarray], float], x: Tensor) -> None:
    """Value and gradient."""
    assert math.isclose(float(ours(x)), theirs(x.numpy()), rel_tol=1e-10)
    expected = slope(theirs, x)
    assert np.abs(expected).max() > 1e-4, "a gradient to compare with"
    assert np.allclose(gradient(ours, x), expected, rtol=1e-5, atol=1e-7)


# --- weights, by loops


def hard_weights(s: Matrix, r: Matrix, beta: float = 1.0, guard: float = 0.9, cap: float = 1.0) -> Matrix:
    p = len(s)
    weights = np.ones((p, p))
    for i in range(p):
        others = [j for j in range(p) if j != i]
        total = math.fsum(math.exp(beta * s[i, j]) for j in others)
        for j in others:
            w = (p - 1) * math.exp(beta * s[i, j]) / total
            weights[i, j] = min(w, cap) if r[i, j] > guard else w
    return weights


def source_factors(r: Matrix, gamma: float = 10.0) -> Matrix:
    """As the published code goes about it: a softmax with -10 on the diagonal, each row divided by its largest."""
    scores = np.where(np.eye(len(r), dtype=bool), -10.0, r) / gamma
    softmax = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    return np.where(np.eye(len(r), dtype=bool), 1.0, softmax / softmax.max(1, keepdims=True))


def sinkhorn(affinity: Matrix, eps: float = 1.0, iterations: int = 50) -> Matrix:
    """Plain: rows and columns are scaled in turn."""
    plan = np.where(np.eye(len(affinity), dtype=bool), 0.0, np.exp(affinity / eps))
    for _ in range(iterations):
        plan = plan / plan.sum(1, keepdims=True)
        plan = plan / plan.sum(0, keepdims=True)
    return plan


def transport_weights(s: Matrix, eps: float = 1.0, cost: str = "hard", mass: float = 1.0) -> Matrix:
    plan = mass * (len(s) - 1) * sinkhorn(s if cost == "hard" else 1 - s, eps)
    return np.where(np.eye(len(s), dtype=bool), 1.0, plan)


def weighted_nce(queries: np.ndarray, keys: np.ndarray, weights: np.ndarray, factors: np.ndarray) -> float:
    """``-log(e_ii / (e_ii + sum W_ij e_ij))`` with ``e_ij = exp(f_ij s_ij / T)``, for given constants."""
    losses = []
    for q, k, w, f in zip(queries, keys, weights, factors, strict=True):
        e = np.exp(f * (q @ k.T) / T)
        losses += [-math.log(e[i, i] / math.fsum(e[i, j] * (1 if i == j else w[i, j]) for j in range(len(q)))) for i in range(len(q))]
    return math.fsum(losses) / len(losses)


KINDS: dict[str, tuple[NegativesConfig, Callable[[Matrix, Matrix], Matrix], Callable[[Matrix, Matrix], Matrix]]] = {
    # the configuration, and of s and r: weights, factors
    "uniform": (Uniform(), lambda s, r: np.ones_like(s), lambda s, r: np.ones_like(s)),
    "hard": (Hard(), hard_weights, lambda s, r: np.ones_like(s)),
    "hard, left out": (Hard(beta=4, cap=0), lambda s, r: hard_weights(s, r, 4, 0.9, 0), lambda s, r: np.ones_like(s)),
    "hard, unguarded": (Hard(beta=4, guard=2), lambda s, r: hard_weights(s, r, 4, 2), lambda s, r: np.ones_like(s)),
    "source": (Source(), lambda s, r: np.ones_like(s), lambda s, r: source_factors(r)),
    "source, steep": (Source(gamma=0.5), lambda s, r: np.ones_like(s), lambda s, r: source_factors(r, 0.5)),
    "transport": (Transport(), lambda s, r: transport_weights(s), lambda s, r: np.ones_like(s)),
    "transport, steep": (Transport(eps=0.1), lambda s, r: transport_weights(s, 0.1), lambda s, r: np.ones_like(s)),
    "transport, easy": (
        Transport(cost="easy", eps=0.5, mass=0.5),
        lambda s, r: transport_weights(s, 0.5, "easy", 0.5),
        lambda s, r: np.ones_like(s),
    ),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_weighted_patch_nce(kind: str) -> None:
    """Value, and the gradient with the weights held fixed: none flows through them."""
    config, weigh, factor = KINDS[kind]
    queries, keys = pair()
    s, r = (x.numpy() @ keys.transpose(1, 2).numpy() for x in (queries, keys))
    weights, factors = (np.array([f(a, b) for a, b in zip(s, r, strict=True)]) for f in (weigh, factor))
    if kind != "uniform":
        assert max(np.ptp(weights), np.ptp(factors)) > 0.02, "weights that differ"
    agree(lambda q: patch_nce(q, keys, T, config), lambda q: weighted_nce(q, keys.numpy(), weights, factors), queries)


@each_kind
def test_keys_get_no_gradient(kind: str) -> None:
    queries, keys = pair()
    keys.requires_grad_()
    patch_nce(queries.requires_grad_(), keys, T, KINDS[kind][0]).backward()
    assert queries.grad.abs().max() > 0
    assert keys.grad is None


@each_kind
def test_positives_keep_their_logits(kind: str) -> None:
    queries, keys = pair(n=3, p=7)
    similarity = queries @ keys.transpose(1, 2)
    logits = KINDS[kind][0].logits(similarity, keys, T)
    assert torch.equal(logits.diagonal(dim1=1, dim2=2), (similarity / T).diagonal(dim1=1, dim2=2))


@each_kind
def test_a_weighted_loss_does_not_depend_on_batching(kind: str) -> None:
    queries, keys = pair(n=5, p=8)
    alone = [patch_nce(queries[i : i + 1], keys[i : i + 1], T, KINDS[kind][0]) for i in range(5)]
    for first, last in ((0, 5), (3, 5), (4, 5)):
        assert same(patch_nce(queries[first:last], keys[first:last], T, KINDS[kind][0]), torch.stack(alone[first:last]).mean())


@each_kind
def test_a_single_patch_has_no_negatives(kind: str) -> None:
    """Nothing to weigh, nothing to push: 0. Two patches that show the same have one negative, or none where it is left out."""
    queries, keys = pair()
    alone = lambda q: patch_nce(q, keys[:, :1], T, KINDS[kind][0])  # noqa: E731
    assert float(alone(queries[:, :1])) == 0
    assert gradient(alone, queries[:, :1]).abs().max() == 0
    two = lambda q: patch_nce(q, keys[:, :2], T, KINDS[kind][0])  # noqa: E731
    for q in (queries[:, :2], keys[:, :2]):
        assert two(q).isfinite() and (float(two(q)) == 0) == (kind == "hard, left out")
        gradient(two, q)


@each_kind
def test_float32_is_close_to_float64(kind: str) -> None:
    queries, keys = pair(p=64, d=16)
    exact = patch_nce(queries, keys, 0.07, KINDS[kind][0])
    assert abs(float(patch_nce(queries.float(), keys.float(), 0.07, KINDS[kind][0]) / exact) - 1) < 1e-5


# --- hard negatives


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [2, 7, 64])
def test_without_concentration_hard_negatives_are_patch_nce(p: int, dtype: torch.dtype) -> None:
    """To the last bit, value and gradient, also where the guard applies."""
    queries, keys = (x.to(dtype) for x in pair(p=max(p, 3)))
    queries, keys = queries[:, :p], keys[:, :p]
    for config in (Hard(beta=0), Hard(beta=0, guard=-1)):
        assert torch.equal(patch_nce(queries, keys, 0.07, config), patch_nce(queries, keys, 0.07))
        theirs = gradient(lambda q: patch_nce(q, keys, 0.07), queries)
        assert torch.equal(gradient(lambda q, config=config: patch_nce(q, keys, 0.07, config), queries), theirs)
    assert patch_nce(queries, keys, 0.07, Hard(beta=0, guard=-1, cap=0)) < patch_nce(queries, keys, 0.07)


def test_hard_weights_have_the_mean_one_and_grow_with_similarity() -> None:
    queries, keys = directions(2, 9, 5, seed=1, common=0.7), directions(2, 9, 5, seed=2, common=0.7)
    similarity, relation = queries @ keys.transpose(1, 2), keys @ keys.transpose(1, 2)
    weights = hard_log_weights(similarity, relation, 3.0, 2.0, 1.0).exp()
    off = ~torch.eye(9, dtype=torch.bool).expand(2, 9, 9)
    rows = weights[off].view(2, 9, 8)
    assert same(rows.mean(-1), torch.ones(2, 9, dtype=torch.float64))
    assert torch.equal(rows.argsort(-1), similarity[off].view(2, 9, 8).argsort(-1))
    assert rows.max() > 2 > 0.5 > rows.min()
    steeper = hard_log_weights(similarity, relation, 3000.0, 2.0, 1.0).exp()
    assert same(steeper[off].view(2, 9, 8).amax(-1), torch.full((2, 9), 8.0, dtype=torch.float64), 0.05)  # all on the hardest


def test_the_guard_caps_what_is_alike_in_the_source_and_nothing_else() -> None:
    queries, keys = pair(p=9)
    queries[:, 0] = keys[:, 0]  # patch 0 has a negative, patch 1, that shows the same
    similarity, relation = queries @ keys.transpose(1, 2), keys @ keys.transpose(1, 2)
    free = hard_log_weights(similarity, relation, 5.0, 2.0, 1.0)
    alike = (relation > 0.9) & ~torch.eye(9, dtype=torch.bool)
    assert (free[alike] > 0).any() and (free[~alike] > 0).any(), "some that the cap would change, on both sides"
    for cap in (2.0, 1.0, 0.5, 0.0):
        guarded = hard_log_weights(similarity, relation, 5.0, 0.9, cap)
        assert torch.equal(guarded[~alike], free[~alike])
        assert torch.equal(guarded[alike], free[alike].clamp(max=math.log(cap) if cap else -math.inf))


def test_the_guard_spares_a_false_negative() -> None:
    """A patch of the same thing pushes less: the translation's gradient away from it is no larger than PatchNCE's."""
    keys = directions(1, 8, 16, seed=3)
    keys[:, 1] = keys[:, 0]
    queries = keys.clone()

    def push(config: NegativesConfig) -> float:
        """Along the direction of the false negative itself, which is the positive's too: down means torn away."""
        similarity = (queries @ keys.transpose(1, 2)).requires_grad_()
        logits = config.logits(similarity, keys, 0.07)
        logits[0, 0].logsumexp(0).backward()
        return float(similarity.grad[0, 0, 1])

    assert push(Hard(beta=5, guard=2)) > 1.2 * push(Uniform())
    assert math.isclose(push(Hard(beta=5)), push(Uniform()), rel_tol=1e-3)
    assert push(Hard(beta=5, cap=0)) == 0


# --- transport


def test_the_plan_is_a_fair_share() -> None:
    queries, keys = pair(n=3, p=12)
    plan = transport_log_plan(queries @ keys.transpose(1, 2), 0.3, 200).exp()
    ones = torch.ones(3, 12, dtype=torch.float64)
    assert same(plan.sum(1), ones) and same(plan.sum(2), ones, 1e-9)
    assert float(plan.diagonal(dim1=1, dim2=2).max()) == 0
    assert plan.min() >= 0


@pytest.mark.parametrize("eps", [3.0, 1.0, 0.1])
def test_the_plan_is_sinkhorns(eps: float) -> None:
    queries, keys = pair(n=2, p=12)
    affinity = queries @ keys.transpose(1, 2)
    for iterations in (1, 2, 50):
        plans = np.array([sinkhorn(a.numpy(), eps, iterations) for a in affinity])
        assert same(transport_log_plan(affinity, eps, iterations).exp(), torch.from_numpy(plans))


def test_the_plan_tends_to_the_optimal_assignment() -> None:
    """Against linear programming over matrices with rows and columns that sum to 1 and a diagonal of 0."""
    p = 6
    affinity = noise(1, p, p, seed=7)
    rows, columns = np.kron(np.eye(p), np.ones(p)), np.kron(np.ones(p), np.eye(p))
    bounds = [(0, 0) if i == j else (0, 1) for i in range(p) for j in range(p)]
    best = scipy.optimize.linprog(-affinity.numpy().reshape(-1), A_eq=np.vstack([rows, columns]), b_eq=np.ones(2 * p), bounds=bounds)
    plan = transport_log_plan(affinity, 0.01, 3000).exp()
    assert same(plan[0], torch.from_numpy(best.x.reshape(p, p)), 0.01)
    assert math.isclose(float((plan * affinity).sum()), -best.fun, rel_tol=1e-3)
    greedy = affinity.masked_fill(torch.eye(p, dtype=torch.bool), -math.inf).amax(2).sum()
    assert -best.fun < float(greedy) - 0.1, "not everybody gets the best one"


def test_the_plan_survives_a_small_eps_in_float32() -> None:
    """In the linear domain exp(1 / eps) is infinite."""
    queries, keys = (x.float() for x in pair(p=16))
    config = Transport(eps=1e-3)
    with np.errstate(all="ignore"):
        assert not np.isfinite(np.exp((queries @ keys.transpose(1, 2)).numpy() / np.float32(1e-3))).all()
    assert patch_nce(queries, keys, 0.07, config).isfinite()
    gradient(lambda q: patch_nce(q, keys, 0.07, config), queries)


# --- configuration


def test_the_table_holds_every_kind() -> None:
    assert {config.kind for config, *_ in KINDS.values()} == set(NEGATIVES)
    for kind, config in NEGATIVES.items():
        assert config().kind == kind


@pytest.mark.parametrize("term", [PatchNCE, IdentityNCE])
def test_negatives_are_chosen_by_kind(term: type[PatchNCE]) -> None:
    assert term().negatives == Uniform()
    assert term.model_validate({"negatives": {"kind": "hard", "beta": 2}}).negatives == Hard(beta=2)
    assert term.model_validate({"negatives": {"kind": "transport"}}).negatives == Transport()
    assert term.model_validate({"negatives": {}}).negatives == Uniform()
    for config, *_ in KINDS.values():
        value = term(negatives=config)
        assert term.model_validate(json.loads(value.model_dump_json())) == value
        assert term.model_validate(value.model_dump(exclude_unset=True)) == value  # as a method's recipe is handed on
    for wrong, message in (
        ({"kind": "harder"}, "unknown negatives kind 'harder'; did you mean hard"),
        ({"kind": "hard", "bata": 1}, "unknown key 'bata'; did you mean beta"),
        ({"beta": 1}, "unknown key 'beta'"),
        ({"kind": "hard", "beta": -1}, "beta"),
        ({"kind": "transport", "eps": 0}, "eps"),
    ):
        with pytest.raises(ValueError, match=message):
            term.model_validate({"negatives": wrong})


# --- hDCE


def hdce_by_loops(queries: np.ndarray, keys: np.ndarray, gamma: float) -> float:
    losses = []
    for q, k in zip(queries, keys, strict=True):
        s, w = q @ k.T, source_factors(k @ k.T, gamma)
        for i in range(len(q)):
            losses.append(math.log(math.fsum(math.exp(w[i, j] * s[i, j] / T) for j in range(len(q)) if j != i)) - s[i, i] / T)
    return math.fsum(losses) / len(losses)


@pytest.mark.parametrize("gamma", [50.0, 10.0, 0.5])
def test_hdce(gamma: float) -> None:
    queries, keys = pair()
    agree(lambda q: hdce(q, keys, T, gamma), lambda q: hdce_by_loops(q, keys.numpy(), gamma), queries)
    assert torch.equal(hdce(queries, keys, T, torch.tensor(gamma)), hdce(queries, keys, T, gamma))


def test_hdces_gradient_is_patch_nces_without_the_positive_in_the_denominator() -> None:
    """Patch by patch, PatchNCE's gradient is hDCE's times the negatives' share of the softmax: it fades where the positive wins."""
    queries, keys = pair(n=1)
    for i in range(6):
        s = (queries[0, i] @ keys[0].T).requires_grad_()
        (s / T).softmax(0)[i].log().neg().backward()
        coupled, s.grad = s.grad.clone(), None
        alone = queries.clone().requires_grad_()
        hdce(alone, keys, T, 1e12).backward()
        share = 1 - (s / T).softmax(0)[i].detach()
        assert same(share * 6 * alone.grad[0, i], coupled @ keys[0], 1e-9)

    perfect = 4 * torch.eye(5, dtype=torch.float64)[None] / 4
    fades = gradient(lambda q: patch_nce(q, perfect, 0.03), perfect).abs().max()
    assert gradient(lambda q: hdce(q, perfect, 0.03, 50.0), perfect).abs().max() > 1e6 * fades


def test_hdce_leaves_the_keys_alone_and_ignores_other_images() -> None:
    queries, keys = pair(n=4)
    alone = torch.stack([hdce(queries[i : i + 1], keys[i : i + 1], T, 1.0) for i in range(4)])
    assert same(hdce(queries, keys, T, 1.0), alone.mean())
    hdce(queries.requires_grad_(), keys.requires_grad_(), T, 1.0).backward()
    assert queries.grad.abs().max() > 0 and keys.grad is None


@pytest.mark.parametrize("loss", [lambda q, k: hdce(q, k, T, 50.0), relation_consistency], ids=["hdce", "src"])
def test_a_single_patch_has_no_relations(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    queries, keys = (x[:, :1] for x in pair())
    assert float(loss(queries, keys)) == 0
    assert gradient(lambda q: loss(q, keys), queries).abs().max() == 0


def stream(progress: float) -> Stream:
    return Stream(0, ("hdce",), 0, 2, torch.device("cpu"), 0, progress)


def test_gamma_follows_training() -> None:
    taps = (TapShape("a", 3, 4, 5), TapShape("b", 3, 2, 2))

    def gammas(term: Hdce) -> list[float]:
        return [float(term.draw(stream(progress), taps).gamma) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]

    assert gammas(Hdce()) == [50, 40, 30, 20, 10]
    assert gammas(IdentityHdce(gamma_start=1, gamma_end=3)) == [1, 1.5, 2, 2.5, 3]
    assert gammas(Hdce(late=0.5)) == [50, 40, 30, 1, 1]
    assert gammas(Hdce(late=0, gamma_late=2)) == [50, 2, 2, 2, 2]
    assert [p.shape for p in Hdce(patches=6).draw(stream(0.5), taps).positions] == [(2, 6), (2, 4)]


# --- SRC


def test_jensen_shannon() -> None:
    p, q = (noise(4, 7, seed=i).mul(3).softmax(-1) for i in (1, 2))
    expected = scipy.spatial.distance.jensenshannon(p.numpy(), q.numpy(), axis=1) ** 2
    assert same(jensen_shannon(p.log(), q.log()), torch.from_numpy(expected))
    assert same(jensen_shannon(q.log(), p.log()), torch.from_numpy(expected))
    assert jensen_shannon(p.log(), p.log()).abs().max() < 1e-15
    apart = torch.tensor([[0.0, -200.0], [-200.0, 0.0]], dtype=torch.float64)
    assert math.isclose(float(jensen_shannon(apart[0], apart[1])), math.log(2), rel_tol=1e-12)


def src_by_loops(queries: np.ndarray, keys: np.ndarray) -> float:
    total = 0.0
    for q, k in zip(queries, keys, strict=True):
        for i in range(len(q)):
            p, r = (np.array([math.exp(float(x[i] @ x[j])) for j in range(len(x))]) for x in (q, k))
            p, r = p / p.sum(), r / r.sum()
            m = (p + r) / 2
            total += 0.5 * float((p * np.log(p / m)).sum() + (r * np.log(r / m)).sum())
    return total / len(queries)


def test_relation_consistency() -> None:
    queries, keys = 2 * directions(3, 6, 5, seed=1), 2 * directions(3, 6, 5, seed=2)  # longer, for relations that differ more
    agree(lambda q: relation_consistency(q, keys), lambda q: src_by_loops(q, keys.numpy()), queries)
    assert torch.autograd.gradcheck(lambda q: relation_consistency(q, keys), queries.clone().requires_grad_())


def test_relations_not_features_are_compared() -> None:
    """The same relations in other directions are perfect, and there the gradient is 0, not undefined."""
    keys = directions(2, 6, 5, seed=2)
    turn = torch.linalg.qr(noise(5, 5)).Q
    for queries in (keys, keys @ turn):
        assert abs(float(relation_consistency(queries, keys))) < 1e-14
        assert gradient(lambda q: relation_consistency(q, keys), queries).abs().max() < 1e-14
    assert relation_consistency(keys.roll(1, 1), keys) > 1e-3


def test_src_leaves_the_keys_alone_and_ignores_other_images() -> None:
    queries, keys = pair(n=4)
    alone = torch.stack([relation_consistency(queries[i : i + 1], keys[i : i + 1]) for i in range(4)])
    assert same(relation_consistency(queries, keys), alone.mean())
    relation_consistency(queries.requires_grad_(), keys.requires_grad_()).backward()
    assert queries.grad.abs().max() > 0 and keys.grad is None


# --- terms

TERMS = {
    "hard": (PatchNCE(temperature=T, negatives=Hard(beta=3)), "fake", "source", lambda q, k: patch_nce(q, k, T, Hard(beta=3))),
    "identity": (IdentityNCE(temperature=T, negatives=Transport()), "identity", "target", lambda q, k: patch_nce(q, k, T, Transport())),
    "hdce": (Hdce(temperature=T), "fake", "source", lambda q, k: hdce(q, k, T, 20.0)),
    "identity_hdce": (IdentityHdce(temperature=T), "identity", "target", lambda q, k: hdce(q, k, T, 20.0)),
    "src": (Src(), "fake", "source", relation_consistency),
}


@pytest.mark.parametrize("name", TERMS)
def test_terms(name: str) -> None:
    """The mean over the taps of the loss between the right features, in the right order; only the output and the projector move."""
    term, output, source, loss = TERMS[name]
    assert term.needs == {f"features.{output}", f"features.{source}"} and term.projects
    projector = scale_weights(ProjectorConfig(width=8).build((3, 4), rng()))
    features = {of: (noise(2, 3, 4, 5, seed=i), noise(2, 4, 2, 3, seed=i)) for i, of in enumerate(("source", "target", "fake", "identity"))}
    for values in features.values():
        for x in values:
            x.requires_grad_()
    positions = (torch.tensor([[0, 7, 19, 3], [1, 2, 18, 5]]), torch.tensor([[5, 0, 2], [1, 3, 4]]))
    drawn: Any = Relations(positions, torch.tensor(20.0)) if isinstance(term, Hdce) else positions
    value = term(Step(*[images(2, 8)] * 3, features=features), drawn, Nets(None, projector, None))  # type: ignore[arg-type]
    expected = torch.zeros((), dtype=torch.float64)
    for tap, places in enumerate(positions):
        taken = [torch.stack([x.flatten(1)[:, row].T for x, row in zip(features[of][tap], places, strict=True)]) for of in (output, source)]
        expected += loss(*(projector(tap, x) for x in taken)) / 2
    assert same(value, expected) and abs(float(expected.detach())) > 1e-3
    value.backward()
    for of, values in features.items():
        for x in values:
            assert (x.grad is not None and x.grad.abs().max() > 0) == (of == output)
    assert all(p.grad.abs().max() > 0 for p in projector.parameters() if p.ndim > 1)


def test_the_published_settings() -> None:
    """Weights and kinds of https://github.com/jcy132/Hneg_SRC (horse2zebra) and https://github.com/fnzhan/MoNCE."""
    src, monce = METHODS["hneg_src"], METHODS["monce"]
    assert {name: term.weight for name, term in src.recipe.terms.items()} == {
        "adversarial": 1.0,
        "hdce": 0.05,
        "identity_hdce": 0.05,
        "src": 0.05,
    }
    assert {name: term.weight for name, term in monce.recipe.terms.items()} == {"adversarial": 1.0, "nce": 0.5, "identity_nce": 0.5}
    for name in ("nce", "identity_nce"):
        assert monce.recipe.terms[name].negatives == Transport(cost="hard", eps=1.0, mass=1.0, iterations=50)  # type: ignore[attr-defined]
    assert src.epochs == monce.epochs == 400
