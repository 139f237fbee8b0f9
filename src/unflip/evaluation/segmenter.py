"""Training a segmenter: its loss, one loop; and its reading of images that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unflip.data.labels import Labels
from unflip.data.pairs import Images
from unflip.engine.ema import Ema
from unflip.errors import UserError
from unflip.evaluation.confusion import Counter, Reading
from unflip.evaluation.crops import Crops, UnlabeledCrops
from unflip.evaluation.lesson import Lesson, Weights
from unflip.evaluation.reader import Reader
from unflip.evaluation.self_training import pseudo_label_loss, pseudo_labels
from unflip.fabric import Fabric
from unflip.seeding import derive

Network = TypeVar("Network", bound=nn.Module)


def class_weights(pixels: Sequence[int], how: Weights) -> Tensor:
    """Weights ``(K,)`` float32 of classes with so many ``pixels``: all 1 if ``plain``; if ``balanced``, ``1 / sqrt(share)``, scaled so
    that the mean over all pixels is 1. Classes without pixels get 0."""
    share = np.asarray(pixels, dtype=np.float64) / np.sum(pixels)
    weights = np.where(share > 0, 1 / np.sqrt(np.where(share > 0, share, 1)), 0)
    if how == "plain":
        weights = np.where(share > 0, 1.0, 0.0)
    return torch.from_numpy(weights / (share * weights).sum()).float()


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """``mean of weights[label] * -log softmax(logits)[label]`` over the pixels that have a label; 0 where none has.

    ``logits (N, K, H, W)``, ``labels (N, H, W)`` int64, -1: none, ``weights (K,)``.
    """
    total = F.cross_entropy(logits.float(), labels, weights, ignore_index=-1, reduction="sum")
    return total / (labels >= 0).sum().clamp(min=1)


def rate(progress: float, warmup: float = 0.05) -> float:
    """The learning rate at ``progress``, in [0, 1], as a share of the highest."""
    if progress < warmup:
        return progress / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (progress - warmup) / (1 - warmup))


def train(
    network: Network,
    crops: Crops,
    weights: Tensor,
    lesson: Lesson,
    fabric: Fabric,
    after: Callable[[int, str], None] = lambda seen, news: None,
    unlabeled: UnlabeledCrops | None = None,
) -> Network:
    """Train ``network`` on ``fabric``'s device; the moving average of its weights, in evaluation mode. ``after(seen, news)`` each step.

    With ``unlabeled`` crops it is trained on those as well, from the start on that ``lesson.self_training`` says; that average is the
    teacher.

    Raises:
        UserError: the loss is not finite.
    """
    network = network.to(fabric.device).train()
    average = Ema(network, half_life=lesson.budget / 50, share=0.05)
    optimizer = torch.optim.AdamW(network.parameters(), lesson.lr, weight_decay=lesson.decay)
    weights = weights.to(fabric.device)
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    threads = 4 if devices else 0
    others = repeat(None) if unlabeled is None else _batches(unlabeled, lesson, threads)
    seen = 0
    for (images, labels), other in zip(_batches(crops, lesson, threads), others, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = lesson.lr * rate((seen + len(images) / 2) / lesson.budget)
        with torch.random.fork_rng(devices):  # dropout draws from the global stream
            torch.manual_seed(derive(lesson.seed, "dropout", seen) >> 1)
            with fabric.autocast():
                logits = network(images.to(fabric.device))
                loss = weighted_cross_entropy(logits, labels.to(fabric.device), weights)
                believed = None
                if other is not None and lesson.self_training and seen >= lesson.self_training.start * lesson.budget:
                    plain, recolored, inside = (each.to(fabric.device) for each in other)
                    _same_statistics(average.network, network)
                    with torch.no_grad():
                        pseudo = pseudo_labels(average.network(plain), inside, weights > 0, lesson.self_training.threshold)
                    pull = pseudo_label_loss(network(recolored), pseudo, inside, weights)
                    loss = loss + lesson.self_training.weight * pull
                    believed = (pseudo >= 0).sum() / inside.sum().clamp(min=1)
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(f"the segmenter's loss is {value} after {seen:,} images; use --precision 32, or another --seed or --batch")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        seen += len(images)
        average.update(network, seen, len(images))
        after(seen, f"loss {value:.3f}" + ("" if believed is None else f"  pseudo-labels {100 * believed:.0f} %"))
    averaged: Network = average.network  # type: ignore[assignment]
    _same_statistics(averaged, network)
    return averaged


def _same_statistics(averaged: nn.Module, network: nn.Module) -> None:
    """Those of batch norms, which are averages already."""
    for kept, last in zip(averaged.buffers(), network.buffers(), strict=True):
        kept.copy_(last)


def _batches(crops: Crops | UnlabeledCrops, lesson: Lesson, threads: int) -> Iterator[tuple[Tensor, ...]]:
    """All crops of the budget in order; ``threads`` prepare those of the next batch meanwhile. The last batch may be short."""
    starts = range(0, lesson.budget, lesson.batch)
    spans = [range(start, min(start + lesson.batch, lesson.budget)) for start in starts]
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        made = pool.map(crops.__getitem__, spans[0]) if threads else map(crops.__getitem__, spans[0])
        for k in range(len(spans)):
            items = list(made)
            if k + 1 < len(spans):
                made = (pool.map if threads else map)(crops.__getitem__, spans[k + 1])
            yield tuple(torch.stack(each) for each in zip(*items, strict=True))


def read_all(reader: Reader, images: Images, labels: Labels, after: Callable[[int], None] = lambda done: None) -> Reading:
    """How ``reader`` reads images, which must not be resized, against their labels."""
    counter = Counter(labels.classes, len(images))
    for i in range(len(images)):
        counter.add(labels[i].numpy(), reader(images[i].numpy()))
        after(i + 1)
    return counter.reading()
