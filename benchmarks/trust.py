"""How well do trust maps find flips? And the weights of their network, which are fitted here.

    python benchmarks/trust.py --study DIR/leafy/a [DIR/urban/a ...] --segmenter DIR/segmenter [--write]             made streets
    python benchmarks/trust.py --apply NAME --translated D --source D --labels D --segmenter M                       any other

The truth is what a segmenter reads off a generator's own outputs: a pixel is flipped where it is read as another class than its label.
Of a study that benchmarks/streets.py made, the runs of one seed are judged, on the test scenes, by weights that are fitted on the runs of
the other seeds, on training scenes. ``--write`` fits once more, on all seeds (training scenes), and writes the weights that unflip ships.

The area under the ROC curve over all labeled pixels of a run stands beside

* ``position``: how often that place of the image flips, in the fitting images of the same method and mixture;
* ``change``: |translation - source|, the mean over the colors;
* what was thought of first, and is in the way of any run that has a projector: ``retrieval``, how far each patch of the translation is from
  finding its own source patch; ``moved``, how far the output moves when the features are perturbed; ``neighbors``, how far the patch's
  similarities to all others differ between source and translation.

Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

import unflip
from unflip import modelfolder
from unflip.data.images import Array, read_rgb
from unflip.data.transforms import to_network
from unflip.evaluation.labeled import find_labeled, same_names
from unflip.evaluation.reader import Reader
from unflip.inference import trust
from unflip.inference.clues import NAMES
from unflip.losses.robustness import unit
from unflip.networks.projector import ProjectorConfig
from unflip.networks.trust import TrustNetwork
from unflip.seeding import numpy_rng
from unflip.segmenterfolder import load_segmenter
from unflip.tensors import load_exactly, read_tensors, write_tensors

STEPS, BATCH, RATE = 2_000, 24, 3e-3
SCENES = 200
"""Training scenes of each run that are fitted on."""
TRIVIAL, PROJECTED = ("position", "change"), ("retrieval", "moved", "neighbors")


@dataclass
class Case:
    """A translation whose truth is known."""

    run: str
    seed: int
    clues: Tensor
    """``(1, C, h, w)``"""
    flipped: np.ndarray
    """``(H, W)``: 1 flipped, 0 not, -1 no label."""
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    """``(H, W)``: higher where a flip is more likely."""


def case_of(x: Array, y: Array, truth: Array, reader: Reader, run: str, seed: int) -> Case:
    """A source, its translation and its labels."""
    flipped = np.where(truth == 255, -1, reader(y) != truth).astype(np.int8)
    case = Case(run, seed, trust.clues_of(x, y), flipped)
    case.scores["change"] = np.abs(x.astype(float) - y).mean(2)
    return case


def cases_of(translated: Path, source: Path, labels: Path, reader: Reader, run: str, seed: int) -> list[Case]:
    """A case for every translation of a folder."""
    found = find_labeled(translated, labels, reader.classes, progress=False)
    sources = same_names(source, found, "source")
    return [case_of(read_rgb(p), read_rgb(found.images[i].path), found.ids(i), reader, run, seed) for i, p in enumerate(sources)]


def fitting_cases(run: Path, source: Path, labels: Path, reader: Reader, name: str, seed: int) -> list[Case]:
    """Training scenes, translated now by the model of ``run``; others in every run."""
    found = find_labeled(source, labels, reader.classes, progress=False)
    picked = numpy_rng(seed, "trust", name).permutation(len(found.images))[:SCENES]
    translator = unflip.load(run, device="cpu")
    images = ((int(i), read_rgb(found.images[i].path)) for i in picked)
    return [case_of(x, translator(x), found.ids(i), reader, name, seed) for i, x in images]


def fit(cases: Sequence[Case], seed: int = 0) -> TrustNetwork:
    """The network of trust maps, by maximum likelihood over all labeled pixels."""
    network = TrustNetwork(len(NAMES))
    seen, truth = torch.cat([case.clues for case in cases]), torch.from_numpy(np.stack([case.flipped for case in cases]))
    network.mean.copy_(seen.mean((0, 2, 3)).view_as(network.mean))
    network.deviation.copy_(seen.std((0, 2, 3)).view_as(network.deviation))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    rng = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        picked = torch.randint(len(cases), (BATCH,), generator=rng)
        mirrored = torch.rand(BATCH, generator=rng) < 0.5
        inputs, wanted = (
            torch.where(mirrored.view(-1, *[1] * (t.ndim - 1)), t.flip(-1), t) for t in (each[picked] for each in (seen, truth))
        )
        logits = network(inputs, wanted.shape[-2:])
        known = wanted >= 0
        loss = F.binary_cross_entropy_with_logits(logits[known], wanted[known].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def score(network: TrustNetwork, cases: Iterable[Case]) -> None:
    """Note the probability of a flip by ``network``."""
    for case in cases:
        case.scores["trust"] = network(case.clues, case.flipped.shape).sigmoid()[0].numpy()


def position(fitted: Sequence[Case], judged: Sequence[Case]) -> None:
    """Note how often each place flips."""
    known = np.stack([case.flipped for case in fitted])
    prior = np.where(known > 0, 1, 0).sum(0) / np.maximum((known >= 0).sum(0), 1)
    for case in judged:
        case.scores["position"] = prior


@torch.inference_mode()
def projected(run: Path, sources: Sequence[Path], cases: Sequence[Case]) -> None:
    """Note the three signals of the projector, means over the taps; runs without one have none."""
    model = modelfolder.load(run)
    if not (model.folder / modelfolder.PROJECTOR).is_file():
        return
    generator = model.generators["to_target"].inner
    tensors = read_tensors(model.folder / modelfolder.PROJECTOR)
    tensors = {key.removeprefix("to_target."): value for key, value in tensors.items()}
    width = tensors["heads.0.2.weight"].shape[0]
    projector = ProjectorConfig(width=width).build([tap.channels for tap in generator.taps], torch.Generator())
    load_exactly(projector, tensors, model.folder)
    for path, case in zip(sources, cases, strict=True):
        x = to_network(torch.from_numpy(read_rgb(path)).permute(2, 0, 1)[None])
        y, before = generator.run(x)
        after = generator.encode(y)
        found = {name: torch.zeros(case.flipped.shape) for name in PROJECTED}
        for tap, (a, b) in enumerate(zip(before, after, strict=True)):
            h, w = a.shape[-2:]
            keys, queries = (projector(tap, f.flatten(2).mT)[0] for f in (a, b))
            log_odds = -F.log_softmax(queries @ keys.T / 0.07, dim=1).diagonal()
            apart = (queries @ queries.T - keys @ keys.T).abs().mean(1)
            noise = unit(torch.randn(a.shape, generator=torch.Generator().manual_seed(0))) * 0.1 * a.square().sum(1, keepdim=True).sqrt()
            moved = (generator.decode(a + noise, tap) - y).abs().mean(1, keepdim=True)
            for name, values in (("retrieval", log_odds.view(1, 1, h, w)), ("neighbors", apart.view(1, 1, h, w)), ("moved", moved)):
                found[name] += F.interpolate(values, case.flipped.shape, mode="bilinear", align_corners=False)[0, 0] / len(before)
        case.scores |= {name: values.numpy() for name, values in found.items()}


def auc(cases: Sequence[Case], name: str) -> float:
    """Area under the ROC curve over all labeled pixels of ``cases``."""
    scored = [case for case in cases if name in case.scores]
    truth = np.concatenate([case.flipped.ravel() for case in scored]) if scored else np.zeros(0)
    if not (truth == 1).any():
        return float("nan")
    values = np.concatenate([case.scores[name].ravel() for case in scored])
    return float(roc_auc_score(truth[truth >= 0], values[truth >= 0]))


def rate(cases: Sequence[Case]) -> float:
    """The share of flipped pixels."""
    return float(sum((case.flipped == 1).sum() for case in cases) / sum((case.flipped >= 0).sum() for case in cases))


def table(groups: dict[Any, list[Case]], names: Sequence[str]) -> str:
    """A row of areas for each group of cases."""
    lines = ["| run | flipped | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for name, cases in groups.items():
        areas = (auc(cases, each) for each in names)
        lines.append(f"| {name} | {rate(cases):.3f} | " + " | ".join("" if np.isnan(a) else f"{a:.3f}" for a in areas) + " |")
    return "\n".join(lines)


def calibration(cases: Sequence[Case]) -> str:
    """What share of the pixels flipped, by the probability that was said."""
    said = np.concatenate([case.scores["trust"].ravel() for case in cases])
    truth = np.concatenate([case.flipped.ravel() for case in cases])
    said, truth = said[truth >= 0], truth[truth >= 0]
    edges = [0, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0]
    lines = ["| probability of a flip, said | mean | flipped | share of the pixels |", "|---|---|---|---|"]
    for low, high in pairwise(edges):
        here = (said >= low) & (said < high)
        if here.any():
            lines.append(f"| {low:g} to {high:g} | {said[here].mean():.3f} | {truth[here].mean():.3f} | {here.mean():.3f} |")
    return "\n".join(lines)


def study(folders: Sequence[Path], segmenter: str, write: bool) -> None:
    """The runs of a study on made streets, every seed judged by what was fitted on the others."""
    reader = Reader(load_segmenter(Path(segmenter)))
    fitting: list[Case] = []
    judged: list[Case] = []
    for folder in folders:
        asked = json.loads((folder / "compare.json").read_text())["arguments"]
        source, training = Path(asked["test_source"]), Path(asked["source"])
        for run in sorted(path.parent for path in folder.glob("*/seed*/translated")):
            name, seed = f"{folder.parent.name} {run.parent.name}", int(run.name[4:])
            print(f"{name} seed {seed}", file=sys.stderr)
            mine = cases_of(run / "translated", source, Path(asked["test_labels"]), reader, name, seed)
            projected(run / "run", [source / path.name for path in sorted((run / "translated").glob("*.png"))], mine)
            judged += mine
            fitting += fitting_cases(run / "run", training, training.with_name("source_labels"), reader, name, seed)
    seeds = sorted({case.seed for case in judged})
    for seed in seeds:
        fitted = [case for case in fitting if case.seed != seed]
        score(fit(fitted), [case for case in judged if case.seed == seed])
        for name in sorted({case.run for case in judged}):
            position([case for case in fitted if case.run == name], [case for case in judged if case.run == name and case.seed == seed])
    names = ("trust", *TRIVIAL, *PROJECTED)
    groups: dict[Any, list[Case]] = defaultdict(list)
    for case in judged:
        groups[f"{case.run} seed {case.seed}"].append(case)
    print(table(dict(sorted(groups.items())), names), end="\n\n")
    print(
        table({f"all, seed {seed}": [case for case in judged if case.seed == seed] for seed in seeds} | {"all": judged}, names), end="\n\n"
    )
    print(calibration(judged))
    if write:
        network = fit(fitting)
        write_tensors(trust.WEIGHTS, network.state_dict())
        print(f"\nwritten: {trust.WEIGHTS}, {sum(p.numel() for p in network.parameters())} numbers")


def apply(name: str, translated: Path, source: Path, labels: Path, segmenter: str) -> None:
    """Judge other translations by the weights that are shipped; their position prior is that of the images with even numbers."""
    cases = cases_of(translated, source, labels, Reader(load_segmenter(Path(segmenter))), name, 0)
    score(trust.fitted(), cases)
    judged = cases[1::2]
    position(cases[::2], judged)
    print(table({name: judged}, ("trust", *TRIVIAL)))


def main() -> None:
    """Judge, and fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, nargs="*", default=[])
    parser.add_argument("--segmenter", required=True)
    parser.add_argument("--write", action="store_true", help="fit on all seeds, and write the weights that are shipped")
    parser.add_argument("--apply", metavar="NAME")
    for option in ("--translated", "--source", "--labels"):
        parser.add_argument(option, type=Path)
    asked = parser.parse_args()
    if asked.study:
        study(asked.study, asked.segmenter, asked.write)
    if asked.apply:
        apply(asked.apply, asked.translated, asked.source, asked.labels, asked.segmenter)


if __name__ == "__main__":
    main()
