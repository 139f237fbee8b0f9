"""Winograd's convolutions are convolutions, and are taken where they are faster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.signal import correlate2d
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from helpers import images, rng, same, scale_weights
from unflip.inference.torch_backend import TorchTranslator
from unflip.methods.passes import FORWARD
from unflip.modelfolder import Model, ModelConfig
from unflip.networks import ResnetConfig, convolutions, winograd
from unflip.networks.convolutions import Conv3x3

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch is built without oneDNN")


def drawn(channels: int, out: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """An image with channels last, a kernel, and a bias."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(1, channels, height, width, generator=source).contiguous(memory_format=torch.channels_last)
    return x, torch.randn(out, channels, 3, 3, generator=source), torch.randn(out, generator=source)


def test_a_tile_in_numbers() -> None:
    """The three matrices, in float64, against SciPy's correlation."""
    image, kernel, result = (each.numpy() for each in winograd._matrices(torch.float64))
    source = np.random.default_rng(0)
    for _ in range(20):
        tile, filtered = source.normal(size=(6, 6)), source.normal(size=(3, 3))
        found = result @ ((image @ tile.ravel()) * (kernel @ filtered.ravel()))
        assert np.allclose(found.reshape(4, 4), correlate2d(tile, filtered, mode="valid"), atol=1e-12)


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("size", [(3, 3), (4, 7), (6, 6), (9, 21), (34, 30)])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_it_is_the_convolution(padding: int, size: tuple[int, int], rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of images whose sides are no multiples of a tile's, in strips of any height."""
    x, weight, bias = drawn(5, 7, *size)
    monkeypatch.setattr(winograd, "TILES", rows * -(-(size[1] + 2 * padding - 2) // 4))
    with torch.inference_mode():
        for offset in (bias, None):
            found = winograd.convolve(x, weight, offset, padding)
            expected = F.conv2d(x.double(), weight.double(), None if offset is None else offset.double(), padding=padding)
            assert same(found.double(), expected, 1e-5)
            assert found.is_contiguous(memory_format=torch.channels_last)


def test_its_rounding_is_that_of_a_convolution() -> None:
    """Not so small as of direct convolution, but far from what can be seen: of 255 gray values 0.001."""
    x, weight, _ = drawn(256, 128, 40, 40)
    exact = F.conv2d(x.double(), weight.double())
    with torch.inference_mode():
        error = (winograd.convolve(x, weight, None, 0).double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < 4e-6


WIDE = (128, 128, 46, 46)


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ({}, True),
        ({"grad": True}, False),
        ({"shape": (127, 128, 46, 46)}, False),
        ({"shape": (128, 127, 46, 46)}, False),
        ({"shape": (128, 128, 38, 38)}, False),
        ({"layout": torch.contiguous_format}, False),
        ({"images": 2}, False),
        ({"stride": 2}, False),
        ({"dtype": torch.float64}, False),
    ],
    ids=str,
)
def test_where_it_is_taken(change: dict[str, Any], taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And whatever is taken, the result is the same."""
    calls = []
    monkeypatch.setattr(convolutions, "convolve", lambda *given: calls.append(1) or winograd.convolve(*given))  # type: ignore[func-returns-value]
    channels, out, height, width = change.get("shape", WIDE)
    layer = Conv3x3(channels, out, 3, padding=1, stride=change.get("stride", 1)).to(change.get("dtype", torch.float32))
    x, _, _ = drawn(channels, out, height, width)
    x = x.expand(change.get("images", 1), -1, -1, -1).to(layer.weight.dtype)
    x = x.contiguous(memory_format=change.get("layout", torch.channels_last))
    with torch.set_grad_enabled(change.get("grad", False)):
        found, expected = layer(x), F.conv2d(x, layer.weight, layer.bias, layer.stride, 1)
    assert bool(calls) is taken
    assert same(found, expected, 1e-5)


def wide(quick: bool = True) -> TorchTranslator:
    """A translator that takes it, in its residual block and beside it."""
    config = ResnetConfig(width=64, blocks=1)
    generator = scale_weights(config.build(3, 3, rng())).float().eval().requires_grad_(False)
    translator = TorchTranslator(Model(ModelConfig(generator=config), {FORWARD: generator}, Path()))
    if quick:
        translator.quicken()
    return translator


def test_a_translator_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image is the one that is made without."""
    calls = []
    monkeypatch.setattr(convolutions, "convolve", lambda *given: calls.append(1) or winograd.convolve(*given))  # type: ignore[func-returns-value]
    x = images(1, 184).float()
    plain = wide(quick=False).network(x)
    assert not calls, "channels do not come last"
    translator = wide()
    assert same(translator.network(x), plain, 1e-3)
    assert len(calls) == 2 + 2, "both of the block's, down2 and up1"


@pytest.mark.filterwarnings("ignore:.*deprecated", "ignore::torch.jit.TracerWarning")
def test_whoever_follows_it_follows_convolutions() -> None:
    """A graph of any size, one that is traced, and tensors that hold nothing."""
    translator = wide()
    network = translator.generator
    one, other = (images(1, side).float().contiguous(memory_format=torch.channels_last) for side in (184, 208))
    with torch.no_grad():
        expected = network(other)
        sides = {2: 8 * torch.export.Dim("height", min=20, max=40), 3: 8 * torch.export.Dim("width", min=20, max=40)}
        graph = torch.export.export(network, (one,), dynamic_shapes={"x": sides}).module()
        assert same(graph(other), expected, 1e-3)
        traced = torch.jit.trace(network, one)
        assert same(traced(other), expected, 1e-3)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            assert network(mode.from_tensor(one)).shape == one.shape


def test_the_first_call_decides_nothing() -> None:
    """Wherever tensors are made by default then."""
    x, weight, bias = drawn(8, 8, 20, 20)
    winograd._matrices.cache_clear()
    with torch.inference_mode():
        with torch.device("meta"):
            winograd._matrices(torch.float32)
        assert same(winograd.convolve(x, weight, bias, 1), F.conv2d(x, weight, bias, padding=1), 1e-5)


@pytest.mark.parametrize("off", [lambda: torch.autocast("cpu", torch.bfloat16), lambda: torch.backends.mkldnn.flags(enabled=False)])
@pytest.mark.filterwarnings("ignore:TF32")
def test_where_somebody_wants_it_otherwise(off: Any) -> None:
    x, weight, _ = drawn(*WIDE)
    with torch.no_grad():
        assert winograd.worth_it(x, weight)
        with off():
            assert not winograd.worth_it(x, weight)
