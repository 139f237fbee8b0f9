"""Training a segmenter on images and labels: the crops it sees, its loss, one loop; and its reading of images it has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from unflip.config import Config
from unflip.data.labels import IGNORED, Labels
from unflip.data.pairs import Images
from unflip.data.transforms import to_ids, to_network
from unflip.engine.ema import Ema
from unflip.errors import UserError
from unflip.evaluation.confusion import Counter, Reading
from unflip.evaluation.reader import Reader
from unflip.seeding import derive, numpy_rng
from unflip.types import GivenSize

Weights = Literal["balanced", "plain"]
Network = TypeVar("Network", bound=nn.Module)


class Lesson(Config):
    """How a segmenter is trained."""

    budget: PositiveInt
    """Images to see."""
    size: GivenSize
    """Of the crops."""
    batch: PositiveInt = 4
    seed: int = 0
    weights: Weights = "balanced"
    """Of the classes in the loss; see :func:`class_weights`."""
    lr: PositiveFloat = 2e-3
    """The highest: up to it from 0 in a straight line, over the first twentieth of the budget, and down again along a cosine."""
    decay: NonNegativeFloat = 0.01
    """Of the weights, by AdamW (Loshchilov & Hutter, ICLR 2019)."""
    zoom: float = 1.5
    """Crops are enlarged or shrunk by up to this factor."""


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


class Crops:
    """Item ``i``: a crop of an image with its labels, zoomed, mirrored and recolored at random; a function of the seed and ``i`` alone.

    Images are passed through in a new order each time, every one once. Half of the crops are about a pixel of a rare class, where the
    image has one: a class of fewer pixels than if all had equally many, by ``pixels``, the number of each class.
    """

    def __init__(self, images: Images, labels: Labels, pixels: Sequence[int], lesson: Lesson) -> None:
        self.images, self.labels, self.size, self.seed, self.zoom = images, labels, lesson.size, lesson.seed, lesson.zoom
        present = sum(count > 0 for count in pixels)
        self.rare = [i for i, count in enumerate(pixels) if 0 < count < sum(pixels) / present]
        self._order: tuple[int, list[int]] | None = None

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """``(3, H, W)`` float32 in [-1, 1], and ``(H, W)`` int64, -1 where there is no label."""
        k = self._index(i)
        image, ids = self.images[k], self.labels[k]  # (H, W, 3), (H, W)
        rng = numpy_rng(self.seed, "crop", i)
        scale = self.zoom ** rng.uniform(-1, 1)
        height, width = (max(1, round(side / scale)) for side in (self.size.height, self.size.width))
        spot = self._spot(ids, rng)
        top, left = (_place(rng, *sides) for sides in zip(ids.shape, (height, width), spot, strict=True))
        x, y = _window(image, ids, top, left, height, width)
        x = F.interpolate(to_network(x), (self.size.height, self.size.width), mode="bilinear", antialias=True)[0]
        y = F.interpolate(y, (self.size.height, self.size.width), mode="nearest-exact")[0, 0]
        if rng.random() < 0.5:
            x, y = x.flip(2), y.flip(1)
        return _recolored(x, rng), to_ids(y)

    def _index(self, i: int) -> int:
        turn, position = divmod(i, len(self.images))
        order = self._order
        if order is None or order[0] != turn:
            order = self._order = turn, numpy_rng(self.seed, "order", turn).permutation(len(self.images)).tolist()
        return order[1][position]

    def _spot(self, ids: Tensor, rng: np.random.Generator) -> tuple[int, int] | tuple[None, None]:
        """A pixel that the crop must show, of a rare class; none for half of the crops."""
        wanted = rng.random() < 0.5
        flat = ids.flatten()
        there = torch.bincount(flat, minlength=256)
        rare = [i for i in self.rare if there[i]]
        if not wanted or not rare:
            return None, None
        among = (flat == rng.choice(rare)).nonzero()[:, 0]
        row, column = divmod(int(among[rng.integers(len(among))]), ids.shape[1])
        return row, column


def _place(rng: np.random.Generator, length: int, window: int, spot: int | None) -> int:
    """Where a window begins: anywhere, so that it shows ``spot`` if that is given; a window longer than the image shows all of it."""
    low, high = min(0, length - window), max(0, length - window)
    if spot is not None:
        low, high = max(low, min(spot - window + 1, high)), min(high, max(spot, low))
    return int(rng.integers(low, high + 1))


def _window(image: Tensor, ids: Tensor, top: int, left: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """``(1, 3, height, width)`` and ``(1, 1, height, width)``, uint8; beyond the image its edge goes on, without labels."""
    rows, columns = torch.arange(top, top + height), torch.arange(left, left + width)
    inside = tuple(place.clamp(0, length - 1) for place, length in zip((rows, columns), ids.shape, strict=True))
    x, y = (each[inside[0]][:, inside[1]] for each in (image, ids))
    y[rows != inside[0]] = IGNORED
    y[:, columns != inside[1]] = IGNORED
    return x.permute(2, 0, 1)[None], y[None, None]


def _recolored(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Other contrast, tint and brightness, within bounds: a translation's colors are seldom quite those of photos."""
    contrast = np.exp(rng.uniform(-0.3, 0.3) + rng.uniform(-0.1, 0.1, 3))
    brightness = rng.uniform(-0.2, 0.2)
    return (x * torch.from_numpy(contrast).float()[:, None, None] + brightness).clamp(-1, 1)


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
    after: Callable[[int, float], None] = lambda seen, loss: None,
) -> Network:
    """Train ``network`` on ``fabric``'s device; the moving average of its weights, in evaluation mode. ``after(seen, loss)`` each step.

    Raises:
        UserError: the loss is not finite.
    """
    network = network.to(fabric.device).train()
    average = Ema(network, half_life=lesson.budget / 50, share=0.05)
    optimizer = torch.optim.AdamW(network.parameters(), lesson.lr, weight_decay=lesson.decay)
    weights = weights.to(fabric.device)
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    seen = 0
    for images, labels in _batches(crops, lesson, threads=4 if devices else 0):
        for group in optimizer.param_groups:
            group["lr"] = lesson.lr * rate((seen + len(images) / 2) / lesson.budget)
        with torch.random.fork_rng(devices):  # dropout draws from the global stream
            torch.manual_seed(derive(lesson.seed, "dropout", seen) >> 1)
            with fabric.autocast():
                logits = network(images.to(fabric.device))
        loss = weighted_cross_entropy(logits, labels.to(fabric.device), weights)
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(f"the segmenter's loss is {value} after {seen:,} images; use --precision 32, or another --seed or --batch")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        seen += len(images)
        average.update(network, seen, len(images))
        after(seen, value)
    averaged: Network = average.network  # type: ignore[assignment]
    for kept, last in zip(averaged.buffers(), network.buffers(), strict=True):  # statistics of batch norms
        kept.copy_(last)
    return averaged


def _batches(crops: Crops, lesson: Lesson, threads: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All crops of the budget in order; ``threads`` prepare those of the next batch meanwhile. The last batch may be short."""
    starts = range(0, lesson.budget, lesson.batch)
    spans = [range(start, min(start + lesson.batch, lesson.budget)) for start in starts]
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        made = pool.map(crops.__getitem__, spans[0]) if threads else map(crops.__getitem__, spans[0])
        for k in range(len(spans)):
            items = list(made)
            if k + 1 < len(spans):
                made = (pool.map if threads else map)(crops.__getitem__, spans[k + 1])
            images, labels = zip(*items, strict=True)
            yield torch.stack(images), torch.stack(labels)


def read_all(reader: Reader, images: Images, labels: Labels, after: Callable[[int], None] = lambda done: None) -> Reading:
    """How ``reader`` reads images, which must not be resized, against their labels."""
    counter = Counter(labels.classes, len(images))
    for i in range(len(images)):
        counter.add(labels[i].numpy(), reader(images[i].numpy()))
        after(i + 1)
    return counter.reading()
