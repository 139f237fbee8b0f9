"""Translating: what comes in is what comes out, folders keep their names and sizes, and a damaged model is never half loaded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import unflip
from helpers import lively, make_model, refused, rng
from unflip import modelfolder
from unflip.data.bands import FULL, Bands
from unflip.data.formats import FORMATS
from unflip.data.places import Place
from unflip.errors import UserError
from unflip.files import sha256
from unflip.inference.folders import MANIFEST, Outcome, translate_folder
from unflip.inference.manifest import Manifest
from unflip.inference.torch_backend import TorchTranslator
from unflip.inference.translator import Translator
from unflip.networks import ResnetConfig

LEVEL = 1 / 255
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``models(resize="short:16")``: a model folder, made once."""
    root = tmp_path_factory.mktemp("models")
    made: dict[str, Path] = {}

    def model(**arguments: Any) -> Path:
        key = repr(arguments)
        if key not in made:
            made[key] = make_model(root / str(len(made)), **arguments)
        return made[key]

    return model


@pytest.fixture(scope="module")
def translator(models: Callable[..., Path]) -> Translator:
    return unflip.load(models(), device="cpu")


def picture(width: int = 25, height: int = 18, channels: int = 3, seed: int = 0) -> Array:
    """A smooth image plus noise, uint8 ``(height, width, channels)``, whose channels differ."""
    random = np.random.default_rng([seed, width, height])
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (3 + c) + y / (5 - c / 2) + random.uniform(0, 6)) for c in range(channels)]
    noisy = 128 + 90 * np.stack(waves, axis=2) + random.uniform(-37, 37, (height, width, channels))
    return noisy.clip(0, 255).astype(np.uint8)


def by_hand(folder: Path, image: Array, side: str = "to_target") -> Array:
    """The translation of ``(H, W, 3)`` in [0, 1], in [0, 1]: the weights from the file, the network from config.json, no more."""
    values = json.loads((folder / "config.json").read_text())
    network = ResnetConfig(**values["generator"]).build(3, 3, torch.Generator())
    tensors = load_file(folder / "model.safetensors")
    network.load_state_dict({name.removeprefix(f"{side}."): value for name, value in tensors.items() if name.startswith(f"{side}.")})
    x = torch.from_numpy(np.asarray(image, dtype=np.float32)).permute(2, 0, 1)[None] * 2 - 1
    with torch.no_grad():
        y = lively(network.eval()(x)) if x[0, 0].numel() > 64 else network.eval()(x)
    return ((y[0].permute(1, 2, 0).double().numpy() + 1) / 2).clip(0, 1)


def unit(image: Any) -> Array:
    """Colors of any kind of image as float64 ``(H, W, 3)`` in [0, 1]."""
    if isinstance(image, Tensor):
        image = image.permute(1, 2, 0).float().numpy() if image.is_floating_point() else image.permute(1, 2, 0).numpy()
    image = np.asarray(image)
    return (image / 255 if image.dtype == np.uint8 else image.astype(np.float64))[..., :3]


def agree(a: Array, b: Array) -> bool:
    """Whether no value differs by more than one level of uint8."""
    return a.shape == b.shape and bool(np.abs(a - b).max() <= LEVEL)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below ``folder``, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def manifest(out: Path) -> list[dict[str, Any]]:
    """Its lines, but those that a call begins with."""
    return [line for text in (out / MANIFEST).read_text().splitlines() if (line := json.loads(text))["status"] != "begun"]


def quietly(translator: Translator, source: Path, out: Path) -> Outcome:
    return translate_folder(translator, source, out, progress=False)


