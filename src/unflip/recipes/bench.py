"""How fast: training steps and translation of one configuration on this machine, beside what the machine can do at best."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import unflip
from unflip.data.bands import RGB
from unflip.data.transforms import to_image, to_network
from unflip.devices import choose_precision, peak_memory
from unflip.engine.launch import launch, machine
from unflip.engine.trainer import play
from unflip.engine.training import Training, assemble
from unflip.errors import UserError
from unflip.inference.torch_backend import TorchTranslator
from unflip.methods import METHODS
from unflip.modelfolder import Model, ModelConfig
from unflip.progress import Bar
from unflip.runs import RunConfig, collect, validate
from unflip.types import Batch

WARM = 2
"""Steps that are not counted: the first ones allocate, and choose algorithms."""
PROGRESS = 0.75
"""Of the training: every term has begun by then."""


def configure(method: str | None = None, *, settings: tuple[str, ...] | list[str] = (), **fields: Any) -> RunConfig:
    """A configuration to be measured: without data, and without downloads, since what the weights are changes no time.

    The arguments are those of :func:`unflip.runs.collect`. Raises ``UserError`` for what is unknown or out of range.
    """
    recipe = METHODS[method].recipe if method in METHODS else METHODS["srunit"].recipe
    looks = {**recipe.terms, "discriminator": recipe.discriminator}
    offline = [f"{name}.{of}.weights=random" for name, owner in looks.items() for of in ("features", "vectors") if hasattr(owner, of)]
    return validate(collect(method, settings=[*offline, *settings], source="none", target="none", budget=1_000_000, **fields))


def bench(config: RunConfig, *, steps: int = 5, progress: bool = True) -> dict[str, Any]:
    """Measure ``steps`` training steps and as many translated batches, on random images of the crops' size.

    Best in a process of its own, which alone can tell its peak memory.

    Returns:
        A record for one line of JSON. Times are medians in seconds; ``flops_per_image``: multiplications and additions of convolutions and
        matrix products, as PyTorch counts them (a step: forward and backward of both players); ``peak_share``: those per second, as a
        share of ``matrix_peak``, the FLOP/s of a large matrix product at the precision of the run. Translation on a CPU can have more than
        all of it, as convolutions are computed with fewer operations there (:mod:`unflip.networks.winograd`);
        ``peak_memory`` in bytes: what networks and training steps add to what the process held before.

    Raises:
        UserError: fewer than one step.
    """
    if steps < 1:
        raise UserError(f"--steps {steps}: at least 1 is needed")
    fabric = launch(config.device, config.precision)
    device = fabric.device
    before = peak_memory(device)
    training = assemble(_measured(config), (RGB, RGB), fabric)
    batches = [_batch(config, i) for i in range(WARM + steps + 1)]
    with Bar("measuring", 2 * (WARM + steps), quiet=not progress) as bar:
        times = _timed(lambda i: play(training, batches[i]), steps, device, bar, 0)
        after = peak_memory(device)
        translate = _translation(training, config)
        translations = _timed(lambda i: translate(batches[i].source), steps, device, bar, WARM + steps)
    plain = assemble(training.config.model_copy(update={"compile": "off"}), (RGB, RGB), fabric)  # what is recorded counts nothing
    counted = _flops(lambda: play(plain, batches[-1])), _flops(lambda: _translation(plain, config, quick=False)(batches[-1].source))

    peak = matrix_peak(device, torch.bfloat16 if choose_precision(config.precision, device) == "bf16" else torch.float32)

    def speed(seconds: list[float], flops: int) -> dict[str, Any]:
        middle = statistics.median(seconds)
        return {
            "seconds": round(middle, 6),
            "images_per_second": round(config.batch / middle, 3),
            "flops_per_image": flops // config.batch,
            "matrix_peak": round(peak),
            "peak_share": round(flops / middle / peak, 4),
        }

    return {
        "method": config.method,
        "size": str(config.size),
        "batch": config.batch,
        "steps": steps,
        "training": speed(times, counted[0]) | {"peak_memory": None if before is None or after is None else after - before},
        "translation": speed(translations, counted[1]),
        "machine": machine(fabric) | {"processor": platform.machine()},
        "unflip": unflip.__version__,
    }


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """The FLOP/s of the fastest of ten products of square matrices: what dense arithmetic reaches here at best.

    Float32 on a GPU is TF32, in which its convolutions compute unless they are told otherwise. On a CPU the product is a convolution of
    1 x 1, as PyTorch's other library, for products, does not use all instructions of every CPU.
    """
    side = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(side, side, generator=torch.Generator().manual_seed(k)).to(device, dtype) for k in range(2))
    image, kernel = a.view(1, side, 1, side).permute(0, 3, 1, 2), b.view(side, side, 1, 1)
    times, before = [], torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        for _ in range(10):
            _wait(device)
            began = time.perf_counter()
            _ = a @ b if device.type == "cuda" else F.conv2d(image, kernel)
            _wait(device)
            times.append(time.perf_counter() - began)
    finally:
        torch.set_float32_matmul_precision(before)
    return 2 * side**3 / min(times)


def _measured(config: RunConfig) -> RunConfig:
    """With terms that look at the data first given noise to look at."""
    noise = {
        side: torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(k)) * 2 - 1 for k, side in enumerate(("source", "target"))
    }
    terms = {name: term.measure(noise) if term.unmeasured() else term for name, term in config.terms.items()}
    return config.model_copy(update={"terms": terms})


def _batch(config: RunConfig, step: int) -> Batch:
    shape = (config.batch, 3, config.size.height, config.size.width)
    rng = torch.Generator().manual_seed(step)
    source, target = (torch.randint(256, shape, dtype=torch.uint8, generator=rng) for _ in range(2))
    step += round(PROGRESS * config.budget) // config.batch
    return Batch(source, target, step * config.batch, step)


def _translation(training: Training, config: RunConfig, quick: bool = True) -> Callable[[torch.Tensor], Any]:
    """From bytes to bytes, by the moving average, as ``translate`` does it; not ``quick``: layer by layer, as the network says it."""
    generators = dict(training.ema.network.items())  # type: ignore[operator]
    description = ModelConfig(generator=config.generator, multiscale=config.multiscale, sides=config.sides)
    translator = TorchTranslator(Model(description, generators, Path()))
    if quick:
        translator.quicken(config.precision)
    if quick and training.compiled:
        translator.compile()
    return lambda images: to_image(translator.network(to_network(images))).cpu()


def _timed(call: Callable[[int], Any], steps: int, device: torch.device, bar: Bar, done: int) -> list[float]:
    times = []
    for i in range(WARM + steps):
        _wait(device)
        began = time.perf_counter()
        call(i)
        _wait(device)
        times.append(time.perf_counter() - began)
        bar.show(done + i + 1)
    return times[WARM:]


def _flops(call: Callable[[], Any]) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        call()
    return counter.get_total_flops()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
