"""Are the losses of SRC + hDCE, MoNCE, LSeSim, GcGAN and SCC what their published code computes? Value and gradient, in float64.

    python benchmarks/parity_losses.py --hneg-src PATH --monce PATH --lsesim PATH --gcgan PATH --scc PATH [--markdown FILE]

The paths are checkouts of github.com/jcy132/Hneg_SRC, fnzhan/MoNCE, lyndonzheng/F-LSeSim, hufu6371/GcGAN and CR-Gjx/SCC; any of them may be
left out. Nothing is written into them. What parity.py says of comparisons, broken twins and the exit code holds here too.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
import shlex
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import parity
import torch
import torch.nn.functional as F
from parity import SIZE, Fact, Findings, Outcome, differences, generator_outcome, gradients, images, narrow, outcome_of, scaled, scatter
from torch import Tensor, nn

from unflip.losses.alignment import StructureConsistency
from unflip.losses.draws import Draws
from unflip.losses.mutual_information import rsmi
from unflip.losses.nce import IdentityNCE, PatchNCE, patch_nce
from unflip.losses.negatives import NegativesConfig, Source, Transport, relative_weights
from unflip.losses.objective import active
from unflip.losses.relation import Hdce, Relations, hdce, relation_consistency
from unflip.losses.self_similarity import Choices, SelfSimilarity, dissimilarity, places, recolored, self_similarity
from unflip.losses.term import Nets, Site
from unflip.methods import METHODS
from unflip.methods.passes import TURNS
from unflip.methods.players import DiscriminatorPlayer, GeneratorPlayer
from unflip.networks.features import FeaturesConfig, layers
from unflip.seeding import torch_rng
from unflip.types import Batch, Size, Step

Loss = Callable[..., Tensor]
NOTHING: Any = None
"""A network that the term in question does not call."""


class Published(parity.Checkout):
    """A published repository, imported into this process, and what is found out about it."""

    def __init__(self, code: str, path: Path, found: Findings) -> None:
        self.code, self.path, self.found, self.kind, self.epoch = code, path, found, "cut", []
        for name in ("torchvision", "torchvision.models", "torchvision.transforms", "matplotlib", "matplotlib.pyplot", "GPUtil"):
            sys.modules[name] = mock.MagicMock()  # they are imported by what is imported, and used by nothing here
        sys.path.insert(0, str(path))
        torch.Tensor.cuda = lambda x, *_, **__: x  # type: ignore[method-assign]

    @property
    def networks(self) -> Any:
        return importlib.import_module("models.networks")

    def compare(self, what: str, inputs: Tensor, published: Outcome, ours: Outcome, twins: Mapping[str, Outcome]) -> None:
        self.found.compare(self.code, what, inputs.detach().std(), published, ours, twins)

    def differs(self, what: str, observed: str, ok: bool) -> None:
        self.found.differences.append(Fact(self.code, what, observed, ok))

    def fault(self, what: str, observed: str, ok: bool) -> None:
        self.found.faults.append(Fact(self.code, what, observed, ok))

    def fails(self, what: str, action: Callable[[], Any], expected: str) -> None:
        observed = outcome_of(action)
        self.fault(what, observed, observed.startswith(expected))


def outcome(loss: Loss, *inputs: Tensor) -> Outcome:
    """``loss`` of ``inputs``, and its gradient with respect to each of them."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = loss(*leaves)
    value.backward()
    return {"value": [value.detach()], "gradient": [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves]}


def apart(a: Outcome, b: Outcome) -> float:
    """How far two gradients are from each other, relative."""
    return differences({"": a["gradient"]}, {"": b["gradient"]})[""]


def patches(batch: int) -> tuple[Tensor, Tensor]:
    """Vectors ``(batch, 256, 64)`` of patches of a translation and of its source; some patches are alike, others opposite."""
    rng = torch.Generator().manual_seed(5)
    content, spread = torch.randn(batch, 256, 6, generator=rng), torch.randn(6, 64, generator=rng)
    keys, noise = (content @ spread + 0.5 * torch.randn(batch, 256, 64, generator=rng) for _ in range(2))
    return keys + 0.5 * noise.flip(1), keys


def of_unit(loss: Loss) -> Loss:
    """``loss`` as a function of vectors of any length."""
    return lambda *vectors: loss(*(F.normalize(v, dim=-1) for v in vectors))


@contextlib.contextmanager
def recording() -> Iterator[parity.Recorded]:
    """:func:`parity.recording` where positions are drawn by ``torch.randperm``."""
    as_numpy = mock.patch.object(torch, "randperm", lambda n, device=None: torch.from_numpy(np.random.permutation(n)))
    with parity.recording() as drawn, as_numpy:
        yield drawn


