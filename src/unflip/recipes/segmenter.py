"""A segmenter from images and labels to a folder that holds it, with its reading of images that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import nn

import unflip
from unflip.config import problem
from unflip.data.folders import Entry
from unflip.data.labels import Classes, Labels, Surveyed, read_classes
from unflip.data.pairs import Images
from unflip.data.resize import parse_resize
from unflip.devices import enough_memory
from unflip.engine.launch import launch, machine
from unflip.errors import Interrupted, UserError
from unflip.evaluation.confusion import Reading, class_accuracy, mean_iou, per_class_iou, pixel_accuracy
from unflip.evaluation.crops import Crops, UnlabeledCrops
from unflip.evaluation.labeled import find_entries, find_labels
from unflip.evaluation.lesson import Lesson, SelfTraining
from unflip.evaluation.reader import Reader
from unflip.evaluation.segmenter import class_weights, read_all
from unflip.evaluation.segmenter import train as training_loop
from unflip.files import refuse_unwritable, undone_on_failure
from unflip.networks.pretrained import PretrainedSegmenter, TransformersConfig, find_pretrained
from unflip.networks.segmenter import Segmenter, SegmenterConfig
from unflip.progress import Bar
from unflip.seeding import torch_rng
from unflip.segmenterfolder import WEIGHTS, HeldOut, SegmenterModel, SegmenterModelConfig, load_segmenter, save_segmenter
from unflip.signals import EXIT_CODES, Stop
from unflip.types import Size

UNET = "unet"
BUDGET = 20_000
LARGEST = 256
"""Sides of the crops are at most so long, where no size is asked for."""
SMALL = 128
"""Crops with a side of at most so many pixels are decided on pixel by pixel, larger ones at half the resolution."""
FINE_TUNING_RATE = 1e-4
"""A pretrained network's learning rate: near the 6e-5 of SegFormer (Xie et al., NeurIPS 2021), for shorter training."""
GOING_ON = 0.1
"""A network of ours that is trained on gets this share of the rate from scratch: it is to keep what it knows."""


class Part(NamedTuple):
    """Images with their label maps, found whole."""

    images: list[Entry]
    labels: Surveyed


