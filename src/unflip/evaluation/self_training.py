"""Learning from images without labels: the teacher's certain readings are labels for the student, who sees other colors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pseudo_labels(logits: Tensor, inside: Tensor, known: Tensor, threshold: float) -> Tensor:
    """Of each pixel the class whose probability is at least ``threshold``; -1 where none is, or where there is no image.

    ``logits (N, K, H, W)`` of the teacher; ``inside (N, H, W)`` bool; ``known (K,)`` bool: classes that have labels at all, and so can be
    meant. Returns ``(N, H, W)`` int64.
    """
    probability, labels = logits.float().masked_fill(~known[None, :, None, None], -torch.inf).softmax(1).max(1)
    return torch.where(inside & (probability >= threshold), labels, -1)


def pseudo_label_loss(logits: Tensor, labels: Tensor, inside: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of the student's ``logits (N, K, H, W)`` against pseudo-labels ``(N, H, W)``, -1: none, with class ``weights (K,)``.

    The mean over the believed pixels times their share of all pixels, as DACS weights it (Tranheden et al., WACV 2021, eq. 2 and 3): so
    the sum over them, divided by the number of all pixels ``inside`` the images.
    """
    return F.cross_entropy(logits.float(), labels, weights, ignore_index=-1, reduction="sum") / inside.sum().clamp(min=1)
