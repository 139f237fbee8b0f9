"""Networks as a GPU runs them: compiled, with channels last in memory. Here traced only, on a CPU, which computes the same formulas."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import EXACT, NARROW, batch, images, in_float64, noise, rng, same, scale_weights, small_recipe
from unflip.data.bands import RGB
from unflip.data.transforms import to_image
from unflip.devices import available_memory
from unflip.engine import checkpoint, trainer
from unflip.engine.launch import launch
from unflip.engine.replay import Replay
from unflip.engine.trainer import play
from unflip.engine.training import Training, assemble
from unflip.errors import UserError
from unflip.losses.draws import gather
from unflip.methods import METHODS
from unflip.networks import PatchGANConfig, ResnetConfig, chain
from unflip.networks.blocks import BlurDown, BlurUp, Reflect, ResidualBlock
from unflip.networks.convolutions import BLOCK, ConvFromFew, ConvToFew
from unflip.networks.norm import InstanceNorm
from unflip.recipes import train as train_module
from unflip.runs import RunConfig, collect, validate
from unflip.types import Batch


def quick(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A copy of the network as :func:`unflip.networks.chain.compile_networks` makes it, traced but not translated to kernels."""
    traced = chain.compiled("aot_eager")
    monkeypatch.setattr(chain, "compiled", lambda: traced)
    twin = copy.deepcopy(network)
    chain.compile_networks([twin])
    return twin


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=False)


def everything(network: nn.Module, x: Tensor) -> list[Tensor]:
    """What a network gives for ``x``, and the gradients of the input and the weights."""
    x = x.clone().requires_grad_()
    given, features = network.run(x) if hasattr(network, "run") else (network(x), ())
    pull = torch.arange(given.numel(), dtype=given.dtype).sin().view_as(given)
    ((given * pull).sum() + sum((f * f.detach().roll(1, 0)).mean() for f in features)).backward()
    assert x.grad is not None
    weights = [p.grad for p in network.parameters() if p.ndim > 1]
    return [given.detach(), *(f.detach() for f in features), x.grad, *(grad for grad in weights if grad is not None)]


@pytest.mark.parametrize("fields", [{}, {"downsample": "stride", "upsample": "transpose"}, {"taps": ("stem", "down1", "block2")}])
def test_a_compiled_generator_is_the_plain_one(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    network = scale_weights(ResnetConfig(width=8, blocks=3, **fields).build(3, 3, rng()))
    twin, x = quick(network, monkeypatch), images(4, 40)[..., :32]
    plain, found = everything(network, x), everything(twin, x.contiguous(memory_format=torch.channels_last))
    assert len(plain) == len(found) and all(same(a, b, 1e-9) for a, b in zip(found, plain, strict=True))
    assert all(f.is_contiguous(memory_format=torch.channels_last) for f in found[1 : 1 + len(network.taps)])
    tap = len(network.taps) - 1
    features = twin.encode(x)[tap]
    assert same(twin.decode(features, tap), network.decode(network.encode(x)[tap], tap), 1e-9)


def test_a_compiled_discriminator_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    network = scale_weights(PatchGANConfig(width=8).build(3, rng()))
    x = images(2, 48)
    assert all(same(a, b, 1e-9) for a, b in zip(everything(quick(network, monkeypatch), x), everything(network, x), strict=True))


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (9, 5)])
@pytest.mark.parametrize("module", [Reflect(3), Reflect(1), BlurDown(6), BlurUp(6), InstanceNorm(6)])
def test_compiled_layers_are_the_plain_ones_at_any_size(module: nn.Module, size: tuple[int, int]) -> None:
    module.double()
    x = noise(2, 6, *size)
    assert all(same(a, b, 1e-10) for a, b in zip(everything(compiled(module), x), everything(module, x), strict=True))


@pytest.mark.parametrize("count", [1, 3, 4, BLOCK, 13])
def test_convolutions_from_and_to_few_channels(count: int) -> None:
    for layer in (ConvFromFew(count, 8, (7, 5)), ConvToFew(8, count, (5, 7))):
        layer.double()
        x = noise(2, layer.in_channels, 12, 11)
        plain, found = everything(layer, x), everything(compiled(layer), x)
        assert same(plain[0], F.conv2d(x, layer.weight, layer.bias), 1e-12)
        # an instance norm comes after the one, and undoes its bias, which is left out
        shift = layer.bias[:, None, None].detach() if isinstance(layer, ConvFromFew) else 0
        assert same(found[0] + shift, plain[0], 1e-10)
        assert all(same(a, b, 1e-10) for a, b in zip(found[1:], plain[1:], strict=True))


