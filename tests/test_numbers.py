"""When numbers go wrong: what is not finite spoils nothing and is named, flat tiles do no harm, and what has collapsed is said."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers import CHANNELS, Players, images
from running import SIZE, bits, equal, events, log, quietly, small, state
from unflip import modelfolder
from unflip.engine import checkpoint
from unflip.engine.averages import Averages
from unflip.engine.guard import Guard, unless_finite
from unflip.engine.team import Team
from unflip.errors import UserError
from unflip.losses import PatchNCE
from unflip.losses.draws import TapShape
from unflip.losses.negatives import NEGATIVES
from unflip.methods.passes import FORWARD
from unflip.methods.players import GeneratorPlayer
from unflip.recipes.alarms import LINES, Expected
from unflip.recipes.train import train
from unflip.runs import RunConfig
from unflip.types import Batch

# --- a guard


class Player(nn.Module):
    """Two parameters and one that has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.idle = (nn.Parameter(torch.ones(n)) for n in (3, 2, 1))


def guarded() -> tuple[Player, torch.optim.Adam, Guard]:
    player = Player()
    optimizer = torch.optim.Adam(player.parameters(), 0.1, fused=True)
    return player, optimizer, Guard(player, optimizer, torch.device("cpu"))


def step(player: Player, optimizer: torch.optim.Adam, guard: Guard | None, a: float, b: float = 1.0) -> None:
    player.a.grad, player.b.grad = torch.full((3,), a), torch.full((2,), b)
    if guard is not None:
        guard.look()
    optimizer.step()


def everything(player: Player, optimizer: torch.optim.Adam) -> list[Tensor]:
    return [*(p.detach().clone() for p in player.parameters()), *(v.clone() for s in optimizer.state.values() for v in s.values())]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
def test_a_step_that_is_not_finite_is_not_taken(bad: float) -> None:
    """Nothing moves: no weight, no moment, not the count of steps. 3e38 is finite, but its square is not, which Adam keeps."""
    player, optimizer, guard = guarded()
    step(player, optimizer, guard, 1.0)
    before = everything(player, optimizer)
    assert guard.read() == (0, [])
    step(player, optimizer, guard, bad)
    step(player, optimizer, guard, 1.0, bad)
    assert all(torch.equal(x, y) for x, y in zip(before, everything(player, optimizer), strict=True))
    assert guard.row == 2
    skipped, names = guard.read()
    assert skipped == 2 and (names == ["a", "b"] or bad == 3e38)
    assert guard.read() == (0, [])
    step(player, optimizer, guard, 1.0)
    assert guard.row == 0
    assert not torch.equal(player.a, before[0]), "it goes on"


def test_usual_steps_keep_every_bit() -> None:
    plain, watched = Player(), guarded()
    optimizer = torch.optim.Adam(plain.parameters(), 0.1, fused=True)
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = rng.standard_normal(2)
        step(plain, optimizer, None, a, b)
        step(*watched, a, b)
    assert all(torch.equal(x, y) for x, y in zip(everything(plain, optimizer), everything(*watched[:2]), strict=True))
    assert watched[2].read() == (0, [])


def test_a_guard_goes_on_where_it_stopped() -> None:
    _, _, guard = one = guarded()
    for a in (1.0, 2.0, math.nan, math.nan):
        step(*one, a)
    other = guarded()[2]
    other.restore({name: value.clone() for name, value in guard.state().items()})
    assert other.row == guard.row == 2
    other.restore({})
    assert other.row == 0, "of a run of before"


def test_a_loss_that_is_not_finite_makes_its_gradients_so() -> None:
    """Also where they would be finite, as where only what the loss adds is infinite; and a finite one keeps every bit of them."""
    x = torch.tensor([0.3, 0.7], requires_grad=True)
    for more, finite in ((0.0, True), (math.inf, False), (math.nan, False)):
        total = (x**3).sum() + more
        (gradient,) = torch.autograd.grad(0.3 * unless_finite(total) * total, x)
        assert bool(gradient.isfinite().all()) == finite == bool(torch.autograd.grad(0.3 * (x**3).sum(), x)[0].equal(gradient))


# --- averages


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    averages = Averages()
    for a in (1.0, math.nan, 3.0, math.inf):
        averages.add({"a": torch.tensor(a), "b": torch.tensor(2.0)})
    averages.add({"a": torch.tensor(5.0)})
    averages.add({"c": torch.tensor(math.nan)})
    found = averages.read(Team())
    assert found.means == {"a": 3.0, "b": 2.0} and found.odd == {"a": 2, "c": 1}
    assert (found.contrast, found.variety) == (None, None)
    other = Averages()
    other.restore(averages.state(Team()), torch.device("cpu"))
    assert other.read(Team()) == found
    averages.clear()
    assert averages.read(Team()).means == {}


