"""The label-aware term: a segmenter must read the source's labels off the translation.

The semantic loss of CyCADA (Hoffman et al., "CyCADA: Cycle-consistent adversarial domain adaptation", ICML 2018, eq. 4), with the true
labels of the source in place of predicted ones, as joliGEN has it. None of the methods' papers use labels.

A segmenter that is trained along learns from source images alone. Were it shown translations with the source's labels, it would learn to
call a tree a building wherever the generator draws one for the other, and forgive every flip that is made consistently.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from unflip.data.labels import Classes, GivenClasses
from unflip.errors import UserError
from unflip.losses.draws import Stream, TapShape
from unflip.losses.precision import at_least_float32, full_precision
from unflip.losses.term import Nets, Setting, Site, Term
from unflip.networks.blocks import detached
from unflip.networks.segmenter import SegmenterConfig
from unflip.segmenterfolder import load_segmenter, read_segmenter
from unflip.tensors import digest
from unflip.types import Step


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """``-log softmax(logits)[label]`` over the pixels of each image that have a label, averaged; then over the images.

    ``logits (N, K, H, W)``, ``labels (N, H, W)``, -1: none. An image without any label counts 0.
    """
    labeled = labels >= 0  # (N, H, W)
    log_p = logits.log_softmax(1).gather(1, labels.clamp(min=0)[:, None])[:, 0]  # (N, H, W)
    per_image = torch.where(labeled, -log_p, 0).sum((1, 2)) / labeled.sum((1, 2)).clamp(min=1)
    return per_image.mean()


class FixedSegmenter(nn.Module):
    """A trained segmenter that nothing trains or saves again: it is not among the modules of this one. Gradients pass through it."""

    lookup: Tensor

    def __init__(self, network: nn.Module, lookup: Tensor) -> None:
        super().__init__()
        self._held = (network.requires_grad_(False).eval(),)
        self.register_buffer("lookup", lookup, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        images = at_least_float32(images)  # before its precision decides that of the weights
        return self._held[0].to(images)(images)

    def digest(self) -> str:
        """Of the segmenter's weights."""
        return digest(self._held[0].state_dict())

    def ids(self, labels: Tensor) -> Tensor:
        """The run's class ids as the segmenter's; -1 stays -1."""
        return self.lookup[labels]  # the last place is for -1


class Semantic(Term):
    """The cross-entropy of a segmenter's reading of the translation, against the source's labels; only for runs with source labels."""

    weight: NonNegativeFloat = 1.0
    segmenter: Path | None = None
    """The folder of a segmenter, held fixed; best one trained on real images. None: one is trained along, on the source."""
    network: SegmenterConfig = SegmenterConfig()
    """Of the segmenter that is trained along."""
    judge_from: float = Field(default=0.1, ge=0, lt=1)
    """The segmenter that is trained along judges no translation before this share of the budget: its first readings are noise. (``start``
    would keep it from learning, too.)"""
    classes: GivenClasses | None = None
    """Of the labels; filled from ``--classes``."""

    needs: ClassVar[frozenset[str]] = frozenset({"fake", "labels", "plain"})  # no segmenter has learned turned or half-size images

    def problem(self, setting: Setting) -> str | None:
        if self.classes is None:
            return "the classes of the labels are not known; give --source-labels DIR --classes FILE"
        if self.segmenter is None:
            return None
        try:
            known = read_segmenter(self.segmenter)[1]
            self._lookup(known.classes)
        except UserError as error:
            return str(error)
        if known.resize != setting.resize:  # things would be of another size than it has learned
            what = f"the segmenter {self.segmenter} reads images at resize {known.resize}, but data.resize is {setting.resize}"
            return f"{what}; set data.resize={known.resize}, or name a segmenter for {setting.resize}"
        return None

    def remark(self) -> str | None:
        if self.segmenter is None:
            return "semantic: sees the source's labels; judged by a segmenter trained along, which knows only the source's look"
        return f"semantic: sees the source's labels; judged by the segmenter {self.segmenter}"

    def build(self, site: Site) -> nn.Module:
        assert self.classes is not None
        if self.segmenter is not None:
            model = load_segmenter(self.segmenter)
            return FixedSegmenter(model.network, self._lookup(model.config.classes))
        source, target = site.channels
        if source != target:
            raise UserError(f"semantic: one segmenter cannot read sources of {source} and translations of {target} channels; leave it out")
        return self.network.build(len(self.classes.names), site.rng, source)

    def fixed_weights(self, own: nn.Module | None) -> dict[str, str]:
        return {"segmenter": own.digest()} if isinstance(own, FixedSegmenter) else {}

    def draw(self, stream: Stream, taps: tuple[TapShape, ...]) -> bool:
        """Whether the segmenter that is trained along judges in this step."""
        return stream.progress >= self.judge_from

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        own = nets.own
        assert own is not None and step.labels is not None
        if isinstance(own, FixedSegmenter):
            return _reads(own(step.fake), own.ids(step.labels))
        learns = _reads(own(step.source), step.labels)  # moves the segmenter only: the source is data
        if not drawn:
            return learns
        return learns + _reads(detached(own)(step.fake), step.labels)  # moves the generator only

    def _lookup(self, known: Classes) -> Tensor:
        """The segmenter's id of every class of the run, by name, and -1 for ignored ones and for "none" at the end.

        ``known``: the segmenter's classes. It does not know those that it ignores: no pixel taught it what they look like.
        """
        assert self.classes is not None
        ids = {known.names[i]: i for i in known.kept}
        counted = [name if i in self.classes.kept else None for i, name in enumerate(self.classes.names)]
        missing = [name for name in counted if name is not None and name not in ids]
        if missing:
            what = f"the segmenter does not know the class {missing[0]}, {self.segmenter}; it knows {', '.join(ids)}"
            raise UserError(f"{what}; ignore {missing[0]} in the run's classes, or name another segmenter")
        return torch.tensor([*(-1 if name is None else ids[name] for name in counted), -1])


def _reads(logits: Tensor, labels: Tensor) -> Tensor:
    with full_precision(logits):
        return cross_entropy(at_least_float32(logits), labels)
