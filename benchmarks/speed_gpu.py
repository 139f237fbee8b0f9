"""Training steps on one GPU beside the published CUT's: A B A B in processes of their own, the floor, the profile, bfloat16 beside float32.

    python benchmarks/speed_gpu.py --out DIR [--cut CHECKOUT] [--data DIR] [--parts ARM,...]
        [--together 4] [--rounds 2] [--seconds 4] [--minutes 10]

CHECKOUT is a copy of github.com/taesungp/contrastive-unpaired-translation. Both sides play whole steps at 256 pixels and full width, on
images that are in memory already and with their defaults otherwise; a time is that of many steps, waited for once at the end. SRUNIT's term
is active, and played at each of the five taps, of which a run draws one in every step.

Arms: ``unflip:METHOD:BATCH[:KEY=VALUE...]``, ``published:cut:BATCH``, ``translate:BATCH[:KEY=VALUE...]`` and ``profile:METHOD:BATCH``.
``--together`` of them at a time make ready side by side, as that is the host's work for a minute: they compile, and record. Then they are
timed in turn, ``--rounds`` times, while the others wait. ``precision`` trains on the images of DIR/source and DIR/target for 2,000 images
in float32 and in bfloat16. What an arm finds is added to DIR/speed_gpu.jsonl.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from unflip.engine.training import Training

MARK = "== "
"""Before the lines of an arm's process that are meant for the one that started it."""
SIZE, WARM = 256, 12
"""Steps before those that are timed: enough for each kind of step to be compiled and recorded."""
ARMS = (
    *("unflip:cut:1", "published:cut:1", "unflip:cut:16", "published:cut:8", "unflip:cut:8", "published:cut:16"),
    *("unflip:cut:32", "unflip:cut:4", "published:cut:4", "unflip:srunit:16", "unflip:srunit:16:robustness.every=4"),
    *("unflip:srunit:1", "unflip:semst:1", "unflip:cut:16:compile=off", "unflip:cut:1:compile=off", "unflip:cut:16:precision=32"),
    *("translate:16", "profile:cut:16"),
)


Measure = Callable[[], dict[str, Any]]
"""What an arm does when it is its turn: it is ready by then."""


def timed(step: Any, seconds: float) -> float:
    """Seconds of a step, over as many as fit into ``seconds``."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for i in range(4):
        step(i)
    torch.cuda.synchronize()
    count = max(8, 4 * round(seconds / max(time.perf_counter() - began, 1e-6)))
    began = time.perf_counter()
    for i in range(count):
        step(i)
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def assembled(method: str, batch: int, settings: Sequence[str] = ()) -> Training:
    """What ``unflip bench`` would measure."""
    from unflip.data.bands import RGB
    from unflip.engine.launch import launch
    from unflip.engine.training import assemble
    from unflip.recipes import bench

    config = bench.configure(method, size=SIZE, device="cuda", batch=batch, settings=[*settings])
    return assemble(config, (RGB, RGB), launch("cuda", config.precision))


def ours(method: str, batch: int, settings: list[str], seconds: float) -> Measure:
    """Of unflip: seconds, bytes and operations of a step."""
    from speed import TAPS, at_tap

    from unflip.engine.launch import machine
    from unflip.engine.trainer import play
    from unflip.recipes import bench

    began = time.perf_counter()
    training = assembled(method, batch, settings)
    config, fabric = training.config, training.fabric
    batches = [bench._batch(config, i) for i in range(4)]
    batches = [b._replace(source=b.source.pin_memory(), target=b.target.pin_memory()) for b in batches]
    taps = TAPS.get(method, (0,))
    for tap in taps:
        with at_tap(tap):
            for i in range(WARM + (12 if "robustness.every=4" in settings else 0)):
                play(training, batches[i % 4])
    torch.cuda.synchronize()
    ready, memory = time.perf_counter() - began, torch.cuda.max_memory_allocated()
    plain = assembled(method, batch, [*settings, "compile=off"])
    flops = bench._flops(lambda: play(plain, batches[0]))
    half = torch.float32 if config.precision == "32" else torch.bfloat16

    def measure() -> dict[str, Any]:
        times = []
        for tap in taps:
            with at_tap(tap):
                times.append(timed(lambda i: play(training, batches[i % 4]), seconds / len(taps)))
        mean, peak = statistics.fmean(times), bench.matrix_peak(fabric.device, half)
        found = {"seconds": mean, "by_tap": times, "bytes": memory, "flops": flops, "peak": peak, "share": flops / mean / peak}
        return {**found, "ready": ready, "machine": machine(fabric)}

    return measure


def translation(batch: int, settings: list[str], seconds: float) -> Measure:
    """Of unflip's translation, from bytes to bytes: seconds of a batch."""
    from unflip.recipes import bench

    training = assembled("cut", batch, settings)
    images = [bench._batch(training.config, i).source.pin_memory() for i in range(4)]
    translate = bench._translation(training, training.config)
    for i in range(WARM):
        translate(images[i % 4])
    return lambda: {"seconds": timed(lambda i: translate(images[i % 4]), seconds)}


