"""One set of statistics for all frames of a clip, so that a translation does not flicker.

An instance norm takes its mean and variance from each frame by itself. Where a white van drives into the picture they change, and with them
the colors of everything else. Here they are found once, over frames that are spread over the clip, and then hold for every frame:
docs/decisions/video.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from unflip.data.images import Array
from unflip.devices import available_memory
from unflip.errors import UserError
from unflip.inference.tiles import Read, Tiles
from unflip.inference.torch_backend import TorchTranslator
from unflip.inference.translator import Translator, picture_at
from unflip.networks import Generator
from unflip.networks.chain import uncompiled
from unflip.networks.multiscale import Multiscale
from unflip.networks.norm import InstanceNorm, Moments

SAMPLED = 16
"""Frames from which the statistics are found, evenly spread."""


def spread(count: int, most: int = SAMPLED) -> list[int]:
    """Which of ``count`` frames are looked at: the middles of ``most`` equal parts, or all where there are no more."""
    return [(2 * i + 1) * count // (2 * most) for i in range(most)] if count > most else list(range(count))


def resized(translator: Translator, frame: Array) -> Array:
    """A frame ``(H, W, 3)`` uint8 as the model wants it."""
    height, width = frame.shape[:2]
    return picture_at(frame, translator.resize.size_for(width, height))


@contextmanager
def fixed(translator: TorchTranslator, frames: Sequence[Array]) -> Iterator[None]:
    """Within, ``translator`` normalizes by the statistics of ``frames``, ``(H, W, 3)`` uint8 of one size, as if they were one image.

    Meant for images of that size. A multi-scale generator gets statistics for its context, and for each of its windows where they lie;
    these are of as many of the frames as fit into the memory together.

    Raises:
        UserError: no frames, or frames of several sizes; or a translator whose norms cannot be told anything, as that of an ONNX file.
    """
    if not isinstance(translator, TorchTranslator):
        raise UserError("the norms of an ONNX file cannot be fixed; give a translator of a run or model folder")
    if len({frame.shape for frame in frames}) != 1:
        raise UserError("frames of one size are needed, at least one")
    norms = [module for module in translator.generator.modules() if isinstance(module, InstanceNorm)]
    shared = [_Shared(norm.eps) for norm in norms]
    with uncompiled(translator.compiled):
        if norms:  # an imported U-Net's can be batch norms, which have theirs
            _learn(translator, norms, shared, [resized(translator, frame) for frame in frames])
        with instead(norms, [each.apply for each in shared]):
            yield


@contextmanager
def instead(norms: Sequence[InstanceNorm], doing: Sequence[Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Within, the ``norms`` do what ``doing`` says, one each."""
    try:
        for norm, given in zip(norms, doing, strict=True):
            norm.given = given
        yield
    finally:
        for norm in norms:
            norm.given = None


class _Shared:
    """What one norm does with a clip: an entry for each of its turns in one image.

    A generator applies a norm once. A multi-scale one applies it to the context, and then to groups of windows, a batch each: always in
    the same order, so that the turn tells which windows they are.
    """

    def __init__(self, eps: float) -> None:
        self.eps, self.turn = eps, 0
        self.found: list[Moments] = []

    def learn(self, x: Tensor, frames: int) -> Tensor:
        """Normalize what comes of several frames at once, ``(windows * frames, C, h, w)``, by what they have in common, and keep that."""
        moments = Moments()
        moments.add(_beside(x, frames))
        self.found.append(moments)
        return self._by(moments, x)

    def apply(self, x: Tensor) -> Tensor:
        moments = self.found[self.turn % len(self.found)]
        self.turn += 1
        return self._by(moments, x)

    def _by(self, moments: Moments, x: Tensor) -> Tensor:
        assert isinstance(moments.mean, Tensor)
        windows = moments.mean.shape[1] // x.shape[1]
        y = moments.normalize(_beside(x, len(x) // windows), self.eps)
        return y.unflatten(1, (windows, -1)).transpose(0, 1).flatten(0, 1)


def _beside(x: Tensor, frames: int) -> Tensor:
    """``(windows * frames, C, h, w)`` to ``(frames, windows * C, h, w)``: channels of their own for every window."""
    return x.unflatten(0, (-1, frames)).transpose(0, 1).flatten(1, 2)


@torch.inference_mode()
def _learn(translator: TorchTranslator, norms: Sequence[InstanceNorm], shared: Sequence[_Shared], frames: Sequence[Array]) -> None:
    """Fill in ``shared``: all frames through the network at once, each norm seeing them together; where they do not fit, norm by norm."""
    generator = translator.generator
    fit = _fit(translator, frames[0].shape[:2])
    with torch.autocast(translator.device.type, torch.bfloat16, enabled=translator.bf16):
        if isinstance(generator, Multiscale):
            frames = [frames[i] for i in spread(len(frames), max(fit, 1))]
        elif len(frames) > fit:
            return _norm_by_norm(translator, shared, frames)
        x = torch.cat([_network(translator, frame) for frame in frames])
        try:
            with instead(norms, [_learning(each, len(frames)) for each in shared]):
                generator(x)
            return None
        except torch.OutOfMemoryError:
            if isinstance(generator, Multiscale):
                raise
        torch.cuda.empty_cache()
        return _norm_by_norm(translator, shared, frames)


def _norm_by_norm(translator: TorchTranslator, shared: Sequence[_Shared], frames: Sequence[Array]) -> None:
    """The same in the memory of one frame or, where it takes tiles, of one tile, and of what can be kept of all between norms."""
    assert isinstance(translator.generator, Generator)
    size = frames[0].shape[:2]
    tiles = Tiles(translator.generator, size, _side(translator, size), available_memory(translator.device))
    known = tiles.learn([_reader(translator, frame) for frame in frames], translator.statistics)
    for each, moments in zip(shared, known, strict=True):
        each.found = [moments]


def _learning(shared: _Shared, frames: int) -> Callable[[Tensor], Tensor]:
    return lambda x: shared.learn(x, frames)


def _fit(translator: TorchTranslator, size: tuple[int, int]) -> int:
    """How many frames go through the network at once in half of the memory that there is, as one image may."""
    generator = translator.generator
    inner = generator if isinstance(generator, Generator) else generator.inner
    return available_memory(translator.device) // 2 // inner.memory_per_pixel // (size[0] * size[1])


def _side(translator: TorchTranslator, size: tuple[int, int]) -> int:
    """Of the tiles of a frame; its own where it needs none."""
    return translator.side(size) or max(size)


def _network(translator: TorchTranslator, frame: Array) -> Tensor:
    return translator.laid_out(translator.encoded(torch.from_numpy(np.array(frame))))


def _reader(translator: TorchTranslator, frame: Array) -> Read:
    return lambda top, left, bottom, right: _network(translator, frame[top:bottom, left:right])
