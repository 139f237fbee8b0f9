"""What only a GPU can show: compiled and recorded steps are the plain ones, and wait for nothing. Skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from helpers import EXACT, NARROW, images, in_float64
from unflip.data.bands import RGB
from unflip.engine import checkpoint
from unflip.engine.launch import launch
from unflip.engine.trainer import play
from unflip.engine.training import Training, assemble
from unflip.networks.chain import missing_compiler
from unflip.recipes.bench import configure
from unflip.types import Batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available() or missing_compiler() is not None, reason="no GPU, or no compiler for it")

SMALL = (*NARROW, "pool=2", "optimizer.lr=1e-6")
PATCHES = ("projector.width=16", "nce.patches=16")


def start(method: str, *settings: str, precision: str = "32") -> Training:
    some = () if method == "cyclegan" else PATCHES
    torch.backends.cudnn.allow_tf32 = False
    config = configure(method, size=64, batch=2, device="cuda", precision=precision, settings=[*SMALL, *some, *settings])
    return assemble(config, (RGB, RGB), launch("cuda", precision))


def batch(step: int) -> Batch:
    source, target = ((images(2, 64, seed=10 * step + k) * 127 + 128).byte() for k in range(2))
    return Batch(source, target, 2 * step, step)


def parts(training: Training, steps: range) -> list[dict[str, float]]:
    return [{name: float(value) for name, value in play(training, batch(i))[0].items()} for i in steps]


def weights(training: Training) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in training.generator.parameters() if p.ndim > 1])


@pytest.mark.parametrize("method", ["cut", "fastcut", "srunit", "semst", "hneg_src", "cyclegan"])
def test_in_float64_a_compiled_and_recorded_run_is_the_plain_one(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step, at a usual rate. Rate and weights, which are tensors in float32 there, are numbers that float32 holds: else their
    rounding shows after a few steps, see docs/decisions/gpu.md."""
    settings = (*EXACT.get(method, ()), f"optimizer.lr={2.0**-12}", "budget=64")
    runs = [in_float64(start(method, *settings, f"compile={how}"), monkeypatch) for how in ("off", "on")]
    began = weights(runs[0])
    one, other = (parts(training, range(12)) for training in runs)
    assert all(replay.recorded for replay in runs[1].replays.values())
    for step, (plain, recorded) in enumerate(zip(one, other, strict=True)):
        assert recorded == pytest.approx(plain, rel=1e-7, abs=1e-12), step
    slow, quick = (weights(training) - began for training in runs)
    assert (quick - slow).norm() < 1e-7 * slow.norm()


@pytest.mark.parametrize("method", ["cut", "fastcut", "srunit", "semst", "cyclegan"])
def test_a_compiled_and_recorded_run_is_the_plain_one(method: str) -> None:
    """Their first losses are equal, and their weights move alike. Not the same way: Adam's first steps have the signs of gradients, also of
    those that are 0 but for rounding, and at the first weights NCE follows the least change."""
    settings = ("robustness.start=0",) if method == "srunit" else ()
    plain, training = start(method, *settings, "compile=off"), start(method, *settings)
    began = weights(plain)
    assert torch.equal(began, weights(training))
    one, other = parts(plain, range(16)), parts(training, range(16))
    assert training.replays["generator"].recorded and training.replays["discriminator"].recorded
    assert other[0] == pytest.approx(one[0], rel=1e-4)
    slow, quick = weights(plain) - began, weights(training) - began
    assert torch.cosine_similarity(slow, quick, 0) > 0.9
    assert 0.9 < slow.norm() / quick.norm() < 1.1


@pytest.mark.parametrize("method", ["cut", "semst"])
def test_a_recorded_step_waits_for_nothing(method: str) -> None:
    training = start(method, precision="bf16")
    parts(training, range(8))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for i in range(8, 12):
            play(training, batch(i)._replace(source=batch(i).source.pin_memory(), target=batch(i).target.pin_memory()))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_learning_rate_of_a_recorded_step_can_change() -> None:
    training = start("cut")
    parts(training, range(8))
    before = [p.clone() for p in training.generator.parameters()]
    training.config = training.config.model_copy(update={"budget": 18})
    play(training, batch(8))  # the last step but one: the rate is nearly 0
    largest = max(float((p - q).abs().max()) for p, q in zip(training.generator.parameters(), before, strict=True))
    assert 0 < largest < 1e-6


def test_a_run_goes_on_from_a_checkpoint(tmp_path) -> None:
    training = start("cut")
    parts(training, range(6))
    checkpoint.save(tmp_path, training)
    further = parts(training, range(6, 12))
    resumed = start("cut")
    checkpoint.restore(checkpoint.latest(tmp_path), resumed)
    for one, other in zip(further, parts(resumed, range(6, 12)), strict=True):
        assert one == pytest.approx(other, rel=0.05)


def test_a_recorded_step_that_is_not_finite_is_not_taken() -> None:
    training = start("cut")
    parts(training, range(8))
    guard, weight = training.guards["generator"], next(training.generator.parameters())
    assert guard.read() == (0, [])
    kept, others = weight.detach().clone(), [p.detach().clone() for p in list(training.generator.parameters())[1:]]
    with torch.no_grad():
        weight[0] = torch.nan
    play(training, batch(8))
    assert all(torch.equal(p, q) for p, q in zip(list(training.generator.parameters())[1:], others, strict=True))
    skipped, names = guard.read()
    assert skipped == 1 and names and guard.row == 1
    with torch.no_grad():
        weight.copy_(kept)
    play(training, batch(9))
    assert guard.read() == (0, []) and guard.row == 0
    assert not torch.equal(weight, kept) and all(p.isfinite().all() for p in training.generator.parameters())