def weighted(recipe: Any, weight: float, negatives: NegativesConfig) -> Any:
    """``recipe``, narrow, with PatchNCE of these negatives and its identity half instead of its own contrastive terms."""
    kept = {name: term for name, term in recipe.terms.items() if name in ("adversarial", "src")}
    nce = {"nce": PatchNCE(weight=weight, negatives=negatives), "identity_nce": IdentityNCE(weight=weight, negatives=negatives)}
    return narrow(recipe, terms={**kept, **nce})


# ---------------------------------------------------------------------------------------------------------------------- SRC and hDCE


def examine_hneg_src(code: str, path: Path, found: Findings) -> None:
    checkout = Published(code, path / "Single-modal", found)
    src, dce = importlib.import_module("models.SRC").SRC_Loss, importlib.import_module("models.hDCE").PatchHDCELoss
    queries, keys = patches(1)
    unit, off = F.normalize(keys, dim=-1), ~torch.eye(256, dtype=torch.bool)
    lowest = []

    def relations(q: Tensor, k: Tensor, gamma: float, batch: int = 1) -> tuple[Any, Tensor, Tensor]:
        """Options, and what SRC makes of the vectors: its loss, and the weights of hDCE."""
        opt = SimpleNamespace(**{**parity.OPTIONS, "HDCE_gamma": gamma, "use_curriculum": False, "num_patches": 256, "batch_size": batch})
        return opt, *src(opt)(q.flatten(0, 1), k.flatten(0, 1))

    def published(q: Tensor, k: Tensor, gamma: float, batch: int = 1) -> Tensor:
        opt, _, weights = relations(q, k, gamma, batch)
        return dce(opt)(q.flatten(0, 1), k.flatten(0, 1), weights).mean()

    def ours(gamma: float, temperature: float = 0.07) -> Outcome:
        """What the published code calls its value is a cross-entropy for the log; the gradient is another loss's."""
        logged = outcome(of_unit(lambda q, k: patch_nce(q, k, temperature, Source(gamma=gamma))), queries, keys)
        return {**outcome(of_unit(lambda q, k: hdce(q, k, temperature, gamma)), queries, keys), "value": logged["value"]}

    for gamma in (50.0, 10.0, 1.0):
        weights = [relations(unit, unit, gamma)[2][0][off]]
        right, broken = ([relative_weights(unit @ unit.mT, g)[0][off]] for g in (gamma, 1.1 * gamma))
        checkout.compare(
            f"hDCE's weights, gamma {gamma:g}", keys, {"weights": weights}, {"weights": right}, {"gamma + 10 %": {"weights": broken}}
        )
        lowest.append(f"{float(weights[0].min()):.2f}")
        theirs = outcome(of_unit(partial(published, gamma=gamma)), queries, keys)
        logged = outcome(of_unit(partial(patch_nce, temperature=0.07, negatives=Source(gamma=gamma))), queries, keys)
        twins = {"gradient of the value": logged, "gamma + 10 %": ours(1.1 * gamma), "temperature 0.08": ours(gamma, 0.08)}
        checkout.compare(f"hDCE of given vectors, gamma {gamma:g}", queries, theirs, ours(gamma), twins)
    right = outcome(of_unit(relation_consistency), queries, keys)
    twins = {"a mean over patches": scaled(right, 1 / 256), "exchanged": outcome(of_unit(relation_consistency), keys, queries)}
    theirs = outcome(of_unit(lambda q, k: relations(q, k, 50.0)[1]), queries, keys)
    checkout.compare("SRC of given vectors", queries, theirs, right, twins)
    for epoch, late in ((100, 1.0), (300, 0.5)):
        compare_hneg_src(checkout, epoch, late)

    what = "weights at gamma 50, where training starts: hardly any negative counts less than another"
    checkout.fault(what, f"smallest weight {lowest[0]}; at gamma 10 {lowest[1]}, at 1 {lowest[2]}", float(lowest[0]) > 0.95)
    two, few = patches(2), [v[:, :64] for v in (queries, keys)]
    checkout.fails("batch_size 2: the batch's dimension is written out as 1", lambda: published(*two, 50.0, 2), "RuntimeError")
    checkout.fails("maps of 64 positions (block1 at 32 pixels) at num_patches 256", lambda: published(*few, 50.0), "RuntimeError")


