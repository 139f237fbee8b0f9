"""What keeps a player's weights from a step that would spoil them. All of it stays on the device: no step waits for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Guard:
    """Looks at a player's gradients before its step: where one is not a finite number, the step is not taken.

    Weights, moments and the count of steps then stay as they are. The fused optimizer leaves the step out by itself, as it does in mixed
    precision; a usual step keeps every bit. What is found is added up on the device, until it is read.
    """

    def __init__(self, player: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        named = dict(player.named_parameters())
        self.names, self.parameters = list(named), list(named.values())
        self.skip, self.nothing, self.row = (torch.zeros((), dtype=torch.float32, device=device) for _ in range(3))
        """``row``: how many steps in a row, up to the last one, were not taken."""
        self.counts = torch.zeros(1 + len(named), dtype=torch.float32, device=device)
        """Of the steps since they were read: those not taken, and those in which each gradient was not finite."""
        optimizer.found_inf, optimizer.grad_scale = self.skip, None  # type: ignore[attr-defined]

    @torch.no_grad()
    def look(self) -> None:
        """To be called between the last backward pass and the optimizer's step; it can be recorded as part of a CUDA graph."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if not gradients:
            return
        found = iter(torch._foreach_norm(gradients))  # not finite either where their squares are not, which Adam keeps
        odd = ~torch.stack([self.nothing if p.grad is None else next(found).to(self.nothing) for p in self.parameters]).isfinite()
        bad = odd.any()
        self.skip.copy_(bad)
        self.row.copy_(torch.where(bad, self.row + 1, 0.0))
        self.counts += torch.cat([bad[None], odd])

    def read(self) -> tuple[int, list[str]]:
        """Since the last call: steps not taken, and the parameters whose gradients were not finite. Waits for the device."""
        skipped, *odd = self.counts.tolist()
        self.counts.zero_()
        return int(skipped), [name for name, count in zip(self.names, odd, strict=True) if count]

    def state(self) -> dict[str, Tensor]:
        """What goes on as if a run had not stopped, where nothing is left to be read."""
        return {"row": self.row}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """From :meth:`state`; of a run of before, there is none."""
        self.counts.zero_()
        self.row.copy_(state.get("row", self.nothing))


def unless_finite(total: Tensor) -> Tensor:
    """What to multiply the gradient of ``total`` by: 1, or where it is not a finite number, NaN, so that the gradients are not either.

    Else a loss could be infinite and its gradients finite, and in one process of several, where only gradients are exchanged.
    """
    return 1 + 0 * total.detach()
