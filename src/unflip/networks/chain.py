"""Layers one after the other, as they are or compiled."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

Chain = Callable[[Sequence[nn.Module], Tensor], Tensor]

VARIANTS = 64
"""Of compiled chains, by layers, shapes, precision and gradients; PyTorch would stop at 8."""


def chain(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """``x`` through all ``layers``."""
    for layer in layers:
        x = layer(x)
    return x


@lru_cache
def compiled(backend: str = "inductor") -> Chain:
    """:func:`chain`, compiled for each kind of layers and shape of ``x`` when it is first called with them.

    Chains of equal layers, as a generator's blocks, share what is compiled: that takes a minute, and one graph of a whole step many.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    function: Chain = torch.compile(chain, dynamic=False, fullgraph=True, backend=backend)
    return function


def compile_networks(networks: Iterable[nn.Module]) -> None:
    """Let ``networks`` run compiled, with channels last in memory, where a GPU's convolutions are fastest."""
    for network in networks:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for module in network.modules():
            if hasattr(module, "chain"):
                module.chain = compiled()  # type: ignore[assignment]


def uncompiled(there: bool) -> AbstractContextManager[Any]:
    """Where compiled chains are ``there``, they run as they are within: nothing is compiled for what comes up once."""
    return torch.compiler.set_stance("force_eager") if there else nullcontext()  # which imports the compiler, for whoever has none


def missing_compiler() -> str | None:
    """What a GPU's kernels cannot be compiled without, and is not here; None: nothing."""
    if importlib.util.find_spec("triton") is None:
        return "triton"
    if not any(map(shutil.which, filter(None, (os.environ.get("CC"), "cc", "gcc", "clang")))):
        return "a C compiler"
    return None