def test_contrast_and_variety_against_numpy() -> None:
    rng = np.random.default_rng(0)
    real = rng.uniform(-1, 1, (12, 3, 16, 16))
    fake = 0.25 * rng.uniform(-1, 1, (12, 3, 16, 16)) + 0.3
    averages = Averages()
    for a, b in zip(np.split(real, 4), np.split(fake, 4), strict=True):
        averages.look(torch.from_numpy(a), torch.from_numpy(b))

    def variety(x: np.ndarray) -> float:
        return float(x.reshape(12, 3, 8, 2, 8, 2).mean((3, 5)).std(0).mean())

    found = averages.read(Team())
    within = [float(x.std((2, 3), ddof=1).mean()) for x in (fake, real)]
    assert found.contrast == pytest.approx(within[0] / within[1], rel=1e-6)
    assert found.variety == pytest.approx(variety(fake) / variety(real), rel=1e-6)
    for alike in (np.broadcast_to(fake[:1], fake.shape), np.full_like(fake, 0.2)):
        averages = Averages()
        averages.look(torch.from_numpy(real), torch.from_numpy(alike.copy()))
        assert averages.read(Team()).variety < 1e-6


# --- runs


@contextlib.contextmanager
def broken_at(*calls: int, forever: bool = False) -> Iterator[None]:
    """PatchNCE is not a number at its calls of those numbers (``forever``: from the first one on)."""
    compute = PatchNCE.__call__
    made = 0

    def broken(term: PatchNCE, *arguments: Any) -> Tensor:
        nonlocal made
        made += 1
        return compute(term, *arguments) * (math.nan if made in calls or (forever and made >= calls[0]) else 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PatchNCE, "__call__", broken)
        yield