def compare_hneg_src(checkout: Published, epoch: int, late: float) -> None:
    """A whole step: in horse2zebra's setting, and with the ``late`` change of gamma of Cityscapes'."""
    how = {"lambda_HDCE": 0.1, "lambda_SRC": 0.05, "dce_idt": True, "use_curriculum": False, "HDCE_gamma": 50.0, "HDCE_gamma_min": 10.0}
    model = checkout.model("cut", **how, step_gamma=late < 1, step_gamma_epoch=400 * late, no_Hneg=False, alpha=0.2)
    model.opt.use_curriculum, model.train_epoch = True, epoch
    with recording() as drawn:
        checkout.step(model)
    published, _ = parity.step_outcomes(model, model.loss_G)
    pair, positions = Batch(model.real_A, model.real_B, 0, 0), drawn.positions(0, 5, 1)
    recipe, gamma = METHODS["hneg_src"].recipe, Hdce(late=late).gamma_at(epoch / 400)

    def logged(gamma: float) -> Outcome:
        terms = dict.fromkeys(("nce", "identity_nce", "src"), positions)
        return generator_outcome(weighted(recipe, 0.05, Source(gamma=gamma)), model, pair, terms)

    def ours(gamma: float = gamma, **how: Any) -> Outcome:
        relations = Relations(positions, torch.tensor(gamma))
        terms = {"hdce": relations, "identity_hdce": relations, "src": positions}
        return {**generator_outcome(narrow(recipe), model, pair, terms, **how), "value": logged(gamma)["value"]}

    twins = {
        "gamma + 10 %": ours(1.1 * gamma),
        "SRC left out": ours(weights={"adversarial": 1.0, "hdce": 0.05, "identity_hdce": 0.05}),
        "gradient of the value": logged(gamma),
        "blocks 2 and 4 swapped": ours(breaking=parity.swap_blocks),
    }
    what = f"SRC + hDCE, five taps, epoch {epoch}{', gamma 1 after 200' if late < 1 else ''}: generator's step"
    checkout.compare(what, model.fake_B, published, ours(), twins)
    if late == 1:
        sets = f"{len(drawn.permutations)} permutations for 5 taps and 3 terms"
        what = "positions of patches: the same for hDCE, its identity half and SRC; ours: each term draws its own"
        checkout.differs(what, sets, len(drawn.permutations) == 5)


# ----------------------------------------------------------------------------------------------------------------------------- MoNCE


