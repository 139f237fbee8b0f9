"""Distance preservation against loops, with statistics that are measured, given, or absent."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import Players, batch, images, rng, small_recipe
from unflip.losses import Nets, Setting
from unflip.losses.distance import Distance, Moments, distance_change, distances, moments
from unflip.methods.distancegan import DISTANCEGAN
from unflip.networks.multiscale import cut
from unflip.runs import collect, from_yaml, to_yaml, validate
from unflip.types import Step

FORMS = ("self", "pairs")
BEFORE, AFTER = Moments(0.4, 0.05), Moments(0.6, 0.2)
GIVEN = {"source_mean": 0.4, "source_std": 0.05, "target_mean": 0.6, "target_std": 0.2}


def by_hand(x: np.ndarray, form: str) -> list[float]:
    """The distances, pixel by pixel."""

    def mean_gap(a: np.ndarray, b: np.ndarray) -> float:
        return sum(abs(float(a[place]) - float(b[place])) for place in np.ndindex(a.shape)) / a.size

    height = x.shape[2]
    if form == "self":
        return [mean_gap(image[:, : height // 2], image[:, height - height // 2 :]) for image in x]
    return [mean_gap(x[i], x[j]) for i in range(len(x)) for j in range(i + 1, len(x))]


def change_by_hand(x: np.ndarray, y: np.ndarray, form: str) -> float:
    gaps = [abs((d - 0.4) / 0.05 - (e - 0.6) / 0.2) for d, e in zip(by_hand(x, form), by_hand(y, form), strict=True)]
    return sum(gaps) / len(gaps)


def a_step(source: Tensor, fake: Tensor) -> Step:
    return Step(source=source, target=torch.zeros_like(source), fake=fake)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(8, 6), (7, 4)])
def test_distances(form: Any, size: tuple[int, int]) -> None:
    x = images(4, 8)[..., : size[0], : size[1]]
    expected = by_hand(x.numpy(), form)
    assert np.allclose(distances(x, form).numpy(), expected, rtol=1e-12)
    assert np.ptp(expected) > 0.02, "they differ, so that their order counts"
    channels_last = x.contiguous(memory_format=torch.channels_last)
    assert np.allclose(distances(channels_last, form).numpy(), expected, rtol=1e-12)


def test_halves_are_the_upper_and_the_lower() -> None:
    x = torch.zeros(1, 3, 4, 4)
    x[..., 2:, :] = 0.5
    assert distances(x, "self").tolist() == [0.5]
    assert distances(x.transpose(2, 3), "self").tolist() == [0.0]


@pytest.mark.parametrize("form", FORMS)
def test_moments(form: Any) -> None:
    x = images(5, 6)
    expected = by_hand(x.numpy(), form)
    assert np.allclose(moments(x, form), (np.mean(expected), np.std(expected)), rtol=1e-12)
    assert np.allclose(moments(x.float(), form), (np.mean(expected), np.std(expected)), rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_moments_of_a_set_that_does_not_vary(form: Any) -> None:
    one = images(1, 6)
    alike = one.expand(4, -1, -1, -1).contiguous()
    assert moments(one, form) == pytest.approx((by_hand(one.numpy(), form)[0] if form == "self" else 0.0, 1.0))
    assert moments(alike, form).std == 1.0
    assert moments(torch.zeros(3, 3, 4, 4), form) == (0.0, 1.0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [2, 3])
def test_change_and_its_gradient(form: Any, n: int) -> None:
    x, y = images(n, 6, seed=1), images(n, 6, seed=2).requires_grad_()
    loss = distance_change(x, y, BEFORE, AFTER, form)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(change_by_hand(x.numpy(), y.detach().numpy(), form), rel=1e-10)
    values = y.detach().numpy()
    for place in [(0, 0, 0, 0), (0, 2, 3, 1), (n - 1, 1, 5, 4)]:
        ends = []
        for sign in (1, -1):
            moved = values.copy()
            moved[place] += sign * 1e-6
            ends.append(change_by_hand(x.numpy(), moved, form))
        slope = (ends[0] - ends[1]) / 2e-6
        assert abs(slope) > 1e-3
        assert float(y.grad[place]) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_each_image_is_compared_with_its_own_translation(form: Any) -> None:
    """Not the batch with the batch: what one image loses another cannot make up for."""
    x, y = images(3, 6, seed=1), images(3, 6, seed=2)
    alone = [distance_change(x[pair], y[pair], BEFORE, AFTER, form) for pair in ([0, 1], [1, 2], [0, 2])]
    assert float(distance_change(x, y, BEFORE, AFTER, form)) == pytest.approx(float(torch.stack(alone).mean()), rel=1e-12)


def test_in_the_domains_own_units_nothing_is_lost() -> None:
    """A translation to twice the contrast keeps all distances, in units of a target set of twice the contrast."""
    x = images(4, 8)
    for form in FORMS:
        before, after = moments(x, form), moments(2 * x, form)
        assert float(distance_change(x, 2 * x, before, after, form)) < 1e-12
        assert float(distance_change(x, 2 * x, before, before, form)) > 0.1


@pytest.mark.parametrize("form", FORMS)
def test_identical_images_have_a_finite_gradient(form: Any) -> None:
    x = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    y = x.clone().requires_grad_()
    distance_change(x, y, BEFORE, AFTER, form).backward()
    assert torch.isfinite(y.grad).all()


def test_a_batch_of_one_has_no_pair() -> None:
    y = images(1, 6).requires_grad_()
    loss = Distance(form="pairs", **GIVEN)(a_step(images(1, 6), y), None, Nets(None, None, None))
    assert float(loss.detach()) == 0
    loss.backward()
    assert y.grad is not None and (y.grad == 0).all()


def test_pairs_needs_a_batch() -> None:
    def problem(form: Any, n: int) -> str | None:
        return Distance(form=form).problem(Setting(width=32, height=32, batch=n, taps=()))

    assert "--batch 2" in (problem("pairs", 1) or "")
    assert problem("pairs", 2) is None and problem("self", 1) is None


@pytest.mark.parametrize("form", FORMS)
def test_measure(form: Any) -> None:
    crops = {"source": images(5, 6, seed=1), "target": 0.5 * images(4, 6, seed=2)}
    term = Distance(form=form, weight=3.0)
    measured = term.measure(crops)
    expected = [by_hand(crops[domain].numpy(), form) for domain in ("source", "target")]
    assert (measured.source_mean, measured.target_mean) == pytest.approx([np.mean(found) for found in expected], rel=1e-10)
    assert (measured.source_std, measured.target_std) == pytest.approx([np.std(found) for found in expected], rel=1e-10)
    assert measured.weight == 3.0 and measured.form == form and term.source_mean is None
    assert measured.measure({}) is measured, "what is known is not measured again"

    given = Distance(form=form, source_mean=0.25, target_std=7.0).measure(crops)
    assert (given.source_mean, given.target_std) == (0.25, 7.0)
    assert (given.source_std, given.target_mean) == (measured.source_std, measured.target_mean)
    one_domain = Distance(form=form, source_mean=0.25, source_std=0.5).measure({"target": crops["target"]})
    assert one_domain.target_mean == measured.target_mean, "the other one's crops are not touched"


@pytest.mark.parametrize("given", [names for n in range(5) for names in combinations(GIVEN, n)])
def test_what_was_measured_is_told_from_what_was_given(given: tuple[str, ...]) -> None:
    term = Distance(**{name: GIVEN[name] for name in given})
    others = tuple(name for name in GIVEN if name not in given)
    assert term.measured == () and term.unmeasured() is bool(others)
    first = term.measure({"source": images(3, 6, seed=1), "target": images(3, 6, seed=2)})
    assert first.measured == others and not first.unmeasured()
    assert all(getattr(first, name) == GIVEN[name] for name in given)
    assert Distance.model_validate_json(first.model_dump_json()) == first

    again = Distance.model_validate(first.model_dump(exclude={"measured", *first.measured}))  # as a configuration is used again
    assert again == term
    other = again.measure({"source": images(4, 8, seed=3), "target": images(4, 8, seed=4)})
    assert other.measured == others and all(getattr(other, name) != getattr(first, name) for name in others)


def test_what_lacks_one_keeps_note_of_the_rest() -> None:
    whole = Distance().measure({"source": images(3, 6, seed=1), "target": images(3, 6, seed=2)})
    torn = Distance.model_validate(whole.model_dump() | {"target_std": None, "measured": ["target_mean", "source_std"]})
    assert torn.unmeasured()
    mended = torn.measure({"target": images(3, 6, seed=2)})
    assert mended == whole.model_copy(update={"measured": ("source_std", "target_mean", "target_std")})


def test_measured_names_moments_only() -> None:
    with pytest.raises(ValidationError):
        Distance.model_validate({"measured": ["weight"]})


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor made that is not a view of another."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and not function.is_view:
            self.numbers = max(self.numbers, made.numel())
        return made


@pytest.mark.parametrize("form", FORMS)
def test_measuring_needs_little_memory(form: Any) -> None:
    crops = {"source": images(20, 16, seed=1).float(), "target": images(20, 16, seed=2)}
    with Largest() as largest:
        Distance(form=form).measure(crops)
    assert 0 < largest.numbers <= 3 * 16 * 16, "never more than an image at once"


def test_a_new_file_of_the_configuration_measures_anew(tmp_path: Path) -> None:
    crops = {"source": images(3, 6, seed=1), "target": images(3, 6, seed=2)}
    config = validate(collect("distancegan", source="a", target="b", size=64, budget=10, settings=["distance.source_mean=0.25"]))
    term = config.terms["distance"].measure(crops)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config.model_copy(update={"terms": config.terms | {"distance": term}})))
    assert from_yaml(path).terms["distance"] == term, "the run itself goes on with what it knows"
    again = validate(collect(file=path, source="c")).terms["distance"]
    assert again == config.terms["distance"] and again.unmeasured()


@pytest.mark.parametrize("form", FORMS)
def test_the_way_back_has_the_statistics_the_other_way_round(form: Any) -> None:
    term = Distance(form=form, **GIVEN)
    x, y = images(2, 6, seed=1), images(2, 6, seed=2)
    there, back = (float(term(a_step(x, y), None, Nets(None, None, None, backward=way))) for way in (False, True))
    assert there == pytest.approx(float(distance_change(x, y, BEFORE, AFTER, form)))
    assert back == pytest.approx(float(distance_change(x, y, AFTER, BEFORE, form)))
    assert abs(there - back) > 0.1


def test_half_precision_images_are_compared_in_float32() -> None:
    x, y = images(2, 16, seed=1), images(2, 16, seed=2)
    low = a_step(x.bfloat16(), y.bfloat16())
    loss = Distance(form="pairs", **GIVEN)(low, None, Nets(None, None, None))
    assert loss.dtype == torch.float32
    exact = distance_change(low.source.double(), low.fake.double(), BEFORE, AFTER, "pairs")
    assert float(loss) == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize(
    ("form", "sides", "changes"),
    [
        ("self", 1, {}),
        ("pairs", 1, {}),
        ("self", 2, {}),
        ("self", 1, {"turn": "rotate"}),
        ("pairs", 2, {"turn": "flip"}),
        ("self", 1, {"multiscale": {}}),
    ],
)
def test_a_step_of_the_method(form: Any, sides: int, changes: dict[str, Any]) -> None:
    """With other views than the plain ones it is the same."""
    terms: dict[str, Any] = {"adversarial": {}, "distance": {"form": form, **GIVEN}}
    players = Players.of(small_recipe(DISTANCEGAN.recipe, sides=sides, terms=terms, **changes))
    size = 64 if "multiscale" in changes else 32
    weights, data = players.weights(), batch(size=size)
    draws = players.draws(weights, size=size)
    _, parts, shown = players.generator(data, draws, weights, players.discriminator.frozen())
    source = data.source if draws.windows is None else cut(data.source, draws.windows, (32, 32))
    expected = distance_change(source, shown["to_target"][1], BEFORE, AFTER, form)
    if sides == 2:
        expected = expected + distance_change(data.target, shown["to_source"][1], AFTER, BEFORE, form)
    assert len(shown) == (sides if not changes else 2 * sides)
    assert float(parts["distance"]) == pytest.approx(float(expected), rel=1e-9)


def test_a_step_of_descent_brings_the_distances_together() -> None:
    x = images(3, 8, seed=1)
    y = (0.1 * torch.randn(x.shape, generator=rng(), dtype=torch.float64)).requires_grad_()
    same = Moments(0.0, 1.0)
    loss: Callable[[], Tensor] = lambda: distance_change(x, y, same, same, "pairs")  # noqa: E731
    first = loss()
    first.backward()
    with torch.no_grad():
        y -= 0.1 * y.grad.sign()
    assert float(loss().detach()) < float(first.detach())
