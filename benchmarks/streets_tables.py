"""The tables of docs/results/streets.md and streets.json, from comparisons that benchmarks/streets.py made.

    python benchmarks/streets_tables.py --out DIR --json FILE MIX/NAME[,NAME...][=LABEL] ...

A table for each argument: the runs of these comparisons of one mixture together. With ``=LABEL`` their methods are called METHOD (LABEL),
and stand in one table with those of the arguments before that have labels as well.
Prints Markdown: means over the runs, the lowest and the highest, and what flipped most, as shares of the pixels of the class on the left.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from unflip.recipes.compare_table import EVALUATION, UNTRANSLATED

FIGURES = ("excess_flip_rate", "pixel_accuracy", "mean_iou", "frechet", "kid")
HEAD = "| method | seeds | excess flip rate | pixel accuracy | mean IoU | Fréchet distance | KID x 1000 | what flipped most |"
MOST = 3


def runs_of(data: Path, names: Sequence[str], label: str) -> dict[str, list[dict[str, Any]]]:
    """The metrics of every run, by method."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        for path in sorted((data / name).glob(f"*/seed*/{EVALUATION}/metrics.json")):
            method = path.parents[2].name + (f" ({label})" if label else "")
            found.setdefault(method, []).append(json.loads(path.read_text()))
    untranslated = data / names[0] / UNTRANSLATED / EVALUATION / "metrics.json"
    ends = {"the renders as they are": untranslated, "photos of the same scenes": data / "photos/metrics.json"}
    return found | {name: [json.loads(path.read_text())] for name, path in ends.items() if path.is_file() and not label}


def value(metrics: dict[str, Any], name: str) -> float:
    """A figure's value."""
    return (metrics if name in metrics else metrics["realism"])[name]["value"]


def flips(runs: Sequence[dict[str, Any]]) -> list[tuple[str, str, float]]:
    """The mean flip matrix's largest entries off the diagonal, by how many pixels they are."""
    names = runs[0]["flips"]["classes"]
    matrix = np.nan_to_num(np.mean([np.array(run["flips"]["matrix"], dtype=float) for run in runs], axis=0))
    np.fill_diagonal(matrix, 0)
    mass = matrix * np.array([runs[0]["class_shares"][name] for name in names])[:, None]
    order = np.argsort(-mass, axis=None)[:MOST]
    return [
        (names[i], names[j], float(matrix[i, j])) for i, j in zip(*np.unravel_index(order, mass.shape), strict=True) if mass[i, j] > 0.005
    ]


def row(method: str, runs: Sequence[dict[str, Any]]) -> str:
    """Of the table."""
    cells = [method, str(len(runs))]
    for name in FIGURES:
        values = [value(run, name) * (1000 if name == "kid" else 1) for run in runs]
        spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
        cells.append(f"{fmean(values):.3f}{spread}")
    cells.append("; ".join(f"{a} to {b} {share:.0%}" for a, b, share in flips(runs)))
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the tables, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("tables", nargs="+", metavar="MIX/NAME")
    asked = parser.parse_args()
    figures: dict[str, Any] = {}
    tables: list[tuple[bool, list[str]]] = []
    for argument in asked.tables:
        where, _, label = argument.partition("=")
        mix, _, names = where.partition("/")
        found = runs_of(asked.out / mix, names.split(","), label)
        if not (label and tables and tables[-1][0]):
            tables.append((bool(label), [HEAD, "|---" * HEAD.count(" | ") + "|---|"]))
        tables[-1][1].extend(row(method, runs) for method, runs in found.items())
        for method, runs in found.items():
            figures.setdefault(mix, {})[method] = [
                {name: value(run, name) for name in FIGURES} | {"flips": run["flips"]["matrix"], "classes": run["flips"]["classes"]}
                for run in runs
            ]
    print("\n\n".join("\n".join(lines) for _, lines in tables))
    asked.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
