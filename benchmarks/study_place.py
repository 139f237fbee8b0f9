"""Where the study works and what it leaves: one JSON file a run, with what it was made by."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from study_plan import Scale, Study

from unflip.files import make_folder, write_json
from unflip.recipes.evaluate import made

JUDGES = ("judge", "second_judge")
"""Segmenters that differ in nothing but their seed. The first one reads every run and chooses its checkpoint; the second one reads the same
translations again, which shows what depends on the judge."""

GUIDE = "guide"
"""A third one, which judges nothing: what weighs the places of target images where a variant has them weighed."""
READERS = (*JUDGES, GUIDE)


@dataclass(frozen=True)
class Place:
    """Where a study works and what it leaves, at one scale."""

    out: Path
    records: Path
    scale: Scale
    scale_name: str

    def record(self, study: Study, what: str, seed: int) -> Path:
        """The file that is kept."""
        return self.records / study.name / self.scale_name / what / f"seed{seed}.json"

    def judge(self, study: Study, which: str = JUDGES[0]) -> Path:
        """The folder of a segmenter that reads a study's translations."""
        return self.out / f"{which}_{study.judge}" / "segmenter"


def second_record(path: Path) -> Path:
    """Where it is kept what the second judge reads, beside what the first one did."""
    return path.with_name(f"{JUDGES[1]}_{path.name}")


def write_record(path: Path, place: Place, study: Study, what: str, seed: int, found: dict[str, Any]) -> None:
    """Keep what was found, and by what it was."""
    where = {"study": study.name, "scale": place.scale_name, "what": what, "seed": seed}
    make_folder(path.parent)
    write_json(path, {**where, **rounded(found), "made": made_here(place.scale.device)})


def rounded(value: Any) -> Any:
    """Numbers to six digits: what is kept is read and compared by people."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float | np.floating) else value


def made_here(device: str) -> dict[str, Any]:
    """Hardware, versions, date and commit."""
    git = partial(subprocess.run, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    try:
        commit = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
        changed = "+" if git(["git", "status", "--porcelain", "--", "src"]).stdout.strip() else ""
    except OSError:  # no git
        commit = changed = ""
    return {
        **made(),
        "commit": commit + changed or "unknown",
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def processor() -> str:
    """Its name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
