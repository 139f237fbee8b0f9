"""What a comparison is to do: its runs, configured and checked before any is trained, and what tells it from another one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unflip.config import unknown
from unflip.data.folders import find_images, same_folder, survey
from unflip.data.formats import is_shard
from unflip.errors import UserError
from unflip.losses import TERMS
from unflip.methods import METHODS
from unflip.modelfolder import WEIGHTS, find, read_config
from unflip.recipes.compare_table import UNTRANSLATED
from unflip.recipes.train import configure
from unflip.recipes.validate import check
from unflip.runs import RunConfig

ARGUMENTS = "compare.json"
"""In the folder of a comparison: what it was asked for."""

HOW = ("source", "budget", "size", "batch", "val_source", "val_labels", "val_target")
"""Arguments that say how to train, and nothing else."""


@dataclass(frozen=True)
class Job:
    """A run to be judged, which is trained first where it has a ``config``."""

    method: str
    index: int
    """Among the method's runs; the seed of those that are trained."""
    folder: Path
    run: Path
    config: RunConfig | None

    @property
    def name(self) -> str:
        """Of the job, as messages have it."""
        return self.folder.name

    @property
    def identity(self) -> str:
        """Of a run that is taken: its name, place and weights."""
        return f"{self.method}={self.run.absolute()} {read_config(find(self.run)).files.get(WEIGHTS)}"


def translations(folder: Path, test_source: Path) -> Path:
    """Where the translations of a job in ``folder`` are, under their sources' names: those of a single shard are in one of its name."""
    translated = folder / "translated"
    return translated / test_source.name if is_shard(test_source.name) else translated


def trainings(out: Path, methods: Sequence[str], seeds: int, settings: Sequence[str], **fields: Any) -> list[Job]:
    """A configured run for each method and seed.

    Raises:
        UserError: something is wrong with them, or nothing is trained and is told how.
    """
    if not methods:
        unused = [name for name in HOW if fields[name] is not None] + ["set"] * bool(settings)
        if unused:
            raise UserError(f"--{unused[0].replace('_', '-')} is for training; give --methods NAME,NAME, or leave it out")
        return []
    if fields["budget"] is None:
        raise UserError("no budget is named, of which every method gets the same; give --budget N")
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: at least 1 is needed")
    twice = {method for method in methods if list(methods).count(method) > 1}
    if twice:
        raise UserError(f"--methods names {min(twice)} twice; name it once")
    for method in methods:
        if method not in METHODS:
            raise UserError("--methods: " + unknown("method", method, METHODS))
    jobs = []
    for method in methods:
        mine = settings_of(method, methods, settings)
        for seed in range(seeds):
            try:
                config = configure(method, settings=mine, seed=seed, **fields)
                check(config)
            except UserError as error:
                raise UserError(f"{method}: {error}") from None
            folder = out / method / f"seed{seed}"
            jobs.append(Job(method, seed, folder, folder / "run", config))
    return jobs


def settings_of(method: str, methods: Sequence[str], settings: Sequence[str]) -> list[str]:
    """Those of ``settings`` that are a method's, as ``key=value``.

    Raises:
        UserError: one for all methods sets a part that a method has not. It would get that part, and be another method.
    """
    mine = []
    for text in settings:
        key, equals, value = text.partition("=")
        names, colon, key = key.rpartition(":")
        if key.strip() == "seed":
            raise UserError(f"--set {text}: seeds are chosen by --seeds")
        chosen = [name.strip() for name in names.split(",")] if colon else list(methods)
        for name in chosen:
            if name not in methods:
                raise UserError(f"--set {text}: " + unknown("method", name, methods))
        part = key.strip().removeprefix("terms.").partition(".")[0]
        if not colon and not _has(method, part):
            having = ",".join(name for name in methods if _has(name, part))
            advice = f"use --set {having}:{text}" if having else f"use --set METHOD:{text} to add it to a method"
            raise UserError(f"--set {text}: {method} has no {part}; {advice}")
        if method in chosen:
            mine.append(f"{key}{equals}{value}")
    return mine


def _has(method: str, part: str) -> bool:
    recipe = METHODS[method].recipe
    return recipe.projector is not None if part == "projector" else part in recipe.terms or part not in TERMS


def given(out: Path, runs: Sequence[tuple[str, str | Path]], methods: Sequence[str]) -> list[Job]:
    """The runs that are there already."""
    jobs: list[Job] = []
    for name, run in runs:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or name == UNTRANSLATED:
            raise UserError(f"--run {name}={run}: another name is needed, of letters, digits, _ and -, for its folder and the table")
        if name in methods:
            raise UserError(f"--run {name}={run}: {name} is trained here too; give it another name")
        same = [job for job in jobs if job.method == name]
        if any(same_folder(find(job.run), find(Path(run))) for job in same):
            raise UserError(f"--run {name}={run} is named twice; name it once")
        folder = out / name / f"run{len(same)}"
        jobs.append(Job(name, len(same), folder, Path(run), None))
    return jobs


def check_images(configs: Sequence[RunConfig], out: Path, others: Sequence[str | Path | None]) -> None:
    """Look at all images before the first training."""
    folders = {path for config in configs for path in (config.data.source, config.data.target)}
    for folder in [*sorted(folders), *(Path(other) for other in others if other is not None)]:
        if folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"--out {out} lies in the image folder {folder}; choose another")
    for config in configs[:1]:
        if same_folder(config.data.source, config.data.target):
            raise UserError(f"source and target are the same folder, {config.data.source}; nothing would be translated")
    for folder in sorted(folders):
        survey(find_images(folder))
