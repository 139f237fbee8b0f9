"""Validation in training: what a run's model makes of images that stay the same, and which checkpoint is chosen by it.

The rule is that of :class:`unflip.runs.ValidationConfig`: of the checkpoints whose Fréchet distance is near the lowest, the one with the
highest mean IoU. The distance alone prefers translations that flip, where the domains differ in what they show; the mean IoU alone prefers
those that leave the source as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch

from unflip.data.bands import RGB, Bands
from unflip.data.folders import Entry, find_images, same_folder, survey
from unflip.data.images import Array
from unflip.data.labels import Labels, match_labels, survey_labels
from unflip.data.pairs import Images
from unflip.devices import NoMemory
from unflip.errors import UserError
from unflip.evaluation.confusion import Floats, excess_flip_rate, flip_rate, mean_iou, pixel_accuracy
from unflip.evaluation.features import feature_network
from unflip.evaluation.judge import features_of, judge
from unflip.evaluation.reader import Reader
from unflip.evaluation.realism import frechet
from unflip.files import nameless
from unflip.inference.torch_backend import TorchTranslator
from unflip.losses.semantic import Semantic
from unflip.modelcard import NUMBERS, shown
from unflip.progress import Bar
from unflip.runs import RunConfig
from unflip.segmenterfolder import load_segmenter
from unflip.tensors import digest


class Point(NamedTuple):
    """What a validation found."""

    seen: int
    mean_iou: float
    pixel_accuracy: float
    flip_rate: float
    excess_flip_rate: float | None
    """None: the segmenter's confusions on real images are not known."""
    frechet: float | None
    """None: the run has no validation target."""

    @classmethod
    def of(cls, line: dict[str, Any]) -> Point:
        """From a line of validation.jsonl."""
        return cls(**{name: line[name] for name in cls._fields})

    def __str__(self) -> str:
        numbers = {name: value for name, value in self._asdict().items() if name != "seen" and value is not None}
        return ", ".join(f"{NUMBERS[name]} {shown(value)}" for name, value in numbers.items())


class Choice(NamedTuple):
    """Of validated checkpoints: the one to use, and those that can still become it."""

    chosen: Point
    kept: list[Point]


def choose(points: Sequence[Point], tolerance: float) -> Choice:
    """The choice among ``points``, at least one, by the rule; in the order of ``points``, whose ``seen`` rises.

    The lowest Fréchet distance can only fall as a run goes on, so what is not near it never will be. What is, is chosen later where those
    that the rule prefers to it are no longer near, which happens only to higher distances. So a checkpoint can be forgotten exactly where
    one that is preferred has no higher distance. Then whatever comes, the choice is the same as if all had been kept.
    """
    distance = {point.seen: point.frechet or 0.0 for point in points}
    limit = (1 + tolerance) * min(distance.values())
    near = [point for point in points if distance[point.seen] <= limit]

    def preferred(a: Point, b: Point) -> bool:
        return (a.mean_iou, a.seen) > (b.mean_iou, b.seen)

    kept = [p for p in near if not any(preferred(q, p) and distance[q.seen] <= distance[p.seen] for q in near)]
    return Choice(max(near, key=lambda point: (point.mean_iou, point.seen)), kept)


def rule(config: RunConfig) -> str:
    """The rule of :func:`choose`, in words: chosen is the checkpoint of ..."""
    if config.data.val_target is None:
        return "the highest mean IoU among the validated ones (of equals the later)"
    within = f"whose Fréchet distance is within {100 * config.validation.tolerance:g} % of the lowest"
    return f"the highest mean IoU among the validated ones {within} (of equals the later)"


