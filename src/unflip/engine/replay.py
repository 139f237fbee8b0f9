"""A function of tensors as CUDA graphs: recorded once, then replayed as one call, so that a GPU never waits for the host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

WARM = 3
"""Calls of a kind that run as they are: they compile, choose algorithms and make the optimizer's state, none of which can be recorded."""
MOST = 32
"""Kinds of calls that are recorded: there are few, such as one for each tap, or a choice is new in every step and none comes back."""


class Replay:
    """Calls a function, the same one each time; its results last until the next call of any replay with the same ``pool``.

    The function may change tensors that it holds, such as weights, but must neither read values on the host nor choose by chance. Calls
    that differ in more than their tensors' values, as in a number, are of another kind, and are recorded for themselves. With tensors
    that are not on a GPU it is called as it is.
    """

    def __init__(self, pool: Any, stream: torch.cuda.Stream) -> None:
        self.pool, self.stream = pool, stream
        self.calls: Counter[Any] = Counter()
        self.recorded: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Any]] = {}

    def __call__(self, function: Callable[..., Any], *given: Any) -> Any:
        leaves, structure = tree_flatten(given)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not all(tensor.is_cuda for tensor in tensors):
            return function(*given)
        kind = (str(structure), *((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves))
        if kind not in self.recorded:
            self.calls[kind] += 1
            if self.calls[kind] <= WARM or len(self.recorded) == MOST or len(self.calls) > 4 * MOST:
                return self._as_it_is(function, given)
            self.recorded[kind] = self._record(function, leaves, structure)
        graph, inputs, results = self.recorded[kind]
        torch._foreach_copy_(inputs, tensors)
        graph.replay()
        return results

    def forget(self) -> None:
        """Record anew: tensors that the function holds have been replaced by others."""
        if self.recorded:
            self.pool = torch.cuda.graph_pool_handle()  # that of graphs which are gone is no more
        self.calls.clear()
        self.recorded.clear()

    def _as_it_is(self, function: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        """On the stream on which it will be recorded: what autograd keeps from call to call belongs to a stream."""
        now = torch.cuda.current_stream()
        self.stream.wait_stream(now)
        with torch.cuda.stream(self.stream):
            results = function(*given)
        now.wait_stream(self.stream)
        return results

    def _record(self, function: Callable[..., Any], leaves: list[Any], structure: Any) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Any]:
        held = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        graph = torch.cuda.CUDAGraph()
        # other threads go on pinning memory for the next batches
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            results = function(*tree_unflatten(held, structure))
        return graph, [leaf for leaf in held if isinstance(leaf, Tensor)], results
