"""The processes of one training: who writes, and what they tell each other beside gradients.

What is told goes over a group of its own, on the CPU (gloo): it never waits for a GPU, a process that is gone is noticed at once because
its connection closes, and where one validates for hours the others wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from unflip.errors import SaidElsewhere, UserError

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long processes wait for one that is at work."""


class Team:
    """The processes of a training, ``size`` of them, of which this is number ``rank``. Number 0 leads: it alone writes and speaks.

    Everything but :attr:`leads` is to be called by all of them alike. Raises ``UserError`` where a process is gone.
    """

    def __init__(self) -> None:
        many = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if many else (0, 1)
        self.group: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if many else None

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def close(self) -> None:
        """At the end."""
        if self.group is not None:
            dist.destroy_process_group()

    def most(self, level: int) -> int:
        """The highest ``level`` of all processes."""
        if self.group is None:
            return level
        found = torch.tensor(level)
        with self.noticing():
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self.group)
        return int(found)

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The means over the processes, float64, of which all have the same names and shapes; of one process alone, what it gave."""
        if self.group is None or not values:
            return dict(values)
        found = torch.cat([value.detach().double().flatten().cpu() for value in values.values()])
        with self.noticing():
            dist.all_reduce(found, group=self.group)
        pieces = (found / self.size).split([value.numel() for value in values.values()])
        return {name: piece.view(value.shape) for (name, value), piece in zip(values.items(), pieces, strict=True)}

    def gather(self, value: T) -> list[T]:
        """The ``value`` of every process, in their order, for process 0; for the others, nothing."""
        if self.group is None:
            return [value]
        found: list[Any] | None = [None] * self.size if self.leads else None
        with self.noticing():
            dist.gather_object(value, found, dst=0, group=self.group)
        return found or []

    def share(self, value: T) -> T:
        """Process 0's ``value``."""
        if self.group is None:
            return value
        found: list[Any] = [value]
        with self.noticing():
            dist.broadcast_object_list(found, src=0, group=self.group)
        return found[0]

    def alike(self, value: Any) -> bool:
        """Whether all processes have the same ``value``."""
        found = self.gather(value)
        return self.share(all(each == value for each in found))

    @contextmanager
    def together(self) -> Iterator[None]:
        """What one process cannot do, none does: the ``UserError`` of any becomes that of all, said by process 0.

        The block must not exchange anything itself: a process that failed would be met by the others in another exchange.
        """
        try:
            yield
        except UserError as error:
            self.fail(error)
        else:
            self.agree(False)

    def agree(self, stop: bool) -> bool:
        """Whether any process asks to ``stop``. Raises where one failed."""
        level = self.most(STOP if stop else FINE)
        if level == FAILED:
            self._raise(None)
        return level == STOP

    def fail(self, error: UserError) -> NoReturn:
        """Tell the others, who are in or on their way to :meth:`agree`, and raise."""
        self.most(FAILED)
        self._raise(error)

    def _raise(self, mine: UserError | None) -> NoReturn:
        """The first of the errors of all processes."""
        said = self.gather(None if mine is None else str(mine))
        message = self.share(next((each for each in said if each is not None), ""))
        if not self.leads:
            raise SaidElsewhere(message) from mine
        raise mine if mine is not None and str(mine) == message else UserError(message)

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """Around every exchange, that of gradients too: says in one line that another process is gone."""
        try:
            yield
        except RuntimeError as error:
            if self.size > 1 and (isinstance(error, dist.DistError) or "/gloo/" in str(error)):
                raise UserError(GONE) from error
            raise


GONE = "another process of this training is gone; its last words say why"
FINE, STOP, FAILED = 0, 1, 2
"""What processes tell each other before every step, each beating those before it."""