def test_a_step_that_went_wrong_is_left_out_and_said(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """The term and the tensor by name, where, and how many; nothing that was not a number reaches the weights, the pool or the log."""
    chosen = config("fastcut", "pool=2", "log_every=4", "checkpoint_every=4", "sample_every=1000")
    said: list[str] = []
    with broken_at(2, 3):
        train(chosen, tmp_path / "run", progress=False, say=said.append)
    [event] = events(tmp_path / "run")
    assert event["seen"] == 4
    assert event["event"].startswith("not a finite number: nce, the gradient of the generator's generators.to_target.stages.")
    assert "in 2 steps between 0 and 4 images; they were not taken (2 of at most 50 in all)" in event["event"]
    assert [line for line in said if line.startswith("warning: ")] == [f"warning: {event['event']}"]
    assert [set(line) for line in log(tmp_path / "run")] == [set(line) for line in log(quietly(chosen, tmp_path / "whole"))]
    assert all(value.isfinite().all() for value in state(tmp_path / "run", 8).values())
    steps = {name: value for name, value in state(tmp_path / "run", 8).items() if name.endswith("/step")}
    assert {float(value) for name, value in steps.items() if name.startswith("generator_optimizer")} == {6.0}
    assert {float(value) for name, value in steps.items() if name.startswith("discriminator_optimizer")} == {8.0}
    assert bits(tmp_path / "run") != bits(tmp_path / "whole")
    assert "What happened" in (tmp_path / "run/report.html").read_text() and not events(tmp_path / "whole")


def test_too_many_of_them_stop_the_run(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    chosen = config("fastcut", "checkpoint_every=2", "sample_every=1000", "faults.skips=2")
    with (
        broken_at(2, 4, 6),
        pytest.raises(UserError, match=r"^not a finite number: nce, .* more than 2 were left out in all.*optimizer\.lr"),
    ):
        quietly(chosen, tmp_path / "run")
    assert (tmp_path / "run/checkpoints/latest").read_text() == "000000004"
    assert checkpoint.read_meta(tmp_path / "run/checkpoints/000000004").skipped == 2
    quietly(chosen, tmp_path / "run", resume=True)


def test_weights_that_do_not_mend_stop_the_run(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """And what was counted before a stop counts after it."""
    chosen = config("fastcut", "checkpoint_every=2", "sample_every=1000")
    with (
        broken_at(3, forever=True),
        pytest.raises(UserError, match=r"^not a finite number: nce.*; the run stops, as the last 5 in a row were"),
    ):
        quietly(chosen, tmp_path / "run")
    assert (tmp_path / "run/checkpoints/latest").read_text() == "000000006"
    with broken_at(1, forever=True), pytest.raises(UserError, match="the last 5 in a row"):
        quietly(chosen, tmp_path / "run", resume=True)
    assert modelfolder.load(tmp_path / "run").config.provenance["images_seen"] == 6


def test_the_policy_can_be_to_stop(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    chosen = config("fastcut", "checkpoint_every=2", "sample_every=1000", "faults.policy=stop")
    whole = quietly(chosen, tmp_path / "whole")
    with (
        broken_at(5),
        pytest.raises(UserError, match=r"^not a finite number: nce, .* in one step between 4 and 5 images; lower optimizer\.lr"),
    ):
        quietly(chosen, tmp_path / "run")
    assert (tmp_path / "run/checkpoints/latest").read_text() == "000000004" and len(log(tmp_path / "run")) == 4
    quietly(chosen, tmp_path / "run", resume=True)
    assert bits(tmp_path / "run") == bits(whole)


def test_the_policy_can_be_to_go_back(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """To the last checkpoint, and slower on from there: as by hand. The lower rate outlives a stop."""
    settings = ("checkpoint_every=3", "sample_every=1000", "keep=9", "optimizer.constant=0.9")
    chosen = config("fastcut", *settings, "faults.policy=back", "faults.slower=0.25")
    out = tmp_path / "run"
    with broken_at(5):
        quietly(chosen, out)
    [one, two] = events(out)
    assert one["event"].startswith("not a finite number: nce") and one["seen"] == two["seen"] == 3
    assert two["event"] == "went back from 5 to 3 images, with learning rates times 0.25 (1 of at most 3 times)"
    assert [line["seen"] for line in log(out)] == list(range(1, 9))
    assert [line["lr"] for line in log(out)] == pytest.approx([2e-4] * 3 + [5e-5] * 5)
    assert checkpoint.read_meta(out / "checkpoints/000000003").slower == 0.25, "written down at once"

    by_hand = tmp_path / "by_hand"
    slow = config("fastcut", *settings, "optimizer.lr=5e-5")
    quietly(config("fastcut", *settings), by_hand)
    for path in (by_hand / "checkpoints").glob("00000000[68]"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    (by_hand / "checkpoints/latest").write_text("000000003")
    quietly(slow, by_hand, resume=True)
    a, b = state(out, 8), state(by_hand, 8)
    assert equal({k: v for k, v in a.items() if "averages" not in k}, {k: v for k, v in b.items() if "averages" not in k})


def test_it_goes_back_so_often_and_no_more(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    chosen = config("fastcut", "checkpoint_every=100", "sample_every=1000", "faults.policy=back", "faults.returns=2")
    said: list[str] = []
    with broken_at(2, forever=True), pytest.raises(UserError, match=r"^not a finite number: nce.*after the run went back 2 times; lower"):
        train(chosen, tmp_path / "run", progress=False, say=said.append)
    assert sum("went back from" in line for line in said) == 2
    meta = checkpoint.read_meta(tmp_path / "run/checkpoints/000000000")
    assert (meta.returns, meta.slower) == (2, 0.25)


def test_a_learning_rate_beyond_reason(cli: Callable[..., Any], domains: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["train", "--source", domains["source"], "--target", domains["target"], "--out", tmp_path / "run", "--method", "cut"]
    arguments += ["--size", SIZE, "--budget", 8, "--device", "cpu"]
    for setting in (*small("cut"), "optimizer.lr=1e30", "checkpoint_every=1"):
        arguments += ["--set", setting]
    result = cli(*arguments)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert result.code == 2 and not result.stdout and len(errors) == 1 and "lower optimizer.lr" in errors[0]
    assert "Traceback" not in result.stderr
    assert log(tmp_path / "run")[-1]["seen"] == int((tmp_path / "run/checkpoints/latest").read_text())


@pytest.mark.parametrize("policy", ["skip", "back", "stop"])
def test_no_checkpoint_is_written_that_holds_what_is_not_a_number(config: Callable[..., RunConfig], tmp_path: Path, policy: str) -> None:
    chosen = config("fastcut", "log_every=4", "checkpoint_every=1", "keep=1", "sample_every=1000", f"faults.policy={policy}")
    with broken_at(3, forever=True), pytest.raises(UserError, match="not a finite number"):
        quietly(chosen, tmp_path / "run")
    latest = checkpoint.latest(tmp_path / "run/checkpoints")
    assert latest is not None and all(value.isfinite().all() for value in state(tmp_path / "run", int(latest.name)).values())


# --- collapse


def expected(config: RunConfig) -> Expected:
    return Expected.of(config, GeneratorPlayer(config, CHANNELS, config.seed))


def lines(count: int = 12, **parts: float) -> list[dict[str, float]]:
    usual = {"discriminator_real": 0.2, "discriminator_fake": 0.3, "nce": 3.0, "contrast": 0.8, "variety": 0.7}
    return [{"seen": 100.0 * (i + 1), **usual, **parts} for i in range(count)]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"discriminator_real": 0.004, "discriminator_fake": 0.003}, "the discriminator has won"),
        ({"contrast": 0.01}, r"the translations have hardly any contrast \(1\.0 % of what target images do\): they have collapsed"),
        ({"variety": 0.005}, r"the translations hardly differ from one to the next \(0\.5 %"),
        ({"nce": 5.5}, r"nce is at chance \(5\.50 of 5\.55\)"),
    ],
)
def test_what_has_collapsed_is_said_once(parts: dict[str, float], said: str) -> None:
    expected = Expected(budget=2000, views=1, chance={"nce": math.log(256)})
    assert not any(expected.alarms(lines(n)) for n in range(30))
    told = [(n, text) for n in range(30) for text in expected.alarms(lines(n, **parts))]
    assert len(told) == 1 and told[0][0] == LINES
    assert re.match(said, told[0][1])
    long = Expected(budget=40_000, views=1, chance={"nce": math.log(256)})
    assert [n for n in range(30) for _ in long.alarms(lines(n, **parts))] == [21], "a twentieth of the budget, which is 20 lines"
    mended = lines(11, **parts) + [line | {"seen": line["seen"] + 1100} for line in lines(1)]
    again = mended + [line | {"seen": line["seen"] + 1200} for line in lines(10, **parts)]
    assert not expected.alarms(mended) and len(expected.alarms(again)) == 1


def test_half_a_collapse_is_none() -> None:
    expected = Expected(budget=2000, views=1, chance={})
    assert not expected.alarms(lines(10, discriminator_real=0.001)) and not expected.alarms(lines(10, nce=9.0))


@pytest.mark.parametrize("kind", NEGATIVES)
def test_chance_is_what_equal_patches_give(kind: str) -> None:
    """For uniform negatives, the logarithm of their number and one; a small map has fewer than are asked for."""
    term = PatchNCE(patches=64, negatives={"kind": kind})
    alike = nn.functional.normalize(torch.ones(1, 64, 16), dim=2)
    large, small = TapShape("large", 4, 20, 20), TapShape("small", 4, 5, 4)
    assert term.chance((large,)) == pytest.approx(float(term.loss(alike, alike)), rel=1e-5)
    mean = float(term.loss(alike, alike) + term.loss(alike[:, :20], alike[:, :20])) / 2
    assert term.chance((large, small)) == pytest.approx(mean, rel=1e-5)
    if kind == "uniform":
        assert term.chance((large, small)) == pytest.approx((math.log(64) + math.log(20)) / 2, rel=1e-6)


def test_a_two_sided_methods_parts_are_of_all_views(config: Callable[..., RunConfig]) -> None:
    one, two = (expected(config(method)) for method in ("cut", "cyclegan"))
    assert two.views == 2 and one.views == 1
    chance = expected(config("cut", "nce.patches=16")).chance
    assert chance["nce"] == pytest.approx(math.log(16), rel=1e-6) and set(chance) == {"nce", "identity_nce"}


@pytest.mark.parametrize("method", ["cut", "monce", "srunit"])
@pytest.mark.parametrize("scales", [(), ("multiscale={}", "multiscale.attention=4", "discriminator.layers=1")])
def test_chance_is_what_is_logged_where_nothing_is_told_apart(config: Callable[..., RunConfig], method: str, scales: tuple[str]) -> None:
    """With a projector for which all patches are alike, and more patches than some of the maps have places."""
    chosen = config(method, "nce.patches=100", "identity_nce.patches=100", *scales)
    players = Players.of(chosen)
    for head in players.generator.projectors[FORWARD].heads:
        nn.init.zeros_(head[-1].weight)  # what is left is the bias
    found = players.play(Batch(images(2), images(2, seed=1), 0, 0), 0.5)
    chance = Expected.of(chosen, players.generator).chance
    assert set(chance) == {"nce", "identity_nce"}
    for name, value in chance.items():
        assert value == pytest.approx(found[name], rel=1e-5)


def test_a_collapsed_run_says_so(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """A discriminator that sees through everything, in a run of its own."""
    said: list[str] = []
    chosen = config("fastcut", "log_every=2", "sample_every=1", "checkpoint_every=1000", budget=24)  # also where nothing is logged
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unflip.methods.players.discriminator_loss", lambda real, fake, form, weights: (0 * real.mean(), 0 * fake.mean()))
        train(chosen, tmp_path / "run", progress=False, say=said.append)
    assert sum("warning: the discriminator has won" in line for line in said) == 1
    assert [event["seen"] for event in events(tmp_path / "run") if "discriminator" in event["event"]] == [20]
