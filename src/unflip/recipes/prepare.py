"""What a training needs before its first step: everything that can be wrong is found here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from unflip import modelfolder
from unflip.data.folders import Entry
from unflip.data.labels import Labels
from unflip.data.pairs import Images, Pairs
from unflip.engine import checkpoint
from unflip.engine.team import Team
from unflip.engine.training import Training, assemble
from unflip.errors import UserError
from unflip.fabric import Fabric
from unflip.files import disk_errors
from unflip.losses import Term
from unflip.losses.balance import BalanceConfig
from unflip.networks import IMPORTED, DiscriminatorConfig
from unflip.recipes.listing import Listing, list_images
from unflip.recipes.measured import balance_measured, crops, measured_there, terms_measured
from unflip.recipes.models import Models
from unflip.recipes.resume import changes, holds_run, is_empty
from unflip.recipes.validate import Validator
from unflip.runs import RunConfig, leaves
from unflip.tensors import load_exactly, read_tensors
from unflip.torchrun import processes
from unflip.types import Batch

SAMPLES = 6


class Prepared(NamedTuple):
    """A training that can begin, or go on."""

    training: Training
    pairs: Pairs
    workers: int
    models: Models
    validator: Validator | None
    """Of the first process of a run that validates."""
    remarks: list[str]
    listing: Listing
    """The images that it draws from."""
    events: list[str]
    """Of the first process: what is not as it was when the run was stopped."""


def prepare(
    config: RunConfig, out: Path, *, resume: bool, progress: bool, say: Callable[[str], None], fabric: Fabric, team: Team
) -> Prepared:
    """Everything up to the first step, in every process of a training alike. Writes nothing."""
    events: list[str] = []
    with team.together():
        if team.leads:
            with disk_errors(out):
                _check_out(out, config, resume)
        if resume:
            config = measured_there(out, config)
            events = changes(out, config) if team.leads else []
        if team.leads and config.init is not None and not (resume and checkpoint.latest(out / "checkpoints")):
            _check_init(config, config.init)
        if config.batch % team.size:
            better = -(-config.batch // team.size) * team.size
            raise UserError(f"batch {config.batch} cannot be shared evenly by {team.size} processes; set batch={better}")
        torn = [name for name, term in config.terms.items() if term.weight > 0 and term.compares_images()]
        if torn and team.size > 1:
            raise UserError(f"term {torn[0]} compares the images of a batch, and cannot be shared by several processes; start one")
    listing = list_images(config, out, resume=resume, progress=progress, say=say, team=team)
    entries, bands = listing.entries, listing.bands
    with team.together():
        workers = _workers(config, fabric)
        store = {side: Images(found, config.data.resize, config.data.cache, workers > 0, bands[side]) for side, found in entries.items()}
        labels = _labels(config, listing, shared=workers > 0)
        pairs = Pairs(store["source"], store["target"], config.size, config.seed, config.budget, config.data.flip, labels)
        judges = config.validates and team.leads
        validator = Validator(config, entries["source"], fabric.device, progress, bands["source"]) if judges else None
        config = terms_measured(config, pairs)
        balance = balance_measured(config, pairs, fabric.device, progress) if team.leads else None
    config = config.model_copy(update={"balance": team.share(balance)})  # the same to the last digit in all of them
    if not any("labels" in term.needs for term in config.terms.values() if term.weight > 0):
        pairs.labels = None
    training = assemble(config, (bands["source"], bands["target"]), fabric, team)
    images = _digest(entries, None)
    alike = team.alike((images, config.model_dump_json()))
    training.images = team.share(_digest(entries, validator) if validator else images)
    training.fixed_weights |= validator.fixed_weights if validator else {}
    with team.together():
        if not alike:
            raise UserError("the processes of this training have not the same images and configuration; start all with the same")
    found = checkpoint.resume(out / "checkpoints", training) if resume else None
    events += found or []
    if found is None and resume:
        say("there is no checkpoint yet: the run begins from its start")
    if found is None and config.init is not None:
        with team.together():
            _start_from(training, config.init, say)
    remarks = _remarks(config) + listing.remarks(out) + (validator.remarks if validator else [])
    facts: dict[str, Any] = {"remarks": remarks} if remarks else {}
    facts |= {f"{side}_images": len(images) for side, images in store.items()}
    models = Models(out, training, facts, len(validator) if validator else 0)
    return Prepared(training, pairs, workers, models, validator, remarks, listing, events)


def fixed_images(pairs: Pairs) -> Batch:
    """The images that every sample grid shows."""
    return crops(pairs, range(min(SAMPLES, len(pairs))))._replace(labels=None)


def _check_out(out: Path, config: RunConfig, resume: bool) -> None:
    data = config.data
    for folder in (data.source, data.target, data.val_source, data.val_labels, data.val_target):
        if folder is not None and folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"--out {out} lies in the image folder {folder}, and its samples would be taken for images; choose another")
    if not resume and not is_empty(out):
        if holds_run(out):
            raise UserError(f"--out {out} is not empty; choose another folder, or --resume to go on with its run")
        raise UserError(f"--out {out} is not empty, and holds no run; choose another folder")


def _labels(config: RunConfig, listing: Listing, shared: bool) -> Labels | None:
    """The source's label maps, which are as large as their images, where the run has any."""
    if listing.labels is None or config.data.classes is None:
        return None
    entries = [image._replace(path=path) for path, image in zip(listing.labels, listing.entries["source"], strict=True)]
    return Labels(entries, config.data.classes, config.data.resize, config.data.cache, shared)