def save(path: Path, pixels: Array, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


# --- single images

KINDS: dict[str, Callable[[Array], Any]] = {
    "PIL": Image.fromarray,
    "numpy uint8": lambda image: image,
    "numpy float32": lambda image: (image / 255).astype(np.float32),
    "numpy float64": lambda image: image / 255,
    "tensor uint8": lambda image: torch.from_numpy(image).permute(2, 0, 1),
    "tensor float32": lambda image: torch.from_numpy(image).permute(2, 0, 1) / 255,
    "tensor float64": lambda image: torch.from_numpy(image).permute(2, 0, 1).double() / 255,
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_size = pytest.mark.parametrize(("width", "height"), [(25, 18), (32, 32), (3, 71), (1, 1), (8, 5)])


@each_size
@each_kind
def test_every_kind_gives_the_generators_output(translator: Translator, kind: str, width: int, height: int) -> None:
    image = picture(width, height)
    expected = by_hand(translator.folder, image / 255)
    result = translator(KINDS[kind](image))
    assert agree(unit(result), expected)
    if width * height > 64:  # broken twins fail the same comparison
        assert not agree(unit(translator(KINDS[kind](image[..., ::-1].copy()))), expected)
        assert not agree(unit(result)[..., ::-1], expected)
        assert not agree(unit(result)[::-1], expected)
        assert not agree(unit(translator(KINDS[kind]((image // 1.05).astype(np.uint8)))), expected)


def test_the_network_sees_values_from_minus_one_to_one(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output cannot tell: the first instance norm removes any brightness and contrast."""
    seen: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    monkeypatch.setattr(translator.generator, "forward", network)
    image, gray = picture(), picture(25, 18, 1)[..., 0]
    expected = torch.from_numpy(image / 127.5 - 1).permute(2, 0, 1)[None].float()
    for kind in KINDS.values():
        result = unit(translator(kind(image)))
        assert (seen.pop() - expected).abs().max() < 1e-6
        assert np.abs(result - image / 255).max() < 1e-6, "and back again"
    expected = torch.from_numpy(gray / 127.5 - 1).expand(1, 3, -1, -1).float()
    for same in (gray, gray / 255, (gray / 255).astype(np.float32), Image.fromarray(gray)):
        translator(same)
        assert (seen.pop() - expected).abs().max() < 1e-6


@each_kind
def test_what_comes_out_is_what_came_in(translator: Translator, kind: str) -> None:
    image = KINDS[kind](picture(25, 18))
    before = unit(image).copy()
    result = translator(image)
    assert isinstance(image, Image.Image) == isinstance(result, Image.Image) and isinstance(result, (type(image), Image.Image))
    if isinstance(image, Image.Image):
        assert (result.mode, result.size) == ("RGB", (25, 18))
    else:
        assert (result.dtype, result.shape) == (image.dtype, image.shape)
    if isinstance(image, Tensor):
        assert result.device == image.device and not result.requires_grad
    assert (unit(image) == before).all(), "the input was written to"
    assert unit(result).min() >= 0 and unit(result).max() <= 1


def test_gray_images(translator: Translator) -> None:
    gray = picture(25, 18, 1)[..., 0]
    expected = by_hand(translator.folder, np.repeat(gray[..., None], 3, axis=2) / 255)
    for image in (Image.fromarray(gray), gray, (gray / 255).astype(np.float32), gray / 255):
        assert agree(unit(translator(image)), expected)
    assert translator(gray).dtype == np.uint8 and translator(gray / 255).dtype == np.float64
    assert translator(Image.fromarray(gray)).mode == "RGB"


def test_palette_and_one_bit_images(translator: Translator) -> None:
    for image in (Image.fromarray(picture()).quantize(8), Image.fromarray(picture()).convert("1")):
        assert agree(unit(translator(image)), by_hand(translator.folder, np.array(image.convert("RGB")) / 255))


def test_alpha_is_kept_bit_for_bit_and_changes_no_color(translator: Translator) -> None:
    image = picture(25, 18, 4)
    image[3:9, 2:7, 3] = 0
    expected = by_hand(translator.folder, image[..., :3] / 255)
    for given in (Image.fromarray(image), image, (image / 255).astype(np.float32), image / 255):
        result = translator(given)
        assert agree(unit(result), expected)
        assert (np.asarray(result)[..., 3] == np.asarray(given)[..., 3]).all()
    assert translator(Image.fromarray(image)).mode == "RGBA"
    gray = Image.fromarray(image[..., 0])
    gray.putalpha(Image.fromarray(image[..., 3]))
    assert gray.mode == "LA" and (np.array(translator(gray))[..., 3] == image[..., 3]).all()
    palette = Image.fromarray(image[..., :3]).quantize(8)
    palette.info["transparency"] = 2
    result = np.array(translator(palette))
    assert result.shape == (18, 25, 4) and ((result[..., 3] == 0) == (np.array(palette) == 2)).all()


def test_exif_orientation_is_applied(translator: Translator, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the camera was turned: rotate clockwise to see it upright
    path = save(tmp_path / "turned.png", picture(25, 18), exif=exif)
    with Image.open(path) as image:
        result = translator(image)
    assert result.size == (18, 25)
    assert agree(unit(result), by_hand(translator.folder, np.rot90(picture(25, 18), -1) / 255))
    assert result.getexif().get(ExifTags.Base.Orientation, 1) == 1


def test_batches_of_tensors(translator: Translator) -> None:
    images = torch.stack([KINDS["tensor uint8"](picture(seed=seed)) for seed in range(3)])
    for batch in (images, images / 255, images.double() / 255):
        result = translator(batch)
        assert (result.dtype, result.shape, result.device) == (batch.dtype, batch.shape, batch.device)
        for one, image in zip(result, batch, strict=True):
            assert agree(unit(one), unit(translator(image)))
        assert not agree(unit(result[0]), unit(result[1]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tensors_are_computed_in_full(translator: Translator, dtype: torch.dtype) -> None:
    image = (KINDS["tensor float32"](picture())).to(dtype)
    result = translator(image)
    assert result.dtype == dtype
    step = torch.finfo(dtype).eps  # of the result's own rounding, below 1
    assert (unit(result) - by_hand(translator.folder, unit(image))).__abs__().max() <= step


def test_odd_memory_layouts(translator: Translator) -> None:
    image = picture()
    expected = translator(image)
    padded = np.zeros((20, 30, 3), np.uint8)
    padded[1:19, 2:27] = image
    frozen = image.copy()
    frozen.flags.writeable = False
    for view in (np.asfortranarray(image), padded[1:19, 2:27], image[::-1].copy()[::-1], frozen):
        assert (translator(view) == expected).all()
        if view.flags.writeable:
            assert agree(unit(translator(view / 255)), unit(expected))
    channels_last = KINDS["tensor uint8"](image)[None].contiguous(memory_format=torch.channels_last)
    assert agree(unit(translator(channels_last)[0]), unit(expected))


def test_floats_that_are_no_image_are_refused(translator: Translator) -> None:
    image = KINDS["tensor float32"](picture())
    for wrong, said in ((image * 255, "from 1 to 254"), (image * 2 - 1, r"from -0\.99\d+ to 0\.99\d+"), (image.clone(), "from nan to nan")):
        if "nan" in said:
            wrong[0, 3, 3] = torch.nan
        for given in (wrong, wrong.double()[None], wrong.permute(1, 2, 0).numpy()):
            with pytest.raises(UserError, match=rf"cannot translate floats {said}; give floats in \[0, 1\]"):
                translator(given)
    assert bool(translator(image * 1.2 - 0.1).isfinite().all()), "what resizing adds at edges is no error"


def test_gray_stays_gray_with_a_gray_model(tmp_path: Path) -> None:
    gray = unflip.load(make_model(tmp_path, source=Bands(count=1), target=Bands(count=1)), device="cpu")
    image = picture(25, 18, 1)[..., 0]
    for given in (image, (image / 255).astype(np.float32), image / 255):
        made = gray(given)
        assert made.shape == given.shape and made.dtype == given.dtype
        assert agree(unit(made), unit(gray(image)))
    with pytest.raises(UserError, match="mode LAB, which Pillow does not convert to L; convert it to RGB"):
        gray(Image.new("LAB", (25, 18)))


def test_translations_of_another_depth(model: Path) -> None:
    """Of arrays however they lie, and of tensors that somebody has a gradient for; of other types it is said."""
    deep, image = unflip.load(model, device="cpu", depth="uint16"), picture()
    assert np.array_equal(deep(image[::-1, ::-1]), deep(image[::-1, ::-1].copy()))
    with pytest.raises(UserError, match=r"cannot translate a tensor of torch\.bfloat16; give uint8 with 3 bands"):
        deep(torch.rand(3, 8, 8, dtype=torch.bfloat16, requires_grad=True))


def test_read_only_floats(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    image = (picture() / 255).astype(np.float32)
    expected = translator(image)
    image.flags.writeable = False
    from_numpy = torch.from_numpy

    def strict(array: Array) -> Tensor:
        assert array.flags.writeable, "torch warns of this, once in a process"
        return from_numpy(array)

    monkeypatch.setattr(torch, "from_numpy", strict)
    assert (translator(image) == expected).all()


@pytest.mark.parametrize(
    "image",
    [
        "image.png",
        [[0, 1], [2, 3]],
        np.zeros((5, 5, 2), np.uint8),
        np.zeros((3, 5, 5, 3), np.uint8),
        np.zeros((5,), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 5, 3), np.int64),
        np.zeros((5, 5, 3), np.uint16),
        np.zeros((5, 5, 3), bool),
        torch.zeros(5, 5, dtype=torch.uint8),
        torch.zeros(5, 5, 3),
        torch.zeros(1, 5, 5),
        torch.zeros(0, 3, 5, 5),
        torch.zeros(3, 5, 5, dtype=torch.int64),
        torch.zeros(3, 5, 5, dtype=torch.bool),
        Image.fromarray(np.zeros((5, 5), np.uint16)),
        Image.fromarray(np.zeros((5, 5), np.float32)),
    ],
    ids=lambda image: f"{type(image).__name__} {getattr(image, 'shape', '')} {getattr(image, 'dtype', getattr(image, 'mode', ''))}",
)
def test_other_kinds_are_refused_in_one_line(translator: Translator, image: Any) -> None:
    with pytest.raises(UserError) as refused:
        translator(image)
    assert "\n" not in str(refused.value) and ";" in str(refused.value)


# --- resizing


@pytest.mark.parametrize(("resize", "inner"), [("short:16", (22, 16)), ("40x24", (40, 24)), ("short:18", (25, 18))])
def test_a_resize_is_applied_and_undone(models: Callable[..., Path], resize: str, inner: tuple[int, int]) -> None:
    translator = unflip.load(models(resize=resize), device="cpu")
    image = picture(25, 18, 4)
    smaller = Image.fromarray(image[..., :3]).resize(inner, Image.Resampling.BICUBIC)
    translated = (by_hand(translator.folder, np.asarray(smaller) / 255) * 255).round().astype(np.uint8)
    expected = np.asarray(Image.fromarray(translated).resize((25, 18), Image.Resampling.BICUBIC)) / 255
    result = np.asarray(translator(Image.fromarray(image)))
    assert result.shape == (18, 25, 4) and (result[..., 3] == image[..., 3]).all()
    assert np.abs(unit(result) - expected).max() <= 2 * LEVEL, "one level of the translation, spread by the resize"
    if inner != (25, 18):
        assert np.abs(unit(result) - by_hand(translator.folder, image[..., :3] / 255)).max() > 20 * LEVEL
    for kind in KINDS:
        given = KINDS[kind](image[..., :3].copy())
        other = unit(translator(given))
        assert other.shape == (18, 25, 3)
        # torch resizes without rounding to levels in between
        assert np.abs(other - unit(result)).mean() < 4 * LEVEL
        assert np.abs(other[..., ::-1] - unit(result)).mean() > 20 * LEVEL


def test_a_resized_folder_has_its_original_sizes(models: Callable[..., Path], tmp_path: Path) -> None:
    translator = unflip.load(models(resize="short:16"), device="cpu")
    sizes = {"a": (25, 18), "b": (3, 71), "c": (16, 40), "d": (1, 1)}
    for name, size in sizes.items():
        save(tmp_path / f"in/{name}.png", picture(*size))
    assert quietly(translator, tmp_path / "in", tmp_path / "out").done == 4
    for name, size in sizes.items():
        with Image.open(tmp_path / f"out/{name}.png") as image:
            assert image.size == size
            assert (np.asarray(image) == np.asarray(translator(Image.open(tmp_path / f"in/{name}.png")))).all()
    assert {line["file"]: tuple(line["size"]) for line in manifest(tmp_path / "out")} == {f"{n}.png": s for n, s in sizes.items()}


# --- directions


def test_two_sided_models_translate_both_ways(models: Callable[..., Path], tmp_path: Path) -> None:
    folder = models(sides=2)
    image = picture()
    forward, backward = (unflip.load(folder, device="cpu", direction=direction) for direction in ("forward", "backward"))
    assert agree(unit(forward(image)), by_hand(folder, image / 255, "to_target"))
    assert agree(unit(backward(image)), by_hand(folder, image / 255, "to_source"))
    assert not agree(unit(forward(image)), unit(backward(image)))
    save(tmp_path / "in/a.png", image)
    quietly(forward, tmp_path / "in", tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(UserError, match="another model, or by this one used otherwise"):
        quietly(backward, tmp_path / "in", tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_one_sided_models_know_no_way_back(models: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="translates forward only"):
        unflip.load(models(), device="cpu", direction="backward")
    with pytest.raises(UserError, match="unknown direction 'sideways'; use forward or backward"):
        unflip.load(models(), device="cpu", direction="sideways")  # type: ignore[arg-type]


# --- folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of every ending, of odd sizes, in sub-folders."""
    root = tmp_path / "images"
    for i, suffix in enumerate(sorted(FORMATS)):
        save(root / f"{i}{suffix}", picture(20 + i, 17))
    save(root / "sub/deep er/Été.PNG", picture(3, 71))
    save(root / "sub/0.png", picture(1, 1))
    save(root / "sub/0.bmp", picture(9, 11, seed=4))
    (root / "sub/notes.txt").write_text("not an image")
    save(root / ".hidden/0.png", picture())
    return root


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_folder_keeps_names_sizes_and_endings(translator: Translator, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new/out"
    before = tree(folder)
    expected = names(folder) - {"sub/notes.txt", ".hidden/0.png"}
    assert quietly(translator, folder, out) == Outcome(done=len(expected), copied=1)
    assert names(out) == expected | {MANIFEST, "sub/notes.txt"}
    assert tree(folder) == before
    for name in expected:
        with Image.open(folder / name) as source, Image.open(out / name) as image:
            assert (image.size, image.mode, image.format) == (source.size, "RGB", source.format)
            wanted = np.asarray(translator(source)).astype(int)
            difference = np.abs(np.asarray(image).astype(int) - wanted)
        if source.format == "JPEG":
            assert difference.mean() < 5 and wanted.std() > 25  # lossy; a wrong picture is off by tens
        else:
            assert not difference.any(), name
    *lines, notes = manifest(out)
    assert (notes["file"], notes["status"]) == ("sub/notes.txt", "copied")
    assert sorted(line["file"] for line in lines) == sorted(expected)
    digest = sha256(translator.folder / "model.safetensors")
    for line in lines:
        assert set(line) == {"file", "source", "stamp", "model", "by", "status", "size", "seconds"}
        assert line["status"] == "done" and line["model"] == f"{digest}:forward" and line["seconds"] >= 0
        assert Path(line["source"]) == folder / line["file"]
        with Image.open(folder / line["file"]) as source:
            assert tuple(line["size"]) == source.size


@pytest.mark.parametrize("suffix", sorted(suffix for suffix, kind in FORMATS.items() if kind != "JPEG"))
def test_alpha_in_files_is_kept_where_the_format_can(translator: Translator, tmp_path: Path, suffix: str) -> None:
    image = picture(25, 18, 4)
    lossless = {"lossless": True, "exact": True} if FORMATS[suffix] == "WEBP" else {}
    save(tmp_path / f"in/a{suffix}", image, **lossless)
    with Image.open(tmp_path / f"in/a{suffix}") as stored:
        kept = stored.has_transparency_data and FORMATS[suffix] != "BMP"
    quietly(translator, tmp_path / "in", tmp_path / "out")
    with Image.open(tmp_path / f"out/a{suffix}") as result:
        assert result.mode == ("RGBA" if kept else "RGB")
        assert not kept or (np.asarray(result)[..., 3] == image[..., 3]).all()
        assert agree(unit(result), by_hand(translator.folder, image[..., :3] / 255))
    assert kept or FORMATS[suffix] == "BMP"


def test_turned_gray_and_palette_files(translator: Translator, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    save(tmp_path / "in/turned.tiff", picture(25, 18), exif=exif)
    save(tmp_path / "in/gray.png", picture(25, 18)[..., 0])
    Image.fromarray(picture(25, 18)).quantize(8).save(tmp_path / "in/palette.png")
    Image.fromarray(picture(25, 18)).convert("CMYK").save(tmp_path / "in/cmyk.tif")
    quietly(translator, tmp_path / "in", tmp_path / "out")
    for name, size in (("turned.tiff", (18, 25)), ("gray.png", (25, 18)), ("palette.png", (25, 18)), ("cmyk.tif", (25, 18))):
        with Image.open(tmp_path / "out" / name) as image:
            assert (image.size, image.mode) == (size, "RGB"), name
            assert image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    assert agree(unit(Image.open(tmp_path / "out/turned.tiff")), by_hand(translator.folder, np.rot90(picture(25, 18)) / 255))


def test_a_list_and_a_single_image(translator: Translator, folder: Path, tmp_path: Path) -> None:
    (folder / "list.txt").write_text("# two of them\nsub/0.bmp\n4.tif\n")
    assert quietly(translator, folder / "list.txt", tmp_path / "a").done == 2
    assert names(tmp_path / "a") == {"sub/0.bmp", "4.tif", MANIFEST}
    assert quietly(translator, folder / "sub/0.bmp", tmp_path / "b").done == 1
    assert names(tmp_path / "b") == {"0.bmp", MANIFEST}
    assert (tmp_path / "a/sub/0.bmp").read_bytes() == (tmp_path / "b/0.bmp").read_bytes()
    missing = folder / "missing.txt"
    missing.write_text("sub/1.bmp\n")
    for source, said in ((missing, "line 1"), (folder / "none.png", "no such"), (folder / "sub/notes.txt", "no such image")):
        with pytest.raises(UserError, match=said):
            quietly(translator, source, tmp_path / "c")
    assert not (tmp_path / "c").exists()


# --- going on


@pytest.fixture
def done(translator: Translator, tmp_path: Path) -> tuple[Path, Path]:
    """A source folder of four images and its translations."""
    for i in range(4):
        save(tmp_path / f"four/{i}.png", picture(seed=i))
    quietly(translator, tmp_path / "four", tmp_path / "out")
    return tmp_path / "four", tmp_path / "out"


def age(out: Path) -> None:
    """Make the images of ``out`` old, so that it shows which ones are written anew."""
    for path in out.glob("*.png"):
        os.utime(path, (1, 1))


def rewritten(out: Path) -> set[str]:
    return {path.name for path in out.glob("*.png") if path.stat().st_mtime > 1}


def test_what_is_done_is_not_done_again(translator: Translator, done: tuple[Path, Path]) -> None:
    source, out = done
    content = tree(out)
    age(out)
    assert quietly(translator, source, out) == Outcome(done=0, skipped=4)
    assert tree(out) == content and not rewritten(out)
    (out / "2.png").unlink()
    assert quietly(translator, source, out) == Outcome(done=1, skipped=3)
    assert rewritten(out) == {"2.png"}
    assert all(tree(out)[name] == content[name] for name in content if name != MANIFEST) and tree(out).keys() == content.keys()
    assert [line["file"] for line in manifest(out)] == ["0.png", "1.png", "2.png", "3.png", "2.png"]


def test_images_that_changed_are_translated_again(translator: Translator, done: tuple[Path, Path]) -> None:
    source, out = done
    content = tree(out)
    save(source / "1.png", picture(seed=9))
    age(out)
    assert quietly(translator, source, out) == Outcome(done=1, skipped=3)
    assert rewritten(out) == {"1.png"} and (out / "1.png").read_bytes() != content["1.png"]
    assert quietly(translator, source, out) == Outcome(done=0, skipped=4)
    lines = (out / MANIFEST).read_text().splitlines()
    (out / MANIFEST).write_text("".join(json.dumps({k: v for k, v in json.loads(line).items() if k != "stamp"}) + "\n" for line in lines))
    save(source / "2.png", picture(seed=9))
    assert quietly(translator, source, out) == Outcome(done=0, skipped=4), "older manifests do not tell"


def test_what_others_put_there_is_not_written_over(translator: Translator, tmp_path: Path) -> None:
    """Neither in an empty folder nor beside translations; what a killed call left, of the same images, is."""
    photos = tmp_path / "project/photos"
    for i, name in enumerate(("cat", "dog")):
        save(photos / f"{name}.png", picture(seed=i))
    own = save(tmp_path / "project/dog.png", picture(seed=5)).read_bytes()
    refused(lambda: quietly(translator, photos / "dog.png", tmp_path / "project"), "holds another dog.png, which unflip did not write")
    assert quietly(translator, photos / "cat.png", tmp_path / "project").done == 1
    refused(lambda: quietly(translator, photos / "dog.png", tmp_path / "project"), "holds another dog.png, which unflip did not write")
    assert (tmp_path / "project/dog.png").read_bytes() == own

    quietly(translator, photos, tmp_path / "out")
    lines = (tmp_path / "out" / MANIFEST).read_text().splitlines(keepends=True)
    (tmp_path / "out" / MANIFEST).write_text("".join(lines[:-1]))
    assert quietly(translator, photos, tmp_path / "out") == Outcome(done=1, skipped=1)


def test_long_names_are_kept(translator: Translator, tmp_path: Path) -> None:
    names = ["x" * 251 + ".png", "\N{CJK UNIFIED IDEOGRAPH-4E00}" * 83 + ".png"]
    for name in names:
        save(tmp_path / "in" / name, picture())
    assert quietly(translator, tmp_path / "in", tmp_path / "out").done == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, MANIFEST}


def test_new_images_are_added(translator: Translator, done: tuple[Path, Path]) -> None:
    source, out = done
    save(source / "new/4.png", picture(seed=4))
    assert quietly(translator, source, out) == Outcome(done=1, skipped=4)
    assert (out / "new/4.png").is_file()


def test_a_manifest_cut_short_is_tolerated(translator: Translator, done: tuple[Path, Path]) -> None:
    source, out = done
    content = tree(out)
    text = (out / MANIFEST).read_text()
    (out / MANIFEST).write_text(text[:-30])
    assert quietly(translator, source, out) == Outcome(done=1, skipped=3)
    assert tree(out).keys() == content.keys() and all(tree(out)[name] == content[name] for name in content if name != MANIFEST)


def test_after_a_cut_every_line_can_be_read(translator: Translator, done: tuple[Path, Path]) -> None:
    source, out = done
    (out / MANIFEST).write_text((out / MANIFEST).read_text()[:-30])
    quietly(translator, source, out)
    assert quietly(translator, source, out) == Outcome(done=0, skipped=4)


def test_an_interrupted_folder_goes_on(
    translator: Translator, done: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = done
    pixels, calls = translator.pixels, []

    def interrupted(rgb: Array, size: tuple[int, int], *more: Any) -> Array:
        calls.append(size)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return pixels(rgb, size, *more)

    monkeypatch.setattr(translator, "pixels", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quietly(translator, source, tmp_path / "other")
    assert names(tmp_path / "other") == {"0.png", "1.png", MANIFEST}
    assert quietly(translator, source, tmp_path / "other") == Outcome(done=2, skipped=2)
    assert all((tmp_path / "other" / f"{i}.png").read_bytes() == (out / f"{i}.png").read_bytes() for i in range(4))


def test_translations_of_another_model_are_not_mixed(models: Callable[..., Path], done: tuple[Path, Path]) -> None:
    source, out = done
    before = tree(out)
    with pytest.raises(UserError, match="another model, or by this one used otherwise; choose another folder"):
        quietly(unflip.load(models(seed=8), device="cpu"), source, out)
    assert tree(out) == before


BYTES, DEEP = Bands(), Bands(depth="uint16", ranges=(FULL["uint16"],))


@pytest.mark.parametrize(
    "otherwise",
    [
        {"resize": "16x16"},
        {"source": Bands(ranges=((0, 200),))},
        {"target": Bands(nodata=0)},
        {"target": DEEP.model_copy(update={"nodata": 0})},
    ],
)
def test_one_models_translations_made_otherwise_are_not_mixed(
    models: Callable[..., Path], done: tuple[Path, Path], otherwise: dict[str, Any]
) -> None:
    source, out = done
    before = tree(out)
    with pytest.raises(UserError, match="by this one used otherwise"):
        quietly(unflip.load(models(**otherwise), device="cpu"), source, out)
    assert tree(out) == before


@pytest.mark.parametrize("bands", [BYTES, DEEP])
def test_the_key_of_usual_models_is_that_of_early_manifests(models: Callable[..., Path], tmp_path: Path, bands: Bands) -> None:
    translator = unflip.load(models(source=bands, target=bands), device="cpu")
    assert Manifest(Place(tmp_path), translator).model == f"{translator.config.files['model.safetensors']}:forward"


def test_translations_of_other_images_are_not_mixed(translator: Translator, done: tuple[Path, Path], tmp_path: Path) -> None:
    _, out = done
    save(tmp_path / "others/2.png", picture(seed=9))
    before = tree(out)
    with pytest.raises(UserError, match=r"holds translations of other images, such as 2\.png; choose another folder"):
        quietly(translator, tmp_path / "others", out)
    assert tree(out) == before


def test_files_that_unflip_did_not_write_are_not_written_over(translator: Translator, done: tuple[Path, Path], tmp_path: Path) -> None:
    source, _ = done
    save(tmp_path / "photos/2.png", picture(seed=9))
    before = tree(tmp_path / "photos")
    with pytest.raises(UserError, match=r"holds another 2\.png, which unflip did not write; choose another folder"):
        quietly(translator, source, tmp_path / "photos")
    assert tree(tmp_path / "photos") == before


# --- the sources are safe


def test_out_may_not_be_the_source(
    translator: Translator, done: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _ = done
    (tmp_path / "link").symlink_to(source, target_is_directory=True)
    save(source / "sub/5.png", picture(seed=5))
    (source / "list.txt").write_text("0.png\n1.png\n")
    before = tree(source)
    monkeypatch.chdir(source)
    pairs = [
        (source, source),
        (source, tmp_path / "link"),
        (tmp_path / "link", source),
        (source, Path()),
        (Path(), source),
        (source, source / "sub/.."),
        (source, source / "sub"),
        (source / "0.png", source),
        (Path("0.png"), Path()),
        (source / "list.txt", source),
    ]
    for images, out in pairs:
        with pytest.raises(UserError, match=r"(lies in the folder of|is where) the source images.*; choose another folder"):
            quietly(translator, images, out)
    assert tree(source) == before


def test_the_parent_of_the_sources_is_an_odd_but_harmless_choice(translator: Translator, tmp_path: Path) -> None:
    save(tmp_path / "data/images/0.png", picture())
    quietly(translator, tmp_path / "data/images", tmp_path / "data")
    assert (np.asarray(Image.open(tmp_path / "data/images/0.png")) == picture()).all() and (tmp_path / "data/0.png").is_file()


def write_over(kind: str, root: Path) -> tuple[Path, Path]:
    """(input, out) of a call that would write over a source."""
    if kind == "list of two folders, into their parent":
        save(root / "one/0.png", picture())
        save(root / "two/0.png", picture(seed=1))
        (root / "list.txt").write_text("one/0.png\ntwo/0.png\n")
        return root / "list.txt", root
    if kind == "a folder in a folder of the same name, into the parent":
        save(root / "images/0.png", picture())
        save(root / "images/images/0.png", picture(seed=1))
        return root / "images", root
    save(root / "real/0.png", picture())
    (root / "linked").mkdir()
    (root / "linked/0.png").symlink_to(root / "real/0.png")
    return root / "linked", root / "real"


@pytest.mark.parametrize(
    "kind",
    [
        "list of two folders, into their parent",
        "a folder in a folder of the same name, into the parent",
        "links to images, into their folder",
    ],
)
def test_no_source_is_ever_written_over(translator: Translator, tmp_path: Path, kind: str) -> None:
    images, out = write_over(kind, tmp_path)
    before = tree(tmp_path)
    with pytest.raises(UserError, match="choose another folder"):
        quietly(translator, images, out)
    assert tree(tmp_path) == before


def test_out_inside_the_input_is_refused_at_once_or_goes_on(translator: Translator, done: tuple[Path, Path]) -> None:
    source, _ = done
    try:
        quietly(translator, source, source / "translated")
    except UserError:
        return
    assert quietly(translator, source, source / "translated") == Outcome(done=0, skipped=4)


# --- bad files


def test_a_bad_file_is_listed_and_the_rest_is_done(
    cli: Callable[..., Any], models: Callable[..., Path], done: tuple[Path, Path], tmp_path: Path
) -> None:
    source, _ = done
    good = (source / "1.png").read_bytes()
    (source / "1.png").write_bytes(good[: len(good) // 2])
    (source / "sub").mkdir()
    (source / "sub/fake.jpg").write_text("this is no image")
    out = tmp_path / "mended"
    result = cli("translate", models(), source, "--out", out, "--device", "cpu")
    assert result.code == 1 and result.stdout == f"{out}: 3 translated\n"
    failed = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 2 and str(source / "1.png") in failed[0] and str(source / "sub/fake.jpg") in failed[1]
    assert "Traceback" not in result.stderr and names(out) == {"0.png", "2.png", "3.png", MANIFEST}
    lines = {line["file"]: line for line in manifest(out)}
    assert {name for name, line in lines.items() if line["status"] == "failed"} == {"1.png", "sub/fake.jpg"}
    assert str(source / "1.png") in lines["1.png"]["error"]

    (source / "1.png").write_bytes(good)
    (source / "sub/fake.jpg").unlink()
    result = cli("translate", models(), source, "--out", out, "--device", "cpu")
    assert result.code == 0 and result.stdout == f"{out}: 1 translated, 3 already there\n"
    assert cli("translate", models(), source, "--out", out, "--device", "cpu").stdout == f"{out}: 0 translated, 4 already there\n"


def test_a_single_bad_image_is_a_wrong_call(cli: Callable[..., Any], models: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "fake.png").write_text("this is no image")
    result = cli("translate", models(), tmp_path / "fake.png", "--out", tmp_path / "out")
    assert result.code == 2 and result.stderr.startswith("error: ") and "fake.png" in result.stderr and result.stderr.count("\n") == 1
    assert not result.stdout and not (tmp_path / "out").exists()


def test_a_folder_in_the_way_of_an_output_is_said_in_one_line(translator: Translator, done: tuple[Path, Path], tmp_path: Path) -> None:
    source, _ = done
    (tmp_path / "other/1.png").mkdir(parents=True)
    try:
        outcome = quietly(translator, source, tmp_path / "other")
    except UserError:
        return
    assert (outcome.done, len(outcome.failed)) == (3, 1)


# --- model folders


@pytest.fixture
def model(models: Callable[..., Path], tmp_path: Path) -> Path:
    """A model folder to damage."""
    return shutil.copytree(models(), tmp_path / "model")


def test_a_model_needs_nothing_of_its_run(models: Callable[..., Path], tmp_path: Path) -> None:
    expected = unflip.load(models(), device="cpu")(picture())
    shutil.copytree(models(), tmp_path / "run/model")
    assert (unflip.load(tmp_path / "run", device="cpu")(picture()) == expected).all()
    os.rename(tmp_path / "run/model", tmp_path / "moved")
    shutil.rmtree(tmp_path / "run")
    assert (unflip.load(str(tmp_path / "moved"), device="cpu")(picture()) == expected).all()
    with pytest.raises(UserError, match="does not exist"):
        unflip.load(tmp_path / "run")


def flip_bit(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("place", [0, 100, -1])
def test_one_wrong_bit_in_the_weights(model: Path, place: int) -> None:
    flip_bit(model / "model.safetensors", place)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged: its SHA-256"):
        unflip.load(model)


def test_truncated_and_missing_files(model: Path, tmp_path: Path) -> None:
    weights = model / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    with pytest.raises(UserError, match="is damaged"):
        unflip.load(model)
    rewrite(model, files={"model.safetensors": sha256(weights)})
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read as safetensors"):
        unflip.load(model)
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing; the folder is not complete"):
        unflip.load(model)
    (model / "config.json").unlink()
    with pytest.raises(UserError, match="holds no model"):
        unflip.load(model)


def rewrite(model: Path, **changes: Any) -> None:
    values = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**values, **changes}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ("\ud800", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", r"config\.json: "),
        ("null", r"config\.json: "),
        ("{}", r"config\.json: generator: is missing"),
        ({"format": 2}, r"config\.json: format: .*given 2"),
        ({"kind": "segmenter"}, "holds a segmenter, and a translator is needed"),
        ({"kind": 4}, r"config\.json: kind: "),
        ({"surprise": 1}, r"config\.json: unknown key 'surprise'"),
        ({"generator": {"kind": "vit"}}, r"config\.json: .*unknown generator kind 'vit'"),
        ({"generator": {"kind": "resnet", "width": 0}}, r"config\.json: generator\.width"),
        ({"generator": 4}, r"config\.json: generator"),
        ({"generator": {"widht": 4}}, r"config\.json: .*did you mean width"),
        ({"sides": 3}, r"config\.json: sides"),
        ({"channels": [3]}, r"config\.json: channels"),
        ({"resize": "shorter"}, "not a resize, 'shorter'"),
    ],
    ids=str,
)
def test_a_bad_config_is_one_line(model: Path, content: str | dict[str, Any], said: str) -> None:
    if isinstance(content, dict):
        rewrite(model, **content)
    else:
        (model / "config.json").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(UserError, match=said) as refused:
        unflip.load(model)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("width", r"model\.safetensors does not fit the configuration: tensor to_target\.\S+ is \(\d.*\) instead of \(\d"),
        ("lacks", r"lacks tensor to_target\.stages\.stem\.weight \(and 0 more differ\)"),
        ("extra", r"has an unexpected tensor to_target\.surprise \(and 0 more differ\)"),
        ("sides", r"lacks tensor to_source\.\S+ "),
        ("shape", r"tensor to_target\.stages\.stem\.weight is \(4, 3, 7, 7, 1\) instead of \(4, 3, 7, 7\)"),
    ],
)
def test_weights_that_do_not_fit_name_the_tensor(model: Path, models: Callable[..., Path], change: str, said: str) -> None:
    weights = model / "model.safetensors"
    tensors = load_file(weights)
    stem = tensors["to_target.stages.stem.weight"]
    if change == "width":
        shutil.copy(models(width=5) / "model.safetensors", weights)
    elif change == "sides":
        rewrite(model, sides=2)
    else:
        if change == "lacks":
            del tensors["to_target.stages.stem.weight"]
        elif change == "extra":
            tensors["to_target.surprise"] = torch.zeros(1)
        else:
            tensors["to_target.stages.stem.weight"] = stem[..., None].contiguous()
        save_file(tensors, weights)
    rewrite(model, files={"model.safetensors": sha256(weights)})
    with pytest.raises(UserError, match=said):
        unflip.load(model)


def test_weights_are_never_partly_loaded(tmp_path: Path) -> None:
    network = nn.ModuleDict({"to_target": ResnetConfig(width=4, blocks=1).build(3, 3, rng())})
    before = {name: value.clone() for name, value in network.state_dict().items()}
    last = list(before)[-1]
    ones = {name: torch.ones_like(value) for name, value in before.items()}
    for wrong in ({**ones, last: torch.ones(2, 2)}, {**ones, "more": torch.ones(1)}, {n: v for n, v in ones.items() if n != last}):
        with pytest.raises(UserError, match="does not fit the configuration"):
            modelfolder.load_exactly(network, wrong, tmp_path / "model.safetensors")
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    modelfolder.load_exactly(network, ones, tmp_path / "model.safetensors")
    assert all((value == 1).all() for value in network.state_dict().values())


def test_a_saved_model_is_what_is_loaded(models: Callable[..., Path], tmp_path: Path) -> None:
    model = modelfolder.load(models(sides=2))
    modelfolder.save(tmp_path / "again", model.config, nn.ModuleDict(model.generators), None)
    assert tree(tmp_path / "again") == tree(models(sides=2))
    assert not any(generator.training for generator in model.generators.values())


def test_a_batch_on_a_cpu_is_translated_as_its_images_are(models: Callable[..., Path]) -> None:
    translator = unflip.load(models(), device="cpu")
    batch = torch.stack([torch.from_numpy(picture(seed=seed)).permute(2, 0, 1) for seed in range(3)])
    together = translator(batch)
    assert translator.one_by_one and together.shape == batch.shape
    for image, translation in zip(batch, together, strict=True):
        assert torch.equal(translator(image), translation)
    plain = TorchTranslator(modelfolder.load(models(), "cpu"))
    assert not plain.one_by_one, "a network that is trained on keeps its layout"
    assert (plain(batch).int() - together.int()).abs().max() <= 1
