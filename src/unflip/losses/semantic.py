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

from unflip.data.labels import GivenClasses
from unflip.errors import UserError
from unflip.files import nameless
from unflip.losses.draws import Stream, TapShape
from unflip.losses.fixed import FixedSegmenter, fixed, unfit
from unflip.losses.precision import at_least_float32, full_precision
from unflip.losses.term import Nets, Setting, Site, Term
from unflip.networks.blocks import detached
from unflip.networks.segmenter import SegmenterConfig
from unflip.segmenterfolder import load_segmenter
from unflip.types import Step


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """``-log softmax(logits)[label]`` over the pixels of each image that have a label, averaged; then over the images.

    ``logits (N, K, H, W)``, ``labels (N, H, W)``, -1: none. An image without any label counts 0.
    """
    labeled = labels >= 0  # (N, H, W)
    log_p = logits.log_softmax(1).gather(1, labels.clamp(min=0)[:, None])[:, 0]  # (N, H, W)
    per_image = torch.where(labeled, -log_p, 0).sum((1, 2)) / labeled.sum((1, 2)).clamp(min=1)
    return per_image.mean()


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
        return unfit(self.segmenter, setting.resize, self.classes)

    def remark(self) -> str | None:
        if self.segmenter is None:
            return "semantic: sees the source's labels; judged by a segmenter trained along, which knows only the source's look"
        return f"semantic: sees the source's labels; judged by the segmenter {nameless(self.segmenter)}"

    def build(self, site: Site) -> nn.Module:
        assert self.classes is not None
        if self.segmenter is not None:
            return fixed(load_segmenter(self.segmenter), self.segmenter, self.classes)
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


def _reads(logits: Tensor, labels: Tensor) -> Tensor:
    with full_precision(logits):
        return cross_entropy(at_least_float32(logits), labels)
