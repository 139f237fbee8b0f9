"""The balanced target: weights under which its classes have the source's shares, and what the discriminator makes of them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import minimize
from torch import Tensor

from helpers import Players, batch, color_segmenter, images, labels, noise, refused, rng, small_recipe
from running import SELDOM, SIZE, Crash, at, bits, crash, log, quietly
from unflip.data import streets
from unflip.data.labels import Classes
from unflip.losses import balance, fixed
from unflip.losses.adversarial import discriminator_loss
from unflip.losses.balance import GOAL, Balance, BalanceConfig, at_places, surroundings, tilt
from unflip.methods import METHODS, Recipe
from unflip.methods.passes import FORWARD
from unflip.recipes.train import train
from unflip.runs import RunConfig, from_yaml
from unflip.segmenterfolder import SegmenterModelConfig, save_segmenter
from unflip.types import Shown

PALETTE = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (240, 240, 240))
CLASSES = Classes(names=("wall", "tree", "sky", "void"), palette=PALETTE, ignore=(3,))
JUDGE = Path("colors")


def some_shares(count: int, classes: int = 3, seed: int = 0) -> Tensor:
    """Mixtures, float64."""
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.linspace(0.5, 2, classes), count))


# --- weights


def test_of_pure_places_the_weights_are_the_ratios_of_the_shares() -> None:
    pure = torch.eye(3, dtype=torch.float64).repeat_interleave(torch.tensor([50, 30, 20]), 0)
    wanted = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    found = tilt(pure, wanted, most=100)
    assert np.allclose(found.weights[[0, 50, 80]], [0.2 / 0.5, 0.2 / 0.3, 0.6 / 0.2], rtol=2e-3)  # the ridge's share
    assert torch.equal(found.weights, (pure @ found.tilt - found.shift).exp())

    known = BalanceConfig(segmenter=JUDGE, most=100).measured(1, wanted[None], pure, ("a", "b", "c"))
    assert known.variation == pytest.approx((0.4, 0), abs=1e-3) and known.shares["c"] == pytest.approx((0.6, 0.2, 0.6), abs=1e-3)
    assert known.effective == pytest.approx(1 / (0.2**2 / 0.5 + 0.2**2 / 0.3 + 0.6**2 / 0.2), rel=2e-3)


def test_the_weights_are_those_nearest_to_equal_ones_that_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against SciPy, on the primal problem: least relative entropy among all weights with these means."""
    monkeypatch.setattr(balance, "RIDGE", 1e-9)
    shares, wanted = some_shares(40), torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    found = tilt(shares, wanted, most=1e6)
    weights = found.weights.numpy()

    m = shares.numpy()
    means = {"type": "eq", "fun": lambda w: m.T @ w / len(w) - wanted.numpy(), "jac": lambda w: m.T / len(w)}
    entropy: dict[str, Any] = {"fun": lambda w: float((w * np.log(w)).mean()), "jac": lambda w: (np.log(w) + 1) / len(w)}
    primal = minimize(x0=np.ones(40), constraints=[means], bounds=[(1e-9, None)] * 40, method="SLSQP", tol=1e-12, **entropy)
    assert primal.success and np.abs(weights - 1).max() > 0.5
    assert np.allclose(weights, primal.x, atol=1e-5)
    assert np.allclose(m.T @ weights / 40, wanted, atol=1e-7)


@pytest.mark.parametrize("most", [1.0, 1.5, 3.0, 20.0])
def test_no_weight_is_above_the_most_and_their_mean_is_1(most: float) -> None:
    shares = some_shares(2_000, 4)
    wanted = torch.tensor([0.2, 0.25, 0.25, 0.3], dtype=torch.float64)
    found = tilt(shares, wanted, most)
    weights = found.weights
    assert torch.equal(weights, (shares @ found.tilt - found.shift).exp().clamp(max=most))
    assert float(weights.max()) <= most and math.isclose(float(weights.mean()), 1, abs_tol=1e-9)
    left = float(((weights[:, None] * shares).mean(0) - wanted).abs().sum() / 2)
    assert (left < 1e-3) == (most == 20), left


