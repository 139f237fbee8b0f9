"""Tiles: an image translated piece by piece is the image translated whole, or has at least no seams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import unflip
from helpers import images, noise, reader, rng, same, scale_weights
from unflip import modelfolder
from unflip.errors import UserError
from unflip.inference import torch_backend
from unflip.inference.tiles import Box, Statistics, Tiles, side_for
from unflip.modelfolder import ModelConfig
from unflip.networks import Generator, MultiscaleConfig, ResnetConfig
from unflip.networks.multiscale import build
from unflip.networks.norm import InstanceNorm, Moments
from unflip.networks.program import Program

PLENTY = 2**40


def network(width: int = 4, blocks: int = 2, **fields: Any) -> Generator:
    return scale_weights(ResnetConfig(width=width, blocks=blocks, **fields).build(3, 3, rng())).eval()


def scene(height: int, width: int) -> Tensor:
    """Unlike its parts: another brightness and contrast at each side, as sky and road have."""
    rough = F.interpolate(noise(1, 3, 12, 12, seed=3), (height, width), mode="bilinear")
    x = 0.5 * rough + 0.2 * noise(1, 3, height, width, seed=4)
    x[..., width // 2 :] *= 0.3
    x[..., height // 2 :, :] += 0.4
    return x.clamp(-1, 1)


def assemble(x: Tensor, parts: Any) -> Tensor:
    whole = torch.full_like(x, torch.nan)
    for box, part in parts:
        assert whole[..., box.top : box.bottom, box.left : box.right].isnan().all(), "a pixel is written twice"
        whole[..., box.top : box.bottom, box.left : box.right] = part
    assert not whole.isnan().any()
    return whole


def naive(tiles: Tiles, x: Tensor) -> Tensor:
    """The broken twin: every tile is normalized by its own statistics."""
    found = []
    for box in tiles.boxes():
        window = box.grown(tiles.program.halo(0, len(tiles.program.operations)), tiles.whole)
        image = window.cut(tiles.generator.run(tiles._read(reader(x), window))[0], box)
        height, width = (min(end, side) for end, side in zip((box.bottom, box.right), tiles.size, strict=True))
        found.append((Box(box.top, box.left, height, width), image[..., : height - box.top, : width - box.left]))
    return assemble(x, found)


MEMORIES = {"nothing is kept": 0, "the bottleneck is kept": 2, "all is kept": 8}
"""Numbers for each pixel, of width 4: within a block a 16th of them have 4 times the width, twice; behind down1 all have it twice."""


def memory_for(numbers: int, pixels: int) -> int:
    """What allows keeping so many float64 numbers for each pixel."""
    return 4 * 8 * numbers * pixels


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"downsample": "stride", "upsample": "transpose"}])
@pytest.mark.parametrize("size", [(93, 131), (64, 201), (3, 201)])
@pytest.mark.parametrize("memory", MEMORIES)
def test_exact_tiles_are_the_whole_image(fields: dict[str, str], size: tuple[int, int], memory: str) -> None:
    generator, x = network(**fields), scene(*size)
    tiles = Tiles(generator, size, 48, 0)
    tiles.memory = memory_for(MEMORIES[memory], tiles.whole.bottom * tiles.whole.right)
    kept = [keeps for _, keeps in tiles._plan([tiles.whole], tiles.unknown)]
    assert len(kept) == 9 and sum(kept) == {0: 0, 2: 7 if fields else 5, 8: 9}[MEMORIES[memory]]
    whole = generator(x)
    assert whole.std() > 0.3
    calls: list[int] = []
    found = assemble(x, tiles.translate(reader(x), "exact", calls.append))
    assert same(found, whole, 1e-9)
    assert calls == list(range(1, tiles.work("exact") + 1))
    assert (naive(tiles, x) - whole).abs().max() > 20 / 127.5
    assert all(norm.given is None for norm in generator.modules() if isinstance(norm, InstanceNorm))


@torch.no_grad()
@pytest.mark.parametrize("size", [(93, 131), (64, 201), (3, 201)])
@pytest.mark.parametrize("tile", [4, 8, 64])
def test_tiles_of_any_side(size: tuple[int, int], tile: int) -> None:
    """Also where the margin that an image is grown by is mirrored from another tile than the one that it is in."""
    generator, x = network(blocks=1), scene(*size)
    assert same(assemble(x, Tiles(generator, size, tile, PLENTY).translate(reader(x))), generator(x), 1e-9)


def coarsest(program: Program, start: int, stop: int) -> int:
    return max(state[0].scale for state in program.shapes[start : stop + 1])


@torch.no_grad()
@pytest.mark.parametrize("memory", [0, PLENTY])
def test_halos_are_no_larger_than_they_must_be(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: with any one of them a step smaller, the image is another one."""
    generator, x = network(), scene(96, 160)
    tiles = Tiles(generator, (96, 160), 48, memory)
    whole, exact, asked = generator(x), tiles.program.halo, []
    monkeypatch.setattr(tiles.program, "halo", lambda *ends: asked.append(ends) or exact(*ends))
    assert same(assemble(x, tiles.translate(reader(x))), whole, 1e-9)
    different = sorted(set(asked))
    assert len(different) == 10
    for broken in different:
        step = coarsest(tiles.program, *broken)
        monkeypatch.setattr(tiles.program, "halo", lambda *ends, broken=broken, step=step: exact(*ends) - step * (ends == broken))
        assert not same(assemble(x, tiles.translate(reader(x))), whole, 1e-9), broken


