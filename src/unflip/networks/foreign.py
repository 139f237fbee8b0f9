"""What the config.json of a network that others made may say: numbers that can be, and nothing that fetches more from somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

MOST = 2**20
"""Of any number. The largest in use are of vocabularies, which no network that reads images has."""
DEEPEST = 300
"""Of numbers of layers: each of them is built, whether there are weights for it or not."""

_LAYERS = re.compile(r"layers|depth|blocks|stages")


def check_config(values: dict[str, Any]) -> None:
    """Raise ``ValueError`` for values with which building the network takes all time or memory, downloads, or runs what was downloaded."""
    for key, value in _leaves(values):
        if isinstance(value, int | float) and abs(value) > (DEEPEST if _LAYERS.search(key) else MOST):
            raise ValueError(f"{key} is too large for a network")
        if "implementation" in key and value is not None and not re.fullmatch(r"\w+", str(value)):
            raise ValueError(f"{key} names code of somewhere else")  # which transformers before 5.3 ran: CVE-2026-4372
        if key == "use_pretrained_backbone" and value:
            raise ValueError(f"{key} would download other weights")


def _leaves(values: Any) -> Iterator[tuple[str, Any]]:
    """Every value that holds no others, with the nearest name."""
    waiting = [("", values)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(str(name), each) for name, each in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(key, each) for each in value]
        else:
            yield key, value
