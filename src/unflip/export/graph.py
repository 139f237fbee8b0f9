"""A generator as a graph of ONNX: of any height, width and number of images, and of as many bands as the domains have.

PyTorch's exporter follows sizes as symbols. So all that depends on them is arithmetic here: what is padded, cropped or cut into windows is
gathered by computed indices, where eager code would ask whether there is anything to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unflip.data.transforms import narrowed, widened
from unflip.networks import Generator, Multiscale
from unflip.networks.multiscale import enlarged, halve, step_of, tent
from unflip.networks.norm import InstanceNorm

OPSET = 20


class Graph(nn.Module):
    """From images ``(N, source bands, H, W)`` to translations ``(N, target bands, H, W)``, both in [-1, 1]: what is exported."""

    def __init__(self, generator: Generator | Multiscale, bands: int, made: int) -> None:
        super().__init__()
        self.generator, self.channels, self.made = generator, max(bands, made), made

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        y = translated(self.generator, widened(image, self.channels))
        y = y.index_select(-2, torch.arange(height)).index_select(-1, torch.arange(width))  # a slice would be a condition on the sizes
        return narrowed(y, self.made)


def translated(generator: Generator | Multiscale, x: Tensor) -> Tensor:
    """As ``generator(x)``, but with what it was padded by."""
    if isinstance(generator, Generator):
        return generator.run(padded(x, generator.stride, generator.smallest))[0]
    x = padded(x, generator.stride, 2 * generator.inner.smallest)
    context, features = generator.inner.run(halve(x))
    share = generator.trust(features[-1], x.shape[-2:])
    return (1 - share) * enlarged(context, x.shape[-2:]) + share * by_windows(generator, x)


def padded(x: Tensor, multiple: int, minimum: int) -> Tensor:
    """As :func:`unflip.networks.blocks.pad_to_multiple`."""
    height, width = x.shape[-2:]
    return x.index_select(-2, _mirrored(height, multiple, minimum)).index_select(-1, _mirrored(width, multiple, minimum))


def _mirrored(length: int, multiple: int, minimum: int) -> Tensor:
    """Of every place of the side that is made of one of ``length``, the place that it is copied from."""
    least = -(-minimum // multiple)
    place = torch.arange(multiple * _named(torch.sym_max((length + multiple - 1) // multiple, least), least))
    mirrored = 2 * (length - 1) - place
    return torch.where(place < length, place, torch.where(mirrored[-1] < 0, length - 1, mirrored))


def _named(size: Any, least: int) -> Any:
    """A computed size, at least ``least``, under a name of its own. By its formula, the exporter would take minutes to decide what follows
    from it for the sizes of all layers."""
    value: Any = torch.scalar_tensor(size, dtype=torch.int64).item()
    torch._check(value >= least)
    return value


def by_windows(generator: Multiscale, x: Tensor) -> Tensor:
    """As :meth:`unflip.networks.multiscale.Multiscale.by_windows`: all windows in one batch, laid over each other side by side."""
    rows, down = _windows(x.shape[-2], generator.window.height, generator)
    columns, across = _windows(x.shape[-1], generator.window.width, generator)
    (tops, high), (lefts, wide) = rows.shape, columns.shape  # and x.shape[0] below, since len(x) would be a number
    parts = x.index_select(-2, rows.flatten()).index_select(-1, columns.flatten()).unflatten(-1, (lefts, wide)).unflatten(-3, (tops, high))
    parts = parts.permute(0, 2, 4, 1, 3, 5).reshape(-1, x.shape[1], high, wide)
    made = generator.inner.run(parts)[0].reshape(x.shape[0], tops, lefts, -1, high, wide)
    made = made.permute(0, 3, 1, 4, 2, 5) * (down[:, :, None, None] * across)
    made = made.flatten(4).flatten(2, 3)
    return _laid(_laid(made, rows.flatten(), x.shape[-2], -2), columns.flatten(), x.shape[-1], -1)


def _windows(length: int, window: int, generator: Multiscale) -> tuple[Tensor, Tensor]:
    """Along one side, the places of every window's pixels ``(windows, size)``, and the weights with which they sum up to 1 everywhere."""
    grid, least = generator.inner.stride, generator.inner.smallest
    size = grid * _named(torch.sym_min(window, length) // grid, -(-least // grid))
    step = step_of(window, generator.stride)
    count = _named((length - size + step - 1) // step + 1, 1)
    starts = torch.minimum(torch.arange(count) * step, torch.full((1,), length - size))
    places = starts[:, None] + torch.arange(size)
    ramp = tent(size).expand(count, size)
    total = torch.zeros(length).scatter_add(0, places.flatten(), ramp.flatten())
    return places, ramp / total.index_select(0, places.flatten()).unflatten(0, (count, size))


def _laid(parts: Tensor, places: Tensor, length: int, dim: int) -> Tensor:
    """``parts`` along ``dim`` added up at their places along a side of ``length``."""
    shape = list(parts.shape)
    shape[dim] = length
    index = places[:, None] if dim == -2 else places
    return parts.new_zeros(shape).scatter_add(dim, index.expand(parts.shape), parts)


@contextmanager
def norms_of_onnx(network: nn.Module) -> Iterator[None]:
    """Within, instance norms are exported as ONNX's, which runtimes compute in one go; as sums and roots they would be eight operations."""
    norms = [module for module in network.modules() if isinstance(module, InstanceNorm)]
    for norm in norms:
        norm.given = _instance_norm(norm.eps)
    try:
        yield
    finally:
        for norm in norms:
            norm.given = None


def _instance_norm(eps: float) -> Any:
    def norm(x: Tensor) -> Tensor:
        given = (x, torch.ones(x.shape[1]), torch.zeros(x.shape[1]))
        made: Tensor = torch.onnx.ops.symbolic(
            "InstanceNormalization", given, {"epsilon": eps}, dtype=x.dtype, shape=x.shape, version=OPSET
        )
        return made

    return norm