def examine_monce(code: str, path: Path, found: Findings) -> None:
    checkout = Published(code, path / "CUT_MoNCE", found)
    checkout.epoch = [1]
    module: Any = importlib.import_module("models.monce")
    as_published = module.OT
    how = {"cost_type": "hard", "eps": 1.0, "neg_term_weight": 1.0}
    queries, keys = patches(2)

    def cut(q: Tensor, k: Tensor, **how: Any) -> Tensor:
        """Their transport, without a gradient."""
        return as_published(q.detach(), k, **how)

    def published(q: Tensor, k: Tensor, transport: Loss = cut, **changed: Any) -> Tensor:
        opt = SimpleNamespace(**{**parity.OPTIONS, **how, "num_patches": 256, "batch_size": 2, "gpu_ids": [0], **changed})
        with mock.patch.object(module, "OT", transport):
            return module.MoNCELoss(opt)(*(F.normalize(v.flatten(0, 1), dim=-1) for v in (q, k))).mean()

    def ours(negatives: NegativesConfig) -> Outcome:
        return outcome(of_unit(partial(patch_nce, temperature=0.07, negatives=negatives)), queries, keys)

    for cost, eps in (("hard", 1.0), ("hard", 0.1), ("easy", 1.0)):
        theirs, whole = (outcome(partial(published, transport=t, cost_type=cost, eps=eps), queries, keys) for t in (cut, as_published))
        right = Transport(cost=cost, eps=eps)
        changes = {"eps + 10 %": {"eps": 1.1 * eps}, "mean weight 256 / 255": {"mass": 256 / 255}}
        changes["the other cost"] = {"cost": {"hard": "easy", "easy": "hard"}[cost]}
        twins = {name: ours(right.model_copy(update=change)) for name, change in changes.items()}
        checkout.compare(f"MoNCE of given vectors, batch 2, {cost}, eps {eps:g}", queries, theirs, ours(right), twins)
        through = apart(theirs, whole)
        what = f"gradient through the 50 Sinkhorn iterations, {cost}, eps {eps:g}; ours: weights have none"
        checkout.differs(what, f"the gradient differs by {through:.0e}, relative; it is cut in the comparisons", through > 1e-3)

    module.len = lambda ids: max(1, len(ids))  # of GPUs, by which it divides
    for eps in (1.0, 0.1):
        model = checkout.model("cut", 2, **{**how, "eps": eps})
        with recording() as drawn, mock.patch.object(module, "OT", cut):
            checkout.step(model)
        step, _ = parity.step_outcomes(model, model.loss_G)
        positions = {"nce": drawn.positions(0, 5, 2), "identity_nce": drawn.positions(5, 5, 2)}

        def step_of_ours(eps: float, model: Any = model, drawn: Mapping[str, Any] = positions, **how: Any) -> Outcome:
            recipe = weighted(METHODS["monce"].recipe, 0.5, Transport(eps=eps))
            return generator_outcome(recipe, model, Batch(model.real_A, model.real_B, 0, 0), drawn, **how)

        twins = {"eps + 10 %": step_of_ours(1.1 * eps), "blocks 2 and 4 swapped": step_of_ours(eps, breaking=parity.swap_blocks)}
        checkout.compare(f"MoNCE, five taps, batch 2, eps {eps:g}: generator's step", model.fake_B, step, step_of_ours(eps), twins)
    del module.len

    right, wrong, few = (float(published(queries, keys, **change)) for change in ({}, {"batch_size": 4}, {"num_patches": 1024}))
    what = "patches are grouped by the option batch_size: 2 images at 4 (its training loader drops the short last batch)"
    checkout.fault(what, f"silently groups of 128: loss {wrong:.4f} instead of {right:.4f}", abs(wrong - right) > 1e-3)
    checkout.fails("the same, 2 images at batch_size 3", lambda: published(queries, keys, batch_size=3), "RuntimeError")
    what = "weights are multiplied by num_patches - 1, however many there are: 256 at num_patches 1024"
    checkout.fault(what, f"loss {few:.4f} instead of {right:.4f}", abs(few - right) > 1e-3)
    checkout.fails("its loss without a GPU", lambda: published(queries, keys, gpu_ids=[]), "ZeroDivisionError")
    for script in ("train_cityscapes.sh", "train_winter2summer.sh"):
        command = re.findall(r"train\.py([^&\n]*)", (checkout.path / script).read_text().replace("\\\n", " "))[0]
        errors = io.StringIO()
        with mock.patch.object(sys, "argv", ["train.py", *shlex.split(command)]), contextlib.redirect_stderr(errors):
            observed = outcome_of(importlib.import_module("options.train_options").TrainOptions().gather_options)
        refused = errors.getvalue().strip().split("error: ")[-1]
        checkout.fault(f"the options of {script}", f"{observed}: {refused}", "--ot_weight" in refused)


# ---------------------------------------------------------------------------------------------------------------------------- LSeSim


@contextlib.contextmanager
def drawing(*positions: Tensor) -> Iterator[None]:
    """``torch.randperm`` draws these, one after the other."""
    queue = [*positions]
    with mock.patch.object(torch, "randperm", lambda n, device=None: queue.pop(0)):
        yield


def examine_lsesim(code: str, path: Path, found: Findings) -> None:
    checkout = Published(code, path, found)
    module: Any = importlib.import_module("models.losses")
    rng = torch.Generator().manual_seed(1)
    source = torch.randn(2, 32, 12, 12, generator=rng)
    fake = source + 0.7 * torch.randn(2, 32, 12, 12, generator=rng)
    ids = torch.randperm(144, generator=rng)

    def published(fake: Tensor, mode: str, window: int, norm: bool) -> Tensor:
        with drawing(ids):
            return module.SpatialCorrelativeLoss(mode, 64, window, norm, use_conv=False).loss(source, fake)

    def ours(fake: Tensor, mode: Any, window: int, similarity: Any, share: float = 0.25, first: int = 0) -> Tensor:
        queries = ids[first : first + 64].expand(2, -1)
        maps = [self_similarity(x, queries, window, similarity) for x in (source, fake)]
        return dissimilarity(maps[0], maps[1], share, mode, similarity == "dot").mean()

    for similarity, other in (("cosine", "dot"), ("dot", "cosine")):
        for mode in ("cos", "l1"):
            for window in (12, 5):
                right: Any = partial(ours, mode=mode, window=window, similarity=similarity)
                changes: dict[str, Any] = {other: {"similarity": other}, "window 7": {"window": 7}}
                changes |= {"half of the surroundings": {"share": 0.5}, "other queries": {"first": 64}}
                twins = {name: outcome(partial(right, **change), fake) for name, change in changes.items()}
                theirs = outcome(partial(published, mode=mode, window=window, norm=similarity == "cosine"), fake)
                what = f"LSeSim of given features, {similarity}, {mode}, {'the whole map' if window == 12 else f'windows of {window}'}"
                checkout.compare(what, fake, theirs, outcome(right, fake), twins)
    compare_lsesim(checkout, module)

    cosine, dot = (float(published(fake, "cos", 12, norm)) for norm in (True, False))
    off = "--use_norm" not in (path / "scripts" / "train_sc.sh").read_text() and abs(cosine - dot) > 1e-3
    what = "scripts/train_sc.sh leaves out --use_norm: maps of tanh(dot / 10) under a smooth L1, not of cosines"
    checkout.fault(what, f"loss {dot:.4f} instead of {cosine:.4f}", off)
    with drawing(torch.arange(4096), torch.arange(128)):
        size = module.PatchSim(8, 64)(torch.randn(1, 4, 64, 64, generator=rng))[0].shape[-1]
        wide = module.PatchSim(128, 4)(torch.randn(1, 32, 8, 16, generator=rng))[0]
    what = "patch_size 64, the default, at 256 pixels and the shallowest layer (64 x 64 positions)"
    checkout.fault(what, f"maps of {size} positions: no window, the whole map", size == 64 * 64)
    lost = int((wide.amax(-1) < 1 - 1e-9).sum())
    what = "windows on maps that are not square: positions are divided by the height (8 x 16, window 4)"
    checkout.fault(what, f"{lost} of 128 queries are outside of their own window", lost > 0)
    checkout.fails("--loss_mode info, a listed choice", lambda: published(fake, "info", 12, True), "AttributeError")