def segmenter(
    images: str | Path,
    labels: str | Path,
    classes: str | Path,
    out: str | Path,
    *,
    budget: int = BUDGET,
    test_images: str | Path | None = None,
    test_labels: str | Path | None = None,
    model: str = UNET,
    weights: str = "balanced",
    resize: str = "none",
    size: str | None = None,
    batch: int = 4,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    unlabeled: str | Path | None = None,
    only: Sequence[int] | None = None,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> Reading:
    """Train a segmenter into the folder ``out``; how it reads images that it has not seen.

    Those are ``test_images``; without them the last fifth of ``images``, in their order: neighboring frames of a video resemble each
    other, so that a random fifth would not be unseen. ``model``: ``unet``, from scratch; or what to go on from: the folder of a segmenter
    of the same classes, or a ``transformers`` model, by local folder or hub id. ``unlabeled``: images without labels to learn from as well,
    by self-training (:class:`unflip.evaluation.lesson.SelfTraining`); they should look like those that it is to read in the end. ``only``:
    places, in their order, of those of the images that are learned from, of which the others are nothing but there. ``say`` receives a line
    of news now and then.

    Raises:
        UserError: something in the data or the call is wrong; found before training wherever possible. What goes wrong after it, as where
            a held-out image has vanished meanwhile, costs the reading, but not the network.
        Interrupted: SIGINT or SIGTERM came while it learned, and nothing is left; or while it was measured, and that is not known.
    """
    if (test_images is None) != (test_labels is None):
        raise UserError("--test-images and --test-labels belong together; give both or neither")
    if only is not None and test_images is None:
        raise ValueError("a choice of images needs test images beside them")
    images, labels, out = Path(images), Path(labels), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is not empty; choose another folder")
    refuse_unwritable(out)
    known = read_classes(Path(classes))
    resize = str(parse_resize(resize))
    fabric = launch(device, precision)
    found = find_entries(images, progress)
    if test_images is None or test_labels is None:
        kept = _kept(found, images)
        parts = [_part(entries, images, labels, known, progress) for entries in (found[:kept], found[kept:])]
        say(f"held out: the last {len(found) - kept:,} of {len(found):,} images, from {found[kept].path} on")
    else:
        test_images, test_labels = Path(test_images), Path(test_labels)
        others = find_entries(test_images, progress)
        found = found if only is None else [found[i] for i in only]
        refuse_common(found, others)
        parts = [_part(found, images, labels, known, progress), _part(others, test_images, test_labels, known, progress)]
    seen, unseen = parts
    given = Images(seen.images, resize, shared=False)
    pupil = _load(model, known)
    lesson = _lesson(given, model, pupil, budget=budget, size=size, batch=batch, seed=seed, weights=weights)
    tests = "--test-images" if test_images is not None else "the held-out part of --images"
    extra = None if unlabeled is None else _unlabeled(Path(unlabeled), unseen, tests, resize, lesson, progress)
    if extra is not None:
        lesson = lesson.model_copy(update={"self_training": SelfTraining()})
    network_config, network, origin = _network(model, pupil, known, lesson)
    _try(network, lesson.size)
    missing = [known.names[i] for i in known.kept if not seen.labels.pixels[i]]
    if missing:
        say(f"no pixel to learn from shows {', '.join(missing)}: it will not be read rightly")
    besides = f" and {len(extra):,} without labels" if extra is not None else ""
    say(f"{model}: {len(given):,} images{besides}, budget {budget:,} at {lesson.size.short} px, on {fabric.device}")

    held_out = Images(unseen.images, cache="none")
    with Bar("checking held-out images", len(held_out), quiet=not progress or len(held_out) < 500) as bar:
        held_out.decode_all(bar.show)

    with Stop() as stop:
        with undone_on_failure(out):
            crops = Crops(given, Labels(seen.labels.entries, known, resize, shared=False), seen.labels.pixels, lesson)
            with Bar("training", budget, quiet=not progress) as bar:

                def after(images_seen: int, news: str) -> None:
                    bar.show(images_seen, news)
                    _stop(stop, f"stopped after {images_seen:,} images; nothing is saved")

                balance = class_weights(seen.labels.pixels, lesson.weights)
                more = None if extra is None else UnlabeledCrops(extra, lesson)
                what = f"to learn from {lesson.batch} crops of {lesson.size} pixels at once"
                with enough_memory(fabric.device, what, "use a smaller --batch or --size"):
                    network = training_loop(network, crops, balance, lesson, fabric, after, more)
            config = SegmenterModelConfig(
                network=network_config,
                classes=known,
                resize=resize,
                provenance={
                    "model": model,
                    **origin,
                    "images": len(given),
                    **({} if extra is None else {"unlabeled": len(extra)}),
                    **lesson.model_dump(mode="json", exclude_none=True),
                    "held_out": "the last of the given images" if test_images is None else "other images",
                    "unflip": unflip.__version__,
                    **machine(fabric),
                },
            )
            save_segmenter(out, config, network)  # before the reading, of which whatever fails must not cost the training
        reader = Reader(SegmenterModel(config, network, out), device=fabric.device)
        with Bar("reading held-out images", len(held_out), quiet=not progress) as bar:

            def read(done: int) -> None:
                bar.show(done)
                _stop(stop, f"stopped while reading held-out images; the network is saved, {out}, but how well it reads is not known")

            reading = read_all(reader, held_out, Labels(unseen.labels.entries, known, cache="none"), read)
        save_segmenter(out, config, network, summary(reading))
    return reading


def _stop(stop: Stop, said: str) -> None:
    """Raises ``Interrupted`` where that was asked for."""
    if stop.signal is not None:
        raise Interrupted(said, EXIT_CODES[stop.signal])


def summary(reading: Reading) -> HeldOut:
    """What a segmenter's folder keeps of its reading of held-out images."""
    values = {name: reading.figure(of).plain() for name, of in METRICS.items()}
    ious = (figure.plain() for figure in reading.figures(per_class_iou))
    return HeldOut.model_validate({**values, "per_class_iou": dict(zip(reading.names, ious, strict=True)), **reading.plain()})


METRICS = {"pixel_accuracy": pixel_accuracy, "class_accuracy": class_accuracy, "mean_iou": mean_iou}


def _part(entries: list[Entry], images: Path, labels: Path, classes: Classes, progress: bool) -> Part:
    return Part(entries, find_labels(entries, images, labels, classes, progress))


def _kept(found: list[Entry], where: Path) -> int:
    """How many of the images, in their order, are trained on."""
    if len(found) < 2:
        raise UserError(f"one image only, {where}; give two or more, or others with --test-images DIR --test-labels DIR")
    return len(found) - max(1, round(len(found) / 5))


def refuse_common(found: list[Entry], tested: list[Entry], flag: str = "--images", tests: str = "--test-images") -> None:
    """Raises ``UserError`` where what is tested is among what is learned from."""
    common = {entry.path.resolve() for entry in found} & {entry.path.resolve() for entry in tested}
    if common:
        raise UserError(f"{len(common)} images are in both {flag} and {tests}, such as {min(common)}; hold others out")


def _unlabeled(folder: Path, unseen: Part, tests: str, resize: str, lesson: Lesson, progress: bool) -> Images:
    found = find_entries(folder, progress)
    refuse_common(found, unseen.images, "--unlabeled", tests)
    images = Images(found, resize, shared=False)
    refuse_small(images, lesson.size)
    return images


def _load(model: str, classes: Classes) -> SegmenterModel | None:
    """The segmenter of ours to go on from; None where ``model`` is none."""
    if model == UNET or not Path(model).is_dir() or find_pretrained(model, weights=False) is not None:
        return None
    pupil = load_segmenter(model)
    theirs = pupil.config.classes
    if (theirs.names, theirs.ignore) != (classes.names, classes.ignore):
        what = f"--model {model} reads other classes ({', '.join(theirs.names)}) than the labels have ({', '.join(classes.names)})"
        raise UserError(f"{what}; give the same ones, in the same order")
    return pupil


def _rate(model: str, pupil: SegmenterModel | None) -> dict[str, float]:
    """The learning rate, where it is not that of a training from scratch."""
    if model == UNET:
        return {}
    if pupil is not None and isinstance(pupil.config.network, SegmenterConfig):
        return {"lr": GOING_ON * Lesson.model_fields["lr"].default}
    return {"lr": FINE_TUNING_RATE}


def _lesson(images: Images, model: str, pupil: SegmenterModel | None, *, size: str | None, **fields: Any) -> Lesson:
    """How to train; raises ``UserError`` where the images are smaller than the crops."""
    rate = _rate(model, pupil)
    try:
        lesson = Lesson.model_validate({**fields, **rate, "size": size or crop(images.sizes)})
    except ValidationError as error:
        raise UserError(f"--{problem(error)}") from None
    refuse_small(images, lesson.size)
    return lesson


def crop(sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Width and height of the crops, where none are asked for: the largest that all images of these ``sizes`` have, of at most 256 pixels
    a side."""
    narrowest, lowest = (min(sides) for sides in zip(*sizes, strict=True))
    return min(narrowest, LARGEST), min(lowest, LARGEST)


def refuse_small(images: Images, size: Size) -> None:
    """Raises ``UserError`` where some images, resized, are smaller than the crops."""
    small = [k for k, (width, height) in enumerate(images.sizes) if width < size.width or height < size.height]
    if small:
        narrowest, lowest = (min(sides) for sides in zip(*images.sizes, strict=True))
        width, height = images.sizes[small[0]]
        what = f"{len(small)} of {len(images)} images are smaller than the {size} crop, such as {images.paths[small[0]]}"
        raise UserError(f"{what} ({width}x{height}); use --size {narrowest}x{lowest} or less, or --resize")


def _from_scratch(size: Size) -> SegmenterConfig:
    return SegmenterConfig(stem_stride=1 if min(size) <= SMALL else 2)


def _network(
    model: str, pupil: SegmenterModel | None, classes: Classes, lesson: Lesson
) -> tuple[SegmenterConfig | TransformersConfig, Segmenter | PretrainedSegmenter, dict[str, str]]:
    """The network before training, its configuration, and what tells exactly which one it was."""
    if model == UNET:
        config = _from_scratch(lesson.size)
        return config, config.build(len(classes.names), torch_rng(lesson.seed, "segmenter")), {}
    if pupil is not None:
        network = pupil.network.requires_grad_(True)
        return pupil.config.network, network, {"weights_before": pupil.config.files.get(WEIGHTS, "")}
    pretrained = find_pretrained(model)
    if pretrained is None:
        what = f"--model {model} is no network; give {UNET}, the folder of a segmenter, or one as transformers writes it, or a hub id"
        raise UserError(f"{what}, OWNER/NAME")
    return *pretrained.adapted(classes.names, lesson.seed), {"revision": pretrained.commit} if pretrained.commit else {}


@torch.no_grad()
def _try(network: nn.Module, size: Size) -> None:
    """Refuse a network that does not read crops, before it is trained on them."""
    network.eval()(torch.zeros(1, 3, size.height, size.width))
