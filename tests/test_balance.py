"""Balanced domains: weights under which classes have the same shares in both, and what the players make of them."""

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
from torch import Tensor

from helpers import Players, batch, color_segmenter, labels, noise, refused, rng, small_recipe
from running import SELDOM, SIZE, Crash, at, bits, crash, log, quietly
from unflip.data import streets
from unflip.data.labels import Classes
from unflip.engine.pool import ImagePool
from unflip.engine.trainer import _from_pool
from unflip.losses import balance, fixed
from unflip.losses.adversarial import discriminator_loss, generator_loss
from unflip.losses.balance import Balance, BalanceConfig, at_places, surroundings
from unflip.methods import METHODS, Recipe
from unflip.methods.passes import FORWARD, translate
from unflip.recipes.train import train
from unflip.runs import RunConfig, from_yaml
from unflip.segmenterfolder import SegmenterModelConfig, save_segmenter
from unflip.types import Batch, Shown, Size

PALETTE = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (240, 240, 240))
CLASSES = Classes(names=("wall", "tree", "sky", "void"), palette=PALETTE, ignore=(3,))
JUDGE = Path("colors")


def some_shares(count: int, classes: int = 3, seed: int = 0) -> Tensor:
    """Mixtures, float64."""
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.linspace(0.5, 2, classes), count))


# --- weights