def test_classes_that_one_domain_lacks() -> None:
    shares = torch.cat([some_shares(300), torch.zeros(300, 2)], 1)[:, [0, 3, 1, 2, 4]]  # the target lacks 1 and 4
    wanted = torch.tensor([0.5, 0.2, 0.3, 0.0, 0.0], dtype=torch.float64)  # the source lacks 3 and 4
    found = tilt(shares, wanted, most=20)
    assert found.tilt[[1, 4]].tolist() == [0, 0] and found.tilt.isfinite().all() and math.isfinite(found.shift)
    weights = found.weights
    pure = shares[:, 3] > 0.8
    assert pure.any() and weights[pure].max() < 0.2 < weights[shares[:, 3] < 0.1].min()


@pytest.mark.parametrize("side", [1, 2, 5, 40])
def test_surroundings(side: int) -> None:
    ids = torch.from_numpy(np.random.default_rng(1).integers(-1, 3, (2, 9, 11)))
    valid = torch.from_numpy(np.random.default_rng(2).random((2, 1, 9, 11)) < 0.8)
    found = surroundings(torch.where(valid[:, 0], ids, -1), 3, side)
    before, after = (side - 1) // 2, side // 2
    for n, y, x in np.ndindex(2, 9, 11):
        square = np.s_[n, max(y - before, 0) : y + after + 1, max(x - before, 0) : x + after + 1]
        there = ids[square][valid[:, 0][square]]
        counts = np.bincount(there[there >= 0], minlength=3)
        assert np.allclose(found[n, :, y, x], counts / max(counts.sum(), 1), atol=1e-6)