@torch.no_grad()
def test_little_is_computed_twice() -> None:
    generator, x = network(blocks=9), scene(256, 256)

    def operations(function: Callable[[], Any]) -> float:
        with FlopCounterMode(display=False) as counter:
            function()
        return counter.get_total_flops()

    whole = operations(lambda: generator(x))

    def times(memory: int, statistics: Statistics = "exact") -> float:
        tiles = Tiles(generator, (256, 256), 64, memory)
        return operations(lambda: assemble(x, tiles.translate(reader(x), statistics))) / whole

    assert 1 < times(PLENTY) < 1.5
    assert times(memory_for(MEMORIES["the bottleneck is kept"], 256 * 256)) < 2.2
    assert times(0) > 20


@torch.no_grad()
def test_a_large_image_by_tiles_of_512() -> None:
    """Issue's bar: 1024 x 2048 in float32, within one gray value at every pixel."""
    generator, x = network(blocks=1).float(), scene(1024, 2048).float()
    whole, tiles = generator(x), Tiles(generator, (1024, 2048), 512, PLENTY)
    assert whole.std() > 0.3 and len(tiles.boxes()) == 8
    assert (assemble(x, tiles.translate(reader(x), "exact")) - whole).abs().max() < 1 / 127.5
    assert (naive(tiles, x) - whole).abs().max() > 20 / 127.5


def seams(y: Tensor, tile: int, flat: slice) -> float:
    """The mean step across the tiles' vertical borders, in rows ``flat``, over that 8 pixels beside them."""
    step = (y[..., flat, 1:] - y[..., flat, :-1]).abs().mean((0, 1, 2))  # step[i]: from column i to i + 1
    borders = torch.arange(tile, y.shape[-1], tile) - 1
    return float(step[borders].mean() / torch.cat([step[borders - 8], step[borders + 8]]).mean())


@torch.no_grad()
@pytest.mark.parametrize("statistics", ["exact", "estimated"])
def test_there_is_no_seam_on_flat_regions(statistics: Statistics) -> None:
    generator = network(blocks=1)
    x = scene(192, 384)
    x[..., 52:140, :] = 0.3 + 0.001 * torch.arange(384)  # flat but for a slight slope, so that there are steps at all
    flat = slice(92, 100)
    assert generator.receptive_radius <= 40, "these rows see nothing else, though their tiles do"
    tiles = Tiles(generator, (192, 384), 64, PLENTY)
    found = assemble(x, tiles.translate(reader(x), statistics))
    assert seams(found, 64, flat) < 1.05
    assert seams(naive(tiles, x), 64, flat) > 1.5


@torch.no_grad()
@pytest.mark.parametrize("memory", [0, PLENTY])
def test_estimated_statistics_are_near_those_of_the_image(memory: int) -> None:
    generator, x = network(blocks=1), scene(160, 192)
    whole, tiles = generator(x), Tiles(generator, (160, 192), 32, memory)
    calls: list[int] = []
    estimated = assemble(x, tiles.translate(reader(x), "estimated", calls.append))
    passes = 8 if memory else 1
    assert len(tiles.boxes()) == 30 and len(calls) == tiles.work("estimated") == 30 * passes + 16 * 7
    assert same(estimated, assemble(x, Tiles(generator, (160, 192), 32, PLENTY - memory).translate(reader(x), "estimated")), 1e-9)
    assert (estimated - whole).abs().mean() < 0.5 * (naive(tiles, x) - whole).abs().mean()
    assert (estimated - whole).abs().max() > 1 / 127.5, "they are no more than an estimate"


@torch.no_grad()
def test_statistics_of_few_tiles_are_exact() -> None:
    generator, x = network(blocks=1), scene(128, 128)
    tiles = Tiles(generator, (128, 128), 32, PLENTY)
    assert len(tiles.boxes()) == 16
    assert same(assemble(x, tiles.translate(reader(x), "estimated")), generator(x), 1e-9)


def test_moments_of_parts_are_those_of_the_whole() -> None:
    x = noise(2, 3, 20, 30) * 4 + 1000
    moments = Moments()
    for part in (x[..., :7, :], x[..., 7:8, :5], x[..., 7:8, 5:], x[..., 8:, :]):
        moments.add(part)
    together = x.transpose(0, 1).flatten(1)
    assert moments.count == together.shape[1]
    assert same(moments.mean.flatten(), together.mean(1), 1e-12)
    assert same((moments.squares / moments.count).flatten(), together.var(1, correction=0), 1e-9)
    assert same(moments.normalize(x[:1], 1e-5), F.batch_norm(x, None, None, training=True, eps=1e-5)[:1], 1e-9)


