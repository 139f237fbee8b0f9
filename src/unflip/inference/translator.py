"""Translating single images: what comes in, a PIL image, a NumPy array or a tensor, is what comes out.

What an image is to a model and back is here, without PyTorch; what computes is a backend: PyTorch's for run and model folders
(:mod:`unflip.inference.torch_backend`), ONNX Runtime's for what `export` made of them (:mod:`unflip.inference.onnx_backend`).
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unflip.data.bands import FULL, Bands, Depth, Pixels, Valid, banded, nearest, unbanded
from unflip.data.images import finished, prepare
from unflip.data.resize import parse_resize, resized
from unflip.data.save import with_alpha
from unflip.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    AnyImage = TypeVar("AnyImage", Image.Image, NDArray[Any], Tensor)

Direction = Literal["forward", "backward"]
Tile = int | Literal["auto", "none"]
Statistics = Literal["exact", "estimated", "frame"]
"""Of the norms where there are tiles: those of the whole image, found in one pass over it for each norm, or those of some tiles. "frame" is
"exact", but that a video's frames do not share theirs (:mod:`unflip.inference.clip`)."""

SMALLEST_TILE = 64


class Translator(ABC):
    """A trained model, called with an image of any size: ``translator(image)`` is its translation, of the same kind and size.

    Takes and gives back

    * PIL images: RGB out; alpha is kept; EXIF orientation is applied;
    * NumPy arrays ``(H, W, 3)``, or ``(H, W)`` gray, or ``(H, W, 4)`` with alpha: uint8, or floats in [0, 1];
    * tensors ``(C, H, W)`` or ``(N, C, H, W)``: uint8, or floats in [0, 1], on any device.

    That is for models of 8-bit color. Of others, images go in as ``source`` says and come out as ``target`` says: of that depth, with that
    many bands, in those units. What the model was trained to resize is resized before and back after. A ``direction`` of "backward" is
    target to source, for methods that learn both.
    """

    config: Any
    """What the model's files say: ``resize``, ``provenance``, ``files`` with their hashes."""
    device: Any
    """What it computes on; its name is "cpu", or that of a GPU."""

    def __init__(self, config: Any, source: Bands, target: Bands, direction: Direction) -> None:
        self.config, self.source, self.target, self.direction = config, source, target, direction
        self.resize = parse_resize(config.resize)
        self.depth: Depth | None = None
        """Of the translations, where that is not the target's."""
        self.tile: Tile = "auto"
        """The side of the tiles by which an image is translated, in pixels; "auto": only where it is too large for the memory."""
        self.statistics: Statistics = "exact"
        """Of the norms, where there are tiles."""
        self.shown: Callable[[int, int], None] | None = None

    @abstractmethod
    def computed(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images in [-1, 1], already resized: ``(N, C, H, W)`` with the source's bands to the same with the target's."""

    @abstractmethod
    def to(self, device: Any) -> Translator:
        """Move to a device, to be there as :func:`load` would have made it."""

    def __call__(self, image: AnyImage) -> AnyImage:
        return self.forward(image)

    def forward(self, image: AnyImage) -> AnyImage:
        """The translation. Raises ``UserError`` for what is no image, or not one like the source's."""
        if isinstance(image, Image.Image):
            return self._picture(image)
        if isinstance(image, np.ndarray):
            return self._array(image)
        torch = sys.modules.get("torch")  # whoever has a tensor has it
        if torch is not None and isinstance(image, torch.Tensor):
            return self._tensor(image)
        raise UserError(f"cannot translate a {type(image).__name__}; give a PIL image, a NumPy array or a tensor")

    def side(self, size: tuple[int, int]) -> int | None:
        """Of the tiles by which images of ``size`` (height, width) are translated; None: whole."""
        return None

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

    def pixels(self, pixels: Pixels, size: tuple[int, int], valid: Valid | None = None, nodata: float | None = None) -> Pixels:
        """An image already resized for the model, ``(H, W, C)`` as ``source`` says, to its translation at ``size`` (width, height), as
        ``target`` says. Where it is not ``valid`` it stays empty: ``nodata`` there, where the target has no value of its own for that."""
        x = self.source.normalized(pixels, valid)
        x[np.isnan(x).any(2)] = 0
        return self.finished(self._computed(x), size, valid, nodata)

    def finished(self, y: NDArray[np.float32], size: tuple[int, int], valid: Valid | None = None, nodata: float | None = None) -> Pixels:
        """A translation ``(h, w, C)`` in [-1, 1] as ``target`` says, at ``size`` (width, height)."""
        nodata = self.target.empty(nodata)
        if self.common(valid, nodata):
            return picture_at(np.clip(np.rint((y + 1) * np.float32(127.5)), 0, 255).astype(np.uint8), size)
        return self.target.stored(resized(y, size), None if valid is None else nearest(valid, size), nodata)

    def common(self, valid: Valid | None, nodata: float | None) -> bool:
        """Whether a translation is a picture as any other, that is resized in 8 bits."""
        return self.target.plain and self.target.count in (1, 3) and valid is None and nodata is None

    def _computed(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same of one image, ``(H, W, C)``."""
        return self.computed(np.ascontiguousarray(x.transpose(2, 0, 1))[None])[0].transpose(1, 2, 0)

    def _picture(self, image: Image.Image) -> Image.Image:
        if not self.target.common and (self.target.depth, self.target.count) != ("uint16", 1):
            raise UserError(f"there are no PIL images like the target's, {self.target}; give a NumPy array")
        found = prepare(image, str(self.resize), self.source)
        translation = Image.fromarray(unbanded(self.pixels(found.pixels, found.size, found.valid)))
        if found.alpha is not None and self.target.common:
            translation.putalpha(Image.fromarray(found.alpha))
        return translation

    def _array(self, image: NDArray[Any]) -> NDArray[Any]:
        count, known = self.source.count, image.ndim in (2, 3) and 0 not in image.shape
        given = image.shape[2] if image.ndim == 3 else 1
        if not known or given not in ({count, count + 1, 1} if self.source.common else {count, count + 1}):
            shapes = f"(H, W, {count}), (H, W, {count + 1}) or (H, W)" if count in (1, 3) else f"(H, W, {count}) or (H, W, {count + 1})"
            raise UserError(f"cannot translate an array of shape {image.shape}; give {shapes}")
        if not (self.source.plain and self.target.plain) or not self.source.common:
            return self._deep_array(image)
        if image.dtype == np.uint8:
            made = np.asarray(self._picture(Image.fromarray(image[..., 0] if given == 1 and image.ndim == 3 else image)))
            return made if image.ndim == 2 else banded(made)
        if image.dtype not in (np.float32, np.float64):
            raise UserError(f"cannot translate an array of {image.dtype}; give uint8, or floats in [0, 1]")
        check_floats(float(image.min()), float(image.max()))
        color = banded(image)[..., :count].astype(np.float32) if given >= count else np.repeat(banded(image), count, 2).astype(np.float32)
        size = image.shape[1::-1]
        made = resized(self._computed(resized(color * 2 - 1, self.resize.size_for(*size))), size)
        made = np.concatenate([((made + 1) / 2).clip(0, 1).astype(image.dtype), banded(image)[..., count:]], axis=2)
        return made[..., 0] if image.ndim == 2 and made.shape[2] == 1 else made

    def _deep_array(self, image: NDArray[Any]) -> NDArray[Any]:
        if str(image.dtype) != self.source.depth:
            raise UserError(f"cannot translate an array of {image.dtype}; give {self.source}")
        pixels = banded(np.ascontiguousarray(image))
        count = self.source.count
        alpha = pixels[..., count] if pixels.shape[2] > count else None
        pixels = pixels.repeat(count, 2) if pixels.shape[2] < count else pixels[..., :count]
        found = finished(pixels, alpha, None, str(self.resize), self.source)
        made = self.pixels(found.pixels, found.size, found.valid, found.nodata)
        if alpha is not None:
            made = with_alpha(made, alpha)
        return made[..., 0] if image.ndim == 2 and made.shape[2] == 1 else made

    def _tensor(self, image: Tensor) -> Tensor:
        import torch

        count = self.source.count
        if image.ndim not in (3, 4) or image.shape[-3] != count or 0 in image.shape:
            raise UserError(f"cannot translate a tensor of shape {tuple(image.shape)}; give ({count}, H, W) or (N, {count}, H, W)")
        plain = self.source.plain and self.target.plain
        if not plain and str(image.dtype) != f"torch.{self.source.depth}":
            raise UserError(f"cannot translate a tensor of {image.dtype}; give {self.source}")
        if plain and image.dtype != torch.uint8 and not image.is_floating_point():
            raise UserError(f"cannot translate a tensor of {image.dtype}; give uint8, or floats in [0, 1]")
        x = image if image.ndim == 4 else image[None]
        y = self._tensors(x) if plain else self._one_by_one(x)
        return (y if image.ndim == 4 else y[0]).to(image.device)

    def _tensors(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` of plain images. Those in bytes, too, are resized as floats."""
        if x.is_floating_point():
            return self._one_by_one(x.float()).to(x.dtype)
        return (self._one_by_one(x.float() / 255) * 255).round().to(x.dtype)

    def _one_by_one(self, x: Tensor) -> Tensor:
        import torch

        made = [torch.from_numpy(self._array(each.detach().permute(1, 2, 0).cpu().numpy())) for each in x]
        return torch.stack([each.permute(2, 0, 1) for each in made])


def check_floats(low: float, high: float) -> None:
    """Raise ``UserError`` where floats from ``low`` to ``high`` are no image in [0, 1]; what resizing adds at edges is let pass."""
    if not (low >= -0.5 and high <= 1.5):  # nor NaN
        raise UserError(f"cannot translate floats from {low:.4g} to {high:.4g}; give floats in [0, 1]")


def check_direction(direction: str) -> None:
    """Raise ``UserError`` where that is none."""
    if direction not in ("forward", "backward"):
        raise UserError(f"unknown direction {direction!r}; use forward or backward")


def picture_at(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture ``(h, w, C)`` at ``size`` (width, height); not read-only, as PyTorch wants it."""
    if image.shape[1::-1] == size:
        return image
    return banded(np.array(Image.fromarray(unbanded(image)).resize(size, Image.Resampling.BICUBIC)))


def load(
    path: str | Path,
    *,
    device: str = "auto",
    direction: Direction = "forward",
    tile: Tile = "auto",
    statistics: Statistics = "exact",
    depth: Depth | None = None,
    revision: str | None = None,
) -> Translator:
    """The translator of a run folder, a model folder, an ONNX file that `unflip export` made, or a model on the hub, ``user/name``.

    All but that of an ONNX file are an ``nn.Module``, too; for that file PyTorch is not even imported. ``revision``, of the hub: a branch,
    a tag or a commit (docs/hub.md).

    ``tile``: the side of the tiles by which larger images are translated, in pixels, at least 64; "none": all are translated whole;
    "auto": tiles only where the memory asks for them. ``statistics`` of the norms where there are tiles: "exact", those of the whole image,
    or "estimated" from some tiles, which is several times as fast (docs/decisions/tiling.md); of the frames of a video, those of the clip,
    but with "frame" of each by itself (docs/decisions/video.md). ``depth`` of the translations:
    "uint8", "uint16" or "float32"; None: that of the target's images.

    Raises:
        UserError: nothing there, damaged, a direction that its method does not learn, or tiles of a multi-scale model or an ONNX file;
            the hub cannot be reached, or has no such model.
    """
    if statistics not in ("exact", "estimated", "frame"):
        raise UserError(f"not statistics, {statistics!r}; use exact, estimated or frame")
    if tile not in ("auto", "none") and not (isinstance(tile, int) and tile >= SMALLEST_TILE):
        raise UserError(f"not a tile, {tile!r}; use auto, none, or a side of at least {SMALLEST_TILE} pixels")
    if depth not in (None, *FULL):
        raise UserError(f"not a depth, {depth!r}; use {', '.join(FULL)}")
    check_direction(direction)
    translator = _loaded(path, revision, device, direction, tile)
    if depth is not None and depth != translator.target.depth:
        translator.target, translator.depth = translator.target.of_depth(depth), depth
    translator.tile, translator.statistics = tile, statistics
    return translator


def _loaded(given: str | Path, revision: str | None, device: str, direction: Direction, tile: Tile) -> Translator:
    path = Path(given)
    if path.suffix == ".onnx" and path.is_file():
        from unflip.inference.onnx_backend import OnnxTranslator

        if revision is not None:
            raise UserError(f"{path} is a file, which has no revision; leave it out")
        if tile not in ("auto", "none"):
            raise UserError(f"{path} translates whole images; leave out the tiles, or give the folder that it was made of")
        return OnnxTranslator(path, device, direction)
    from unflip.inference.hub import local_folder
    from unflip.inference.torch_backend import from_folder

    return from_folder(local_folder(given, revision), device, direction, tiled=tile not in ("auto", "none"))
