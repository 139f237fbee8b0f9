"""What a configuration must know of the data: found on training crops before the first step, and kept in the run's config.yaml."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor

from unflip.data.pairs import Pairs
from unflip.data.transforms import to_ids, to_network
from unflip.engine.trainer import seen_by_networks
from unflip.errors import UserError
from unflip.losses import Term
from unflip.losses.balance import GOAL, MEASURED, Balance, BalanceConfig, at_places
from unflip.methods.passes import FORWARD
from unflip.progress import Bar
from unflip.runs import RunConfig, from_yaml
from unflip.types import Batch

CROPS = 400
"""Of each domain that are looked at."""
AT_ONCE = 8
"""Crops that a segmenter reads together."""


def crops(pairs: Pairs, which: range) -> Batch:
    """Some crops of both domains as the networks see them, with the labels of those of the source, if there are any."""
    items = [pairs[i] for i in which]
    source, target = (to_network(torch.stack(images)) for images in zip(*(item[:2] for item in items), strict=True))
    labels = [to_ids(found) for _, _, found in items if found is not None]
    batch = Batch(source, target, 0, 0, torch.stack(labels) if labels else None)
    return seen_by_networks(batch, (pairs.source.bands, pairs.target.bands))


def terms_measured(config: RunConfig, pairs: Pairs) -> RunConfig:
    """The configuration whose terms know what they must of the data, so that it says all that decides how a run goes."""
    asking = [name for name, term in config.terms.items() if term.weight > 0 and term.unmeasured()]
    if not asking:
        return config
    size = config.views(config.size)[FORWARD].size
    top, left = (config.size.height - size.height) // 2, (config.size.width - size.width) // 2
    first = crops(pairs, range(min(CROPS, len(pairs))))
    cut = {side: getattr(first, side)[..., top : top + size.height, left : left + size.width] for side in ("source", "target")}
    return config.model_copy(update={"terms": config.terms | {name: config.terms[name].measure(cut) for name in asking}})


def balance_measured(config: RunConfig, pairs: Pairs, device: torch.device, progress: bool) -> BalanceConfig | None:
    """The run's balance with what makes the target's weighted shares the source's; None: it has none."""
    if config.balance is None or config.balance.tilt:
        return config.balance
    labeled = pairs.labels is not None
    for side, images in (("target", pairs.target), *(() if labeled else (("source", pairs.source),))):
        if not images.bands.plain or images.bands.count != 3:
            raise UserError(f"balance: its segmenter reads 8-bit images in color, which those of the {side} are not; leave balance out")
    balance = Balance(config.balance, config.data.classes if labeled else None).to(device)
    drawn = copy.copy(pairs)
    drawn.length = max(CROPS, len(pairs))  # a run of a few images is to be balanced as well as a long one
    read: tuple[list[Tensor], list[Tensor]] = [], []
    with Bar("balance: reading crops", CROPS, quiet=not progress) as bar:
        for start in range(0, CROPS, AT_ONCE):
            seen = crops(drawn, range(start, start + AT_ONCE))
            source = balance.read(seen.source.to(device)) if seen.labels is None else balance.segmenter.ids(seen.labels.to(device))
            for k, ids in enumerate((source, balance.read(seen.target.to(device)))):
                read[k].append(ids.to(torch.int16).cpu())
            bar.show(start + AT_ONCE)
    side, names = config.balance.window or config.discriminator.patch, balance.known.names
    while True:
        source, target = (torch.cat([at_places(ids.long(), len(names), side) for ids in each]) for each in read)
        found = config.balance.measured(side, source, target, names)
        if config.balance.window is not None or found.variation[1] <= GOAL or side == 1:
            return found
        side = side // 2


def measured_there(out: Path, config: RunConfig) -> RunConfig:
    """The configuration with what was measured when the run in ``out`` began: images that are gone by now would change it."""
    asking = [name for name, term in config.terms.items() if term.weight > 0 and term.unmeasured()]
    if not asking and config.balance is None:
        return config
    there = from_yaml(out / "config.yaml")
    known: dict[str, Term] = {}
    for name in asking:
        measured = getattr(there.terms.get(name), "measured", ())
        fields = ("measured", *measured) if measured else ()
        known[name] = config.terms[name].model_copy(update={field: getattr(there.terms[name], field) for field in fields})
    balance = config.balance
    if balance is not None and not balance.tilt and there.balance is not None:
        balance = balance.model_copy(update={field: getattr(there.balance, field) for field in MEASURED})
    return config.model_copy(update={"terms": config.terms | known, "balance": balance})
