"""What torchrun tells the processes that it starts. Without torch, so that the command line can ask before it loads that."""

from __future__ import annotations

import os


def processes() -> tuple[int, int]:
    """How many processes torchrun started on this machine, and on how many machines."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # as torch.distributed.is_torchelastic_launched has it
        return 1, 1
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return local, int(os.environ["WORLD_SIZE"]) // local


def leads() -> bool:
    """Whether this process is alone, or the first of those that torchrun started."""
    return processes() == (1, 1) or os.environ["RANK"] == "0"
