"""Which tensor of a published network is which of ours."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from unflip.networks.generator import GeneratorConfig


@dataclass
class Wiring:
    """Of a network that a file's first looks promise; whether it keeps that is found by comparing all names and shapes."""

    generator: GeneratorConfig
    ends: tuple[int, int]
    """Bands in and out."""
    what: str
    """The published network, in words."""
    first: str
    last: str
    """Our names of the convolutions at the ends."""
    transposed: bool = False
    """Whether the last one is."""
    names: dict[str, str] = field(default_factory=dict)
    """Published names of what is taken over, and ours."""
    kernels: dict[str, Tensor] = field(default_factory=dict)
    """What must be there and be equal to these, ``(channels, 1, k, k)``; ours are no weights."""
    left_out: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """What may be there, and its shape."""
    optional: set[str] = field(default_factory=set)
    """Of ``names``, what torch before 0.4.1 did not write."""

    def conv(self, published: str, ours: str, bias: bool = True) -> None:
        """A convolution."""
        for part in ("weight", "bias") if bias else ("weight",):
            self.names[f"{published}.{part}"] = f"{ours}.{part}"

    def instance_norm(self, published: str, channels: int) -> None:
        """It has no weights; statistics that it kept in torch before 0.4 are not used."""
        self.left_out |= {f"{published}.running_mean": (channels,), f"{published}.running_var": (channels,)}
        self.left_out[f"{published}.num_batches_tracked"] = ()

    def batch_norm(self, published: str, ours: str) -> None:
        """With weights, and the statistics of training."""
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            self.names[f"{published}.{part}"] = f"{ours}.{part}"
        self.optional.add(f"{published}.num_batches_tracked")
