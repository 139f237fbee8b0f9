"""What keeps a player's weights from a step that would spoil them. All of it stays on the device: no step waits for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MEMORY = 0.01
"""The share of a new norm in the usual one: of about a hundred steps."""


class Guard:
    """Looks at a player's gradients before its step.

    Where one is not a finite number, the step is not taken: weights, moments and the count of steps stay as they are. Where their norm is
    more than ``clip`` times the usual one of the steps before, they are scaled down to that; None: never. Steps of a usual norm keep every
    bit. A flat tile does that: instance norm passes gradients on 300 times as large where nothing varies, and one such step would hold
    back Adam's for thousands.

    The step itself is left out or scaled by the fused optimizer, which has both built in for mixed precision.
    """

    def __init__(self, player: nn.Module, optimizer: torch.optim.Optimizer, clip: float | None, device: torch.device) -> None:
        named = dict(player.named_parameters())
        self.names, self.parameters, self.clip = list(named), list(named.values()), clip
        self.skip, self.divisor = torch.zeros((), device=device), torch.ones((), device=device)
        self.usual = torch.zeros((), device=device)
        """The norm of a usual step's gradients; 0: there was none yet."""
        self.row = torch.zeros((), device=device)
        """How many steps in a row, up to the last one, were not taken."""
        self.counts = torch.zeros(2 + len(named), device=device)
        """Of the steps since they were read: those not taken, those scaled down, and those in which each gradient was not finite."""
        self.nothing = torch.zeros((), device=device)
        optimizer.found_inf, optimizer.grad_scale = self.skip, self.divisor  # type: ignore[attr-defined]

    @torch.no_grad()
    def look(self) -> None:
        """To be called between the last backward pass and the optimizer's step; it can be recorded as part of a CUDA graph."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if not gradients:
            return
        found = iter(torch._foreach_norm(gradients))
        norms = torch.stack([self.nothing if p.grad is None else next(found).to(self.nothing) for p in self.parameters])
        norm = norms.norm()
        good, known = norm.isfinite(), self.usual > 0
        self.skip.copy_(~good)
        self.row.copy_(torch.where(good, 0.0, self.row + 1))
        most = torch.where(known, self.usual * (self.clip or torch.inf), torch.inf)
        large = good & (norm > most)
        self.divisor.copy_(torch.where(large, norm / most, 1.0))
        self.counts += torch.cat([torch.stack([~good, large]), ~norms.isfinite()])
        taken = torch.minimum(norm, most)
        self.usual.copy_(torch.where(good, torch.where(known, self.usual.lerp(taken, MEMORY), norm), self.usual))

    def read(self) -> tuple[int, int, list[str]]:
        """Since the last call: steps not taken, steps scaled down, and the parameters whose gradients were not finite. Waits for the device."""
        skipped, large, *odd = self.counts.tolist()
        self.counts.zero_()
        return int(skipped), int(large), [name for name, count in zip(self.names, odd, strict=True) if count]

    def state(self) -> dict[str, Tensor]:
        """What goes on as if a run had not stopped, where nothing is left to be read."""
        return {"usual": self.usual, "row": self.row}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """From :meth:`state`; of a run of before, there is none."""
        self.counts.zero_()
        for name, value in self.state().items():
            value.copy_(state.get(name, self.nothing))


def unless_finite(total: Tensor) -> Tensor:
    """What to multiply the gradient of ``total`` by: 1, or where it is not a finite number, NaN, so that the gradients are not either.

    Else a loss could be infinite and its gradients finite, and in one process of several, where only gradients are exchanged.
    """
    return 1 + 0 * total.detach()