def test_equal_blocks_are_compiled_once() -> None:
    blocks = nn.ModuleList([ResidualBlock(4) for _ in range(5)])
    kernels = []

    def backend(graph: Any, inputs: Any) -> Any:
        kernels.append(graph)
        return graph

    function = torch.compile(chain.chain, backend=backend, dynamic=False)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, chain.VARIANTS)
    x = torch.rand(1, 4, 8, 8, requires_grad=True)
    for block in blocks:
        x = function([block], x)
    assert len(kernels) == 1


def test_features_with_channels_last_are_gathered_as_others() -> None:
    places = torch.stack([torch.randperm(35, generator=rng())[:9] for _ in range(2)])
    grads = []
    for wanted in (torch.contiguous_format, torch.channels_last):
        x = noise(2, 6, 5, 7).contiguous(memory_format=wanted).requires_grad_()
        found = gather(x, places)
        (found * torch.arange(found.numel()).sin().view_as(found)).sum().backward()
        grads.append((found, x.grad))
    assert torch.equal(grads[0][0], grads[1][0]) and torch.equal(grads[0][1], grads[1][1])
    assert grads[1][1].is_contiguous(memory_format=torch.channels_last)


def small(method: str = "cut", **fields: Any) -> RunConfig:
    recipe = small_recipe(METHODS[method].recipe).model_dump(mode="json")
    return validate({**collect(method, source="a", target="b", size=32, **{"budget": 8, **fields}), **recipe})


def as_bytes(step: int, n: int) -> Batch:
    given = batch(n * step, n)
    return given._replace(source=to_image(given.source), target=to_image(given.target), step=step)


def test_a_last_short_batch_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    config, graphs = small(batch=2, budget=5), []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    training = assemble(config, (RGB, RGB), launch("cpu", "32"))
    training.compiled = True
    traced = torch.compile(chain.chain, backend=backend, dynamic=False)
    monkeypatch.setattr(chain, "compiled", lambda: traced)
    chain.compile_networks([*training.generator.generators.values(), *training.discriminator.networks.values()])
    for step in (0, 1):
        play(training, as_bytes(step, 2))
    before = len(graphs)
    assert before > 0
    play(training, as_bytes(2, 1)._replace(first=4))
    assert len(graphs) == before and training.seen == 5


def test_whether_a_run_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    from unflip import runs

    monkeypatch.setattr(runs, "missing_compiler", lambda: None)
    assert [small(compile=choice).compiles(gpu) for choice in ("auto", "on", "off")] == [True, True, False]
    assert [small(compile=choice).compiles(cpu) for choice in ("auto", "off")] == [False, False]
    with pytest.raises(UserError, match="compile: cpu gains nothing"):
        small(compile="on").compiles(cpu)
    monkeypatch.setattr(runs, "missing_compiler", lambda: "a C compiler")
    assert not small().compiles(gpu)
    with pytest.raises(UserError, match="a C compiler is missing"):
        small(compile="on").compiles(gpu)
    with pytest.raises(UserError, match="compile"):
        small(compile="often")
    assert [small(compile=truth).compile for truth in (True, False)] == ["on", "off"], "as YAML reads on and off"


@pytest.mark.parametrize("compiles", [False, True])
def test_several_processes_look_for_the_biases_that_are_left_out(compiles: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In DDP, a parameter without a gradient that nobody looks for ends the run."""
    found = []

    def launched(*_: Any, idles: bool, **__: Any) -> Any:
        found.append(idles)
        raise InterruptedError

    monkeypatch.setattr(train_module, "launch", launched)
    monkeypatch.setattr(RunConfig, "compiles", lambda self, device: compiles)
    with pytest.raises(InterruptedError):
        train_module.train(small("cut"), tmp_path / "out")
    assert found == [compiles]


def test_a_gpus_memory_that_pytorch_keeps_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an image would be too large as soon as another of its size has been translated."""
    numbers = {"mem_get_info": (50, 100), "memory_reserved": 30, "memory_allocated": 10}
    for name, number in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, number=number: number)
    assert available_memory(torch.device("cuda")) == 70


