"""Translating single images: what comes in, a PIL image, a NumPy array or a tensor, is what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unflip import modelfolder
from unflip.data.images import Array, parse_resize, prepare
from unflip.data.transforms import to_image, to_network
from unflip.devices import available_memory, choose_device, choose_precision
from unflip.errors import UserError
from unflip.inference.tiles import SIDES, Statistics, Tiles, side_for
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

    What the model was trained to resize is resized before and back after. ``direction`` "backward" translates target to source, for
    methods that learn both.
    """

    def __init__(self, model: Model, device: torch.device, direction: Direction = "forward") -> None:
        side = {"forward": FORWARD, "backward": BACKWARD}.get(direction)
        if side is None:
            raise UserError(f"unknown direction {direction!r}; use forward or backward")
        if side not in model.generators:
            raise UserError(f"{model.folder} translates forward only; its method learns no way back")
        self.config, self.folder, self.device, self.direction = model.config, model.folder, device, direction
        self.generator = model.generators[side]
        self.one_by_one = self.half = self.compiled = False
        self.tile: Tile = "auto"
        """The side of the tiles by which an image is translated, in pixels; "auto": only where it is too large for the memory."""
        self.statistics: Statistics = "exact"
        """Of the norms, where there are tiles."""
        self.resize = parse_resize(self.config.resize)

    def __call__(self, image: AnyImage) -> AnyImage:
        if isinstance(image, Image.Image):
            decoded = prepare(image, str(self.resize))
            translation = Image.fromarray(self.pixels(decoded.rgb, decoded.size))
            if decoded.alpha is not None:
                translation.putalpha(Image.fromarray(decoded.alpha))
            return translation
        if isinstance(image, np.ndarray):
            return self._array(image)
        if isinstance(image, Tensor):
            return self._tensor(image)
        raise UserError(f"cannot translate a {type(image).__name__}; give a PIL image, a NumPy array or a tensor")

    @torch.inference_mode()
    def network(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` in [-1, 1] to the same; no resizing. By tiles where ``tile`` says so; the result is then where ``x`` is."""
        side = self._side(x)
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

    def _side(self, x: Tensor) -> int | None:
        """Of the tiles by which images like ``x`` are translated; None: whole."""
        size = (x.shape[-2], x.shape[-1])
        if self.tile == "none" or not isinstance(self.generator, Generator):
            return None
        if self.tile == "auto":
            return side_for(self.generator, size, available_memory(self.device))
        return self.tile if max(size) > self.tile else None

    def _by_tiles(self, x: Tensor, side: int) -> Tensor:
        assert isinstance(self.generator, Generator)
        tiles, y = Tiles(self.generator, (x.shape[-2], x.shape[-1]), side), torch.empty_like(x)
        layout = torch.channels_last if self.one_by_one else torch.contiguous_format
        for image, translation in zip(x.split(1), y.split(1), strict=True):

            def read(top: int, left: int, bottom: int, right: int, image: Tensor = image) -> Tensor:
                return image[..., top:bottom, left:right].to(self.device).contiguous(memory_format=layout)

            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half), uncompiled(self.compiled):
                for box, part in tiles.translate(read, self.statistics):
                    translation[..., box.top : box.bottom, box.left : box.right] = part
        return y

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

    def pixels(self, rgb: Array, size: tuple[int, int]) -> Array:
        """An image already resized for the model, ``(H, W, 3)`` uint8, to its translation at ``size`` (width, height)."""
        x = torch.from_numpy(rgb).permute(2, 0, 1)[None]
        translation = to_image(self.network(to_network(x)))[0].permute(1, 2, 0).cpu().numpy()
        if translation.shape[1::-1] == size:
            return translation
        return np.asarray(Image.fromarray(translation).resize(size, Image.Resampling.BICUBIC))

    def _array(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)) or 0 in image.shape:
            raise UserError(f"cannot translate an array of shape {image.shape}; give (H, W, 3), (H, W, 4) or (H, W)")
        if image.dtype == np.uint8:
            return np.asarray(self(Image.fromarray(image)))
        if image.dtype not in (np.float32, np.float64):
            raise UserError(f"cannot translate an array of {image.dtype}; give uint8, or floats in [0, 1]")
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        color = torch.from_numpy(np.array(image[..., :3])).permute(2, 0, 1)  # a copy: the array may be read-only
        translated = self._tensor(color).permute(1, 2, 0).numpy()
        return np.concatenate([translated, image[..., 3:]], axis=2)

    def _tensor(self, image: Tensor) -> Tensor:
        if image.ndim not in (3, 4) or image.shape[-3] != 3 or 0 in image.shape:
            raise UserError(f"cannot translate a tensor of shape {tuple(image.shape)}; give (3, H, W) or (N, 3, H, W)")
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise UserError(f"cannot translate a tensor of {image.dtype}; give uint8, or floats in [0, 1]")
        x = image if image.ndim == 4 else image[None]
        x = to_network(x) if x.dtype == torch.uint8 else x.to(torch.float32) * 2 - 1
        height, width = x.shape[-2:]
        wide, high = self.resize.size_for(width, height)
        y = _resized(self.network(_resized(x, (high, wide))), (height, width))
        y = to_image(y) if image.dtype == torch.uint8 else ((y + 1) / 2).clamp(0, 1).to(image.dtype)
        return (y if image.ndim == 4 else y[0]).to(image.device)


def load(
    path: str | Path, *, device: str = "auto", direction: Direction = "forward", tile: Tile = "auto", statistics: Statistics = "exact"
) -> Translator:
    """The translator of a run folder or a model folder.

    ``tile``: the side of the tiles by which larger images are translated, in pixels, at least 64; "none": all are translated whole;
    "auto": tiles only where the memory asks for them. ``statistics`` of the norms where there are tiles: "exact", those of the whole image,
    or "estimated" from some tiles, which is several times as fast (docs/decisions/tiling.md); of the frames of a video, those of the clip,
    but with "frame" of each by itself (docs/decisions/video.md).

    Raises:
        UserError: nothing there, damaged, a direction that its method does not learn, or tiles of a multi-scale model.
    """
    chosen = choose_device(device)
    if statistics not in ("exact", "estimated", "frame"):
        raise UserError(f"not statistics, {statistics!r}; use exact, estimated or frame")
    if tile not in ("auto", "none") and not (isinstance(tile, int) and tile >= SMALLEST_TILE):
        raise UserError(f"not a tile, {tile!r}; use auto, none, or a side of at least {SMALLEST_TILE} pixels")
    translator = Translator(modelfolder.load(Path(path), chosen), chosen, direction)
    if tile not in ("auto", "none") and not isinstance(translator.generator, Generator):
        raise UserError(f"{path} is multi-scale: it sees images in windows of its own; leave out the tiles")
    translator.tile, translator.statistics = tile, statistics
    translator.quicken()
    return translator


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False)
