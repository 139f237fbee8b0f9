"""YAML from anybody: as plain values, no larger than it looks.

YAML lets a text repeat a part of itself by name (``*a``). Nine lines of that stand for a billion values ("billion laughs"), and one line
can contain itself. Both are refused before anything is made of them.
"""

from __future__ import annotations

from typing import Any

import yaml

MOST = 100_000
"""Values that a text may stand for. A run's whole configuration with 254 classes has fewer than 3,000."""


class BadYaml(ValueError):
    """What cannot be read; ``line`` is where, counted from 1, if that is known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


def load(text: str) -> Any:
    """The value of a text, of YAML's own plain types only. Raises ``BadYaml``."""
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count(node, {}, set())
            return loader.construct_document(node)
        finally:
            loader.dispose()  # type: ignore[no-untyped-call]
    except BadYaml:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadYaml("not valid YAML", None if mark is None else mark.line + 1) from error
    except RecursionError as error:
        raise BadYaml("nested too deeply") from error
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as error:  # such as a date that no calendar has
        raise BadYaml("not valid YAML") from error


def _count(node: yaml.Node, known: dict[int, int], inside: set[int]) -> int:
    """The values that a node stands for, with all that it repeats."""
    at = id(node)
    if at in inside:
        raise BadYaml("without end: a value contains itself")
    if at not in known:
        inside.add(at)
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[at] = 1 + (0 if isinstance(node, yaml.ScalarNode) else sum(_count(part, known, inside) for part in parts))
        inside.remove(at)
        if known[at] > MOST:
            raise BadYaml(f"too large: it stands for more than {MOST:,} values")
    return known[at]