def test_what_a_compiler_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain.importlib.util, "find_spec", lambda name: None)
    assert chain.missing_compiler() == "triton"
    monkeypatch.setattr(chain.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(chain.shutil, "which", lambda name: None)
    assert chain.missing_compiler() == "a C compiler"
    monkeypatch.setattr(chain.shutil, "which", lambda name: "/usr/bin/gcc")
    assert chain.missing_compiler() is None


def test_a_checkpoint_goes_on_with_channels_last_in_memory(tmp_path: Path) -> None:
    """The optimizer's moving averages lie as the weights do: the fused step reads them in that order."""
    config = small(budget=20)

    def start() -> Training:
        training = assemble(config, (RGB, RGB), launch("cpu", "32"))
        for player in (training.generator, training.discriminator):
            player.to(memory_format=torch.channels_last)
        return training

    training = start()
    for step in range(3):
        play(training, as_bytes(step, 1))
    checkpoint.save(tmp_path, training)
    resumed = start()
    checkpoint.restore(checkpoint.latest(tmp_path) or tmp_path, resumed)
    for step in (3, 4):
        one, other = (play(each, as_bytes(step, 1))[0] for each in (training, resumed))
        assert all(torch.equal(one[name], other[name]) for name in one)
    for optimizer in resumed.optimizers.values():
        for parameter, state in optimizer.state.items():
            assert state["exp_avg"].stride() == parameter.stride()


def test_what_is_not_on_a_gpu_is_not_recorded() -> None:
    replay = Replay(pool=None, stream=None)  # type: ignore[arg-type]
    for k in range(6):
        found, given = replay(lambda x, k: (x + k, k), torch.ones(2), k)
        assert given == k and torch.equal(found, torch.full((2,), 1.0 + k))
    assert not replay.recorded


@pytest.mark.parametrize("method", METHODS)
def test_a_players_turn_reads_nothing_on_the_host(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it could not be recorded as a CUDA graph, and the host would wait for the device in every step."""
    training, turns = assemble(small(method), (RGB, RGB), launch("cpu", "32")), trainer._turn
    read: list[str] = []

    def told(name: str, asked: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **fields: read.append(name) or asked(*given, **fields)

    def watched(*given: Any) -> Any:
        with monkeypatch.context() as patch:
            for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "nonzero"):
                patch.setattr(Tensor, name, told(name, getattr(Tensor, name)))
            return turns(*given)

    monkeypatch.setattr(trainer, "_turn", watched)
    play(training, as_bytes(0, 1))
    play(training, as_bytes(1, 1))
    assert not read


def test_weights_that_rise_are_not_another_recording_in_every_step() -> None:
    """A recording holds numbers as they were; where turns are recorded, weights are tensors."""
    training, given = assemble(small("semst"), (RGB, RGB), launch("cpu", "32")), []
    training.config = training.config.model_copy(update={"budget": 100})

    def watched(function: Callable[..., Any], *what: Any) -> Any:
        given.append(what)
        return function(*what)

    training.replays["generator"] = watched  # type: ignore[assignment]
    for step in (2, 4):
        play(training, as_bytes(step, 1))
    (_, _, first, *_), (_, _, second, *_) = given
    assert all(isinstance(weight, Tensor) for weight in first.values())
    assert 0 < first["structure"] < second["structure"]


@pytest.mark.parametrize("method", ["cut", "srunit", "semst"])
def test_a_run_as_a_gpu_computes_it_is_the_plain_one(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a dozen steps in float64: chains compiled, rate and weights as tensors. Those are float32, and every number here is one that
    float32 holds; a rate that is not sets runs apart, as docs/decisions/gpu.md tells."""
    traced = chain.compiled("aot_eager")
    monkeypatch.setattr(chain, "compiled", lambda: traced)
    size = 64 if method == "semst" else 32  # of which it has windows half as wide
    shown = [[to_image(images(1, size, seed=2 * step + side)) for side in (0, 1)] for step in range(12)]

    def run(quick: bool, rate: float) -> tuple[list[dict[str, float]], Tensor]:
        settings = [*NARROW, *EXACT.get(method, ()), f"optimizer.lr={rate}"]
        config = validate(collect(method, source="a", target="b", size=size, budget=64, settings=settings))
        training = in_float64(assemble(config, (RGB, RGB), launch("cpu", "32")), monkeypatch)
        if quick:
            chain.compile_networks([*training.generator.generators.values(), *training.discriminator.networks.values()])
            training.replays = dict.fromkeys(training.optimizers, lambda function, *given: function(*given))
            for optimizer in training.optimizers.values():
                optimizer.param_groups[0]["lr"] = torch.tensor(0.0)
        batches = [Batch(source, target, step, step) for step, (source, target) in enumerate(shown)]
        found = [{name: float(value) for name, value in play(training, each)[0].items()} for each in batches]
        return found, torch.cat([p.detach().flatten() for p in training.generator.parameters() if p.ndim > 1])

    (plain, slow), (found, quick) = (run(how, 2.0**-12) for how in (False, True))
    for one, other in zip(found, plain, strict=True):
        assert one == pytest.approx(other, rel=1e-7, abs=1e-12)
    assert (quick - slow).norm() < 1e-7 * slow.norm()
    if method == "cut":
        plain, found = (run(how, 2e-4)[0] for how in (False, True))
        assert any(one != pytest.approx(other, rel=1e-7) for one, other in zip(found, plain, strict=True))


def test_a_training_is_gone_when_nobody_holds_it() -> None:
    """No cycle keeps it: with it would stay what its processes talk through, until Python ends, which then does not end well."""
    training = assemble(small(), (RGB, RGB), launch("cpu", "32"))
    play(training, as_bytes(0, 1))
    seen = weakref.ref(training)
    gc.disable()
    try:
        del training
        assert seen() is None
    finally:
        gc.enable()
