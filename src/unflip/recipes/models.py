"""The model folders of a run: ``model/``, the one to use, and in a run that validates ``last/`` and ``validated/<images seen>/``."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import unflip
from unflip import modelfolder
from unflip.engine.launch import machine
from unflip.engine.record import VALIDATION, lines_until
from unflip.engine.training import Training
from unflip.methods import METHODS
from unflip.recipes.validate import Choice, Point, choose, rule


@dataclass
class Models:
    """Writes what a run's model folders hold. Without validations ``model/`` holds the last weights, else the chosen ones.

    A candidate is written where it is validated, and deleted only after a checkpoint that knows why: so a run that went back to its last
    checkpoint finds all that could be chosen there.
    """

    out: Path
    training: Training
    facts: dict[str, Any]
    """What the models' provenance says of the data."""
    images: int = 0
    """How many a validation judges."""
    points: list[Point] = field(default_factory=list)
    """Of all validations up to ``training.seen``."""

    def restore(self) -> None:
        """Take up the validations that a run made before it was stopped."""
        self.points = [Point.of(json.loads(line)) for line in lines_until(self.out / VALIDATION, self.training.seen)]

    @property
    def choice(self) -> Choice:
        """Of the validations so far, of which there is one at least."""
        return choose(self.points, self.training.config.validation.tolerance)

    def add(self, point: Point) -> Choice:
        """Count a validation of the present weights, and write them where they can be chosen."""
        self.points.append(point)
        choice = self.choice
        if point in choice.kept:
            self._write(self._place(point), {"this": point})
        return choice

    def save(self) -> None:
        """Write ``model/`` and, where the run validates, ``last/``; the latter is written last."""
        model, seen = self.out / "model", self.training.seen
        if not self.training.config.validates:
            self._write(model)
            return
        last = self.points[-1] if self.points and self.points[-1].seen == seen else {"seen": seen}
        # where a run fell back behind a checkpoint that is damaged, what was beaten after it is gone until it is beaten again
        there = [point for point in self.choice.kept if self._place(point).is_dir()] if self.points else []
        if there:
            chosen = max(there, key=lambda point: (point.mean_iou, point.seen))
            modelfolder.copy(self._place(chosen), model, validation=self._validation({"chosen": chosen, "last": last}))
        elif not self.points or not model.is_dir():
            self._write(model, {"last": last})
        self._write(self.out / "last", {"chosen": self.choice.chosen, "last": last} if self.points else {"last": last})

    def prune(self) -> None:
        """Delete what can no longer be chosen, and what a killed process left; only where a checkpoint holds the present state."""
        kept = {self._place(point) for point in self.choice.kept} if self.points else set()
        folder = self.out / "validated"
        for path in folder.iterdir() if folder.is_dir() else ():
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def complete(self) -> bool:
        """Whether what :meth:`save` writes is there for the present state."""
        folder = self.out / ("last" if self.training.config.validates else "model")
        there = (folder / "config.json").is_file()
        return there and modelfolder.read_config(folder).provenance.get("images_seen") == self.training.seen

    def outcome(self) -> list[str]:
        """What was chosen, and what is last."""
        if not self.points:
            return []
        chosen, last = self.choice.chosen, self.points[-1]
        return [
            f"chosen: {chosen.seen:,} images seen: {chosen} ({self.out / 'model'}), {rule(self.training.config)}",
            f"last: {last.seen:,} images seen: {last} ({self.out / 'last'})",
        ]

    def description(self) -> modelfolder.ModelConfig:
        """What a model folder says of the present weights."""
        training, config = self.training, self.training.config
        return modelfolder.ModelConfig(
            generator=config.generator,
            multiscale=config.multiscale,
            source=training.bands[0],
            target=training.bands[1],
            sides=config.sides,
            resize=config.data.resize,
            provenance={
                "method": config.method,
                "paper": METHODS[config.method].paper,
                "images_seen": training.seen,
                "budget": config.budget,
                "size": config.size.short,
                "seed": config.seed,
                **self.facts,
                "unflip": unflip.__version__,
                **machine(training.fabric),
            },
        )

    def _place(self, point: Point) -> Path:
        return self.out / "validated" / f"{point.seen:09d}"

    def _write(self, folder: Path, checkpoints: dict[str, Point | dict[str, Any]] | None = None) -> None:
        """The present weights as a model folder; ``checkpoints``: whose validations its card shows."""
        model = self.description()
        if checkpoints is not None:
            model = model.model_copy(update={"provenance": model.provenance | {"validation": self._validation(checkpoints)}})
        projectors = self.training.generator.projectors
        modelfolder.save(folder, model, self.training.ema.network, projectors if len(projectors) else None)

    def _validation(self, checkpoints: dict[str, Point | dict[str, Any]]) -> dict[str, Any]:
        config = self.training.config
        return {
            "rule": rule(config),
            "images": self.images,
            "segmenter": str(config.validation.segmenter),
            "checkpoints": {name: point._asdict() if isinstance(point, Point) else point for name, point in checkpoints.items()},
        }