@pytest.fixture
def colors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every segmenter reads the classes off their colors."""
    monkeypatch.setattr(balance, "load_segmenter", lambda path: color_segmenter(CLASSES))
    monkeypatch.setattr(fixed, "read_segmenter", lambda path: (path, SegmenterModelConfig(classes=CLASSES)))


def painted(ids: Tensor, seed: int = 0) -> Tensor:
    """Images ``(N, 3, H, W)`` in [-1, 1] that show classes by their colors, with some noise."""
    palette = torch.tensor(PALETTE) / 127.5 - 1
    clean = palette[ids].movedim(-1, 1)
    return (clean + 0.1 * torch.randn(clean.shape, generator=rng(seed))).clamp(-1, 1)


def test_what_is_measured_balances_the_images(colors: None) -> None:
    """From images to weights: the weighted shares over the target's pixels are the source's, and without weights they are not."""
    random = np.random.default_rng(3)
    blocks = [torch.from_numpy(random.choice(3, (60, 4, 4), p=p).repeat(8, 1).repeat(8, 2)) for p in ([0.2, 0.7, 0.1], [0.5, 0.1, 0.4])]
    config = BalanceConfig(segmenter=JUDGE)
    config = config.measured(3, *(at_places(ids, 4, 3) for ids in blocks), names=CLASSES.names)
    assert set(config.tilt) == set(CLASSES.names) and config.tilt["tree"] > config.tilt["wall"] > config.tilt["sky"]

    weigh = Balance(config)
    target = painted(blocks[1])
    assert torch.equal(weigh.read(target), blocks[1])
    weights = weigh(target)
    assert weights.shape == (60, 1, 32, 32) and math.isclose(float(weights.mean()), 1, abs_tol=0.01)
    source, plain, balanced = (
        torch.stack([(w * (ids == k)).mean() for k in range(3)])
        for ids, w in ((blocks[0], 1.0), (blocks[1], 1.0), (blocks[1], weights[:, 0]))
    )
    assert (plain - source).abs().sum() / 2 > 0.5
    assert (balanced - source).abs().sum() / 2 < 0.02
    assert weigh.fixed_weights().keys() == {"balance.segmenter"} and not list(weigh.parameters())


def test_what_is_ignored_is_never_read(colors: None) -> None:
    white = torch.full((1, 3, 8, 8), 0.9)  # nearest to the color of void
    assert int(Balance(BalanceConfig(segmenter=JUDGE)).read(white).amax()) < 3


def test_an_even_grid_of_places_is_measured() -> None:
    ids = labels(2, 96).clamp(max=2)
    expected = torch.stack([ids[n, y, x] for n in range(2) for y in range(1, 96, 3) for x in range(1, 96, 3)])
    rows = at_places(ids, 4, 1)
    assert (expected == -1).any() and torch.equal(rows.argmax(1), expected[expected >= 0]) and (rows.sum(1) == 1).all()
    there = torch.zeros(2, 1, 96, 96, dtype=torch.bool)
    there[:, :, :, :48] = True
    assert len(at_places(torch.where(there[:, 0], ids.clamp(min=0), -1), 4, 1)) == 2 * 32 * 16
    assert len(at_places(labels(1, 20).clamp(0, 2), 4, 1)) == 20 * 20


# --- the discriminator


FORMS = {
    "least_squares": lambda x: (x - 1) ** 2,
    "hinge": lambda x: np.maximum(0, 1 - x),
    "logistic": lambda x: np.logaddexp(0, -x),
}


@pytest.mark.parametrize("form", FORMS)
def test_weighted_losses(form: Any) -> None:
    real, fake, weights = noise(2, 1, 3, 4, seed=1), noise(2, 1, 3, 4, seed=2), noise(2, 1, 3, 4, seed=3).abs()
    on_real, on_fake = discriminator_loss(real, fake, form, weights)
    assert math.isclose(float(on_real), (weights.numpy() * FORMS[form](real.numpy())).mean(), rel_tol=1e-12)
    plain = discriminator_loss(real, fake, form)
    assert on_fake == plain[1] and on_real != plain[0]
    assert discriminator_loss(real, fake, form, torch.ones_like(real)) == plain
    assert torch.autograd.gradcheck(lambda x: discriminator_loss(x, fake, form, weights)[0], real.requires_grad_())


def test_a_logit_weighs_what_its_part_of_the_image_does() -> None:
    players = Players.of(small_recipe(METHODS["cut"].recipe))
    real, fake = images(2, seed=1), images(2, seed=2)
    (network,) = players.discriminator.networks.values()
    logits = network(real)
    side = logits.shape[-1]
    weights = torch.rand(2, 1, 32, 32, generator=rng(), dtype=torch.float64)
    pooled = torch.zeros_like(logits)
    for i, j in np.ndindex(side, side):
        top, bottom, left, right = 32 * i // side, -(-32 * (i + 1) // side), 32 * j // side, -(-32 * (j + 1) // side)
        pooled[:, 0, i, j] = weights[:, 0, top:bottom, left:right].mean((1, 2))
    expected = (pooled * (logits - 1).square()).mean().detach()
    total, parts = players.discriminator({FORWARD: Shown(real, fake, weights)})
    assert math.isclose(float(parts["discriminator_real"]), float(expected), rel_tol=1e-12)
    assert math.isclose(float(total.detach()), float(expected + network(fake).square().mean().detach()) / 2, rel_tol=1e-12)
    even, _ = players.discriminator({FORWARD: Shown(real, fake)})
    assert abs(float((even - total).detach())) > 1e-3


@pytest.mark.parametrize("changes", [{"turn": "rotate"}, {"turn": "flip"}, {"multiscale": {}}, {"sides": 2}, {"flip_equivariance": True}])
def test_weights_go_where_the_targets_pixels_go(changes: dict[str, Any]) -> None:
    players = Players.of(small_recipe(Recipe(terms={"adversarial": {}}, **changes)))
    data = batch(size=64)
    data = data._replace(weights=data.target[:, 1:2])  # a channel of the target, which is then to be found again
    weights = players.weights()
    _, parts, shown = players.generator(data, players.draws(weights, size=64), weights, players.discriminator.frozen())
    for view, pair in shown.items():
        if view.startswith("to_source"):
            assert pair.weights is None, "the way back is to the source, which is as it is"
        elif view.endswith("_context"):
            assert torch.equal(pair.weights, data.weights[..., ::2, ::2])
        else:
            assert torch.equal(pair.weights, pair.real[:, 1:2]), view
    without = data._replace(weights=None)
    _, plain, other = players.generator(without, players.draws(weights, size=64), weights, players.discriminator.frozen())
    assert plain == parts and all(pair.weights is None for pair in other.values()), "the generators' losses do not know of them"


# --- whole runs


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Path]:
    """Sources with many trees, targets with few, painted in the classes' colors, and the source's labels."""
    random = np.random.default_rng(0)
    for side, chances in {"source": [0.2, 0.7, 0.1], "target": [0.5, 0.1, 0.4]}.items():
        for i in range(12):
            ids = torch.from_numpy(random.choice(3, (1, 4, 4), p=chances).repeat(12, 1).repeat(12, 2))
            pixels = ((painted(ids, i)[0].movedim(0, -1) + 1) * 127.5).round().to(torch.uint8).numpy()
            for folder, array in ((side, pixels), (f"{side}_labels", ids[0].numpy().astype(np.uint8))):
                (tmp_path / folder).mkdir(exist_ok=True)
                Image.fromarray(array).save(tmp_path / folder / f"{i}.png")
    (tmp_path / "classes.json").write_text(CLASSES.model_dump_json())
    return {side: tmp_path / side for side in ("source", "target")}


@pytest.fixture
def balanced(config: Callable[..., RunConfig], made: dict[str, Path], tmp_path: Path) -> Callable[..., RunConfig]:
    """``balanced("cut", ...)``: a tiny configuration of a run with a balanced target and labels of the source."""

    def build(method: str = "cut", *settings: str, **fields: Any) -> RunConfig:
        known = {"source_labels": tmp_path / "source_labels", "classes": tmp_path / "classes.json"}
        values = {**made, **known, "balance": JUDGE, **fields}
        return config(method, *(["balance.window=3"] if values["balance"] else []), *settings, **values)

    return build


def test_a_run_measures_its_balance_and_says_so(colors: None, balanced: Callable[..., RunConfig], tmp_path: Path) -> None:
    chosen, said = balanced(budget=24), []
    assert "semantic" not in chosen.terms and not chosen.balance.tilt
    train(chosen, tmp_path / "run", progress=False, say=said.append)
    there = from_yaml(tmp_path / "run/config.yaml").balance
    assert there.tilt["tree"] > 1 + max(there.tilt["wall"], there.tilt["sky"]) and there.shift != 0
    assert there.variation[0] > 0.3 > 0.02 > there.variation[1] and 0.05 < there.effective < 0.9
    (line,) = [line for line in said if line.startswith("balance: ")]
    assert f"{there.variation[0]:.3f} -> {there.variation[1]:.3f}" in line and f"{there.effective:.0%}" in line
    card = (tmp_path / "run/model/README.md").read_text()
    assert line in card and str(tmp_path) not in card

    plain = quietly(balanced(budget=24, balance=None, source_labels=None, classes=None), tmp_path / "plain")
    assert log(plain)[0]["discriminator_real"] != log(tmp_path / "run")[0]["discriminator_real"]
    assert log(plain)[0]["nce"] == log(tmp_path / "run")[0]["nce"], "only the discriminator is told"


def test_without_labels_the_segmenter_reads_the_source(colors: None, balanced: Callable[..., RunConfig], tmp_path: Path) -> None:
    read = quietly(balanced("cut", *SELDOM, budget=24, source_labels=None, classes=None), tmp_path / "read")
    told = quietly(balanced("cut", *SELDOM, budget=24), tmp_path / "told")
    a, b = (from_yaml(run / "config.yaml").balance for run in (read, told))
    assert a.tilt == b.tilt and a.tilt["tree"] > 1, "it reads these images without an error"


def test_a_stopped_run_goes_on_with_the_balance_that_it_had(colors: None, balanced: Callable[..., RunConfig], tmp_path: Path) -> None:
    chosen = balanced("cut", "checkpoint_every=4", "sample_every=1000")
    whole = quietly(chosen, tmp_path / "whole")
    with at(5, crash), pytest.raises(Crash):
        quietly(chosen, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BalanceConfig, "measured", lambda *_, **__: pytest.fail("measured again"))
        quietly(chosen, tmp_path / "run", resume=True)
    assert bits(tmp_path / "run") == bits(whole)


def test_a_configuration_measures_anew_on_other_data(
    colors: None, balanced: Callable[..., RunConfig], config: Callable[..., RunConfig], made: dict[str, Path], tmp_path: Path
) -> None:
    there = from_yaml(quietly(balanced("cut", *SELDOM, budget=24), tmp_path / "run") / "config.yaml")
    again = config(file=tmp_path / "run/config.yaml")
    assert again.balance is not None and again.balance.tilt == {} and again.balance.segmenter == there.balance.segmenter
    shutil.copytree(made["source"], tmp_path / "alike")
    fields = {"target": tmp_path / "alike", "source": made["source"], "source_labels": tmp_path / "source_labels"}
    other = from_yaml(quietly(config(file=tmp_path / "run/config.yaml", **fields, budget=24), tmp_path / "other") / "config.yaml")
    assert other.balance.variation[0] < 0.15 < 0.3 < there.balance.variation[0]


def test_labels_go_to_the_balance_and_to_the_term_where_both_are_named(colors: None, balanced: Callable[..., RunConfig]) -> None:
    assert "semantic" not in balanced().terms
    assert balanced("cut", "semantic.weight=0.5").terms["semantic"].weight == 0.5
    by_key = balanced("cut", f"balance.segmenter={JUDGE}", "balance.window=3", balance=None)
    assert "semantic" not in by_key.terms and by_key.balance.window == 3
    assert "semantic" in balanced(balance=None).terms


def test_the_square_is_halved_until_the_shares_match(colors: None, balanced: Callable[..., RunConfig], tmp_path: Path) -> None:
    """From the patch of the discriminator on, which is as large as a crop here and holds a mixture of all classes."""
    assert balanced().discriminator.patch == 40
    found = {}
    for window in ("null", 40, 20, 10, 5):
        run = quietly(balanced("cut", *SELDOM, f"balance.window={window}", budget=1), tmp_path / f"{window}")
        found[window] = from_yaml(run / "config.yaml").balance
    assert [found[side].side for side in (40, 20, 10, 5)] == [40, 20, 10, 5], "what is given is taken"
    near = [side for side in (40, 20, 10, 5) if found[side].variation[1] <= GOAL]
    assert found["null"].side == near[0] < 40 and found["null"].tilt == found[near[0]].tilt


def test_what_cannot_be_balanced_is_one_line(
    balanced: Callable[..., RunConfig], made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(balanced, "balance: no segmenter, colors")
    monkeypatch.setattr(balance, "load_segmenter", lambda path: color_segmenter(CLASSES))
    other = SegmenterModelConfig(classes=Classes.model_validate(streets.classes()))
    monkeypatch.setattr(fixed, "read_segmenter", lambda path: (path, other))
    refused(balanced, "balance: the segmenter does not know the class wall")
    monkeypatch.setattr(fixed, "read_segmenter", lambda path: (path, SegmenterModelConfig(classes=CLASSES, resize="short:48")))
    refused(balanced, "reads images at resize short:48, but data.resize is none", "set data.resize=short:48")
    monkeypatch.setattr(fixed, "read_segmenter", lambda path: (path, SegmenterModelConfig(classes=CLASSES)))
    shutil.copytree(made["target"], tmp_path / "color")
    for side in ("target", "source"):
        for path in made[side].iterdir():
            Image.fromarray(np.array(Image.open(path).convert("L")).astype(np.uint16) * 257).save(path)
        without = {"source_labels": None, "classes": None} if side == "source" else {}
        images_of = {"target": tmp_path / "color"} if side == "source" else {}
        line = refused(lambda f=without | images_of: quietly(balanced(**f), tmp_path / "run"), "8-bit images in color, which those of the")
        assert "leave balance out" in line and not (tmp_path / "run").exists()


def test_another_segmenter_in_the_same_place_is_refused(balanced: Callable[..., RunConfig], tmp_path: Path) -> None:
    from unflip.networks.segmenter import SegmenterConfig

    described = SegmenterModelConfig(network=SegmenterConfig(width=4, halvings=2), classes=CLASSES)

    def write(seed: int) -> None:
        save_segmenter(tmp_path / "judge", described, described.network.build(4, rng(seed)))

    write(0)
    chosen = balanced("cut", "checkpoint_every=4", balance=tmp_path / "judge")
    with at(5, crash), pytest.raises(Crash):
        quietly(chosen, tmp_path / "run")
    write(1)
    refused(lambda: quietly(chosen, tmp_path / "run", resume=True), "balance.segmenter", "has other weights than when the run")
    write(0)
    quietly(chosen, tmp_path / "run", resume=True)


@pytest.mark.parametrize("method", ["semst", "gcgan", "cyclegan", "fastcut"])
def test_methods_of_all_kinds_train_balanced(method: str, colors: None, balanced: Callable[..., RunConfig], tmp_path: Path) -> None:
    run = quietly(balanced(method, *SELDOM, budget=3, size=SIZE), tmp_path / method)
    assert all(math.isfinite(value) for line in log(run) for value in line.values())


def test_the_command_takes_it(colors: None, made: dict[str, Path], cli: Callable[..., Any], tmp_path: Path) -> None:
    from running import small

    sides = ("--source", made["source"], "--target", made["target"])
    narrow = [part for setting in small("cut") for part in ("--set", setting)]
    call = ("train", *sides, "--method", "cut", "--size", SIZE, "--budget", 2, "--balance", JUDGE, *narrow, "--out", tmp_path / "run")
    done = cli(*call)
    assert done.code == 0 and "balance: the target weighs as the segmenter" in done.stderr
    assert cli(*call[:-1], tmp_path / "none", "--set", "balance.most=0.5").code == 2
