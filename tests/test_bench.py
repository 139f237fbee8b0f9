"""``unflip bench``: one JSON line whose numbers belong together, and whose operations are those of the networks."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from unflip.methods import METHODS
from unflip.recipes import bench as recipe
from unflip.recipes.bench import bench, configure, matrix_peak

TINY = ["generator.width=4", "generator.blocks=1"]


def tiny(method: str, *settings: str, size: int | str = 32, batch: int = 1) -> Any:
    patchgan = METHODS[method].recipe.discriminator.kind == "patchgan"
    judged = ["discriminator.width=4", "discriminator.layers=2"] if patchgan else []
    return configure(method, settings=[*TINY, *judged, *settings], size=size, batch=batch, device="cpu")


def test_one_line_of_json(cli: Callable[..., Any]) -> None:
    settings = [part for setting in (*TINY, "discriminator.width=4", "nce.patches=8") for part in ("--set", setting)]
    result = cli("bench", "--method", "fastcut", "--size", "64x32", "--batch", 2, "--steps", 2, "--device", "cpu", *settings)
    assert result.code == 0, result.stderr
    [line] = result.stdout.splitlines()
    found = json.loads(line)
    assert (found["method"], found["size"], found["batch"], found["steps"]) == ("fastcut", "64x32", 2, 2)
    for part in (found["training"], found["translation"]):
        assert part["images_per_second"] == pytest.approx(2 / part["seconds"], rel=1e-2)
        share = part["flops_per_image"] * part["images_per_second"] / part["matrix_peak"]
        assert part["peak_share"] == pytest.approx(share, abs=2e-4) and 0 < share < 1
    assert found["training"]["flops_per_image"] > 3 * found["translation"]["flops_per_image"]
    assert found["training"]["peak_memory"] >= 0 and found["machine"]["device"] == "cpu"


def test_operations_are_those_of_the_convolutions() -> None:
    """By hand: 2 * kernel area * channels in * channels out * pixels, of every convolution of the generator."""
    found = bench(tiny("cut", "generator.downsample=stride", "generator.upsample=transpose"), steps=1, progress=False)
    layers = [(49, 3, 4, 32 * 32), (9, 4, 8, 16 * 16), (9, 8, 16, 8 * 8), (9, 16, 16, 8 * 8), (9, 16, 16, 8 * 8)]
    # a transposed convolution multiplies at its input's pixels
    # and the head, whose kernel's rows are added up afterwards, at its margin's rows, too
    layers += [(9, 16, 8, 8 * 8), (9, 8, 4, 16 * 16), (49, 4, 3, (32 + 6) * 32)]
    assert found["translation"]["flops_per_image"] == sum(2 * area * a * b * pixels for area, a, b, pixels in layers)


def test_operations_per_image_do_not_depend_on_the_batch() -> None:
    one, two = (bench(tiny("cut", batch=batch), steps=1, progress=False) for batch in (1, 2))
    assert one["translation"]["flops_per_image"] == two["translation"]["flops_per_image"]
    assert one["training"]["flops_per_image"] == two["training"]["flops_per_image"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_measured_without_downloads(method: str) -> None:
    fields = ("vsa.vectors.dimension=32", "discriminator.vectors.dimension=32", "vsa.width=8", "discriminator.width=8")
    found = bench(tiny(method, *(fields if method == "vsait" else ())), steps=1, progress=False)
    assert found["training"]["seconds"] > 0 and found["training"]["flops_per_image"] > 0


def test_what_is_wrong_is_refused(cli: Callable[..., Any]) -> None:
    for call, said in (
        (["--method", "cutt"], "did you mean cut"),
        (["--steps", "0"], "at least 1"),
        (["--size", "no"], "size"),
        (["--batch", "0"], "batch"),
        (["--device", "cuda"] if not torch.cuda.is_available() else ["--device", "tpu"], "device"),
    ):
        result = cli("bench", *call)
        assert result.code == 2 and said in result.stderr and not result.stdout, call


def test_the_peak_is_that_of_a_matrix_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that ticks once a look: every product takes a second."""
    ticks = itertools.count()
    monkeypatch.setattr(recipe.time, "perf_counter", lambda: float(next(ticks)))
    assert matrix_peak(torch.device("cpu"), torch.float32) == 2 * 1536**3
    assert torch.get_float32_matmul_precision() == "highest"


def test_memory_is_that_of_this_process() -> None:
    code = """
import torch
from unflip.devices import peak_memory
before = peak_memory(torch.device("cpu"))
block = torch.ones(100_000_000)
print(peak_memory(torch.device("cpu")) - before)
del block
torch.ones(10)
print(peak_memory(torch.device("cpu")) - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = map(int, done.stdout.split())
    assert 0.95 * 400_000_000 < first < 1.2 * 400_000_000 and second > 0.95 * first, "what was freed still counts"


def test_terms_that_begin_later_are_measured_at_work() -> None:
    """SRUNIT's, which is off at first, decodes and encodes once more."""
    srunit, cut = (bench(tiny(method), steps=1, progress=False)["training"]["flops_per_image"] for method in ("srunit", "cut"))
    assert srunit > 1.1 * cut
