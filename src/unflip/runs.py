"""A run's configuration: data + method + budget. Complete, validated, and the same after a round trip through YAML."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from unflip import yamls
from unflip.config import Config, problem, unknown
from unflip.data.bands import GivenBands
from unflip.data.labels import GivenClasses
from unflip.data.resize import GivenResize
from unflip.errors import UserError
from unflip.losses import TERMS
from unflip.losses.balance import MEASURED, BalanceConfig
from unflip.losses.fixed import unfit
from unflip.losses.term import Setting
from unflip.methods import METHODS, Recipe
from unflip.networks.chain import missing_compiler
from unflip.types import GivenSize, Size

TRACKED = ("tensorboard", "mlflow", "wandb")
"""Who can be told of a run."""


class DataConfig(Config):
    """Where images come from and how they are cut."""

    source: Path
    target: Path
    resize: GivenResize = "none"
    """``none``, ``short:N`` (the shorter side becomes N) or ``WxH``; stored in the model and applied again by ``translate``."""
    source_bands: GivenBands = GivenBands()
    """Where it is not to be found out from the images, how they are stored, and which of their values are -1 and 1 to the networks."""
    target_bands: GivenBands = GivenBands()
    source_labels: Path | None = None
    """Label maps of the source images, for ``balance`` or the term ``semantic``; matched by relative path without the ending."""
    classes: GivenClasses | None = None
    """Names, palette and ignored ids of the labels; given as the path of a classes.json, or as the name of a known set."""
    val_source: Path | None = None
    """Images that are translated and judged as the run goes on, see :class:`ValidationConfig`."""
    val_labels: Path | None = None
    """Their label maps, of ``classes``, or where those are not given, of the segmenter's classes."""
    val_target: Path | None = None
    """Images of the target, from which on the Fréchet distance of the translations is measured. None: it is not."""
    flip: bool = True
    """Mirror half of the crops."""
    cache: Literal["auto", "memory", "none"] = "auto"
    """Keep decoded images in memory, shared by the workers; ``auto``: when they fit."""
    workers: NonNegativeInt | Literal["auto"] = "auto"
    bad: Literal["set_aside", "stop"] = "set_aside"
    """What images of source and target come to whose files cannot be used, or whose label maps, when a run begins: ``set_aside``: the run
    does without them, and lists them in set_aside.jsonl, unless they are more than half; ``stop``: the run does not begin."""


class EmaConfig(Config):
    """The moving average of the generator's weights, which is what a run's model holds."""

    half_life: PositiveFloat = 10_000
    """In images."""
    share: float = Field(default=0.05, gt=0, le=0.05)
    """The half-life is at most this share of the images seen so far."""


class ValidationConfig(Config):
    """How checkpoints are judged as a run goes on, and by which rule one is chosen for the run's model.

    The rule: among the validated checkpoints whose Fréchet distance is within ``tolerance`` of the lowest, the one with the highest mean
    IoU, of equals the later. So a ``tolerance`` of 0 takes the lowest distance, and a large one the highest mean IoU, as does a run
    without ``data.val_target``.
    """

    segmenter: Path | None = None
    """The folder of the segmenter that reads the translations, and whose features the Fréchet distance is measured in."""
    images: int = Field(default=100, ge=2)
    """Of ``data.val_source``, evenly spaced: the same at every validation and in every run."""
    tolerance: NonNegativeFloat = 0.1
    """A share of the lowest Fréchet distance. Few images raise all distances, and so widen what is near."""


class FaultsConfig(Config):
    """What is done where a loss or a gradient is not a finite number. Whatever it is: the step is not taken.

    ``skip``: the run goes on, with a warning that names the term and the tensor, and stops after more than ``skips`` such steps in all.
    ``back``: it goes back to its last checkpoint, and on from there with its learning rates times ``slower``, at most ``returns`` times.
    ``stop``: it stops. All of them find out where something is due next, such as a log.
    """

    policy: Literal["skip", "back", "stop"] = "skip"
    skips: NonNegativeInt = 50
    returns: NonNegativeInt = 3
    slower: float = Field(default=0.5, gt=0, le=1)


