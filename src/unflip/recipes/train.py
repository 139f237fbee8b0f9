"""A training run from folders to a model folder."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from unflip import modelfolder
from unflip.data.folders import find_images
from unflip.data.pairs import loader
from unflip.data.places import is_remote
from unflip.devices import choose_device
from unflip.engine import checkpoint
from unflip.engine.launch import launch
from unflip.engine.record import Record
from unflip.engine.samples import draw_samples
from unflip.engine.team import Team
from unflip.engine.trainer import Moment
from unflip.engine.trainer import train as training_loop
from unflip.errors import Interrupted, SaidElsewhere, UserError
from unflip.files import Busy, alone, make_folder, undone_on_failure, write_bytes
from unflip.inference.torch_backend import TorchTranslator
from unflip.losses.semantic import Semantic
from unflip.methods import METHODS
from unflip.recipes.alarms import Expected
from unflip.recipes.models import Models
from unflip.recipes.prepare import Prepared, fixed_images, prepare
from unflip.recipes.resume import go_back, holds_run, is_empty
from unflip.recipes.train_page import train_page
from unflip.recipes.validate import check, rule
from unflip.report.page import write as write_page
from unflip.runs import DataConfig, RunConfig, collect, to_yaml, validate
from unflip.signals import EXIT_CODES, Stop
from unflip.types import Batch

SAID = 3
"""Of the lines of one moment, if a thousand files vanish."""


def configure(method: str | None = None, *, file: Path | None = None, settings: Iterable[str] = (), **fields: Any) -> RunConfig:
    """A run's complete configuration. Where no budget is given it is the paper's: its epochs of the larger of the two folders.

    ``unflip.configure("srunit", source="renders", target="photos", size=128, settings=["generator.width=32"])``; the arguments are
    those of :func:`unflip.runs.collect`.

    Raises:
        UserError: something unknown, missing or out of range.
    """
    values = collect(method, file=file, settings=settings, **fields)
    for side in ("source", "target"):
        if not isinstance(values.get("data"), dict) or not values["data"].get(side):
            raise UserError(f"no {side} images are named; give --{side} DIR")
    if values.get("budget") is None:
        data = validate({**values, "budget": 1}).data  # first, so that what else is wrong is said before folders are searched
        larger = max(len(find_images(data.source)), len(find_images(data.target)))
        values["budget"] = METHODS[values["method"]].epochs * larger
    return _anywhere(validate(values))


def _anywhere(config: RunConfig) -> RunConfig:
    """With absolute paths, so that a run's config.yaml works from any folder."""
    paths = {name: value for name in DataConfig.model_fields if isinstance(value := getattr(config.data, name), Path)}
    data = config.data.model_copy(update={name: path.absolute() for name, path in paths.items() if not is_remote(path)})
    validation, judge = config.validation, config.validation.segmenter
    if judge is not None and judge.exists():  # else it may be a hub id
        validation = validation.model_copy(update={"segmenter": judge.absolute()})
    balance = config.balance
    if balance is not None and balance.segmenter.exists():
        balance = balance.model_copy(update={"segmenter": balance.segmenter.absolute()})
    terms = dict(config.terms)
    semantic = terms.get("semantic")
    if isinstance(semantic, Semantic) and semantic.segmenter is not None:
        terms["semantic"] = semantic.model_copy(update={"segmenter": semantic.segmenter.absolute()})
    init = config.init and config.init.absolute()
    return config.model_copy(update={"data": data, "terms": terms, "balance": balance, "validation": validation, "init": init})


def train(config: RunConfig, out: str | Path, *, resume: bool = False, progress: bool = True, say: Callable[[str], None] = print) -> Path:
    """Train ``config`` into the run folder ``out``, and return it.

    Writes config.yaml, log.jsonl, samples/, checkpoints/, model/ and report.html; images.json.gz lists the images that it draws from,
    set_aside.jsonl those that cannot be used, and events.jsonl what a user should know of how it went, such as steps that were left out.
    Trackers are told as it goes (``tensorboard``, ``trackers``); trackers.json is what they call the run.
    A run that validates writes validation.jsonl as well, and takes for model/ the checkpoint that is chosen by the rule of
    :class:`unflip.runs.ValidationConfig`; the last weights are then in last/, and those that can still be chosen in validated/.

    ``resume`` goes on from the newest whole checkpoint in ``out``, whose config must be the same, but for what
    :data:`unflip.recipes.resume.CHANGEABLE` names; where there is no run yet, it begins one. A run that another process begins in ``out``
    meanwhile is never touched: with ``resume``, too, this one is refused then. ``say`` receives a line of news now and then.

    Called by every process that torchrun started, the processes train together; the first of them writes and speaks.

    Raises:
        UserError: something in the data, the configuration or ``out`` is wrong; found before training wherever possible.
        Interrupted: SIGINT or SIGTERM came; the run has been saved, and can be resumed.
    """
    out = Path(out)
    check(config)
    idles = config.idles() or config.compiles(choose_device(config.device))  # compiled, some biases are left out
    fabric = launch(config.device, config.precision, many=True, idles=idles)
    team = Team()
    if not team.leads:
        progress, say = False, lambda line: None
    resume = team.share(resume and holds_run(out))
    with ExitStack() as held:
        with team.together():
            if team.leads and resume:  # before anything of the run is read
                held.enter_context(alone(out))
        prepared = prepare(config, out, resume=resume, progress=progress, say=say, fabric=fabric, team=team)
        stopped = _lead(prepared, out, resume, progress, say, held) if team.leads else _follow(prepared, out)
    team.close()  # not after an error: it would wait for whoever is gone
    if stopped is not None:
        raise stopped
    return out