@torch.no_grad()
def random_vgg() -> nn.Sequential:
    """torchvision's VGG16 ``.features``, with random weights under which every layer passes on about unit variance."""
    body, channels, rng = nn.Sequential(), 3, torch.Generator().manual_seed(0)
    for name, layer in layers("vgg16").items():
        if name.startswith("conv"):
            body.append(nn.Conv2d(channels, layer.channels, 3, padding=1))
            body[-1].weight.normal_(0, (2 / (9 * channels)) ** 0.5, generator=rng)
            body[-1].bias.normal_(0, 0.1, generator=rng)
            channels = layer.channels
        else:
            body.append(nn.ReLU(inplace=True) if name.startswith("relu") else nn.MaxPool2d(2))
    return body.requires_grad_(False)


def compare_lsesim(checkout: Published, module: Any) -> None:
    """Both forms as they are: from images through VGG16 to loss and gradient."""
    step = importlib.import_module("models.sc_model").SCModel
    body, site = random_vgg(), Site((), (3, 3), torch_rng(0))
    source, target = images(2, 1), images(2, 2)
    fake = 0.6 * source + 0.4 * images(2, 3)
    rng = torch.Generator().manual_seed(2)
    drawn = Choices(torch.rand(1, 3, 25, generator=rng).expand(2, -1, -1), torch.rand(2, 2, 4, generator=rng))
    ids = [places(drawn.queries[:1, i], positions)[0] for i, positions in enumerate((16 * 16, 8 * 8, 8 * 8))]
    with mock.patch.object(module.models, "vgg16", lambda pretrained: SimpleNamespace(features=body)):
        vgg = module.VGG16()
    with tempfile.TemporaryDirectory() as folder:
        torch.save(body.state_dict(), f"{folder}/vgg16.pth")
        term = SelfSimilarity(features=FeaturesConfig(weights=f"{folder}/vgg16.pth"), queries=24, window=6)
        term.build(site)  # reads the file
    own = term.model_copy(update={"form": "learned"}).build(site)
    assert isinstance(own, nn.ModuleList)
    scatter(own, 3)

    def model(norm: bool = True, learned: bool = False) -> Any:
        """Their model, with our VGG16 and projections; to the latter's last layer it adds a bias."""
        criterion = module.SpatialCorrelativeLoss("cos", 24, 6, norm, learned, T=0.07)
        for i, head in enumerate(own if learned else ()):
            criterion.create_conv(torch.zeros(1, head[0].in_channels, 1, 1), i)
            conv = getattr(criterion, f"conv_{i}")
            nn.init.normal_(conv[2].bias)
            parity.copy_weights(head[0], conv[0])
            conv[2].weight.data.copy_(head[2].weight)
        criterion.update_init_()
        made = SimpleNamespace(attn_layers=[4, 7, 9], criterionSpatial=criterion, netPre=vgg, normalization=module.Normalization("cpu"))
        made.Spatial_Loss = partial(step.Spatial_Loss, made)
        return made

    def published(fake: Tensor, **how: bool) -> Tensor:
        theirs = model(**how)
        with drawing(*ids):
            return theirs.Spatial_Loss(vgg, *(theirs.normalization((x + 1) / 2) for x in (source, fake)), None)

    def ours(fake: Tensor, heads: nn.ModuleList | None = None, drawn: Choices = drawn, target: Tensor = target, **how: Any) -> Tensor:
        changed = term.model_copy(update={**how, "form": "learned" if heads else "fixed"})
        return changed(Step(source, target, fake), drawn, Nets(NOTHING, None, NOTHING, heads))

    for similarity in ("cosine", "dot"):
        right: Any = partial(ours, similarity=similarity)
        changes: dict[str, Any] = {"relu4_2 for relu4_1": {"layers": ("relu3_1", "relu4_2", "relu4_3")}, "window 5": {"window": 5}}
        changes["not normalized as for ImageNet"] = {"features": term.features.model_copy(update={"inputs": "plain"})}
        twins = {name: outcome(partial(right, **change), fake) for name, change in changes.items()}
        theirs = outcome(partial(published, norm=similarity == "cosine"), fake)
        checkout.compare(f"F-LSeSim of images, {similarity}", fake, theirs, outcome(right, fake), twins)
    theirs, twins = outcome(partial(published, learned=True), fake), {"fixed features": outcome(ours, fake)}
    checkout.compare("L-LSeSim of images: generator's part", fake, theirs, outcome(partial(ours, heads=own), fake), twins)

    for augment in (False, True):
        trained = model(learned=True)
        trained.real_A, trained.real_B, trained.fake_B, trained.opt = source, target, fake, SimpleNamespace(augment=augment)
        trained.aug_A, trained.aug_B = (recolored(x, drawn.jitter[:, i]) for i, x in enumerate((source, target)))
        with drawing(*ids):
            step.backward_F(trained)
        convs = [getattr(trained.criterionSpatial, f"conv_{i}") for i in range(3)]

        def contrast(augment: bool, **how: Any) -> Outcome:
            own.zero_grad()
            ours(fake, own, drawn if augment else drawn._replace(jitter=None), **how).backward()
            return {"gradient of the projection": gradients(own)}

        reference = [p.grad for conv in convs for p in (conv[0].weight, conv[0].bias, conv[2].weight)]
        twins = {"temperature 0.08": contrast(augment, temperature=0.08), "recolored or not": contrast(not augment)}
        twins["target not turned by half"] = contrast(augment, target=target.flip((-2, -1)))
        what = f"L-LSeSim of images: contrast{', with recolored copies' if augment else ''}"
        checkout.compare(what, fake, {"gradient of the projection": reference}, contrast(augment), twins)
    idle = max(float(conv[2].bias.grad.abs().max() / conv[2].weight.grad.abs().max()) for conv in convs)
    checkout.fault("the projection's last bias, which centering takes away", f"gradient of {idle:.0e} of its weight's", idle < 1e-9)