class RunConfig(Recipe):
    """Everything that decides how a run goes. Lengths and intervals count source images seen."""

    method: str
    data: DataConfig
    size: GivenSize = Size(256, 256)
    """Of the training crops, in pixels: 256 for squares, or 512x256 (width first)."""
    budget: PositiveInt
    batch: PositiveInt = 1
    """Images per step, of all processes together: so a run is the same on any number of devices."""
    accumulate: PositiveInt = 1
    """In how many pieces each process plays its portion of a batch, one after the other: less memory, the same gradients."""
    seed: NonNegativeInt = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the networks and record steps as CUDA graphs, which takes a minute or two; ``auto``: on GPUs, where a compiler is there."""
    ema: EmaConfig = EmaConfig()
    balance: BalanceConfig | None = None
    """Weigh the places of target images, so that classes have the source's shares among them; None: all weigh the same."""
    init: Path | None = None
    """A run or model folder whose weights this run starts from."""
    log_every: NonNegativeInt = 0
    sample_every: NonNegativeInt = 0
    checkpoint_every: NonNegativeInt = 0
    validate_every: NonNegativeInt = 0
    keep: PositiveInt = 2
    """Checkpoints kept, from which a run can be resumed."""
    validation: ValidationConfig = ValidationConfig()
    faults: FaultsConfig = FaultsConfig()
    tensorboard: bool | Literal["auto"] = "auto"
    """Write event files for TensorBoard to RUN/tensorboard; ``auto``: where it is installed."""
    trackers: tuple[str, ...] = ()
    """Who is told of the run besides: ``mlflow``, ``wandb``, or ``tensorboard``, which must then be there."""

    @property
    def validates(self) -> bool:
        """Whether checkpoints are judged as the run goes on."""
        return self.data.val_source is not None

    def compiles(self, device: torch.device) -> bool:
        """Whether a run on ``device`` compiles. Raises ``UserError`` where it is told to and cannot."""
        if self.compile != "on":
            return self.compile == "auto" and device.type == "cuda" and missing_compiler() is None
        if device.type != "cuda":
            raise UserError(f"compile: {device.type} gains nothing from it; leave it out")
        if missing := missing_compiler():
            raise UserError(f"compile: {missing} is missing; install it, or set compile=off")
        return True

    @field_validator("method")
    @classmethod
    def _method(cls, value: str) -> str:
        if value not in METHODS:
            raise ValueError(unknown("method", value, METHODS))
        return value

    @field_validator("precision", mode="before")
    @classmethod
    def _precision(cls, value: Any) -> Any:
        return str(value)  # YAML and --set read 32 as a number

    @field_validator("trackers", mode="before")
    @classmethod
    def _trackers(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value
        for name in names if isinstance(names, list | tuple) else ():
            if name not in TRACKED:
                raise ValueError(unknown("tracker", name, TRACKED))
        return names

    @field_validator("compile", mode="before")
    @classmethod
    def _compile(cls, value: Any) -> Any:
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value  # YAML and --set read on and off as truths

    @model_validator(mode="after")
    def _intervals(self) -> RunConfig:
        if not self.log_every:
            self._fill(log_every=min(max(self.budget // 100, 1), 100))
        if not self.sample_every:
            self._fill(sample_every=min(max(self.budget // 10, 1), 5_000))
        if not self.checkpoint_every:
            self._fill(checkpoint_every=min(max(self.budget // 4, 1), 5_000))
        if not self.validate_every:
            self._fill(validate_every=min(max(self.budget // 10, 1), 5_000))
        return self

    @model_validator(mode="after")
    def _size_fits(self) -> RunConfig:
        stride = self.generator.stride * (2 if self.multiscale else 1)
        if self.size.width % stride or self.size.height % stride:
            better = Size(*(-(-side // stride) * stride for side in self.size)).short
            raise ValueError(f"size {self.size.short} is not a multiple of {stride}, as the generator needs; try {better}")
        smallest = self.discriminator.smallest * (2 if self.multiscale else 1)
        if min(self.size) < smallest:
            views = "the discriminator with multiscale, whose views are half as large" if self.multiscale else "the discriminator"
            raise ValueError(f"size {self.size.short} is too small for {views}, which needs {smallest}")
        if self.multiscale is not None and self.multiscale.window is None:
            window = Size(self.size.width // 2, self.size.height // 2)
            self._fill(multiscale=self.multiscale.model_copy(update={"window": window}))
        elif self.multiscale is not None and self.multiscale.window is not None:
            window = self.multiscale.window
            if window.width % self.generator.stride or window.height % self.generator.stride or min(window) < smallest // 2:
                raise ValueError(
                    f"multiscale.window {window.short}: sides must be multiples of {self.generator.stride} and at least {smallest // 2}"
                )
        return self

    @model_validator(mode="after")
    def _terms_can_work(self) -> RunConfig:
        data = self.data
        labels_of = data.source_labels or data.val_labels
        if (data.source_labels is not None and data.classes is None) or (data.classes is not None and labels_of is None):
            raise ValueError("labels need both: the label maps (--source-labels DIR) and their classes (--classes FILE)")
        labeled = [name for name, term in self.terms.items() if "labels" in term.needs and term.weight > 0]
        if self.data.source_labels is not None and not labeled and self.balance is None:
            raise ValueError("labels of the source are given, but no term reads them; leave them out, or set semantic.weight=1")
        if self.balance is not None:
            read = None if data.source_labels is None else data.classes
            if trouble := unfit(self.balance.segmenter, data.resize, read):
                raise ValueError(f"balance: {trouble}")
        if labeled and self.data.classes is not None:
            update = {"classes": self.data.classes}
            self._fill(terms={name: term.model_copy(update=update) if name in labeled else term for name, term in self.terms.items()})
        views = self.views(self.size, labels=True).values()
        for name, term in self.terms.items():
            if term.weight == 0:
                continue
            if "labels" in term.needs and self.data.source_labels is None:
                raise ValueError(f"term {name} needs the labels of the source images; give --source-labels DIR --classes FILE")
            if self.accumulate > 1 and term.compares_images():
                raise ValueError(f"term {name} compares the images of a batch, which accumulate would tear apart; set accumulate=1")
            for view in views:
                setting = Setting(*view.size, self.batch, self.generator.taps, self.data.resize)
                trouble = term.problem(setting) if term.needs <= view.provides else None
                if trouble:
                    raise ValueError(f"term {name}: {trouble}")
        return self


PLACES = {
    **{name: ["data", name] for name in DataConfig.model_fields},
    "segmenter": ["validation", "segmenter"],
    "balance": ["balance", "segmenter"],
}
"""Where fields are that need not be named with their place."""


def collect(method: str | None = None, *, file: Path | None = None, settings: Iterable[str] = (), **fields: Any) -> dict[str, Any]:
    """A run's values from, in rising order of precedence: the method's defaults, a YAML file, ``fields``, and ``settings``.

    Args:
        method: a name out of ``METHODS``; default: the file's, else ``srunit``.
        file: a whole or partial config.yaml.
        settings: texts ``key=value`` with a dotted key, such as ``generator.width=32`` or ``robustness.weight=2``.
        fields: fields of :class:`RunConfig`; ``source``, ``target`` and other fields of its ``data`` stand for ``data.source`` and so on,
            ``segmenter`` for ``validation.segmenter``, and ``balance`` for ``balance.segmenter``. None: not given.

    Raises:
        UserError: an unknown method or key, or a file that cannot be read.
    """
    given: dict[str, Any] = _without_implied(_read_yaml(file)) if file else {}
    settings = tuple(settings)
    if method and given.get("method", method) != method:
        raise UserError(f"{file} is a config of method {given['method']}, not {method}; leave out one of them")
    name = str(method or given.get("method") or "srunit")
    if name not in METHODS:
        raise UserError(unknown("method", name, METHODS))

    recipe = METHODS[name].recipe
    values: dict[str, Any] = recipe.model_dump(mode="json", exclude_unset=True)
    for network in ("generator", "discriminator"):
        values.setdefault(network, {})["kind"] = getattr(recipe, network).kind
    _merge(values, given)
    _merge(values, {"method": name})
    for key, value in fields.items():
        if value is not None:
            _put(values, PLACES.get(key, [key]), value)
    data = values.get("data")
    labeled = isinstance(data, dict) and data.get("source_labels") is not None
    balanced = values.get("balance") is not None or any(setting.startswith("balance.") for setting in settings)
    if labeled and not balanced and isinstance(values["terms"], dict):
        values["terms"].setdefault("semantic", {})  # labels are given for it
    # a kind first, whatever the order: it clears away what belongs to another kind
    for setting in sorted(settings, key=lambda text: not text.partition("=")[0].strip().endswith(".kind")):
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: expected key=value")
        try:
            _put(values, _path(key.strip()), _value(text))
        except yamls.BadYaml:
            raise UserError(f"--set {setting}: {text!r} cannot be read as a value") from None
    return values


def validate(values: Mapping[str, Any], where: str = "") -> RunConfig:
    """``values`` as a RunConfig, or a UserError that names ``where`` and the first thing wrong."""
    try:
        return RunConfig.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(f"{where}: {problem(error)}" if where else problem(error)) from None


def to_yaml(config: RunConfig) -> str:
    """The complete configuration as YAML."""
    values = config.model_dump(mode="json")
    first = {key: values[key] for key in ("method", "data", "size", "budget", "batch", "seed", "device", "precision")}
    return yaml.safe_dump({**first, **values}, sort_keys=False)


def leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def from_yaml(path: Path) -> RunConfig:
    """The configuration in a run's config.yaml."""
    return validate(_read_yaml(path), str(path))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yamls.load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not a text file'}") from None
    except yamls.BadYaml as error:
        where = "" if error.line is None else f" (line {error.line})"
        raise UserError(f"{path} is {error}{where}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} does not hold a configuration")
    return values


IMPLIED = (
    "generator.taps",
    "robustness.weight",
    "robustness.noise",
    "multiscale.window",
    "semantic.classes",
    "log_every",
    "sample_every",
    "checkpoint_every",
    "validate_every",
)
"""Fields whose defaults follow from other fields."""


def _without_implied(given: dict[str, Any]) -> dict[str, Any]:
    """A complete configuration without the values that the rest implies, so that they follow when the rest is changed."""
    terms, balance = given.get("terms"), given.get("balance")
    if isinstance(balance, dict):
        given["balance"] = {name: value for name, value in balance.items() if name not in MEASURED}
    for term in terms.values() if isinstance(terms, dict) else ():
        for field in term.pop("measured", ()) if isinstance(term, dict) else ():  # of other data, it may be
            term.pop(field, None)
    try:
        whole = RunConfig.model_validate(given)
    except ValidationError:
        return given  # a part of one, which pins what it says
    for key in IMPLIED:
        *place, last = _path(key)
        fewer = copy.deepcopy(given)
        inner = fewer
        for part in place:
            inner = inner.get(part) or {}
        inner.pop(last, None)
        if RunConfig.model_validate(fewer) == whole:
            given = fewer
    return given


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    if "kind" in new and new["kind"] != into.get("kind", new["kind"]):
        into.clear()  # the fields of another kind
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _path(key: str) -> list[str]:
    """The place of a dotted key; a term's name stands for ``terms.<name>``."""
    first, *rest = key.split(".")
    if first == "method":
        raise UserError("--set method: a method is chosen with --method, before its defaults are changed")
    if first in RunConfig.model_fields:
        return [first, *rest]
    if first in TERMS and rest:
        return ["terms", first, *rest]
    if first in TERMS:
        raise UserError(f"--set {first}: it is a term; set one of its fields, such as {first}.weight")
    raise UserError("--set " + unknown("key", first, [*RunConfig.model_fields, *TERMS]))


def _value(text: str) -> Any:
    """A setting's value as YAML reads it, but 1e5 is a number, which YAML 1.1 takes for text."""
    value = yamls.load(text)
    return float(value) if isinstance(value, str) and re.fullmatch(r"[0-9.]+e[+-]?[0-9]+", value) else value


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        if not isinstance(values.get(part), dict):
            values[part] = {}
        values = values[part]
    _merge(values, {path[-1]: value})