def _lead(prepared: Prepared, out: Path, resume: bool, progress: bool, say: Callable[[str], None], held: ExitStack) -> Interrupted | None:
    """The part of the first process, which writes and speaks for all; what stopped it, if anything did. ``held``: the run's folder."""
    training, pairs, _, models, validator, remarks, listing, events = prepared
    config, device = training.config, training.fabric.device
    models.restore()
    if training.seen >= config.budget:
        if not models.complete():  # killed just before
            models.save()
        models.prune()
        if not (out / "report.html").is_file():
            _report(out, config, models)
        for line in (f"{out} is complete: {training.seen:,} of {config.budget:,} images", *models.outcome()):
            say(line)
        return None

    generators = dict(training.ema.network.items())  # type: ignore[operator]
    translator = TorchTranslator(modelfolder.Model(models.description(), generators, out))
    if validator is not None:
        validator.prepare(translator, progress)
    with nullcontext() if resume else undone_on_failure(out):
        if not resume:
            make_folder(out)
            held.enter_context(alone(out))
            if not is_empty(out):  # another run began while this one looked at its images, and may have ended
                raise Busy(f"another run has begun in {out} meanwhile; choose another folder, or --resume to go on with that one")
            write_bytes(out / "config.yaml", to_yaml(config).encode())  # first: what a killed process leaves can then be resumed
        make_folder(out / "samples")
        listing.write(out, config)
        record = Record(out, config, training.seen, resumed=resume, progress=progress)
        for event in events:
            record.event(training.seen, event)
        if resume:  # what is changed has been noted
            write_bytes(out / "config.yaml", to_yaml(config).encode())
        models.prune()
    for line in (*remarks, *events, *record.trackers.where):
        say(line)
    counts = f"{len(pairs.source):,} source and {len(pairs.target):,} target images"
    where = f"{device}" if training.team.size == 1 else f"{training.team.size} processes, {device.type}"
    say(f"{config.method}: {counts}, budget {config.budget:,} images at {config.size.short} px, on {where}")
    if validator is not None:
        say(f"validation of {len(validator):,} translations every {config.validate_every:,} images; chosen is {rule(config)}")

    fixed = fixed_images(pairs)
    expected = Expected.of(config, training.generator)
    stopped = False
    with Stop() as stop, record:
        for moment in _moments(prepared, out, stop):
            if "back" in moment.due:
                record.rewind(training.seen)
                models.restore()
            record.add(moment)
            alarms = expected.alarms(record.lines) if "log" in moment.due else []
            _tell([*moment.events, *alarms, *record.trackers.lost()], training.seen, record, say)
            if "sample" in moment.due:
                picture = out / "samples" / f"{moment.seen:09d}.png"
                draw_samples(training, fixed, picture)
                record.sample(picture, moment.seen)
            if "validate" in moment.due and validator is not None:
                point = validator(translator, moment.seen, lambda done: record.news(f"validating {done}/{len(validator)}"))
                choice = models.add(point)
                record.add_validation(point._asdict(), choice.chosen.seen)
                say(f"validated at {moment.seen:,} images: {point}; chosen so far: {choice.chosen.seen:,}")
            if "checkpoint" in moment.due:
                models.save()  # before the checkpoint, which says how far the run has come
                checkpoint.save(out / "checkpoints", training)
                models.prune()
            stopped = "stop" in moment.due
    _tell(record.trackers.lost(), training.seen, record, say)  # what failed at the end
    if stopped:
        code = EXIT_CODES[stop.signal or signal.SIGTERM]  # it may be another process that was asked
        return Interrupted(f"stopped after {training.seen:,} images; {out} is saved: --resume goes on", code)
    _report(out, config, models)
    say(f"{out / 'report.html'}: how it went")
    for line in models.outcome():
        say(line)
    return None


def _follow(prepared: Prepared, out: Path) -> SaidElsewhere | None:
    """The part of every other process."""
    training, stopped = prepared.training, False
    with Stop() as stop:
        for moment in _moments(prepared, out, stop):
            if "checkpoint" in moment.due:
                checkpoint.save(out / "checkpoints", training)
            stopped = "stop" in moment.due
    return SaidElsewhere("stopped", EXIT_CODES[stop.signal or signal.SIGTERM]) if stopped else None


def _moments(prepared: Prepared, out: Path, stop: Stop) -> Iterator[Moment]:
    """The training's moments, in every process. At "back" it has gone back to its last checkpoint, and goes on from there."""
    training, folder = prepared.training, out / "checkpoints"
    if training.config.faults.policy == "back" and training.seen == 0:
        checkpoint.save(folder, training)
    again = True
    while again:
        again = False
        for moment in training_loop(training, _batches(prepared), lambda: stop.signal is not None):
            if "back" in moment.due:
                again, events = True, go_back(training, folder)
                moment = moment._replace(events=(*moment.events, *events))
            yield moment


def _tell(events: list[str], seen: int, record: Record, say: Callable[[str], None]) -> None:
    for event in events:
        record.event(seen, event)
    for event in events[:SAID]:
        say(f"warning: {event}")
    if events[SAID:]:
        say(f"warning: and {len(events) - SAID} more; {record.happened} has them all")


def _batches(prepared: Prepared) -> Iterator[Batch]:
    training = prepared.training
    return loader(
        prepared.pairs,
        first=training.seen,
        batch=training.config.batch,
        workers=prepared.workers,
        rank=training.team.rank,
        ranks=training.team.size,
        pin_memory=training.fabric.device.type == "cuda",
    )


def _report(out: Path, config: RunConfig, models: Models) -> None:
    chosen = models.choice.chosen.seen if models.points else None
    write_page(train_page(out, config, models.description(), chosen), out / "report.html")
