"""The U-Net generator: parameters, sizes, reach, tiles; that it is what pix2pix' is, tests/test_import.py shows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unflip
from helpers import images, lively, noise, positive, reach, reader, rng, same, scale_weights, untouched_global_rng
from unflip import modelfolder
from unflip.inference.clip import fixed
from unflip.inference.tiles import Tiles
from unflip.modelfolder import ModelConfig
from unflip.networks import GENERATORS, IMPORTED, Generator, MultiscaleConfig, UnetConfig
from unflip.networks.blocks import InstanceNorm
from unflip.networks.unet import UnetGenerator


def network(norm: str = "instance", width: int = 2, downs: int = 5, ends: tuple[int, int] = (3, 3)) -> Generator:
    return scale_weights(UnetConfig(width=width, downs=downs, norm=norm).build(*ends, rng())).eval()


def count(config: UnetConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in UnetGenerator(config, 3, 3).parameters())


def test_parameter_counts_at_the_published_widths() -> None:
    """By hand, layer by layer; the published code prints 54.414 M and 41.829 M for its U-Nets with batch norm."""
    wide = [64, 128, 256, 512, 512, 512, 512, 512]
    halvings = 16 * (3 * 64 + sum(a * b for a, b in pairwise(wide)))
    doublings = 16 * (512 * 512 + sum(2 * b * a for a, b in pairwise(wide[:-1])) + 2 * 64 * 3) + 3
    norms = 2 * (sum(wide[1:-1]) + sum(wide[:-1]))
    assert count(UnetConfig()) == 54_413_955 == halvings + doublings + norms
    assert round(count(UnetConfig(downs=7)) / 1e6, 3) == 41.829


def test_it_is_for_translating_only() -> None:
    assert not GENERATORS.keys() & IMPORTED.keys() and all(config().kind == kind for kind, config in IMPORTED.items())
    generator, x = network(), images(1, 32)
    assert generator.taps == () and generator.run(x)[1] == () and generator.encode(x) == ()
    with pytest.raises(IndexError, match="no taps"):
        generator.decode(x, 0)
    with pytest.raises(ValueError, match="a U-Net has none"):
        UnetConfig(taps=("pad",))
    for downs in (4, 11):
        with pytest.raises(ValueError, match="downs"):
            UnetConfig(downs=downs)
    with pytest.raises(ValueError, match="kind unet has no taps"):
        ModelConfig(generator=UnetConfig(), multiscale=MultiscaleConfig())


def test_weights_are_drawn_from_the_given_generator() -> None:
    with untouched_global_rng():
        a, b, other = (UnetConfig(width=1, downs=5).build(3, 3, rng(seed)).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["downs.1.1.weight"], other["downs.1.1.weight"])
    assert 0.015 < a["downs.4.1.weight"].std() < 0.025


@torch.no_grad()
@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("size", [(1, 1), (7, 90), (32, 32), (33, 64), (70, 45)])
def test_any_size(norm: str, size: tuple[int, int]) -> None:
    generator = network(norm)
    x = noise(2, 3, *size).clamp(-1, 1)
    y = generator(x)
    assert y.shape == x.shape and bool(y.isfinite().all()) and y.abs().max() <= 1
    apart = torch.cat([generator(each) for each in x.split(1)])
    assert same(y, apart, 1e-9)


@torch.no_grad()
def test_norms_are_applied_in_the_order_in_which_they_are_made() -> None:
    """As :func:`unflip.inference.clip.fixed` wants them."""
    generator, seen = network(), []
    norms = [module for module in generator.modules() if isinstance(module, InstanceNorm)]
    for norm in norms:
        norm.register_forward_hook(lambda norm, *_: seen.append(norm))
    generator(images(1, 32))
    assert seen == norms and len(norms) == 2 * 5 - 3


@pytest.mark.parametrize("place", [126, 129])
def test_receptive_radius(place: int) -> None:
    """It is reached at the top left by some pixels, and at the bottom right by others."""
    generator = positive(network(width=1))
    for module in generator.modules():
        if isinstance(module, nn.Tanh):
            module.forward = lambda x: x  # type: ignore[method-assign]
    x = 0.1 + 0 * images(1, 256)
    rows, columns = reach(lambda x: generator.run(x)[0], x, lambda y: y[..., place, place])  # type: ignore[arg-type]
    assert rows == columns and generator.receptive_radius == 93
    assert (place - rows.start, rows.stop - 1 - place) == ((93, 64) if place == 126 else (64, 93))


def scene(height: int, width: int) -> Tensor:
    """Unlike its parts: another brightness and contrast at each side."""
    x = 0.5 * noise(1, 3, height, width, seed=4)
    x[..., width // 2 :] *= 0.3
    x[..., height // 2 :, :] += 0.4
    return x.clamp(-1, 1)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("size", [(130, 330), (13, 420), (65, 256), (10, 100)])
@pytest.mark.parametrize("memory", [0, 2**40])
def test_tiles_are_the_whole_image(norm: str, size: tuple[int, int], memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the statistics of the whole image, and for images too low to be reflected."""
    generator, x = network(norm), scene(*size)
    whole, tiles = lively(generator(x)), Tiles(generator, size, 64, memory)
    assert len(tiles._plan([tiles.whole], tiles.unknown)) == (7 if memory or norm == "instance" else 0)
    found = torch.full_like(whole, torch.nan)
    for box, part in tiles.translate(reader(x)):
        found[..., box.top : box.bottom, box.left : box.right] = part
    assert len(tiles.boxes()) > 1 and same(found, whole, 1e-9)
    program, exact = tiles.program, tiles.program.halo

    def smaller(start: int, stop: int) -> int:
        """The broken twin."""
        return exact(start, stop) - max(state[0].scale for state in program.shapes[start : stop + 1])

    monkeypatch.setattr(program, "halo", smaller)
    parts: list[tuple[Any, Tensor]] = list(tiles.translate(reader(x)))
    assert any((part - whole[..., box.top : box.bottom, box.left : box.right]).abs().max() > 1e-6 for box, part in parts)


def test_a_clip_by_batch_norms_is_its_frames(tmp_path: Path) -> None:
    """They have their statistics from training: there are none to be found, and each frame is what it is by itself."""
    config = UnetConfig(width=2, downs=5)
    modelfolder.save(tmp_path / "model", ModelConfig(generator=config), nn.ModuleDict({"to_target": network("batch").float()}), None)
    translator = unflip.load(tmp_path / "model", device="cpu")
    frames = [np.uint8((x.permute(1, 2, 0) + 1) * 127) for x in images(3, 40).clamp(-1, 1)]
    alone = [translator(frame) for frame in frames]
    with fixed(translator, frames):
        assert all((translator(frame) == one).all() for frame, one in zip(frames, alone, strict=True))