def test_moments_take_few_calls_where_every_call_costs() -> None:
    """Strips are a CPU's: a GPU, for which tensors that hold nothing stand here, adds up without losing digits."""
    calls = []

    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls.append(function)
            return function(*args, **(kwargs or {}))

    with Counted():
        Moments().add(torch.empty(1, 8, 1024, 1024, device="meta"))
    assert 0 < len(calls) < 40


@torch.no_grad()
def test_norms_are_normal_again_after_an_error() -> None:
    generator, x = network(), images(1, 96)

    def broken(*box: int) -> Tensor:
        raise OSError("gone")

    for statistics in ("exact", "estimated"):
        with pytest.raises(OSError, match="gone"):
            next(Tiles(generator, (96, 96), 48, PLENTY).translate(broken, statistics))  # type: ignore[arg-type]
        assert all(norm.given is None for norm in generator.modules() if isinstance(norm, InstanceNorm))
    parts = Tiles(generator, (96, 96), 48, PLENTY).translate(reader(x))
    next(parts)
    assert same(generator(x), network()(x), 0), "between two tiles the network is its old self"


# --- in a translator


def write_model(folder: Path, **fields: Any) -> Path:
    config = ModelConfig(generator=ResnetConfig(width=4, blocks=1), **fields)
    networks = nn.ModuleDict({"to_target": build(config.generator, config.multiscale, 3, 3, rng())})
    scale_weights(networks)
    modelfolder.save(folder, config, networks.float(), None)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiles") / "model")


def photo(height: int = 150, width: int = 203) -> Any:
    return ((scene(height, width)[0].permute(1, 2, 0) + 1) * 127.5).byte().numpy()


def test_a_translator_by_tiles_gives_what_it_gives_without(model: Path) -> None:
    image = photo()
    whole = unflip.load(model, device="cpu", tile="none")(image).astype(int)
    assert whole.std() > 0.3 * 127.5
    for tile in (64, 100, 160):
        tiled = unflip.load(model, device="cpu", tile=tile)
        with_tiles = tiled(image).astype(int)
        assert abs(with_tiles - whole).max() <= 1
    estimated = unflip.load(model, device="cpu", tile=64, statistics="estimated")(photo(300, 300)).astype(int)
    whole = unflip.load(model, device="cpu", tile="none")(photo(300, 300)).astype(int)
    assert abs(estimated - whole).max() > 1, "25 tiles, of which 16 are looked at"
    batch = torch.from_numpy(photo()).permute(2, 0, 1)[None].repeat(2, 1, 1, 1)
    batch[1] = batch[1].flip(-1)
    found = unflip.load(model, device="cpu", tile=64)(batch)
    assert (found.int() - unflip.load(model, device="cpu")(batch).int()).abs().max() <= 1


def test_tiles_where_the_memory_asks_for_them(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, sides = photo(), []
    monkeypatch.setattr(torch_backend, "Tiles", lambda *given: sides.append(given[2]) or Tiles(*given))
    translate = unflip.load(model, device="cpu")
    whole = translate(image)
    assert not sides
    enough = 2 * translate.generator.memory_per_pixel * 150 * 203
    monkeypatch.setattr(torch_backend, "available_memory", lambda device: enough)
    translate(image)
    assert not sides
    monkeypatch.setattr(torch_backend, "available_memory", lambda device: enough - 1)
    assert abs(translate(image).astype(int) - whole).max() <= 1
    assert sides == [256], "the smallest that is tried"
    radius, each = translate.generator.receptive_radius, translate.generator.memory_per_pixel
    assert side_for(translate.generator, (9000, 9000), 4 * each * (1024 + 2 * radius) ** 2) == 1024
    assert side_for(translate.generator, (9000, 9000), 4 * each * (1024 + 2 * radius) ** 2 - 4 * each) == 512


def test_a_gpu_that_runs_out_of_memory_goes_on_by_tiles(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = photo()
    translate = unflip.load(model, device="cpu")
    whole = translate(image)

    def too_much(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(translate, "_whole", too_much)
    assert abs(translate(image).astype(int) - whole).max() <= 1
    translate.tile = "none"
    with pytest.raises(torch.OutOfMemoryError):
        translate(image)


def test_refused_tiles(model: Path, tmp_path: Path) -> None:
    for wrong in (63, 0, -5, "big", 2.5):
        with pytest.raises(UserError, match="not a tile"):
            unflip.load(model, device="cpu", tile=wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not statistics"):
        unflip.load(model, device="cpu", statistics="rough")  # type: ignore[arg-type]
    several = write_model(tmp_path / "several", multiscale=MultiscaleConfig(attention=4))
    assert unflip.load(several, device="cpu")(photo(40, 48)).shape == (40, 48, 3)
    with pytest.raises(UserError, match="multi-scale"):
        unflip.load(several, device="cpu", tile=128)