def weighed(config: BalanceConfig, source: Tensor, target: Tensor, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """The weights of places by their shares, from what was measured."""
    beta = torch.tensor([config.odds[name] for name in names], dtype=torch.float64)
    e = [(m @ beta + config.base).sigmoid() for m in (source, target)]
    return (1 - e[0]) / config.means[0], e[1] / config.means[1]


def test_of_pure_places_a_class_weighs_what_the_other_domain_has_of_it() -> None:
    """e = p / (p + q) where classes have the shares p and q: closed form."""
    p, q = torch.tensor([0.2, 0.2, 0.6]), torch.tensor([0.5, 0.3, 0.2])
    source, target = (torch.eye(3, dtype=torch.float64).repeat_interleave((100 * of).round().long(), 0) for of in (p, q))
    found = BalanceConfig(segmenter=JUDGE).measured(source, target, ("a", "b", "c"))
    overlap = p * q / (p + q)
    assert found.means == pytest.approx((float(overlap.sum()),) * 2, rel=1e-3)
    for k, name in enumerate("abc"):
        expected = (p[k], q[k], *2 * [overlap[k] / overlap.sum()])
        assert found.shares[name] == pytest.approx([float(share) for share in expected], abs=1e-3)
    assert found.variation == pytest.approx((0.4, 0), abs=1e-3)
    of_source = q / (p + q)
    assert found.effective[0] == pytest.approx(float((p * of_source).sum() ** 2 / (p * of_source**2).sum()), rel=1e-3)


def test_the_weighted_shares_are_the_same_in_both_domains() -> None:
    """Theorem 3 of Li, Morgan and Zaslavsky, for sets of different sizes; and the weights are those of scikit-learn's regression."""
    from sklearn.linear_model import LogisticRegression

    source, target = some_shares(700, 4), some_shares(400, 4, seed=1).flip(1)
    names = ("a", "b", "c", "d")
    found = BalanceConfig(segmenter=JUDGE).measured(source, target, names)
    weights = weighed(found, source, target, names)
    for w, share in zip(weights, found.effective, strict=True):
        assert math.isclose(float(w.mean()), 1, rel_tol=1e-5) and float(w.min()) > 0
        assert share == pytest.approx(1 / float(w.square().mean()), abs=1e-4) and share > 0.3
    means = [(w[:, None] * m).mean(0) for w, m in zip(weights, (source, target), strict=True)]
    assert float((source.mean(0) - target.mean(0)).abs().max()) > 0.15
    assert torch.allclose(*means, atol=1e-5)

    x, y = torch.cat([source, target]).numpy(), np.repeat([1, 0], [700, 400])
    rival = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(x, y, sample_weight=np.repeat([1 / 700, 1 / 400], [700, 400]))
    e = rival.predict_proba(x)[:, 1]
    assert np.allclose((1 - e[:700]) / (1 - e[:700]).mean(), weights[0], atol=2e-3)
    assert np.allclose(e[700:] / e[700:].mean(), weights[1], atol=2e-3)


def test_what_only_one_domain_has_weighs_next_to_nothing() -> None:
    source, target = (torch.cat([some_shares(300, seed=k), torch.zeros(300, 2)], 1) for k in range(2))
    source[:60] = torch.eye(5, dtype=torch.float64)[3]  # the target has none of the fourth class, nobody any of the fifth
    names = ("a", "b", "c", "d", "e")
    found = BalanceConfig(segmenter=JUDGE).measured(source, target, names)
    assert found.odds["e"] == 0 and all(math.isfinite(value) for value in found.odds.values())
    weights, _ = weighed(found, source, target, names)
    assert weights[:60].max() < 1e-3 and weights[60:].min() > 0.5
    assert found.variation[0] > 0.15 and found.variation[1] < 1e-3


def test_domains_that_share_nothing() -> None:
    source, target = (torch.eye(2, dtype=torch.float64)[k].repeat(50, 1) for k in range(2))
    found = BalanceConfig(segmenter=JUDGE).measured(source, target, ("a", "b"))
    assert found.variation == (1, 1) and all(0 < mean < 1e-2 for mean in found.means)
    assert all(torch.isfinite(w).all() for w in weighed(found, source, target, ("a", "b")))


@pytest.mark.parametrize("side", [1, 2, 5, 40])
def test_surroundings(side: int) -> None:
    ids = torch.from_numpy(np.random.default_rng(1).integers(-1, 3, (2, 9, 11)))
    valid = torch.from_numpy(np.random.default_rng(2).random((2, 1, 9, 11)) < 0.8)
    found = surroundings(ids, 3, side, valid)
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
    """From images to weights: the weighted shares of the pixels are the same in both domains, and without weights they are not."""
    random = np.random.default_rng(3)
    blocks = [torch.from_numpy(random.choice(3, (60, 4, 4), p=p).repeat(8, 1).repeat(8, 2)) for p in ([0.2, 0.7, 0.1], [0.5, 0.1, 0.4])]
    config = BalanceConfig(segmenter=JUDGE, window=3).measured(*(at_places(ids, 4, 3) for ids in blocks), CLASSES.names)
    assert config.odds["tree"] > 1 > -1 > config.odds["sky"] and config.odds["void"] == 0

    weigh = Balance(config)
    seen = Batch(painted(blocks[0]), painted(blocks[1]), 0, 0)
    assert all(torch.equal(read, ids) for read, ids in zip(weigh.ids(seen), blocks, strict=True))
    weights = weigh(seen)
    assert torch.equal(weights[0], Balance(config, CLASSES)(seen._replace(source=-seen.source, labels=blocks[0]))[0]), (
        "by labels where there are"
    )
    ones = torch.ones_like(weights[0])
    shares = [
        [torch.stack([(w[:, 0] * (ids == k)).mean() for k in range(3)]) for w, ids in zip(by, blocks, strict=True)]
        for by in (weights, (ones, ones))
    ]
    assert all(w.shape == (60, 1, 32, 32) and math.isclose(float(w.mean()), 1, abs_tol=0.01) for w in weights)
    apart = [float((source - target).abs().sum() / 2) for source, target in shares]
    assert apart[0] < 0.05 < 0.5 < apart[1]  # it is squares that are balanced, not pixels
    assert weigh.fixed_weights().keys() == {"balance.segmenter"} and not list(weigh.parameters())


def test_what_holds_nothing_weighs_by_nothing(colors: None) -> None:
    config = BalanceConfig(segmenter=JUDGE, window=3, odds={"tree": 2.0, "sky": -2.0}, base=0.5, means=(0.25, 0.5))
    x = painted(torch.full((1, 8, 8), 1))
    nowhere = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    source, target = Balance(config)(Batch(x, x, 0, 0, valid=(nowhere, ~nowhere)))
    assert np.allclose(source, 1 / (1 + math.exp(0.5)) / 0.25) and np.allclose(target, 1 / (1 + math.exp(-2.5)) / 0.5)


def test_what_is_ignored_is_never_read(colors: None) -> None:
    white = torch.full((1, 3, 8, 8), 0.9)  # nearest to the color of void
    assert int(Balance(BalanceConfig(segmenter=JUDGE, window=3)).ids(Batch(white, white, 0, 0))[1].amax()) < 3


def test_an_even_grid_of_places_is_measured() -> None:
    ids = labels(2, 96).clamp(max=2)
    expected = torch.stack([ids[n, y, x] for n in range(2) for y in range(1, 96, 3) for x in range(1, 96, 3)])
    rows = at_places(ids, 4, 1)
    assert (expected == -1).any() and torch.equal(rows.argmax(1), expected[expected >= 0]) and (rows.sum(1) == 1).all()
    there = torch.zeros(2, 1, 96, 96, dtype=torch.bool)
    there[:, :, :, :48] = True
    assert len(at_places(ids.clamp(min=0), 4, 1, there)) == 2 * 32 * 16
    assert len(at_places(labels(1, 20).clamp(0, 2), 4, 1)) == 20 * 20


# --- the discriminator


FORMS = {
    "least_squares": (lambda x: (x - 1) ** 2, lambda x: x**2, lambda x: (x - 1) ** 2),
    "hinge": (lambda x: np.maximum(0, 1 - x), lambda x: np.maximum(0, 1 + x), lambda x: -x),
    "logistic": (lambda x: np.logaddexp(0, -x), lambda x: np.logaddexp(0, x), lambda x: np.logaddexp(0, -x)),
}
"""Of a real image and of a translation for the discriminator, and of a translation for the generator."""


def by_part(weights: Tensor, height: int, width: int) -> np.ndarray:
    """The mean weight of the part of an image that each of ``height`` x ``width`` logits is of."""
    found, (rows, columns) = np.zeros((len(weights), 1, height, width)), weights.shape[-2:]
    for i, j in np.ndindex(height, width):
        top, bottom, left, right = rows * i // height, -(-rows * (i + 1) // height), columns * j // width, -(-columns * (j + 1) // width)
        found[:, :, i, j] = weights[:, :, top:bottom, left:right].mean((2, 3))
    return found


@pytest.mark.parametrize("form", FORMS)
def test_weighted_losses(form: Any) -> None:
    """A logit weighs what its part of the image does."""
    real, fake = noise(2, 1, 3, 5, seed=1), noise(2, 1, 3, 5, seed=2)
    weights = noise(2, 1, 16, 20, seed=3).abs(), noise(2, 1, 16, 20, seed=4).abs()
    on_real, on_fake = discriminator_loss(real, fake, form, weights)
    for_generator = generator_loss(fake, form, weights[1])
    found = ((on_real, real, weights[0]), (on_fake, fake, weights[1]), (for_generator, fake, weights[1]))
    for (value, logits, w), f in zip(found, FORMS[form], strict=True):
        assert math.isclose(float(value), (by_part(w, 3, 5) * f(logits.numpy())).mean(), rel_tol=1e-12)
    ones = torch.ones_like(weights[0])
    assert discriminator_loss(real, fake, form, (ones, ones)) == discriminator_loss(real, fake, form) != (on_real, on_fake)
    assert generator_loss(fake, form, ones) == generator_loss(fake, form) != for_generator
    assert torch.autograd.gradcheck(lambda x: discriminator_loss(x, fake, form, weights)[0], real.requires_grad_())
    assert torch.autograd.gradcheck(lambda x: generator_loss(x, form, weights[1]), fake.requires_grad_())


def test_both_players_weigh_places() -> None:
    players = Players.of(small_recipe(METHODS["cut"].recipe))
    data, (network,) = batch(), players.discriminator.networks.values()
    of_source, of_target = (torch.rand(2, 1, 32, 32, generator=rng(k), dtype=torch.float64) for k in range(2))
    weights = {"adversarial": 1.0}
    total, _, shown = players.generator(
        data._replace(weights=(of_source, of_target)), players.draws(weights), weights, players.discriminator.frozen()
    )
    real, fake = (network(x).detach() for x in shown[FORWARD][:2])
    side = real.shape[-1]
    expected = (by_part(of_source, side, side) * (fake.numpy() - 1) ** 2).mean()
    assert math.isclose(float(total.detach()), expected, rel_tol=1e-12)
    _, parts = players.discriminator(shown)
    assert math.isclose(
        float(parts["discriminator_real"]), (by_part(of_target, side, side) * (real.numpy() - 1) ** 2).mean(), rel_tol=1e-12
    )
    assert math.isclose(float(parts["discriminator_fake"]), (by_part(of_source, side, side) * fake.numpy() ** 2).mean(), rel_tol=1e-12)


@pytest.mark.parametrize("changes", [{"turn": "rotate"}, {"turn": "flip"}, {"multiscale": {}}, {"sides": 2}, {"flip_equivariance": True}])
def test_weights_go_where_the_pixels_go(changes: dict[str, Any]) -> None:
    """Weights that are a channel of their image are found again wherever that is shown."""
    players = Players.of(small_recipe(Recipe(terms={"adversarial": {}}, **changes)))
    data = batch(size=64)
    data = data._replace(weights=(data.source[:, 1:2], data.target[:, 1:2]))
    weights = players.weights()
    steps = translate(
        dict(players.generator.generators.items()), players.recipe.turn, data, players.draws(weights, size=64), frozenset({"fake"})
    )
    assert len(steps) == len(players.recipe.views(Size(64, 64)))
    for view, step in steps.items():
        if view.endswith("_context"):
            assert all(torch.equal(w, whole[..., ::2, ::2]) for w, whole in zip(step.weights, data.weights, strict=True))
        else:
            assert torch.equal(step.weights[0], step.source[:, 1:2]) and torch.equal(step.weights[1], step.target[:, 1:2]), view
        assert step.shown().weights == step.weights[::-1], "the target is what is real"


def test_earlier_translations_keep_their_weights() -> None:
    pool = ImagePool(2, 0, FORWARD)
    for first in range(0, 40, 2):
        fakes = torch.full((2, 3, 4, 4), float(first)) + torch.arange(2)[:, None, None, None]
        pair = Shown(fakes, fakes, (fakes[:, :1] + 1000, fakes[:, :1] + 2000))
        shown = _from_pool(pool, pair, first)
        assert torch.equal(shown.weights[1], shown.fake[:, :1] + 2000) and shown.weights[0] is pair.weights[0] and shown.real is fakes
    assert not torch.equal(shown.fake, fakes), "some are old"


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
    """``balanced("cut", ...)``: a tiny configuration of a run with balanced domains and labels of the source."""

    def build(method: str = "cut", *settings: str, **fields: Any) -> RunConfig:
        known = {"source_labels": tmp_path / "source_labels", "classes": tmp_path / "classes.json"}
        values = {**made, **known, "balance": JUDGE, **fields}
        return config(method, *(["balance.window=3"] if values["balance"] else []), *settings, **values)

    return build


def test_a_run_measures_its_balance_and_says_so(colors: None, balanced: Callable[..., RunConfig], tmp_path: Path) -> None:
    chosen, said = balanced(budget=24), []
    assert "semantic" not in chosen.terms and not chosen.balance.odds
    train(chosen, tmp_path / "run", progress=False, say=said.append)
    there = from_yaml(tmp_path / "run/config.yaml").balance
    assert there.odds["tree"] > 1 + max(there.odds["wall"], there.odds["sky"])
    assert there.variation[0] > 0.3 > 0.01 > there.variation[1] and all(0.1 < share < 1 for share in there.effective)
    (line,) = [line for line in said if line.startswith("balance: ")]
    assert f"{there.variation[0]:.3f} -> {there.variation[1]:.3f}" in line and f"{there.effective[1]:.0%} of the target's" in line
    card = (tmp_path / "run/model/README.md").read_text()
    assert line in card and str(tmp_path) not in card

    plain = quietly(balanced(budget=24, balance=None, source_labels=None, classes=None), tmp_path / "plain")
    assert log(plain)[0]["discriminator_real"] != log(tmp_path / "run")[0]["discriminator_real"]
    assert log(plain)[0]["nce"] == log(tmp_path / "run")[0]["nce"], "only the game is weighed"


def test_without_labels_the_segmenter_reads_the_source(colors: None, balanced: Callable[..., RunConfig], tmp_path: Path) -> None:
    read = quietly(balanced("cut", *SELDOM, budget=24, source_labels=None, classes=None), tmp_path / "read")
    told = quietly(balanced("cut", *SELDOM, budget=24), tmp_path / "told")
    a, b = (from_yaml(run / "config.yaml").balance for run in (read, told))
    assert a.odds == b.odds and a.odds["tree"] > 1, "it reads these images without an error"


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
    assert again.balance is not None and again.balance.odds == {} and again.balance.segmenter == there.balance.segmenter
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


def test_the_square_is_as_large_as_what_the_discriminator_judges(colors: None, config: Callable[..., RunConfig]) -> None:
    for layers, side in ((1, 18), (2, 40)):
        chosen = config("cut", f"balance.segmenter={JUDGE}", f"discriminator.layers={layers}")
        assert chosen.balance.window == chosen.discriminator.patch == side


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
    assert done.code == 0 and "balance: places weigh by what the segmenter colors reads" in done.stderr
    assert cli(*call[:-1], tmp_path / "none", "--set", "balance.window=0").code == 2