# ----------------------------------------------------------------------------------------------------------------------------- GcGAN


def examine_gcgan(code: str, path: Path, found: Findings) -> None:
    checkout = Published(code, path, found)
    share = importlib.import_module("models.gc_gan_share_model").GcGANShareModel
    for name in ("normal", "xavier_normal", "constant"):  # deprecated names
        setattr(nn.init, name, getattr(nn.init, f"{name}_"))
    how = {"batchSize": 2, "fineSize": SIZE, "which_model_netG": "resnet_9blocks", "which_model_netD": "basic", "norm": "instance"}
    how |= {"no_lsgan": False, "which_direction": "AtoB", "niter": 100, "niter_decay": 100, "lr_policy": "lambda", "continue_train": False}
    how |= {"init_type": "xavier", "lambda_AB": 10.0, "lambda_gc": 2.0, "lambda_G": 1.0, "identity": 0.5}
    for geometry, turn in (("rot", "rotate"), ("vf", "flip")):
        model = share()
        model.initialize(SimpleNamespace(**{**parity.OPTIONS, **how, "geometry": geometry}))
        for i, network in enumerate((model.netG_AB, model.netD_B, model.netD_gc_B)):
            checkout.mend(network)
            scatter(network, i)
        model.set_input({"A": images(2, 1), "B": images(2, 2), "A_paths": []})
        checkout.step(model)
        compare_gcgan(checkout, model, turn)

        there, back = TURNS[turn]
        pair = (model.fake_B, model.fake_gc_B)

        def published(plain: Tensor, turned: Tensor, model: Any = model, geometry: str = geometry) -> Tensor:
            return model.get_gc_rot_loss(plain, turned, 0) if geometry == "rot" else model.get_gc_vf_loss(plain, turned)

        def ours(plain: Tensor, turned: Tensor, there: Any = there, back: Any = back) -> Tensor:
            term = METHODS["gcgan"].recipe.terms["geometry"]
            steps = Step(plain, plain, plain, turned=back(turned)), Step(plain, plain, turned, turned=there(plain))
            return term.weight * torch.stack([term(step, None, NOTHING) for step in steps]).sum()

        right = outcome(ours, *pair)
        twins = {"halved": scaled(right, 0.5), "not turned": outcome(partial(ours, there=torch.clone, back=torch.clone), *pair)}
        if turn == "rotate":
            twins["counterclockwise"] = outcome(partial(ours, there=back, back=there), *pair)
        checkout.compare(f"geometry consistency of given translations, {turn}", model.fake_B, outcome(published, *pair), right, twins)

    wide = SimpleNamespace(opt=SimpleNamespace(fineSize=12))
    checkout.fails("turning images of 12 x 8 pixels by 90 degrees", lambda: share.rot90(wide, torch.zeros(1, 3, 8, 12), 0), "IndexError")
    saved: list[str] = []
    names = {f"net{name}": name for name in ("G_AB", "G_gc_AB", "D_B", "D_gc_B")}
    stand_in = SimpleNamespace(**names, gpu_ids=[], save_network=lambda network, name, *_: saved.append(f"{name} holds {network}"))
    importlib.import_module("models.gc_gan_cross_model").GcGANCrossModel.save(stand_in, "latest")
    checkout.fault("gc_gan_cross, with two generators: checkpoints", ", ".join(saved[:2]), saved[1] == "G_gc_AB holds G_AB")


