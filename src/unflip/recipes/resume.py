"""Going on with a run: from its newest whole checkpoint, with what may be changed and nothing else."""

from __future__ import annotations

from pathlib import Path

from unflip.engine import checkpoint
from unflip.engine.training import Training
from unflip.errors import UserError
from unflip.files import LOCK
from unflip.runs import RunConfig, from_yaml, leaves

CHANGEABLE = (
    "batch",
    "accumulate",
    "device",
    "precision",
    "compile",
    "data.cache",
    "data.workers",
    "optimizer.lr",
    "optimizer.discriminator_lr",
    "faults.",
    "keep",
    "log_every",
    "sample_every",
    "checkpoint_every",
    "tensorboard",
    "trackers",
)
"""What a run can be resumed with: what it takes to go on where a machine or a learning rate did not do."""

HARMLESS = ("accumulate", "data.", "faults.", "keep", "log_every", "sample_every", "checkpoint_every", "tensorboard", "trackers")
"""Of these, what changes no weight but by rounding."""


def holds_run(out: Path) -> bool:
    """Whether there is a run in ``out`` that has begun."""
    return (out / "config.yaml").is_file()


def is_empty(out: Path) -> bool:
    """Whether there is nothing in ``out`` but what a killed process could leave before a run begins."""
    return not out.exists() or (out.is_dir() and all(path.name == LOCK or path.match(".*.tmp") for path in out.iterdir()))


def changes(out: Path, config: RunConfig) -> list[str]:
    """What is not as in the run ``out``, a line each. Raises ``UserError`` for what cannot be changed midway."""
    there, here = (leaves(each.model_dump(mode="json")) for each in (from_yaml(out / "config.yaml"), config))
    changed = [key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)]
    for key in changed:
        if not key.startswith(CHANGEABLE):
            which = f"{key} is {there.get(key)} there and {here.get(key)} here"
            remedy = "resume it with the same one, or start another run, with --init from this one"
            raise UserError(f"--out {out} was started with another configuration ({which}); {remedy}")
    lines = [f"resumed with {key} {here.get(key)} instead of {there.get(key)}" for key in changed]
    if any(not key.startswith(HARMLESS) for key in changed):
        lines.append("from here on the run is another than it would have been")
    return lines


def go_back(training: Training, folder: Path) -> list[str]:
    """After numbers went wrong: to the newest checkpoint in ``folder``, and slower on from there. In every process; lines that say so.

    It is written down at once: a run that is killed now must not go on at its old rate.
    """
    left, skipped, returns = training.seen, training.skipped, training.returns
    remarks = checkpoint.resume(folder, training)
    if remarks is None:
        training.team.fail(UserError(f"no checkpoint in {folder} to go back to; start the run again with a lower optimizer.lr"))
    training.skipped, training.returns = skipped, returns + 1
    training.slower *= training.config.faults.slower
    checkpoint.save(folder, training)
    times = f"{training.returns} of at most {training.config.faults.returns} times"
    return [*remarks, f"went back from {left:,} to {training.seen:,} images, with learning rates times {training.slower:g} ({times})"]
