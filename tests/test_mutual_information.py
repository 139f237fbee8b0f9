"""Mutual information against the dense estimator in NumPy, and the terms made of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from helpers import images, noise, rng, same, scale_weights, untouched_global_rng
from unflip.losses.alignment import EDGE, Structure, StructureConsistency, Texture, directions, edges, luminance, standardized, textures
from unflip.losses.mutual_information import CENTERS, rsmi
from unflip.losses.term import Nets, Setting
from unflip.networks import Generator, ResnetConfig
from unflip.networks.blocks import _constant
from unflip.types import Step

SETTINGS = [(form, sigma, ridge) for form in ("joint", "product") for sigma, ridge in ((0.25, 0.01), (0.5, 0.01), (1.0, 0.05))]
each_setting = pytest.mark.parametrize(("form", "sigma", "ridge"), SETTINGS)
DOUBLE = (torch.device("cpu"), torch.float64)
each_form = pytest.mark.parametrize("form", ["joint", "product"])


def dense(x: np.ndarray, y: np.ndarray, sigma: float, ridge: float, form: str, sign: int = -1) -> float:
    """The estimator as it is defined, with all 81 basis functions at all n pairs."""
    mu = [-1 + i / 4 for i in range(9)]
    k = np.stack([np.exp(sign * (a - x) ** 2 / (2 * sigma**2)) for a in mu for _ in mu])  # (81, n)
    l = np.stack([np.exp(sign * (b - y) ** 2 / (2 * sigma**2)) for _ in mu for b in mu])  # noqa: E741
    n = len(x)
    second = 0.5 * (k @ k.T) * (l @ l.T) / n**2 + 0.5 * (k * l) @ (k * l).T / n
    first = (k * l).mean(1) if form == "joint" else k.mean(1) * l.mean(1)
    alpha = np.linalg.solve(second + ridge * np.eye(81), first)
    return float(2 * alpha @ first - alpha @ second @ alpha - 1)


def related(n: int = 20000) -> dict[str, tuple[Tensor, Tensor]]:
    """Pairs ``(1, n)`` of known kinship, x uniform."""
    random = np.random.default_rng(1)
    x, other = random.uniform(-1, 1, (2, 1, n))
    y = {"same": x, "remap": 2 * np.abs(x) - 1, "noisy": np.clip(x + 0.3 * random.standard_normal((1, n)), -1, 1), "independent": other}
    return {name: (torch.from_numpy(x), torch.from_numpy(value)) for name, value in y.items()}


# --- the estimator


@each_setting
def test_value_and_gradient_are_the_dense_estimators(form: Any, sigma: float, ridge: float) -> None:
    x = noise(3, 200, seed=1).tanh()
    y = (0.5 * x + 0.5 * noise(3, 200, seed=2)).tanh().requires_grad_()
    values = rsmi(x, y, sigma=sigma, ridge=ridge, form=form)
    assert values.shape == (3,)
    expected = [dense(a, b, sigma, ridge, form) for a, b in zip(x.numpy(), y.detach().numpy(), strict=True)]
    assert np.allclose(values.detach(), expected, rtol=0, atol=1e-11)
    published = [dense(a, b, sigma, ridge, form, sign=1) for a, b in zip(x.numpy(), y.detach().numpy(), strict=True)]
    assert not np.allclose(expected, published, rtol=0, atol=1e-3), "the sign of the exponent shows"

    values.sum().backward()
    for place in (3, 77, 150):
        ends = []
        for h in (1e-5, -1e-5):
            moved = y.detach()[1].numpy().copy()
            moved[place] += h
            ends.append(dense(x[1].numpy(), moved, sigma, ridge, form))
        assert math.isclose(float(y.grad[1, place]), (ends[0] - ends[1]) / 2e-5, rel_tol=1e-4, abs_tol=1e-9)
    assert y.grad[1, [3, 77, 150]].abs().min() > 1e-6, "a gradient to compare with"


@each_form
def test_gradients_with_respect_to_both(form: Any) -> None:
    x, y = (noise(2, 12, seed=i).tanh().requires_grad_() for i in (1, 2))
    assert torch.autograd.gradcheck(lambda a, b: rsmi(a, b, sigma=0.5, ridge=0.01, form=form), (x, y))


@pytest.mark.parametrize(
    ("form", "sigma", "ridge", "expected"),
    [  # same, remapped, noisy; measured with the dense estimator on 4096 pairs
        ("product", 1.0, 0.05, (0.25, 0.03, 0.20)),
        ("product", 0.25, 0.05, (0.44, 0.29, 0.24)),
        ("joint", 0.5, 0.01, (0.47, 0.31, 0.32)),
        ("joint", 0.25, 0.01, (0.60, 0.46, 0.33)),
    ],
)
def test_it_measures_dependence(form: Any, sigma: float, ridge: float, expected: tuple[float, ...]) -> None:
    values = {name: float(rsmi(x, y, sigma=sigma, ridge=ridge, form=form)) for name, (x, y) in related().items()}
    assert np.allclose([values[name] for name in ("same", "remap", "noisy")], expected, rtol=0, atol=0.015)
    assert -0.03 < values["independent"] < 0.005
    assert values["remap"] > values["independent"] + 0.02, "no line, and yet dependent"


@each_setting
def test_it_stays_within_minus_one_and_one(form: Any, sigma: float, ridge: float) -> None:
    sign = noise(1, 500).sign()
    constant = torch.full((1, 500), 0.3, dtype=torch.float64)
    few = noise(1, 2).tanh()
    for x, y in (
        (sign, sign),
        (sign, -sign),
        (constant, constant),
        (sign, constant),
        (few, few),
        (few[:, :1], few[:, 1:]),
        (9 * sign, sign),
    ):
        value = float(rsmi(x, y, sigma=sigma, ridge=ridge, form=form))
        assert -1 <= value <= 1
        assert math.isclose(value, dense(x[0].numpy(), y[0].numpy(), sigma, ridge, form), abs_tol=1e-11)


@each_form
def test_symmetries(form: Any) -> None:
    x = noise(4, 300, seed=1).tanh()
    y = (x + 0.5 * noise(4, 300, seed=2)).tanh()

    def value(a: Tensor, b: Tensor) -> Tensor:
        return rsmi(a, b, sigma=0.4, ridge=0.02, form=form)

    order = torch.randperm(300, generator=rng())
    assert same(value(x[:, order], y[:, order]), value(x, y))
    assert not same(value(x[:, order], y), value(x, y), 1e-2), "it is pairs that count"
    assert same(value(y, x), value(x, y))
    assert same(value(-x, y), value(x, y))
    assert same(torch.cat([value(x[:1], y[:1]), value(x[1:], y[1:])]), value(x, y)), "every image by itself"
    assert not same(value(x, y)[:1], value(x, y)[1:2], 1e-3)


@each_setting
def test_float32_is_enough_and_autocast_changes_nothing(form: Any, sigma: float, ridge: float) -> None:
    pairs = related()
    for name, (x, y) in pairs.items():
        a, b = x.float(), y.float().requires_grad_()
        value = rsmi(a, b, sigma=sigma, ridge=ridge, form=form)
        assert value.dtype == torch.float32
        assert abs(float(value.detach() - rsmi(x, y, sigma=sigma, ridge=ridge, form=form))) < 1e-4, name
        slope = torch.autograd.grad(value.sum(), b)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (a[:, :32] @ a[:, :32].mT).dtype == torch.bfloat16
            again = rsmi(a, b, sigma=sigma, ridge=ridge, form=form)
        assert torch.equal(again, value)
        assert torch.equal(torch.autograd.grad(again.sum(), b)[0], slope)
    x, y = (value.bfloat16() for value in pairs["noisy"])
    assert torch.equal(rsmi(x, y, sigma=sigma, ridge=ridge, form=form), rsmi(x.float(), y.float(), sigma=sigma, ridge=ridge, form=form))


@each_form
@pytest.mark.parametrize("kind", ["same", "constant", "binary"])
def test_gradients_are_finite_everywhere(form: Any, kind: str) -> None:
    x = {"same": noise(1, 400).tanh(), "constant": torch.zeros(1, 400), "binary": noise(1, 400).sign()}[kind].float()
    y = x.clone().requires_grad_()
    rsmi(x, y, sigma=0.25, ridge=0.01, form=form).sum().backward()
    assert y.grad.isfinite().all()


def test_no_array_of_81_rows_is_kept() -> None:
    n, kept = 5000, {}
    x, y = noise(1, n, seed=1).tanh(), noise(1, n, seed=2).tanh().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.__setitem__(t.data_ptr(), t.numel()) or t, lambda t: t):
        rsmi(x, y, sigma=0.5, ridge=0.01)
    rows = 2 * (CENTERS + 2 * CENTERS - 1)  # 17 + 9 of x and of y; those of y once as Gaussians and once as distances
    assert max(kept.values()) < 20 * n
    assert sum(kept.values()) < (1.5 * rows + 1) * n + 20 * 81**2


# --- maps


def test_luminance() -> None:
    x = images(2, 8)
    assert np.allclose(luminance(x)[:, 0], np.einsum("nchw,c->nhw", x.numpy(), [0.299, 0.587, 0.114]), atol=1e-12)
    assert np.allclose(luminance(noise(2, 4, 5, 6))[:, 0], noise(2, 4, 5, 6).mean(1))
    assert luminance(x.bfloat16()).dtype == torch.float32


def numpy_edges(gray: np.ndarray) -> np.ndarray:
    slopes = [scipy.ndimage.sobel(gray, axis, mode="nearest") / 8 for axis in (0, 1)]
    length = np.hypot(*slopes)
    return 2 * length / (length + EDGE) - 1


def test_edges() -> None:
    x = images(2, 12, channels=1)
    assert np.allclose(edges(x)[:, 0], [numpy_edges(gray[0]) for gray in x.numpy()], atol=1e-9)
    ramp = torch.arange(9, dtype=torch.float64).mul(EDGE).expand(1, 1, 9, 9)
    assert same(edges(ramp)[..., 1:-1], torch.zeros(1, 1, 9, 7, dtype=torch.float64), 1e-9), "a slope of EDGE a pixel is the middle"
    flat = torch.zeros(1, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    value = edges(flat)
    assert same(value, -torch.ones_like(value), 1e-4)
    value.sum().backward()
    assert flat.grad.isfinite().all()


def test_directions_are_the_same_units_always() -> None:
    with untouched_global_rng():
        with torch.inference_mode():
            first = directions(5, 40, *DOUBLE).clone()
        directions.cache_clear()
        assert torch.equal(directions(5, 40, *DOUBLE), first)
        assert torch.equal(directions(5, 40, DOUBLE[0], torch.float32), first.float())
    assert same(first.square().sum(1), torch.ones(5, dtype=torch.float64))
    assert (first @ first.T - torch.eye(5)).abs().max() < 0.6, "five different ones"


def numpy_textures(features: np.ndarray, count: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Of one image ``(C, h, w)``, window by window."""

    def normal(x: np.ndarray) -> np.ndarray:
        return np.stack([(row - row.mean()) / math.sqrt(row.var() + 1e-5) for row in x])

    filters = directions(count, len(features), *DOUBLE).numpy()
    responses = normal(np.tensordot(filters, normal(features), 1))
    height, width = features.shape[1:]
    side = min(window, height // 4, width // 4)
    tops, lefts = (range(0, length - side + 1, side // 2) for length in (height, width))
    level, contrast = [], []
    for response in responses:
        cuts = [[response[i : i + side, j : j + side] for j in lefts] for i in tops]
        level.append([[math.tanh(cut.mean()) for cut in row] for row in cuts])
        contrast.append([[math.tanh(math.log(cut.std())) for cut in row] for row in cuts])
    return np.array(level), np.array(contrast)


@pytest.mark.parametrize("size", [(32, 40), (16, 24)])
def test_textures(size: tuple[int, int]) -> None:
    x = scipy.ndimage.gaussian_filter(noise(2, 6, *size).numpy(), (0, 0, 1, 1)) * 3 + 1
    ours = textures(torch.from_numpy(x), 4, 8)
    for i, image in enumerate(x):
        for a, b in zip(ours, numpy_textures(image, 4, 8), strict=True):
            assert np.allclose(a[i], b, atol=1e-9)
            assert a[i].std() > 0.1, "a map to compare"


def test_textures_of_flat_features_are_finite() -> None:
    x = torch.zeros(1, 6, 16, 16, requires_grad=True)
    level, contrast = textures(x, 4, 8)
    assert (level == 0).all() and (contrast == -1).all()
    (level.sum() + contrast.sum()).backward()
    assert x.grad.isfinite().all()
    assert textures(torch.zeros(1, 6, 2, 2), 4, 8)[0].shape == (1, 4, 2, 2)


@pytest.mark.parametrize("function", [luminance, edges, lambda x: textures(x, 4, 8)[0]])
def test_a_first_call_in_inference_mode_spoils_nothing(function: Any) -> None:
    """What is kept for the next call lets gradient through then."""
    _constant.cache_clear()
    directions.cache_clear()
    x = noise(1, 1 if function is edges else 3, 16, 16)
    with torch.inference_mode():
        first = function(x)
    x.requires_grad_()
    again = function(x)
    again.sin().sum().backward()
    assert torch.equal(again, first) and x.grad.abs().max() > 0


def test_standardized() -> None:
    z = standardized(5 + 3 * noise(2, 3, 8, 8))
    assert same(z.mean((2, 3)), torch.zeros(2, 3, dtype=torch.float64), 1e-12)
    assert same(z.var((2, 3), correction=0), torch.ones(2, 3, dtype=torch.float64), 1e-5)


# --- terms


def generator(**fields: Any) -> Generator:
    return scale_weights(ResnetConfig(**{"width": 4, "blocks": 2, **fields}).build(3, 3, rng()))


def evaluated(term: Any, source: Tensor, fake: Tensor, network: Generator | None = None) -> Tensor:
    network = network or generator()
    features = {"source": network.encode(source), "fake": network.encode(fake)} if isinstance(term, Texture) else {}
    return term(Step(source, source, fake, features=features), None, Nets(network, None, None))  # type: ignore[arg-type]


def translated(source: Tensor) -> Tensor:
    """Other colors, a little noise."""
    return (torch.tensor([0.7, 0.6, 0.5])[:, None, None] * source - 0.1 + 0.1 * noise(*source.shape)).clamp(-1, 1)


ALL = (StructureConsistency(), Structure(), Texture())
each_term = pytest.mark.parametrize("term", ALL, ids=["scc", "structure", "texture"])


def test_structure_consistency_is_the_mean_over_images() -> None:
    x = images(2, 16)
    y = translated(x)
    expected = np.mean([1 - dense(a, b, 1.0, 0.05, "product") for a, b in zip(x.flatten(1).numpy(), y.flatten(1).numpy(), strict=True)])
    assert math.isclose(float(evaluated(ALL[0], x, y)), expected, rel_tol=1e-9)
    gray = luminance(x)
    expected = np.mean(
        [1 - dense(a, b, 1.0, 0.05, "product") for a, b in zip(gray.flatten(1).numpy(), luminance(y).flatten(1).numpy(), strict=True)]
    )
    assert math.isclose(float(evaluated(ALL[0], gray, y)), expected, rel_tol=1e-9), "one channel to three"


def test_structure_is_the_mean_of_four() -> None:
    x = images(2, 16)
    y = translated(x)
    values = []
    for a, b in zip(luminance(x)[:, 0].numpy(), luminance(y)[:, 0].numpy(), strict=True):
        for p, q in ((a, b), tuple(z.reshape(8, 2, 8, 2).mean((1, 3)) for z in (a, b))):
            for u, v in ((p, q), (numpy_edges(p), numpy_edges(q))):
                values.append(1 - dense(u.ravel(), v.ravel(), 0.25, 0.01, "joint"))
    assert math.isclose(float(evaluated(ALL[1], x, y)), np.mean(values), rel_tol=1e-7)


@pytest.mark.parametrize(
    ("taps", "network", "compared"),
    [
        ((), {}, ("down1", "down2")),  # not pad, which is the image
        ((), {"taps": ("down2", "block1", "block2")}, ("down2", "block1")),
        ((), {"taps": ("pad",)}, ("pad",)),
        (("pad", "block1"), {}, ("pad", "block1")),
    ],
)
def test_texture_is_the_mean_over_taps(taps: tuple[str, ...], network: dict[str, Any], compared: tuple[str, ...]) -> None:
    model = generator(**network)
    x = images(2, 32)
    y = translated(x)
    values = []
    with torch.no_grad():
        for tap, a, b in zip(model.taps, model.encode(x), model.encode(y), strict=True):
            if tap.name not in compared:
                continue
            m, (height, width) = tap.margin, a.shape[2:]
            for p, q in zip(a.numpy(), b.numpy(), strict=True):
                maps = [numpy_textures(z[:, m : height - m, m : width - m], 8, 8) for z in (p, q)]
                values += [1 - dense(u.ravel(), v.ravel(), 0.25, 0.01, "joint") for u, v in zip(*maps, strict=True)]
        assert len(values) == 4 * len(compared)
        assert math.isclose(float(evaluated(Texture(taps=taps), x, y, model)), np.mean(values), rel_tol=1e-7)


def test_texture_refuses_an_unknown_tap() -> None:
    setting = Setting(64, 64, 1, ("pad", "down1", "down2"))
    assert Texture().problem(setting) is None
    assert Texture(taps=("down1", "down2")).problem(setting) is None
    assert Texture(taps=("down1", "dwon2")).problem(setting) == "taps: unknown tap 'dwon2'; did you mean down2?"


@each_term
def test_a_translation_of_the_source_is_nearer_than_another_image(term: Any) -> None:
    x, other = images(2, 64, seed=1), images(2, 64, seed=2)
    with torch.no_grad():
        own, noisy, foreign = (float(evaluated(term, x, y)) for y in (x, translated(x), other))
    assert 0 <= own < noisy < foreign - 0.02
    assert foreign < 1.05


@each_term
def test_the_loss_is_a_mean_over_images_and_moves_the_translation_only(term: Any) -> None:
    network = generator()
    x, y = images(3, 32, seed=1).requires_grad_(), translated(images(3, 32, seed=1)).requires_grad_()
    total = evaluated(term, x, y, network)
    alone = [evaluated(term, x[i : i + 1], y[i : i + 1], network) for i in range(3)]
    assert total.ndim == 0
    assert same(total, torch.stack(alone).mean(), 1e-10)
    total.backward()
    assert x.grad is None, "the source is the reference"
    with torch.no_grad():
        step = 1e-4 * y.grad / y.grad.norm()
        fallen = evaluated(term, x, y - step, network) - total
    assert math.isclose(float(fallen), -1e-4 * float(y.grad.norm()), rel_tol=0.05), "downhill, as steep as the gradient says"


@each_term
def test_bfloat16_does_not_enter(term: Any) -> None:
    x = images(1, 32).float()
    y = translated(x.double()).float()
    network = generator().float()
    with torch.no_grad():
        features = {"source": network.encode(x), "fake": network.encode(y)}
        step, nets = Step(x, x, y, features=features), Nets(network, None, None)  # type: ignore[arg-type]
        value = term(step, None, nets)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(term(step, None, nets), value)


def test_warmup() -> None:
    term = Structure(weight=2.0, start=0.2, warmup=0.1, every=2)
    assert [term.weight_at(progress, 0) for progress in (0.1, 0.2, 0.225, 0.3, 1.0)] == pytest.approx([0, 0, 1.0, 4.0, 4.0])
    assert term.weight_at(0.5, 1) == 0
    assert Structure().weight_at(0.05, 0) == Texture().weight_at(0.05, 0) == 0.25
    assert Structure(warmup=0).weight_at(0.0, 0) == 0.5
    assert StructureConsistency().weight_at(0.0, 0) == 5.0