def compare_gcgan(checkout: Published, model: Any, turn: str) -> None:
    """Both players of a whole step; its pools are still filling, so that the discriminators see the new translations."""
    judges, views = (model.netD_B, model.netD_gc_B), ("to_target", "to_target_turned")
    value = model.loss_G_AB + model.loss_G_gc_AB + model.loss_gc + model.loss_idt + model.loss_idt_gc
    published = {"value": [torch.tensor(value)], "gradient of G": gradients(model.netG_AB)}
    published_d = {"value": [torch.tensor(model.loss_D_B)], "gradient of D": gradients(*judges)}

    def ours(turn: str = turn, exchanged: bool = False, **changed: float) -> tuple[Outcome, Outcome]:
        recipe = narrow(METHODS["gcgan"].recipe, turn=turn)
        player, opponents = GeneratorPlayer(recipe, (3, 3), seed=0), DiscriminatorPlayer(recipe, (3, 3), seed=0)
        parity.copy_weights(model.netG_AB, player.generators)
        for view, network in zip(views, judges[::-1] if exchanged else judges, strict=True):
            parity.copy_weights(network, opponents.networks[view])
        weights = {name: weight for name, weight in {**active(recipe.terms, 0.9, 0), **changed}.items() if weight}
        draws = Draws(False, {view: dict.fromkeys(weights) for view in recipe.views(Size(SIZE, SIZE))})
        total, _, shown = player(Batch(images(2, 1), images(2, 2), 0, 0), draws, weights, opponents.frozen())
        total_d, _ = opponents(shown)
        (total + total_d).backward()
        of_d = {"value": [total_d.detach()], "gradient of D": gradients(*(opponents.networks[view] for view in views))}
        return {"value": [total.detach()], "gradient of G": gradients(player.generators)}, of_d

    right, right_d = ours()
    twins = {"weight 10": ours(geometry=10.0), "identity left out": ours(identity=0.0), "discriminators exchanged": ours(exchanged=True)}
    twins["the other turn"] = ours({"rotate": "flip", "flip": "rotate"}[turn])
    if turn == "rotate":
        with mock.patch.dict(TURNS, rotate=TURNS["rotate"][::-1]):
            twins["counterclockwise"] = ours()
    twins_g = {name: twin for name, (twin, _) in twins.items()}
    twins_d = {"not halved": scaled(right_d, 2), "the other turn": twins["the other turn"][1]}
    checkout.compare(f"GcGAN, {turn}, batch 2: generator's step", model.fake_B, published, right, twins_g)
    checkout.compare(f"GcGAN, {turn}, batch 2: discriminators' step", model.fake_B, published_d, right_d, twins_d)


# ------------------------------------------------------------------------------------------------------------------------------- SCC