def _remarks(config: RunConfig) -> list[str]:
    """What readers of the run's results must know about it."""
    speakers: list[Term | DiscriminatorConfig | BalanceConfig] = [term for term in config.terms.values() if term.weight > 0]
    speakers += [config.discriminator, *([config.balance] if config.balance else [])]
    return list(dict.fromkeys(remark for speaker in speakers if (remark := speaker.remark())))


def _digest(entries: dict[str, list[Entry]], validator: Validator | None) -> str:
    """Tells apart sets of images, by names and sizes: the order in which a run sees them depends on all of them, and its choice on what
    it is validated by."""
    text = repr([(side, entry.path.name, entry.width, entry.height) for side, found in entries.items() for entry in found])
    text += "" if validator is None else validator.identity
    return hashlib.sha256(text.encode()).hexdigest()


def _workers(config: RunConfig, fabric: Fabric) -> int:
    """Loader processes. On a CPU the networks need every core, and cutting crops out of decoded images costs next to nothing."""
    if config.data.workers != "auto":
        return config.data.workers
    cores = (os.cpu_count() or 1) // processes()[0]
    return min(8, max(cores - 1, 1)) if fabric.device.type == "cuda" else 0


def _check_init(config: RunConfig, init: Path) -> None:
    """Refuse a model that cannot be gone on from, before all images are looked at."""
    model = modelfolder.read_config(modelfolder.find(init))
    if model.generator.kind in IMPORTED:
        raise UserError(f"--init {init} is an imported {model.generator.kind}, which translates and is not trained; leave it out")
    if model.multiscale is not None and config.multiscale is None:
        raise UserError(f"--init {init} is multi-scale, and this run is not; add --set multiscale={{}}")
    there, here = ({"sides": each.sides, **leaves(each.generator.model_dump(), "generator.")} for each in (model, config))
    for key in sorted((there.keys() | here.keys()) - {"generator.taps", "generator.init"}):
        if there.get(key) != here.get(key):
            raise UserError(f"{key} is {there.get(key)} in --init {init} and {here.get(key)} here; add --set {key}={there.get(key)}")


def _start_from(training: Training, path: Path, say: Callable[[str], None]) -> None:
    """Take the weights of another run's model (its moving average, and its projector) as the first ones."""
    folder = modelfolder.find(path)
    config = modelfolder.read_config(folder)
    here = max(bands.count for bands in training.bands)
    if config.channels != here:
        raise UserError(f"--init {path} is of images with {config.channels} bands, and these have {here}; start from another model")
    tensors = read_tensors(folder / modelfolder.WEIGHTS, config.files.get(modelfolder.WEIGHTS))
    for networks in (training.generator.generators, training.ema.network):
        inner = nn.ModuleDict({side: network.inner for side, network in networks.items()})  # type: ignore[operator,union-attr]
        load_exactly(networks if config.multiscale else inner, tensors, folder / modelfolder.WEIGHTS)
    projector = folder / modelfolder.PROJECTOR
    if len(training.generator.projectors) and not projector.is_file():
        say(f"{folder} has no projector: the run starts with a new one")
    elif len(training.generator.projectors):
        tensors = read_tensors(projector, config.files.get(modelfolder.PROJECTOR))
        load_exactly(training.generator.projectors, tensors, projector)
