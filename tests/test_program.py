"""Programs: what a generator's operations are, make, and see, told by what they do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import images, noise, positive, rng, same, scale_weights
from unflip.networks import Generator, ResnetConfig, UnetConfig
from unflip.networks.blocks import BlurDown, BlurUp, Reflect, ResidualBlock
from unflip.networks.program import Aside, Program, flat, follow, sight

GENERATORS: dict[str, Any] = {
    "blur": ResnetConfig(width=2, blocks=2),
    "stride": ResnetConfig(width=2, blocks=1, downsample="stride", upsample="transpose"),
    "U-Net": UnetConfig(width=1, downs=5, norm="instance"),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", GENERATORS)
def test_a_program_is_the_generator(kind: str) -> None:
    network: Generator = scale_weights(GENERATORS[kind].build(3, 2, rng())).eval()
    x, program = images(1, 64), network.program()
    state: tuple[Tensor, ...] = (x,)
    looked = 0
    for at, operation in enumerate(program.operations):
        if at == 0 or not isinstance(program.operations[at - 1], Reflect):  # whose margin the convolution behind it takes
            assert [(each.shape[1], 64 // each.shape[-1]) for each in state] == list(program.shapes[at])
            assert program.per_pixel(at) == sum(each.numel() for each in state) / 64**2
            looked += 1
        state = follow([operation], state)
    assert looked > 20
    (image,) = state
    assert same(image, network.run(x)[0], 1e-12) and [tuple(shape) for shape in program.shapes[-1]] == [(2, 1)]
    assert network.receptive_radius == program.radius() > 15


def test_what_lies_aside() -> None:
    double, negative = lambda x: 2 * x, lambda x: -x
    x = torch.ones(1, 1, 2, 2)
    state = follow([Aside.PUT, double, Aside.PUT, negative], (x,))
    assert [float(each.mean()) for each in state] == [-2, 1, 2], "what was put there last comes last"
    (beside,) = follow([Aside.ADD, negative, Aside.BESIDE], state)
    assert beside[0, :, 0, 0].tolist() == [1, 0]
    block = scale_weights(ResidualBlock(4))
    x = noise(1, 4, 6, 6)
    assert same(follow(flat(block), (x,))[0], block(x), 0)


def test_what_is_kept_of_what_lies_aside() -> None:
    operations = [nn.ReLU(), Aside.PUT, nn.ReLU(), Aside.PUT, nn.ReLU(), Aside.ADD, nn.ReLU(), Aside.PUT, nn.ReLU()]
    program = Program(operations, 3)
    assert [len(state) - 1 for state in program.shapes] == [0, 0, 1, 1, 2, 2, 1, 1, 2, 2]
    assert program.untouched(4, 5) == 2
    assert program.untouched(4, 9) == 1, "the second one that lies there is another one"
    assert program.untouched(1, 9) == 0


def seen(layer: nn.Module, start: int, end: int, size: int = 64) -> tuple[int, int]:
    """Of which columns of its input those from ``start`` to ``end`` of a layer's output are made."""
    x = (1 + noise(1, 1, 1, size).abs()).expand(1, 1, size, size).clone().requires_grad_()
    y = layer(x)
    (gradient,) = torch.autograd.grad(y[0, 0, y.shape[-2] // 2, start:end].sum(), x)
    touched = gradient[0, 0].abs().sum(0).nonzero().flatten()
    return int(touched.min()), int(touched.max()) + 1


LAYERS = {
    "3 x 3": nn.Conv2d(1, 1, 3, padding=1),
    "1 x 1": nn.Conv2d(1, 1, 1),
    "3 x 3, half": nn.Conv2d(1, 1, 3, stride=2, padding=1),
    "4 x 4, half": nn.Conv2d(1, 1, 4, stride=2, padding=1),
    "4 x 4, double": nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1),
    "3 x 3, double": nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1, output_padding=1),
    "7 x 7 with a margin": nn.Sequential(Reflect(3), nn.Conv2d(1, 1, 7)),
    "blur, half": BlurDown(1),
    "blur, double": BlurUp(1),
    "ReLU": nn.ReLU(),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("start", "end"), [(10, 11), (11, 12), (12, 20), (11, 21), (10, 20)])
def test_what_a_layer_sees(kind: str, start: int, end: int) -> None:
    layer = positive(LAYERS[kind].double())
    assert Program(flat(layer), 1).takes(0, len(flat(layer)), start, end) == seen(layer, start, end)


def test_a_layer_of_which_nothing_is_known() -> None:
    with pytest.raises(AssertionError, match="nobody knows how far a AvgPool2d sees"):
        sight(nn.AvgPool2d(2))
