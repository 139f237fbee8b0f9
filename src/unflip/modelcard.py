"""The README.md of a model folder: the card that people and the hub read. It carries what was measured, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml

from unflip.files import nameless
from unflip.methods.passes import SIDES

NUMBERS = {
    "seen": "images seen",
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "flip_rate": "flip rate",
    "excess_flip_rate": "excess flip rate",
    "frechet": "Fréchet distance",
}
"""What a validation finds, and what it is called."""
FIGURES = {**{name: text for name, text in NUMBERS.items() if name != "seen"}, "kid": "KID", "cmmd": "CMMD", "lpips": "LPIPS to the source"}
"""What of an evaluation is told."""
WHICH = {
    "ema": "The weights are the moving average (EMA) of the generator over training.",
    "last": "The weights were trained by other code and imported. They are those of the last step, no moving average.",
}
"""What the card says of the weights."""
TAGS = ("image-to-image", "unpaired-image-translation", "domain-adaptation")
TASK = {"type": "image-to-image", "name": "Image-to-image translation"}


class _Described(Protocol):
    """What a card is made of: a :class:`unflip.modelfolder.ModelConfig`."""

    @property
    def weights(self) -> str: ...
    @property
    def sides(self) -> int: ...
    @property
    def source(self) -> object: ...
    @property
    def target(self) -> object: ...
    @property
    def resize(self) -> str: ...
    @property
    def provenance(self) -> Mapping[str, Any]: ...


def card(config: _Described, name: str | None = None, metrics: Mapping[str, Any] | None = None) -> str:
    """The card of a model, which on the hub is called ``name``; ``metrics``: what an evaluation of it found, as metrics.json has it."""
    where = name or "PATH/OF/THIS/FOLDER"
    title = name.rpartition("/")[2] if name else " ".join(["unflip", str(config.provenance.get("method", "imported"))])
    head: dict[str, Any] = {"library_name": "unflip", "pipeline_tag": "image-to-image", "tags": list(TAGS)}
    results = [each for each in (_validated(config.provenance), _evaluated(metrics)) if each is not None]
    if results:
        head["model-index"] = [{"name": title, "results": results}]
    return f"""---
{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---
# {title}: an unflip translation model

{WHICH[config.weights]} Load them with

    import unflip
    model = unflip.load("{where}")
    translation = model(image)  # PIL image, NumPy array or tensor: the same comes back

## What it is for

It gives images of its source domain the look of its target domain, and is meant to leave what they show as it is, so that labels of the
source still fit. Use it on images like those that it was trained on.

## What it cannot do

Translations can show what their sources do not: *flips*, the more the less the two domains match. How many there are depends on the images.
Measure them on yours (`unflip evaluate`), or see where they probably are (`unflip translate --trust`). What a translation adds is made up:
it is no evidence of anything.
{_validation(config.provenance)}{_evaluation(metrics)}
## How it was made

| | |
|---|---|
{_made(config)}
"""


def _made(config: _Described) -> str:
    facts = {key: value for key, value in config.provenance.items() if key != "validation"}
    facts |= {"directions": ", ".join(SIDES[config.sides]), "source": config.source, "target": config.target, "resize": config.resize}
    texts = {key: "; ".join(map(str, value)) if isinstance(value, list) else value for key, value in facts.items()}
    return "\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in texts.items())


def _validation(provenance: Mapping[str, Any]) -> str:
    """A section of the card, where the run validated: which checkpoint this is, by which rule, and its numbers."""
    found = provenance.get("validation")
    if found is None:
        return ""
    head = "".join(f" {name} |" for name in NUMBERS.values())
    rows = [f"| {which} |" + "".join(f" {shown(point.get(n))} |" for n in NUMBERS) for which, point in found["checkpoints"].items()]
    lines = "\n".join(["| |" + head, "|---|" + "---|" * len(NUMBERS), *rows])
    chosen = found["checkpoints"].get("chosen", {}).get("seen")
    which = "" if chosen is None else f" These weights are {'' if chosen == provenance['images_seen'] else 'not '}the chosen ones."
    return f"""
## Validation

Chosen is the checkpoint of {found["rule"]}.{which}
Each is judged by {found["images"]} translations, read by the segmenter {nameless(found["segmenter"])}.
Fréchet distances are of the segmenter's features, and can be compared within this run only.

{lines}
"""


def _evaluation(metrics: Mapping[str, Any] | None) -> str:
    """A section of the card: what an evaluation found, each with its 95 % interval."""
    if metrics is None:
        return ""
    rows = "\n".join(f"| {FIGURES[name]} | {shown(each['value'])} | {_interval(each)} |" for name, each in _figures(metrics).items())
    notes = "".join(f"\n* {warning}" for warning in metrics.get("warnings", []))
    realism = metrics.get("realism")
    features = f" Realism is measured in {realism['features']}, against {realism['target_images']:,} target images." if realism else ""
    judge = metrics["segmenter"].get("name") or Path(metrics["segmenter"]["path"]).name  # not named by versions that only knew the path
    by = f"unflip {metrics['made']['unflip']} on {metrics['made']['date']}"
    return f"""
## Evaluation

Of {metrics["images"]:,} translations, read by the segmenter {judge}; by {by}.{features}

| | | 95 % interval |
|---|---|---|
{rows}
{notes}
"""


def _validated(provenance: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a validation measured of these very weights, as the hub has results; None where it did not."""
    found = provenance.get("validation") or {"checkpoints": {}}
    points = [point for point in found["checkpoints"].values() if point.get("seen") == provenance.get("images_seen")]
    numbers = {name: point[name] for point in points for name in NUMBERS if name != "seen" and point.get(name) is not None}
    return _result(f"{found['images']} validation images of the training run", numbers) if numbers else None


def _evaluated(metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
    numbers = {name: each["value"] for name, each in _figures(metrics or {}).items()}
    return _result(f"{metrics['images']} translations, by unflip evaluate", numbers) if metrics and numbers else None


def _result(images: str, numbers: Mapping[str, float]) -> dict[str, Any]:
    metrics = [{"type": name, "name": FIGURES[name], "value": value} for name, value in numbers.items()]
    return {"task": dict(TASK), "dataset": {"type": "own", "name": images}, "metrics": metrics}


def _figures(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The figures of a metrics.json that have a value, by name."""
    places = (metrics, metrics.get("realism") or {})
    return {name: part[name] for name in FIGURES for part in places if part.get(name) and part[name]["value"] is not None}


def _interval(figure: Mapping[str, Any]) -> str:
    low, high = figure.get("low"), figure.get("high")
    return "unknown" if low is None or high is None else f"{shown(low)} to {shown(high)}"


def shown(value: float | None) -> str:
    """A number of a validation, for people."""
    return "unknown" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