def examine_scc(code: str, path: Path, found: Findings) -> None:
    checkout = Published(code, path, found)
    names = ("models", "models.networks", "models.base_model", "util", "util.image_pool")
    parts: dict[str, Any] = {name: ModuleType(name) for name in names}
    parts["models"].__path__, parts["models"].networks = [str(path)], parts["models.networks"]
    parts["models.base_model"].BaseModel = object
    parts["util.image_pool"].ImagePool = object
    sys.modules.update(parts)  # of the repository that it is to be copied into
    module: Any = importlib.import_module("models.scc_cycle_gan_model")

    def published(fake: Tensor, source: Tensor, sign: int = -1) -> Tensor:
        with mock.patch.object(torch, "exp", lambda x: (sign * x).exp()):
            return module.SCCLoss()(source, fake)

    for batch in (1, 2):
        source = images(batch, 1, 32)
        fake = (1.6 * source.square() - 0.8 + 0.2 * images(batch, 3, 32)).clamp(-1, 1)

        def ours(fake: Tensor, source: Tensor = source, **how: Any) -> Tensor:
            return StructureConsistency(**how)(Step(source, source, fake), None, NOTHING) - 1  # it is 1 - rSMI, theirs -rSMI

        def pooled(fake: Tensor, source: Tensor = source) -> Tensor:
            return -rsmi(source.flatten()[None], fake.flatten()[None], sigma=1.0, ridge=0.05, form="product").mean()

        theirs = outcome(partial(published, source=source), fake)
        changes: dict[str, Any] = {"the joint form": {"form": "joint"}, "sigma 0.9": {"sigma": 0.9}, "ridge 0.06": {"ridge": 0.06}}
        twins = {name: outcome(partial(ours, **change), fake) for name, change in changes.items()}
        twins |= {"the batch as one sample": outcome(pooled, fake)} if batch > 1 else {}
        checkout.compare(f"SCC, kernel exp(-d^2 / 2), batch {batch}", fake, theirs, outcome(ours, fake), twins)
    released = outcome(partial(published, source=source, sign=1), fake)
    values = f"loss {float(released['value'][0]):.4f} as published, {float(theirs['value'][0]):.4f} with the sign of a Gaussian"
    what = "kernel exp(+d^2 / 2); ours: exp(-d^2 / 2), a Gaussian; in the comparisons the sign is changed from outside"
    checkout.differs(what, f"{values}; the gradient differs by {apart(theirs, released):.0e}, relative", apart(theirs, released) > 0.1)

    parser = argparse.ArgumentParser()
    module.SCCCycleGANModel.modify_commandline_options(parser)
    checkout.fault("lambda_SCC, the loss's weight, among the model's options", "absent", not hasattr(parser.parse_args([]), "lambda_SCC"))


# ---------------------------------------------------------------------------------------------------------------------------- driver


class Code(NamedTuple):
    name: str
    repository: str
    file: str
    """By which a checkout is recognized."""
    examine: Callable[[str, Path, Findings], None]


CODES = {
    "hneg_src": Code("SRC + hDCE", "jcy132/Hneg_SRC", "Single-modal/models/hDCE.py", examine_hneg_src),
    "monce": Code("MoNCE", "fnzhan/MoNCE", "CUT_MoNCE/models/monce.py", examine_monce),
    "lsesim": Code("LSeSim", "lyndonzheng/F-LSeSim", "models/sc_model.py", examine_lsesim),
    "gcgan": Code("GcGAN", "hufu6371/GcGAN", "models/gc_gan_share_model.py", examine_gcgan),
    "scc": Code("SCC", "CR-Gjx/SCC", "scc_cycle_gan_model.py", examine_scc),
}


def examine(code: str, path: Path) -> Findings:
    """All that is to be said of one checkout, into which nothing is written; what the published code prints is dropped."""
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)  # of what the published code draws for itself
    warnings.simplefilter("ignore")
    found = Findings()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        CODES[code].examine(CODES[code].name, path, found)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for code, (_, repository, _, _) in CODES.items():
        parser.add_argument(f"--{code.replace('_', '-')}", type=Path, metavar="PATH", help=f"a checkout of {repository}")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    args = vars(parser.parse_args())
    given = {code: args[code].resolve() for code in CODES if args[code] is not None}
    if not given:
        parser.error("give at least one checkout")
    for code, path in given.items():
        if not (path / CODES[code].file).is_file():
            parser.error(f"{path} is no checkout of {CODES[code].repository}: it has no {CODES[code].file}")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    found = Findings()
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:  # all have packages called models and util
        for part in processes.map(examine, given.keys(), given.values()):
            found = Findings(found.rows + part.rows, found.differences + part.differences, found.faults + part.faults)
    text = parity.markdown(found)
    print(text)
    if args["markdown"]:
        args["markdown"].write_text(text)
    return 0 if found.ok else 1


if __name__ == "__main__":
    sys.exit(main())
