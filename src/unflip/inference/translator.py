"""Translating single images: what comes in, a PIL image, a NumPy array or a tensor, is what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unflip import modelfolder
from unflip.data.bands import FULL, Depth, Pixels, Valid, banded, narrowed, nearest, unbanded, widened
from unflip.data.images import finished, prepare
from unflip.data.resize import parse_resize, resized
from unflip.data.save import with_alpha
from unflip.data.transforms import holes, to_image, to_network
from unflip.devices import available_memory, choose_device, choose_precision
from unflip.errors import UserError
from unflip.inference.tiles import SIDES, Box, Read, Statistics, Tiles, side_for
from unflip.methods.passes import BACKWARD, FORWARD
from unflip.modelfolder import Model
from unflip.networks import Generator
from unflip.networks.chain import compile_networks, missing_compiler, uncompiled

AnyImage = TypeVar("AnyImage", Image.Image, np.ndarray, Tensor)
Direction = Literal["forward", "backward"]
Tile = int | Literal["auto", "none"]

SMALLEST_TILE = 64


class Translator:
    """A trained model, called with an image of any size: ``translator(image)`` is its translation, of the same kind and size.

    Takes and gives back

    * PIL images: RGB out; alpha is kept; EXIF orientation is applied;
    * NumPy arrays ``(H, W, 3)``, or ``(H, W)`` gray, or ``(H, W, 4)`` with alpha: uint8, or floats in [0, 1];
    * tensors ``(C, H, W)`` or ``(N, C, H, W)``: uint8, or floats in [0, 1], on any device.

    That is for models of 8-bit color. Of others, images go in as ``source`` says and come out as ``target`` says: of that depth, with that
    many bands, in those units. What the model was trained to resize is resized before and back after. ``direction`` "backward" translates
    target to source, for methods that learn both.
    """

    def __init__(self, model: Model, device: torch.device, direction: Direction = "forward") -> None:
        side = {"forward": FORWARD, "backward": BACKWARD}.get(direction)
        if side is None:
            raise UserError(f"unknown direction {direction!r}; use forward or backward")
        if side not in model.generators:
            raise UserError(f"{model.folder} translates forward only; its method learns no way back")
        self.config, self.folder, self.device, self.direction = model.config, model.folder, device, direction
        ends = (self.config.source, self.config.target)
        self.source, self.target = ends if side == FORWARD else ends[::-1]
        self.generator = model.generators[side]
        self.depth: Depth | None = None
        """Of the translations, where that is not the target's."""
        self.one_by_one = self.half = self.compiled = False
        self.tile: Tile = "auto"
        """The side of the tiles by which an image is translated, in pixels; "auto": only where it is too large for the memory."""
        self.statistics: Statistics = "exact"
        """Of the norms, where there are tiles."""
        self.resize = parse_resize(self.config.resize)
        self.shown: Callable[[int, int], None] | None = None

    def __call__(self, image: AnyImage) -> AnyImage:
        if isinstance(image, Image.Image):
            return self._picture(image)
        if isinstance(image, np.ndarray):
            return self._array(image)
        if isinstance(image, Tensor):
            return self._tensor(image)
        raise UserError(f"cannot translate a {type(image).__name__}; give a PIL image, a NumPy array or a tensor")

    @torch.inference_mode()
    def network(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` in [-1, 1] to the same, with the channels of the network; no resizing.

        By tiles where ``tile`` says so; the result is then where ``x`` is.
        """
        side = self.side((x.shape[-2], x.shape[-1]))
        if side is not None:
            return self._by_tiles(x, side)
        try:
            return self._whole(x.to(self.device, non_blocking=True))
        except torch.OutOfMemoryError:
            if self.tile != "auto" or not isinstance(self.generator, Generator):
                raise
        torch.cuda.empty_cache()
        return self._by_tiles(x, SIDES[-2])

    def _whole(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            if not self.one_by_one:
                return self.generator(x).float()
            return torch.cat([self.generator(image.contiguous(memory_format=torch.channels_last)) for image in x.split(1)])

    def side(self, size: tuple[int, int]) -> int | None:
        """Of the tiles by which images of ``size`` (height, width) are translated; None: whole."""
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
        tiles = Tiles(self.generator, size, side)
        work = tiles.work(self.statistics)

        def here(*box: int) -> Tensor:
            return self.laid_out(read(*box))

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half), uncompiled(self.compiled):
            yield from tiles.translate(here, self.statistics, lambda done: self.shown(done, work) if self.shown else None)

    def laid_out(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` on the device, in the order in which its convolutions want it."""
        return x.to(self.device).contiguous(memory_format=torch.channels_last if self.one_by_one else torch.contiguous_format)

    @contextmanager
    def telling(self, shown: Callable[[int, int], None]) -> Iterator[None]:
        """Within the block, ``shown`` is told, of an image that is translated by tiles, how many steps of how many are done."""
        self.shown = shown
        try:
            yield
        finally:
            self.shown = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"shown": None}  # another process shows nothing

    def quicken(self, precision: str = "auto") -> None:
        """Compute as fast as the device can. Not for networks that somebody else trains.

        On a CPU, weights are laid out as its convolutions want them, and images are translated one by one, since a batch gains nothing;
        a multi-scale generator, whose windows are a batch, stays as it is. On a GPU, convolutions compute in bfloat16, if ``precision``
        ("auto", "32" or "bf16") says so.
        """
        self.half = choose_precision(precision, self.device) == "bf16"
        if self.device.type == "cpu" and isinstance(self.generator, Generator):
            self.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.one_by_one = True

    def compile(self) -> None:
        """Compile the network, on a GPU where that can be done. It takes a minute for every new size of image or batch."""
        if self.device.type == "cuda" and missing_compiler() is None:
            compile_networks([self.generator])
            self.compiled = True

    def to(self, device: torch.device) -> None:
        """Move to a device, to be there as :func:`load` would have made it."""
        self.device, self.one_by_one = device, False
        self.generator.to(device, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.quicken()

    def pixels(self, pixels: Pixels, size: tuple[int, int], valid: Valid | None = None, nodata: float | None = None) -> Pixels:
        """An image already resized for the model, ``(H, W, C)`` as ``source`` says, to its translation at ``size`` (width, height), as
        ``target`` says. Where it is not ``valid`` it stays empty: ``nodata`` there, where the target has no value of its own for that."""
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
        y, nodata = narrowed(y, self.target.count), self.target.empty(nodata)
        if self.target.plain and self.target.count in (1, 3) and valid is None and nodata is None:
            image = to_image(y).permute(1, 2, 0).cpu().numpy()
            if image.shape[1::-1] == size:
                return image
            return banded(np.asarray(Image.fromarray(unbanded(image)).resize(size, Image.Resampling.BICUBIC)))
        x = resized(y.permute(1, 2, 0).cpu().numpy(), size)
        return self.target.stored(x, None if valid is None else nearest(valid, size), nodata)

    def _picture(self, image: Image.Image) -> Image.Image:
        if not self.target.common and (self.target.depth, self.target.count) != ("uint16", 1):
            raise UserError(f"there are no PIL images like the target's, {self.target}; give a NumPy array")
        found = prepare(image, str(self.resize), self.source)
        translation = Image.fromarray(unbanded(self.pixels(found.pixels, found.size, found.valid)))
        if found.alpha is not None and self.target.common:
            translation.putalpha(Image.fromarray(found.alpha))
        return translation

    def _array(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        count, known = self.source.count, image.ndim in (2, 3) and 0 not in image.shape
        given = image.shape[2] if image.ndim == 3 else 1
        if not known or given not in ({count, count + 1, 1} if self.source.common else {count, count + 1}):
            shapes = f"(H, W, {count}), (H, W, {count + 1}) or (H, W)" if count in (1, 3) else f"(H, W, {count}) or (H, W, {count + 1})"
            raise UserError(f"cannot translate an array of shape {image.shape}; give {shapes}")
        if not (self.source.plain and self.target.plain) or not self.source.common:
            return self._deep_array(image)
        if image.dtype == np.uint8:
            made = np.asarray(self(Image.fromarray(image[..., 0] if given == 1 and image.ndim == 3 else image)))
            return made if image.ndim == 2 else banded(made)
        if image.dtype not in (np.float32, np.float64):
            raise UserError(f"cannot translate an array of {image.dtype}; give uint8, or floats in [0, 1]")
        if given < count:
            image = np.repeat(image.reshape(*image.shape[:2], 1), count, axis=2)
        color = torch.from_numpy(np.array(banded(image)[..., :count])).permute(2, 0, 1)  # a copy: the array may be read-only
        translated = self._tensor(color).permute(1, 2, 0).numpy()
        return np.concatenate([translated, banded(image)[..., count:]], axis=2)

    def _deep_array(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if str(image.dtype) != self.source.depth:
            raise UserError(f"cannot translate an array of {image.dtype}; give {self.source}")
        pixels = banded(image)
        count = self.source.count
        alpha = pixels[..., count] if pixels.shape[2] > count else None
        pixels = pixels.repeat(count, 2) if pixels.shape[2] < count else pixels[..., :count]
        found = finished(pixels, alpha, None, str(self.resize), self.source)
        made = self.pixels(found.pixels, found.size, found.valid, found.nodata)
        if alpha is not None:
            made = with_alpha(made, alpha)
        return made[..., 0] if image.ndim == 2 and made.shape[2] == 1 else made

    def _tensor(self, image: Tensor) -> Tensor:
        count = self.source.count
        if image.ndim not in (3, 4) or image.shape[-3] != count or 0 in image.shape:
            raise UserError(f"cannot translate a tensor of shape {tuple(image.shape)}; give ({count}, H, W) or (N, {count}, H, W)")
        x = image if image.ndim == 4 else image[None]
        if not (self.source.plain and self.target.plain):
            made = [torch.from_numpy(self._deep_array(each.permute(1, 2, 0).cpu().numpy())) for each in x]
            y = torch.stack([each.permute(2, 0, 1) for each in made])
        elif image.dtype != torch.uint8 and not image.is_floating_point():
            raise UserError(f"cannot translate a tensor of {image.dtype}; give uint8, or floats in [0, 1]")
        else:
            y = self._plain_tensor(x)
        return (y if image.ndim == 4 else y[0]).to(image.device)

    def _plain_tensor(self, image: Tensor) -> Tensor:
        x = to_network(image) if image.dtype == torch.uint8 else image.to(torch.float32) * 2 - 1
        height, width = x.shape[-2:]
        wide, high = self.resize.size_for(width, height)
        y = self.network(widened(_resized(x, (high, wide)), self.config.channels))
        y = _resized(narrowed(y, self.target.count), (height, width))
        return to_image(y) if image.dtype == torch.uint8 else ((y + 1) / 2).clamp(0, 1).to(image.dtype)


def load(
    path: str | Path,
    *,
    device: str = "auto",
    direction: Direction = "forward",
    tile: Tile = "auto",
    statistics: Statistics = "exact",
    depth: Depth | None = None,
) -> Translator:
    """The translator of a run folder or a model folder.

    ``tile``: the side of the tiles by which larger images are translated, in pixels, at least 64; "none": all are translated whole;
    "auto": tiles only where the memory asks for them. ``statistics`` of the norms where there are tiles: "exact", those of the whole image,
    or "estimated" from some tiles, which is several times as fast (docs/decisions/tiling.md); of the frames of a video, those of the clip,
    but with "frame" of each by itself (docs/decisions/video.md). ``depth`` of the translations:
    "uint8", "uint16" or "float32"; None: that of the target's images.

    Raises:
        UserError: nothing there, damaged, a direction that its method does not learn, or tiles of a multi-scale model.
    """
    chosen = choose_device(device)
    if statistics not in ("exact", "estimated", "frame"):
        raise UserError(f"not statistics, {statistics!r}; use exact, estimated or frame")
    if tile not in ("auto", "none") and not (isinstance(tile, int) and tile >= SMALLEST_TILE):
        raise UserError(f"not a tile, {tile!r}; use auto, none, or a side of at least {SMALLEST_TILE} pixels")
    if depth not in (None, *FULL):
        raise UserError(f"not a depth, {depth!r}; use {', '.join(FULL)}")
    translator = Translator(modelfolder.load(Path(path), chosen), chosen, direction)
    if depth is not None and depth != translator.target.depth:
        translator.target, translator.depth = translator.target.of_depth(depth), depth
    if tile not in ("auto", "none") and not isinstance(translator.generator, Generator):
        raise UserError(f"{path} is multi-scale: it sees images in windows of its own; leave out the tiles")
    translator.tile, translator.statistics = tile, statistics
    translator.quicken()
    return translator


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False)