def published(batch: int, checkout: Path, seconds: float) -> Measure:
    """Of the published CUT, with its defaults."""
    from parity import OPTIONS, Checkout

    Checkout("CUT", checkout.resolve())
    options = SimpleNamespace(**{**OPTIONS, "ngf": 64, "ndf": 64, "num_patches": 256, "batch_size": batch, "gpu_ids": [0]})
    model = importlib.import_module("models.cut_model").CUTModel(options)
    rng = torch.Generator().manual_seed(0)
    data = {side: torch.rand(batch, 3, SIZE, SIZE, generator=rng) * 2 - 1 for side in ("A", "B")} | {"A_paths": [], "B_paths": []}
    model.data_dependent_initialize(data)
    model.parallelize()  # as its train.py does, also with one GPU

    def step(_: int) -> None:
        model.set_input(data)
        model.optimize_parameters()

    for i in range(WARM):
        step(i)
    return lambda: {"seconds": timed(step, seconds), "bytes": torch.cuda.max_memory_allocated()}


def profile(method: str, batch: int, out: Path) -> Measure:
    """Where a step's time goes, by kernel."""
    from torch.profiler import ProfilerActivity

    from unflip.engine.trainer import play
    from unflip.recipes import bench

    training = assembled(method, batch)
    batches = [bench._batch(training.config, i) for i in range(4)]
    for i in range(WARM):
        play(training, batches[i % 4])

    def measure() -> dict[str, Any]:
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as found:
            for i in range(3):
                play(training, batches[i])
            torch.cuda.synchronize()
        kernels = sorted(found.key_averages(), key=lambda k: -k.self_device_time_total)
        total = sum(k.self_device_time_total for k in kernels)
        lines = [
            f"{k.self_device_time_total / total:7.2%} {k.self_device_time_total / 3000:9.3f} ms {k.count // 3:5d}  {k.key}" for k in kernels
        ]
        (out / f"profile_{method}_{batch}.txt").write_text("\n".join(lines[:200]) + "\n")
        return {"milliseconds": total / 3000}

    return measure


def precision(data: Path, out: Path) -> dict[str, Any]:
    """The losses of 2,000 images, crops of half the size, in float32 and in bfloat16, in twenty means each."""
    from unflip.recipes.train import configure, train

    found: dict[str, Any] = {}
    for mode in ("32", "bf16"):
        run = out / f"precision_{mode}"
        config = configure(
            "cut", source=data / "source", target=data / "target", size=SIZE // 2, budget=2_000, precision=mode, settings=["log_every=100"]
        )
        began = time.perf_counter()
        train(config, run, progress=False, say=lambda line: None)
        found[f"seconds_{mode}"] = time.perf_counter() - began
        found[mode] = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return found


def one(arm: str, asked: argparse.Namespace) -> Measure:
    """An arm, made ready."""
    kind, *rest = arm.split(":")
    if kind == "precision":
        return lambda: precision(asked.data, asked.out)
    if kind == "translate":
        return translation(int(rest[0]), rest[1:], asked.seconds)
    method, batch, *settings = rest
    if kind == "unflip":
        return ours(method, int(batch), settings, asked.seconds)
    return published(int(batch), asked.cut, asked.seconds) if kind == "published" else profile(method, int(batch), asked.out)


def answer(arm: str, child: subprocess.Popen[str]) -> str | None:
    """The next line of an arm's process; None, where there is none any more, after saying so."""
    assert child.stdout is not None
    while line := child.stdout.readline():
        if line.startswith(MARK):
            return line.removeprefix(MARK)
    print(f"{arm} failed", flush=True)
    return None


def alternate(arms: Sequence[str], asked: argparse.Namespace, end: float) -> None:
    """Make some arms ready, and measure them in turn, ``--rounds`` times, until the time is over."""
    own = [sys.executable, __file__, *sys.argv[1:], "--one"]
    children = {arm: subprocess.Popen([*own, arm], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for arm in arms}
    over = threading.Timer(max(0.0, end - time.monotonic()), lambda: [child.kill() for child in children.values()])
    over.start()
    try:
        ready = [arm for arm in arms if answer(arm, children[arm])]
        for i in range(asked.rounds):
            for arm in [*ready]:
                if time.monotonic() > end:
                    sys.exit("the time is over")
                print("now", file=children[arm].stdin, flush=True)
                line = answer(arm, children[arm])
                if line is None:
                    ready.remove(arm)
                    continue
                found = json.loads(line)
                with open(asked.out / "speed_gpu.jsonl", "a") as file:
                    file.write(json.dumps({"arm": arm, "round": i + 1, **found}) + "\n")
                short = {key: round(value, 4) for key, value in found.items() if isinstance(value, float)}
                print(f"{i + 1} {arm}: {short}", flush=True)
    finally:
        over.cancel()
        for child in children.values():
            child.kill()


def main() -> None:
    """Measure the arms, some at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cut", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--parts", default=",".join(ARMS))
    parser.add_argument("--together", type=int, default=4, help="arms that make ready side by side")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4, help="for which an arm is timed")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        measure = one(asked.one, asked)
        print(f"{MARK}ready", flush=True)
        for _ in sys.stdin:
            print(MARK + json.dumps(measure()), flush=True)
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    arms, end = asked.parts.split(","), time.monotonic() + 60 * asked.minutes
    for first in range(0, len(arms), asked.together):
        if time.monotonic() > end:
            sys.exit("the time is over")
        alternate(arms[first : first + asked.together], asked, end)


if __name__ == "__main__":
    main()
