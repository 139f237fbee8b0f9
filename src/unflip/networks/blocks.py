"""What the networks share: padding, antialiased resampling, the residual block, initialization, weights held fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from unflip.networks.convolutions import ConvAheadOfNorm
from unflip.networks.norm import InstanceNorm
from unflip.networks.tracing import compiling, traced

Initialization = Literal["xavier", "normal"]


class Reflect(nn.ReflectionPad2d):
    """Reflection padding by ``n`` pixels at each side. ``(N, C, H, W) -> (N, C, H + 2n, W + 2n)``."""

    def forward(self, x: Tensor) -> Tensor:
        return reflect(x, self.padding[0])


def reflect(x: Tensor, n: int) -> Tensor:
    """``x`` ``(N, C, H, W)`` with ``n`` more pixels at each side, its own mirrored about its edge."""
    if not compiling():
        padded: Tensor = _Reflected.apply(x, n) if x.requires_grad and x.device.type == "cpu" else F.pad(x, (n, n, n, n), mode="reflect")
        return padded
    # PyTorch's, compiled, lays its result out anew for CUDA: channels that come last do not stay there
    x = torch.cat([x[..., 1 : n + 1].flip(-1), x, x[..., -n - 1 : -1].flip(-1)], -1)
    return torch.cat([x[..., 1 : n + 1, :].flip(-2), x, x[..., -n - 1 : -1, :].flip(-2)], -2)


class _Reflected(torch.autograd.Function):
    """Reflection padding whose gradient is a copy, to which the margins are added; PyTorch's takes twice as long on a CPU."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, n: int) -> Tensor:
        return F.pad(x, (n, n, n, n), mode="reflect")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.n = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        n = ctx.n

        def folded(part: Tensor) -> Tensor:
            """Without its first and last ``n`` rows, which are added to those that they mirror."""
            inner = part[..., n:-n, :].clone(memory_format=torch.contiguous_format)
            inner[..., 1 : n + 1, :] += part[..., :n, :].flip(-2)
            inner[..., -n - 1 : -1, :] += part[..., -n:, :].flip(-2)
            return inner

        x = folded(gradient[..., n:-n])
        x[..., 1 : n + 1] += folded(gradient[..., :n]).flip(-1)
        x[..., -n - 1 : -1] += folded(gradient[..., -n:]).flip(-1)
        return x, None


class ReLU(nn.ReLU):
    """In place where no gradient is wanted. Only for what nobody else reads, as a norm's result."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x, inplace=not torch.is_grad_enabled() and not traced())


def separable(line: Sequence[float], total: float, channels: int) -> Tensor:
    """The filter of ``line`` in both directions, which sums to ``total``, for each channel: ``(C, 1, K, K)``.

    Made of numbers: to multiply tensors of the device "meta" would load torch's compiler, for seconds, whenever a model is loaded.
    """
    scale = total / sum(line) ** 2
    return torch.tensor([[a * b * scale for b in line] for a in line]).expand(channels, 1, -1, -1).contiguous()


class BlurDown(nn.Module):
    """Antialiased halving: blur by the binomial [1, 2, 1], then take every second pixel. ``(N, C, H, W) -> (N, C, ceil(H/2), ceil(W/2))``.

    Zhang, "Making convolutional networks shift-invariant again", ICML 2019.
    """

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("kernel", separable((1, 2, 1), 1, channels), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = reflect(x, 1)
        if not compiling():
            return F.conv2d(x, self.kernel.to(x.dtype), stride=2, groups=x.shape[1])
        x = (x[..., :-2:2] + 2 * x[..., 1:-1:2] + x[..., 2::2]) / 4  # sums are fused with what is around them, a convolution is not
        return (x[..., :-2:2, :] + 2 * x[..., 1:-1:2, :] + x[..., 2::2, :]) / 4


class BlurUp(nn.Module):
    """Antialiased doubling: every pixel spreads by [1, 3, 3, 1], which is bilinear interpolation. ``(N, C, H, W) -> (N, C, 2H, 2W)``."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        # 4: each output pixel receives a quarter of the taps
        self.register_buffer("kernel", separable((1, 3, 3, 1), 4, channels), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not compiling():
            x = F.pad(x, (1, 1, 1, 1), mode="replicate")
            return F.conv_transpose2d(x, self.kernel.to(x.dtype), stride=2, padding=3, groups=x.shape[1])
        for dim in (-1, -2):
            length = x.shape[dim]
            before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, length - 1)], dim)
            after = torch.cat([x.narrow(dim, 1, length - 1), x.narrow(dim, length - 1, 1)], dim)
            x = torch.stack([(before + 3 * x) / 4, (3 * x + after) / 4], x.ndim + dim + 1).flatten(x.ndim + dim, x.ndim + dim + 1)
        return x


class ResidualBlock(nn.Module):
    """``x + norm(conv(relu(norm(conv(x)))))``, 3x3 convolutions with reflection padding."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Reflect(1),
            ConvAheadOfNorm(channels, channels, 3),
            InstanceNorm(channels),
            ReLU(),
            Reflect(1),
            ConvAheadOfNorm(channels, channels, 3),
            InstanceNorm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def pad_to_multiple(x: Tensor, multiple: int, minimum: int) -> Tensor:
    """Grow ``x`` at the right and bottom until both sides are multiples of ``multiple`` and at least ``minimum``.

    By reflection; by replication where the image is too small to be reflected.
    """
    height, width = x.shape[-2:]
    bottom, right = (max(-(-side // multiple) * multiple, minimum) - side for side in (height, width))
    if right:
        x = F.pad(x, (0, right, 0, 0), mode="reflect" if right < width else "replicate")
    if bottom:
        x = F.pad(x, (0, 0, 0, bottom), mode="reflect" if bottom < height else "replicate")
    return x


@torch.no_grad()
def initialize(module: nn.Module, how: Initialization, rng: torch.Generator, gain: float = 0.02) -> None:
    """Draw all convolution and linear weights anew from ``rng``; biases become 0.

    ``xavier``: normal with standard deviation ``gain * sqrt(2 / (fan_in + fan_out))`` (CUT, SRUNIT). ``normal``: standard deviation
    ``gain`` (CycleGAN). Weights on the device "meta", which have no values, are left as they are.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and not layer.weight.is_meta:
            if how == "xavier":
                nn.init.xavier_normal_(layer.weight, gain=gain, generator=rng)
            else:
                nn.init.normal_(layer.weight, 0.0, gain, generator=rng)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def detached(network: nn.Module) -> Callable[..., Any]:
    """``network`` as a function whose weights receive no gradient; gradient passes through it to what it is given."""
    weights = {name: value.detach() for name, value in network.named_parameters()}
    return lambda *inputs: functional_call(network, weights, inputs)


def constant(values: tuple[Any, ...], like: Tensor) -> Tensor:
    """Fixed numbers, nested as they are, on the device and in the precision of ``like``; not to be written to.

    Copied there once: a copy in every step would make the host wait for the device.
    """
    return _constant(values, like.device, like.dtype)


@lru_cache
def _constant(values: tuple[Any, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # no gradient could be computed through what is made in inference mode
        return torch.tensor(values, device=device, dtype=dtype)


def without_margin(features: Tensor, margin: int) -> Tensor:
    """Features ``(N, C, h, w)`` of a tap without the padding that it may have around them, ``margin`` positions at each side."""
    height, width = features.shape[-2:]
    return features[..., margin : height - margin, margin : width - margin]