def spread(count: int, most: int) -> list[int]:
    """``most`` evenly spaced indices of ``count``, or all where there are no more."""
    most = min(count, most)
    return [i * count // most for i in range(most)]


class Validator:
    """Judges a model by its translations of a run's validation images: the same ones whenever it is called, and in every run.

    ``trained``: the source images that the run sees, stored as ``bands`` says. Nothing here draws a random number or touches the run's
    networks but for reading them.

    Raises:
        UserError: what is needed is not all given, does not match, cannot be read or is too little.
    """

    def __init__(
        self, config: RunConfig, trained: Iterable[Entry], device: torch.device, progress: bool = True, bands: Bands = RGB
    ) -> None:
        data, settings = config.data, config.validation
        assert data.val_source is not None and data.val_labels is not None and settings.segmenter is not None
        model = load_segmenter(settings.segmenter.as_posix(), device)  # a hub id has slashes on every system
        self.reader = Reader(model, data.classes, device)
        paths = find_images(data.val_source)
        if len(paths) < 2:
            raise UserError(f"one validation image only, {paths[0]}; give at least two")
        maps = match_labels(paths, data.val_source, data.val_labels, self.reader.classes)
        picked = spread(len(paths), settings.images)
        with Bar("checking validation labels", len(picked), quiet=not progress or len(picked) < 500) as bar:
            entries = survey([paths[i] for i in picked])
            labels = survey_labels([maps[i] for i in picked], entries, self.reader.classes, lambda done, _: bar.show(done))
        self.images = Images(entries, data.resize, data.cache, shared=False, bands=bands)
        self.labels = Labels(labels.entries, self.reader.classes, cache=data.cache, shared=False)
        self.sizes = [(entry.width, entry.height) for entry in entries]
        self.network = None if data.val_target is None else feature_network("segmenter", model, device)
        self.target = [] if data.val_target is None else survey(find_images(data.val_target))
        if data.val_target is not None and len(self.target) < 2:
            raise UserError(f"one validation target only, {data.val_target}; give at least two images")
        self._theirs: Floats | None = None
        self.remarks = self._remarks(config, trained)
        self.identity = repr([[(e.path.name, e.width, e.height) for e in found] for found in (entries, self.target)] + [model.config.files])
        """Tells apart what models are judged by."""
        self.fixed_weights = {"validation.segmenter": digest(model.network.state_dict())}

    def __len__(self) -> int:
        return len(self.images)

    def prepare(self, translator: TorchTranslator, progress: bool = True) -> None:
        """Do what is done once, so that what would end a validation is found before the training: decode every image, and try the largest.

        Raises ``UserError`` where an image cannot be decoded, is of another kind than the source's, or is too large for the device.
        """
        with Bar("reading validation images", len(self), quiet=not progress or len(self) < 500) as bar:
            self.images.decode_all(bar.show)
        largest = max(range(len(self)), key=lambda i: math.prod(self.images.sizes[i]))
        try:
            image = self._translated(translator, largest)
            self.reader(image)
            if self.network is not None:
                self.network(image)
        except (torch.OutOfMemoryError, NoMemory):
            size = "x".join(map(str, self.images.sizes[largest]))
            what = f"validation image too large for the memory of the device ({size}), {self.images.paths[largest]}"
            raise UserError(f"{what}; give smaller ones, or set data.resize") from None
        if self.network is not None:
            with Bar("looking at the validation target", len(self.target), quiet=not progress or len(self.target) < 500) as bar:
                self._theirs = features_of([entry.path for entry in self.target], self.network, bar.show)

    def __call__(self, translator: TorchTranslator, seen: int, progress: Callable[[int], None] = lambda done: None) -> Point:
        """Judge the translations that ``translator`` gives of the images, at their own sizes; after :meth:`prepare`."""
        translations = (self._translated(translator, i) for i in range(len(self)))
        reading, mine = judge(translations, lambda i: self.labels[i].numpy(), len(self), self.reader, self.network, progress)
        counts, real = reading.total, self.reader.held_out
        excess = math.nan if real is None else float(excess_flip_rate(counts, real.total))
        return Point(
            seen=seen,
            mean_iou=float(mean_iou(counts)),
            pixel_accuracy=float(pixel_accuracy(counts)),
            flip_rate=float(flip_rate(counts)),
            excess_flip_rate=None if math.isnan(excess) else excess,
            frechet=None if mine is None or self._theirs is None else frechet(mine, self._theirs),
        )

    def _translated(self, translator: TorchTranslator, i: int) -> Array:
        """As an 8-bit segmenter sees it."""
        return translator.target.view(translator.decoded(self.images[i], self.sizes[i]))

    def _remarks(self, config: RunConfig, trained: Iterable[Entry]) -> list[str]:
        """What readers of the numbers must know."""
        known, segmenter = {entry.path.resolve() for entry in trained}, config.validation.segmenter
        common = sum(path.resolve() in known for path in self.images.paths)
        semantic = config.terms.get("semantic")
        remarks = []
        if common:
            remarks.append(f"validation: {common} of {len(self)} images are source images of the training, too")
        if isinstance(semantic, Semantic) and semantic.weight > 0 and semantic.segmenter == segmenter:
            remarks.append("validation: read by the segmenter of the term semantic, which the generator learns to please")
        if self.reader.held_out is None:
            remarks.append(f"validation: no excess flip rate, as what {nameless(segmenter)} confuses on real images is not known")
        return remarks


def check(config: RunConfig) -> None:
    """Refuse what is missing, before anything is read. Raises ``UserError``."""
    data = config.data
    given = {
        "--val-source DIR": data.val_source,
        "--val-labels DIR": data.val_labels,
        "--segmenter M": config.validation.segmenter,
    }
    missing = [flag for flag, value in given.items() if value is None]
    if len(missing) < len(given) and missing:
        raise UserError(f"validation needs all of {', '.join(given)}; give {' and '.join(missing)}, too")
    if missing and data.val_target is not None:
        raise UserError(f"--val-target is of use only in a validation; give {', '.join(given)}, too")
    if data.val_source is not None and data.val_target is not None and same_folder(data.val_source, data.val_target):
        raise UserError(f"validation source and target are the same folder, {data.val_source}; give images of both domains")
