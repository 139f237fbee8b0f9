"""Translating with PyTorch: whole, in batches, by tiles, on a GPU or a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from unflip import modelfolder
from unflip.data.bands import Pixels, Valid
from unflip.data.transforms import holes, narrowed, to_image, to_network, widened
from unflip.devices import available_memory, choose_device, choose_precision
from unflip.errors import UserError
from unflip.inference.hub import push
from unflip.inference.tiles import SIDES, Box, Read, Tiles, side_for
from unflip.inference.translator import Direction, Translator, check_floats, picture_at
from unflip.methods.passes import BACKWARD, FORWARD
from unflip.modelfolder import Model
from unflip.networks import Generator
from unflip.networks.chain import compile_networks, missing_compiler
from unflip.networks.tracing import traced


class TorchTranslator(nn.Module, Translator):
    """A translator that is a module as any other: it moves to devices, has parameters, and is part of larger modules.

    Of floating-point tensors the translation has a gradient where one is wanted: with respect to the image, or to the parameters, which
    :func:`unflip.load` freezes. It is always in evaluation mode.
    """

    def __init__(self, model: Model, direction: Direction = "forward") -> None:
        nn.Module.__init__(self)
        side = FORWARD if direction == "forward" else BACKWARD
        if side not in model.generators:
            raise UserError(f"{model.folder} translates forward only; its method learns no way back")
        ends = (model.config.source, model.config.target)
        Translator.__init__(self, model.config, *(ends if side == FORWARD else ends[::-1]), direction)
        self.folder = model.folder
        self.generator = model.generators[side]
        self.channels_last = self.bf16 = self.compiled = False

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"shown": None}

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Of the parameters."""
        return next(self.generator.parameters()).device

    @property
    def one_by_one(self) -> bool:
        """Whether the images of a batch are translated one after the other, as a batch gains nothing."""
        return self.channels_last and self.device.type == "cpu"

    def forward(self, image: Any) -> Any:
        return Translator.forward(self, image)

    def train(self, mode: bool = True) -> TorchTranslator:
        """Nothing: whatever it is a part of is trained, it translates."""
        return super().train(False)

    @torch.inference_mode()
    def network(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` in [-1, 1] to the same, with the channels of the network; no resizing.

        By tiles where ``tile`` says so; the result is then where ``x`` is.
        """
        side = self.side((x.shape[-2], x.shape[-1]))
        if side is not None:
            return self._by_tiles(x, side)
        try:
            return self._whole(x)
        except torch.OutOfMemoryError:
            if self.tile != "auto" or not isinstance(self.generator, Generator):
                raise
        torch.cuda.empty_cache()
        return self._by_tiles(x, SIDES[-2])

    def _whole(self, x: Tensor) -> Tensor:
        x = x.to(self.device, next(self.generator.parameters()).dtype, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            if not self.one_by_one:
                return self.generator(x).float()
            return torch.cat([self.generator(image.contiguous(memory_format=torch.channels_last)).float() for image in x.split(1)])

    def computed(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        y = self.network(widened(torch.from_numpy(x), self.config.channels))
        made: NDArray[np.float32] = narrowed(y, self.target.count).cpu().numpy()
        return made

    def side(self, size: tuple[int, int]) -> int | None:
        if self.tile == "none" or not isinstance(self.generator, Generator):
            return None
        if self.tile == "auto":
            return side_for(self.generator, size, available_memory(self.device))
        return self.tile if max(size) > self.tile else None

    def _by_tiles(self, x: Tensor, side: int) -> Tensor:
        y = torch.empty_like(x)
        for image, translation in zip(x.split(1), y.split(1), strict=True):

            def read(top: int, left: int, bottom: int, right: int, image: Tensor = image) -> Tensor:
                return image[..., top:bottom, left:right]

            for box, part in self.tiles(read, (x.shape[-2], x.shape[-1]), side):
                translation[..., box.top : box.bottom, box.left : box.right] = part
        return y

    @torch.inference_mode()
    def tiles(self, read: Read, size: tuple[int, int], side: int) -> Iterator[tuple[Box, Tensor]]:
        """An image of ``size`` (height, width) by tiles of ``side``, row by row, as :class:`unflip.inference.tiles.Tiles` gives them."""
        assert isinstance(self.generator, Generator)
        tiles = Tiles(self.generator, size, side, available_memory(self.device))
        work = tiles.work(self.statistics)

        def here(*box: int) -> Tensor:
            return self.laid_out(read(*box))

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            yield from tiles.translate(here, self.statistics, lambda done: self.shown(done, work) if self.shown else None)

    def laid_out(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` on the device, in the order in which its convolutions want it."""
        return x.to(self.device).contiguous(memory_format=torch.channels_last if self.one_by_one else torch.contiguous_format)

    def quicken(self, precision: str = "auto") -> None:
        """Compute as fast as the device can. Not for networks that somebody else trains.

        On a CPU, weights are laid out as its convolutions want them, and images are translated one by one, since a batch gains nothing;
        a multi-scale generator, whose windows are a batch, stays as it is. On a GPU, convolutions compute in bfloat16, if ``precision``
        ("auto", "32" or "bf16") says so.
        """
        self.bf16 = choose_precision(precision, self.device) == "bf16"
        self.channels_last = self.device.type == "cpu" and isinstance(self.generator, Generator)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        self.generator.to(memory_format=layout)  # type: ignore[call-overload]

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the network, on a GPU where that can be done. It takes a minute for every new size of image or batch."""
        if self.device.type == "cuda" and missing_compiler() is None:
            compile_networks([self.generator])
            self.compiled = True

    def to(self, *args: Any, **kwargs: Any) -> TorchTranslator:
        """As of every module; what a device computes fastest is chosen anew where it changes."""
        before = self.device
        nn.Module.to(self, *args, **kwargs)
        if self.device != before:
            self.quicken()
        return self

    def push_to_hub(self, name: str, **options: Any) -> str:
        """Put the model into the repository ``name``, ``user/name``, on the hub. The ``options`` are those of
        :func:`unflip.inference.hub.push`: private, revision, message, token, metrics. Gives the commit's address."""
        return push(self.folder, name, **options)

    def pixels(self, pixels: Pixels, size: tuple[int, int], valid: Valid | None = None, nodata: float | None = None) -> Pixels:
        plain = self.source.plain and valid is None
        image = torch.from_numpy(pixels if plain else self.source.normalized(pixels, valid))
        return self.stored(self.network(self.encoded(image))[0], size, valid, nodata)

    def decoded(self, image: Tensor, size: tuple[int, int]) -> Pixels:
        """The same for ``(H, W, C)`` as :class:`unflip.data.pairs.Images` has it."""
        valid = image[..., 0].isfinite().numpy() if image.is_floating_point() else None
        return self.stored(self.network(self.encoded(image))[0], size, valid)

    def encoded(self, image: Tensor) -> Tensor:
        """The same ``(1, C, H, W)`` as the network sees it."""
        x = widened(to_network(image.permute(2, 0, 1)[None]), self.config.channels)
        return holes(x)[0] if image.is_floating_point() else x

    def stored(self, y: Tensor, size: tuple[int, int], valid: Valid | None = None, nodata: float | None = None) -> Pixels:
        """What the network made of one image, ``(C, h, w)``, as ``target`` says, at ``size``."""
        y = narrowed(y, self.target.count)
        if self.common(valid, self.target.empty(nodata)):  # in bytes from the device
            return picture_at(to_image(y).permute(1, 2, 0).cpu().numpy(), size)
        return self.finished(y.permute(1, 2, 0).cpu().numpy(), size, valid, nodata)

    def _tensors(self, x: Tensor) -> Tensor:
        given, (height, width) = x.dtype, x.shape[-2:]
        if given != torch.uint8 and not traced():
            check_floats(*(float(each) for each in x.detach().aminmax()))
        x = to_network(x) if given == torch.uint8 else x.to(torch.float32) * 2 - 1
        wide, high = self.resize.size_for(width, height)
        y = self._with_gradient(widened(_resized(x, (high, wide)), self.config.channels))
        y = _resized(narrowed(y, self.target.count), (height, width))
        return to_image(y) if given == torch.uint8 else ((y + 1) / 2).clamp(0, 1).to(given)

    def _with_gradient(self, x: Tensor) -> Tensor:
        """:meth:`network`, with a gradient where somebody wants one."""
        if not torch.is_grad_enabled() or not (x.requires_grad or any(weight.requires_grad for weight in self.parameters())):
            return self.network(x)
        size = (x.shape[-2], x.shape[-1])
        if self.side(size) is not None:
            raise UserError(f"no gradient through tiles, as {size[1]}x{size[0]} pixels would take; give smaller images, or tile='none'")
        return self._whole(x)


def from_folder(path: Path, device: str, direction: Direction, tiled: bool = False) -> TorchTranslator:
    """That of a run or model folder, as fast as the device can. Raises ``UserError`` where it cannot be loaded, or not be ``tiled``."""
    translator = TorchTranslator(modelfolder.load(path, choose_device(device)), direction)
    if tiled and not isinstance(translator.generator, Generator):
        raise UserError(f"{path} is multi-scale: it sees images in windows of its own; leave out the tiles")
    translator.requires_grad_(False)
    translator.quicken()
    return translator


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False)
