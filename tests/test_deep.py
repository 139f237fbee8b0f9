"""Training and translating images of any depth and number of bands; what holds nothing is left alone, and no loss sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image

import unflip
from helpers import SIZE, Players, images, labels, make_model, same, small_recipe
from test_train import quietly, small
from unflip import modelfolder
from unflip.data.bands import RGB, Bands
from unflip.data.folders import survey
from unflip.data.images import read, read_rgb
from unflip.data.pairs import Images, Pairs
from unflip.data.save import encode, write
from unflip.engine.trainer import seen_by_networks
from unflip.errors import UserError
from unflip.inference.folders import translate_folder
from unflip.inference.translator import Translator
from unflip.losses import Nets
from unflip.losses.draws import Draws, Stream, TapShape
from unflip.methods import METHODS
from unflip.methods.passes import translate
from unflip.recipes.audit import audit
from unflip.recipes.train import configure
from unflip.types import Batch, Size, Step

SAR = Bands(count=1, depth="uint16", ranges=((0, 4000),), nodata=0, masked=True)
OPTICAL = Bands(count=4, depth="uint16", ranges=((100, 3000), (100, 3000), (100, 4000), (0, 8000)), nodata=0, masked=True)
HEIGHT = Bands(count=1, depth="float32", ranges=((-50, 150),), nodata=-9999, masked=True)


def make(folder: Path, source: Bands, target: Bands, **more: Any) -> Translator:
    """The translator of a model of such images, ``folder/model``."""
    return unflip.load(make_model(folder / "model", source=source, target=target, **more), device="cpu")


def scene(height: int, width: int, bands: Bands, seed: int = 0) -> np.ndarray:
    """Smooth waves and noise over most of the bands' ranges."""
    random = np.random.default_rng([seed, height, width])
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / (3 + c) + y / (5 - c / 2)) for c in range(bands.count)], axis=2)
    stored = bands.stored((0.7 * waves + random.uniform(-0.25, 0.25, waves.shape)).astype(np.float32))
    return np.maximum(stored, 1) if bands.nodata == 0 else stored


def by_hand(translator: Translator, pixels: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """The network's output of an image, as values of the target, float64: no more of the translator than the network."""
    source, target = translator.source, translator.target
    low, high = np.array(source.ranges, dtype=np.float64).T
    x = ((pixels.astype(np.float64) - low) / (high - low) * 2 - 1).clip(-1, 1)
    if valid is not None:
        x[~valid] = 0
    count = max(source.count, target.count)
    x = np.stack([x[..., k % source.count] for k in range(count)])[None]
    with torch.no_grad():
        y = translator.generator(torch.from_numpy(x.astype(np.float32)))[0].double().numpy()
    assert y.std() > 0.3 or y[0].size < 64, "nearly gray, anything would agree"
    mean = np.stack([y[k :: target.count].mean(0) for k in range(target.count)], axis=2)
    low, high = np.array(target.ranges, dtype=np.float64).T
    return (mean + 1) / 2 * (high - low) + low


# --- translating

PAIRS = {"SAR to optical": (SAR, OPTICAL), "SAR to color": (SAR, RGB), "color to gray": (RGB, Bands(count=1)), "height": (OPTICAL, HEIGHT)}


@pytest.mark.parametrize("pair", PAIRS)
def test_arrays_tensors_and_files_agree_with_the_network(tmp_path: Path, pair: str) -> None:
    source, target = PAIRS[pair]
    translator = make(tmp_path, source, target)
    image = scene(25, 18, source)
    expected = by_hand(translator, image)
    step = max(high - low for low, high in target.ranges) / 500 if target.depth != "uint8" else 1
    result = translator(image)
    assert result.dtype == target.depth and result.shape == (25, 18, target.count)
    assert np.abs(result.astype(np.float64) - expected).max() <= step
    assert np.abs(translator(image[::-1].copy()).astype(np.float64) - expected).max() > 20 * step, "a broken twin"
    tensor = translator(torch.from_numpy(image).permute(2, 0, 1))
    assert np.array_equal(tensor.permute(1, 2, 0).numpy(), result)
    both = translator(torch.from_numpy(np.stack([image, image[::-1]])).permute(0, 3, 1, 2))
    assert np.array_equal(both[0].permute(1, 2, 0).numpy(), result)

    write(tmp_path / "in/a.tif", image)
    outcome = translate_folder(translator, tmp_path / "in", tmp_path / "out", progress=False)
    assert outcome.done == 1 and not outcome.failed
    assert np.array_equal(read(tmp_path / "out/a.tif", bands=target).pixels, result)


def test_what_holds_nothing_is_left_alone_and_changes_nothing(tmp_path: Path) -> None:
    translator = make(tmp_path, SAR, OPTICAL)
    image = scene(32, 40, SAR)
    valid = np.ones((32, 40), dtype=bool)
    valid[:9, :13] = valid[20, 20] = False
    image[~valid] = 0
    found = translator(image)
    assert np.array_equal((found == 0).all(2), ~valid)
    assert np.abs(found[valid] - by_hand(translator, image, valid)[valid]).max() <= 20

    floats = make(tmp_path / "floats", HEIGHT, SAR)
    height = scene(32, 40, HEIGHT)
    results = []
    for nothing in (-9999, np.nan, np.inf):
        holed = height.copy()
        holed[~valid] = nothing
        (tmp_path / "h.tif").write_bytes(encode("h.tif", holed, nodata=-9999))
        translate_folder(floats, tmp_path / "h.tif", tmp_path / str(nothing), progress=False)
        results.append(tifffile.imread(tmp_path / str(nothing) / "h.tif"))
        assert np.array_equal(results[-1] == 0, ~valid), "and no valid value is 0, which stands for nothing"
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])

    back = make(tmp_path / "back", SAR, HEIGHT)(image)
    assert np.array_equal(back[..., 0] == -9999, ~valid), "the target's own value for it"
    plain = make(tmp_path / "plain", SAR, Bands(count=1, depth="float32", ranges=((0, 1),)))(image)
    assert np.array_equal(plain[..., 0] == 0, ~valid), "the source's, where the target has none"


def test_depth_can_be_asked_for(tmp_path: Path) -> None:
    make(tmp_path, SAR, OPTICAL)
    image = scene(32, 32, SAR)
    default = unflip.load(tmp_path / "model", device="cpu")(image)
    eight = unflip.load(tmp_path / "model", device="cpu", depth="uint8")(image)
    floats = unflip.load(tmp_path / "model", device="cpu", depth="float32")(image)
    assert (default.dtype, eight.dtype, floats.dtype) == (np.uint16, np.uint8, np.float32)
    assert np.abs(OPTICAL.view(default)[..., :3].astype(int) - eight[..., :3]).max() <= 1 and eight.std() > 20
    assert np.abs(floats - default).max() <= 0.51
    with pytest.raises(UserError, match="not a depth, 'int8'; use uint8, uint16, float32"):
        unflip.load(tmp_path / "model", depth="int8")  # type: ignore[arg-type]


def test_another_depth_is_another_translation(tmp_path: Path) -> None:
    make(tmp_path, SAR, SAR)
    write(tmp_path / "in/a.tif", scene(20, 24, SAR))
    translate_folder(unflip.load(tmp_path / "model", device="cpu"), tmp_path / "in", tmp_path / "out", progress=False)
    with pytest.raises(UserError, match="another model, or by this one used otherwise"):
        shallow = unflip.load(tmp_path / "model", device="cpu", depth="uint8")
        translate_folder(shallow, tmp_path / "in", tmp_path / "out", progress=False)
    same = unflip.load(tmp_path / "model", device="cpu", depth="uint16")
    assert translate_folder(same, tmp_path / "in", tmp_path / "out", progress=False).skipped == 1


def test_a_hole_is_one_in_any_depth(tmp_path: Path) -> None:
    make(tmp_path, HEIGHT, RGB)
    image = scene(30, 30, HEIGHT)
    image[:4, :4] = -9999
    (tmp_path / "a.tif").write_bytes(encode("a.tif", image, nodata=-9999))
    for depth in (None, "uint16", "float32"):
        translator = unflip.load(tmp_path / "model", device="cpu", depth=depth)  # type: ignore[arg-type]
        translate_folder(translator, tmp_path / "a.tif", tmp_path / str(depth), progress=False)
        found = read(tmp_path / str(depth) / "a.tif", bands=translator.target)
        assert found.valid is not None and not found.valid[:4, :4].any() and found.valid.sum() == 884
        assert found.nodata == (-9999 if depth == "float32" else 0)


def test_resized_and_back(tmp_path: Path) -> None:
    translator = make(tmp_path, SAR, OPTICAL, resize="short:16")
    image = scene(40, 64, SAR)
    image[:10, :10] = 0
    found = translator(image)
    assert found.shape == (40, 64, 4) and np.array_equal((found == 0).all(2), (image == 0)[..., 0])


def test_pil_images_where_there_are_such(tmp_path: Path) -> None:
    gray = make(tmp_path, Bands(count=1), Bands(count=1))
    image = scene(20, 30, Bands(count=1))
    assert gray(Image.fromarray(image[..., 0])).mode == "L" and gray(image[..., 0]).shape == (20, 30)
    assert np.array_equal(np.asarray(gray(Image.fromarray(image[..., 0]))), gray(image[..., 0]))
    assert np.array_equal(gray(image)[..., 0], gray(image[..., 0]))
    color = Image.fromarray(scene(20, 30, RGB))
    assert np.array_equal(np.asarray(gray(color)), gray(np.asarray(color.convert("L")))), "color becomes gray"
    deep = Bands(count=1, depth="uint16", ranges=((0, 65535),))
    there = make(tmp_path / "deep", deep, deep)
    image = scene(20, 30, deep)
    assert np.array_equal(np.asarray(there(Image.fromarray(image[..., 0]))), there(image[..., 0]))
    with pytest.raises(UserError, match="image is 8-bit, mode RGB; uint16 with 1 band"):
        there(color)
    with pytest.raises(UserError, match="no PIL images like the target's, uint16 with 4 bands; give a NumPy array"):
        make(tmp_path / "optical", SAR, OPTICAL)(color)


def test_arrays_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    translator = make(tmp_path, OPTICAL, SAR)
    for shape, dtype in (((8, 8, 3), np.uint16), ((8, 8), np.uint16), ((8, 8, 6), np.uint16), ((8, 8, 4), np.uint8)):
        with pytest.raises(UserError, match="cannot translate an array"):
            translator(np.ones(shape, dtype))
    with pytest.raises(UserError, match=r"give \(4, H, W\)"):
        translator(torch.ones(3, 8, 8))


SIDEWAYS = Image.Exif()
SIDEWAYS[ExifTags.Base.Orientation] = 6
EVERYDAY: dict[str, Callable[[Path], Any]] = {
    "palette.png": lambda path: Image.fromarray(scene(18, 25, RGB)).quantize(8).save(path),
    "bit.png": lambda path: Image.fromarray(scene(18, 25, RGB)[..., 0] > 128).save(path),
    "cmyk.tif": lambda path: Image.fromarray(scene(18, 25, RGB)).convert("CMYK").save(path),
    "alpha.png": lambda path: Image.fromarray(np.dstack([scene(18, 25, RGB), np.arange(450, dtype=np.uint8).reshape(18, 25)])).save(path),
    "turned.jpg": lambda path: Image.fromarray(scene(25, 18, RGB)).save(path, exif=SIDEWAYS),
    "1x1.png": lambda path: Image.fromarray(scene(1, 1, RGB)).save(path),
    "3x7001.png": lambda path: Image.fromarray(scene(7001, 3, RGB)).save(path),
}


def test_everyday_files_keep_their_names_sizes_and_transparency(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, save in EVERYDAY.items():
        save(tmp_path / "in" / name)
    outcome = translate_folder(make(tmp_path, RGB, RGB), tmp_path / "in", tmp_path / "out", progress=False)
    assert (outcome.done, outcome.failed) == (len(EVERYDAY), [])
    for name in EVERYDAY:
        before, after = read(tmp_path / "in" / name), read(tmp_path / "out" / name)
        assert after.size == before.size and after.pixels.shape == before.pixels.shape
        assert (before.alpha is None) == (after.alpha is None)
        assert before.alpha is None or np.array_equal(before.alpha, after.alpha)  # type: ignore[arg-type]
        assert (before.pixels != after.pixels).any() or name == "1x1.png"
    assert read(tmp_path / "out/turned.jpg").size == (25, 18)


def test_deep_files_keep_what_they_hold(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    translator = make(tmp_path, OPTICAL, OPTICAL)
    image = scene(31, 43, OPTICAL)
    image[:5, :7] = 0
    (tmp_path / "in").mkdir()
    place = rasterio.transform.from_origin(399_960, 5_100_000, 10, 10)
    profile = {"driver": "GTiff", "width": 43, "height": 31, "count": 4, "dtype": "uint16", "crs": "EPSG:32633", "nodata": 0}
    with rasterio.open(tmp_path / "in/geo.tif", "w", transform=place, **profile) as file:
        file.write(image.transpose(2, 0, 1))
    outcome = translate_folder(translator, tmp_path / "in", tmp_path / "out", progress=False, trust=True)
    assert outcome.done == 1 and list(outcome.trust) == ["geo.tif"]
    with rasterio.open(tmp_path / "out/geo.tif") as file:
        assert (file.crs.to_epsg(), file.transform, file.nodata, file.count, file.dtypes[0]) == (32633, place, 0, 4, "uint16")
        assert np.array_equal((file.read() == 0).all(0), (image == 0).all(2))
        assert np.array_equal(file.read().transpose(1, 2, 0), translator(image))


def test_deep_png_files_stay_deep_png_files(tmp_path: Path) -> None:
    deep = Bands(count=3, depth="uint16", ranges=((0, 65535),))
    translator = make(tmp_path, deep, deep)
    image, alpha = scene(21, 34, deep), np.arange(21 * 34, dtype=np.uint16).reshape(21, 34)
    write(tmp_path / "in/a.png", image, alpha)
    assert translate_folder(translator, tmp_path / "in", tmp_path / "out", progress=False).done == 1
    found = read(tmp_path / "out/a.png", bands=deep)
    assert np.array_equal(found.pixels, translator(image)) and found.pixels.dtype == np.uint16
    assert found.alpha is not None and np.array_equal(found.alpha, alpha)


def test_names_change_only_where_the_format_cannot_hold_it(tmp_path: Path) -> None:
    translator = make(tmp_path, RGB, OPTICAL)
    for name in ("a.jpg", "b.png", "sub/c.tiff"):
        write(tmp_path / "in" / name, scene(20, 24, RGB))
    outcome = translate_folder(translator, tmp_path / "in", tmp_path / "out", progress=False)
    assert outcome.done == 3
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.tif*"))
    assert found == ["a.tif", "b.tif", "sub/c.tiff"]
    assert translate_folder(translator, tmp_path / "in", tmp_path / "out", progress=False).skipped == 3
    write(tmp_path / "in/b.jpg", scene(20, 24, RGB))
    with pytest.raises(UserError, match=r"b\.jpg and b\.png would both become b\.tif"):
        translate_folder(translator, tmp_path / "in", tmp_path / "other", progress=False)


def test_a_file_of_another_kind_is_listed_and_the_rest_done(tmp_path: Path) -> None:
    write(tmp_path / "in/good.tif", scene(20, 24, SAR))
    write(tmp_path / "in/bad.tif", scene(20, 24, OPTICAL))
    outcome = translate_folder(make(tmp_path, SAR, RGB), tmp_path / "in", tmp_path / "out", progress=False)
    assert outcome.done == 1 and len(outcome.failed) == 1
    assert "bad.tif" in outcome.failed[0] and "uint16 with 4 bands, where uint16 with 1 band is needed" in outcome.failed[0]


# --- training


def stored(folder: Path, bands: Bands, count: int = 4, size: int = 40, holes: bool = False, suffix: str = ".tif") -> Path:
    for k in range(count):
        image = scene(size, size, bands, seed=k)
        if holes and bands.nodata is not None:
            image[: 5 + k, :12] = bands.nodata
        path = folder / f"{k}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(path, image, nodata=bands.nodata))
    return folder


@pytest.mark.parametrize("method", ["cut", "cyclegan", "srunit", "semst"])
def test_sar_to_optical_trains_and_translates(tmp_path: Path, method: str) -> None:
    """One deep band to three of 8 bits, from files to files."""
    source = stored(tmp_path / "sar", SAR, holes=True)
    target = stored(tmp_path / "optical", RGB, suffix=".png")
    config = configure(method, source=source, target=target, size=SIZE, budget=4, device="cpu", settings=[*small(method), "sample_every=2"])
    run = quietly(config, tmp_path / "run")
    found = modelfolder.read_config(run / "model")
    assert (found.source.count, found.source.depth, found.source.nodata, found.target) == (1, "uint16", 0, RGB)
    assert np.array(Image.open(run / "samples/000000002.png")).shape[2] == 3
    translator = unflip.load(run, device="cpu")
    outcome = translate_folder(translator, source, tmp_path / "out", progress=False)
    assert outcome.done == 4 and not outcome.failed
    result = read(tmp_path / "out/0.tif")
    assert result.pixels.shape == (40, 40, 3) and result.pixels.dtype == np.uint8 and result.nodata == 0
    assert result.valid is not None and not result.valid[:5, :12].any() and result.valid[5:].all()
    if method == "cyclegan":
        back = unflip.load(run, device="cpu", direction="backward")
        assert back(read_rgb(target / "0.png")).shape == (40, 40, 1)


@pytest.mark.parametrize("pair", ["height", "color to gray"])
def test_other_pairs_train_and_resume_to_the_same_bits(tmp_path: Path, pair: str) -> None:
    source, target = PAIRS[pair]
    domains = {"source": stored(tmp_path / "a", source, holes=True), "target": stored(tmp_path / "b", target, holes=True)}
    config = configure("cut", **domains, size=SIZE, budget=6, device="cpu", settings=[*small("cut"), "checkpoint_every=3"])
    run = quietly(config, tmp_path / "run")
    translator = unflip.load(run, device="cpu")
    assert translator.target.depth == target.depth and translator.target.count == target.count
    once = configure("cut", **domains, size=SIZE, budget=6, device="cpu", settings=[*small("cut"), "checkpoint_every=3", "data.cache=none"])
    assert (quietly(once, tmp_path / "again") / "model/model.safetensors").read_bytes() == (run / "model/model.safetensors").read_bytes()


def test_given_ranges_go_into_the_model(tmp_path: Path) -> None:
    domains = {"source": stored(tmp_path / "a", SAR), "target": stored(tmp_path / "b", SAR)}
    settings = [*small("cut"), "data.source_bands.ranges=[[0,5000]]", "data.target_bands.percentiles=[0,100]"]
    run = quietly(configure("cut", **domains, size=SIZE, budget=1, device="cpu", settings=settings), tmp_path / "run")
    found = modelfolder.read_config(run / "model")
    values = np.concatenate([tifffile.imread(path).ravel() for path in sorted((tmp_path / "b").iterdir())])
    assert found.source.ranges == ((0, 5000),) and found.target.ranges == ((float(values.min()), float(values.max())),)


def test_init_of_other_bands_is_one_line(tmp_path: Path) -> None:
    domains = {"source": stored(tmp_path / "a", SAR), "target": stored(tmp_path / "b", OPTICAL)}
    make(tmp_path, RGB, RGB)
    settings = ["generator.width=4", "generator.blocks=2", "discriminator.width=4"]
    config = configure("cut", **domains, size=SIZE, budget=1, device="cpu", settings=settings, init=tmp_path / "model")
    with pytest.raises(UserError, match="is of images with 3 bands, and these have 4"):
        quietly(config, tmp_path / "run")


# --- what holds nothing


def holed(batch: Batch, seed: int = 0) -> Batch:
    """With holes in source and target, in different places."""
    valid = []
    for k in (0, 1):
        mask = torch.ones(len(batch.source), 1, SIZE, SIZE, dtype=torch.bool)
        mask[0, :, : SIZE // 4, k * 8 : k * 8 + 20] = False
        mask[-1, :, 20:, 24 - 8 * k :] = False
        valid.append(mask)
    source, target = (torch.where(mask, x, 0.0) for mask, x in zip(valid, batch[:2], strict=True))
    return batch._replace(source=source, target=target, valid=(valid[0], valid[1]))


@pytest.mark.parametrize("method", METHODS)
def test_no_loss_sees_what_holds_nothing(method: str) -> None:
    """Neither player's losses change when a generator paints something else where there is nothing."""
    batch = holed(Batch(images(2, seed=1), images(2, seed=2), 0, 0, labels(2)))
    found = []
    for painted in (0.0, 0.9):
        players = Players.of(small_recipe(METHODS[method].recipe))
        if painted:
            paint(players, painted)
        weights = players.weights(0.6)
        draws = players.generator.draw(weights, batch, Size(SIZE, SIZE), seed=0, progress=0.6)
        total, parts, shown = players.generator(batch, draws, weights, players.discriminator.frozen())
        judged, _ = players.discriminator(shown)
        found.append({name: float(value) for name, value in {**parts, "total": total.detach(), "judged": judged.detach()}.items()})
    assert found[0] == found[1]


def paint(players: Players, value: float) -> None:
    """Let generators show ``value`` wherever their images hold nothing, in whatever view."""
    for generator in players.generator.generators.values():
        inner = generator.inner
        run = inner.run

        def spoiled(x: torch.Tensor, *more: Any, run: Callable[..., Any] = run) -> Any:
            image, taken = run(x, *more)
            empty = (x == 0).all(1, keepdim=True)
            return torch.where(empty, value, image), taken

        inner.run = spoiled  # type: ignore[method-assign, assignment]


def test_a_mask_that_is_not_used_is_noticed() -> None:
    """The broken twin: without masks, the same losses do see it."""
    batch = holed(Batch(images(2, seed=1), images(2, seed=2), 0, 0))._replace(valid=None)
    found = []
    for painted in (False, True):
        players = Players.of(small_recipe(METHODS["cut"].recipe))
        if painted:
            paint(players, 0.9)
        weights = players.weights(0.6)
        draws = players.generator.draw(weights, batch, Size(SIZE, SIZE), seed=0, progress=0.6)
        total, _, _ = players.generator(batch, draws, weights, players.discriminator.frozen())
        found.append(float(total.detach()))
    assert abs(found[0] - found[1]) > 1e-3


def steps_of(players: Players, batch: Batch, draws: Draws, needs: frozenset[str]) -> dict[str, Step]:
    generators = dict(players.generator.generators.items())
    return translate(generators, players.recipe.turn, batch, draws, needs)  # type: ignore[arg-type]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("method", ["cut", "semst", "decent"])
def test_patches_are_drawn_where_there_is_something(method: str, mirrored: bool) -> None:
    """In every view: where the image holds something that the features are of, which a mirrored source is not."""
    batch = holed(Batch(images(2, seed=1), images(2, seed=2), 0, 0))
    players = Players.of(small_recipe(METHODS[method].recipe, flip_equivariance=mirrored))
    draws = next(
        draws
        for seed in range(20)
        if (draws := players.generator.draw(players.weights(), batch, Size(SIZE, SIZE), seed=seed, progress=0.5)).flip == mirrored
    )
    found = 0
    for view, step in steps_of(players, batch, draws, frozenset()).items():
        shown = {"source": step.source.flip(-1) if mirrored else step.source, "target": step.target}
        there = {of: (image != 0).any(1, keepdim=True).double() for of, image in shown.items()}
        terms = draws.terms[view]
        drawn = [(of, terms[name]) for name, of in (("nce", "source"), ("identity_nce", "target")) if name in terms]
        if "density" in terms:
            drawn += zip(there, zip(*terms["density"], strict=True), strict=True)
        for of, places in drawn:
            for tap, positions in zip(players.generator.inner("to_target").taps, places, strict=True):
                height, width = tap.shape(*step.source.shape[-2:])[1:]
                share = torch.nn.functional.adaptive_avg_pool2d(there[of], (height, width)).flatten(1)
                assert (share.gather(1, positions) >= 0.5).all(), (view, of, tap)
                found += int(share.min() < 0.5)
    assert found, "there were no holes to be drawn from"


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("method", ["cut", "semst", "cyclegan"])
def test_what_is_made_of_the_sources_features_is_finished_as_its_translation(method: str, mirrored: bool) -> None:
    """0 where the source holds nothing that the features are of, and with the target's bands repeated alike."""
    batch = holed(Batch(images(2, seed=1), images(2, seed=2), 0, 0))
    players = Players.of(small_recipe(METHODS[method].recipe))
    drawn = players.generator.draw(players.weights(), batch, Size(SIZE, SIZE), seed=0, progress=0.5)
    generators = dict(players.generator.generators.items())
    needs, holes = frozenset({"features.source"}), 0
    for side, step in translate(generators, "none", batch, drawn._replace(flip=mirrored), needs, (3, 1)).items():  # type: ignore[arg-type]
        source = step.source.flip(-1) if mirrored else step.source
        image = step.finish(images(2, source.shape[-1], seed=5))
        empty = (source == 0).all(1)
        assert torch.equal((image == 0).all(1), empty)
        holes += int(empty.sum())
        assert ((image == image[:, :1]).all()) == (not side.startswith("to_source"))
        if method == "cut":
            assert same(step.finish(players.generator.inner(side)(source)), step.fake.flip(-1) if mirrored else step.fake) != mirrored
    assert holes


def test_robustness_looks_at_what_the_generator_would_have_shown() -> None:
    """At next to no noise, its image is the translation: with the target's bands, and 0 where the source holds nothing."""
    batch = holed(Batch(images(2, seed=1), images(2, seed=2), 0, 0))
    players = Players.of(small_recipe(METHODS["srunit"].recipe))
    term = players.recipe.terms["robustness"].model_copy(update={"noise": 1e-12})
    drawn = players.generator.draw(players.weights(), batch, Size(SIZE, SIZE), seed=0, progress=0.5)
    generators, generator = dict(players.generator.generators.items()), players.generator.inner("to_target")
    step = translate(generators, "none", batch, drawn, frozenset({"features.source"}), (3, 1))["to_target"]  # type: ignore[arg-type]
    seen: list[torch.Tensor] = []
    encode = generator.encode
    generator.encode = lambda x, *more: seen.append(x) or encode(x, *more)  # type: ignore[method-assign, func-returns-value]
    term(step, drawn.terms["to_target"]["robustness"], Nets(generator, players.generator.projectors["to_target"], lambda x: x))  # type: ignore[arg-type]
    assert same(seen[0], step.fake, 1e-6) and (seen[0] == 0).all(1).any() and (seen[0] == seen[0][:, :1]).all()


def test_an_empty_image_takes_no_patches_from_others() -> None:
    full, sparse = torch.ones(1, 1, 16, 16, dtype=torch.bool), torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    sparse[..., :3, :3] = True
    shape = TapShape("tap", 4, 16, 16)

    def drawn(valid: torch.Tensor, first: int = 0) -> torch.Tensor:
        return Stream(0, ("x",), first, len(valid), torch.device("cpu"), 0, 0.5, {"source": valid}).positions(shape, 64)

    both = drawn(torch.cat([full, sparse]))
    assert both.shape == (2, 64) and torch.equal(both[:1], drawn(full)) and torch.equal(both[1:], drawn(sparse, 1))
    assert set(both[1].tolist()) <= {row * 16 + column for row in range(3) for column in range(3)} and len(set(both[0].tolist())) == 64
    assert drawn(sparse & False).shape == (1, 64)


def test_crops_are_cut_where_there_is_something(tmp_path: Path) -> None:
    image = scene(64, 200, SAR)
    image[:, :160] = 0
    for name in "ab":
        (tmp_path / f"{name}.tif").write_bytes(encode("x.tif", image, nodata=0))
    entries = survey(sorted(tmp_path.iterdir()))
    half = [Images([entry], bands=SAR, shared=False) for entry in entries]
    pairs = Pairs(*half, Size(32, 32), 0, 200, flip=True)
    shares = [float(pairs[i][0][0].isfinite().float().mean()) for i in range(200)]
    anywhere = np.mean([left > 144 for left in range(169)])
    assert np.mean(np.array(shares) >= 0.5) > 4 * anywhere
    assert all(torch.equal(pairs[7][k].nan_to_num(9), pairs[7][k].nan_to_num(9)) for k in (0, 1))  # type: ignore[union-attr]


def test_labels_are_ignored_where_the_image_holds_nothing(tmp_path: Path) -> None:
    image = scene(40, 40, SAR)
    image[:20] = 0
    (tmp_path / "a.tif").write_bytes(encode("x.tif", image, nodata=0))
    source = Images(survey([tmp_path / "a.tif"]), bands=SAR, shared=False)
    classes = torch.arange(1600, dtype=torch.uint8).reshape(40, 40) % 7
    pairs = Pairs(source, source, Size(32, 32), 0, 40, flip=True, labels=[classes])
    for i in range(40):
        x, _, found = pairs[i]
        assert found is not None and torch.equal(found == 255, x[0].isnan())


def test_networks_see_0_where_there_is_nothing() -> None:
    x = torch.tensor([0.5, float("nan"), -1.0, 1.0]).reshape(1, 1, 2, 2)
    y = torch.zeros(1, 3, 2, 2, dtype=torch.float32)
    seen = seen_by_networks(Batch(x, y, 0, 0), (SAR, RGB))
    assert seen.source.shape == (1, 3, 2, 2) and torch.equal(seen.source[0, 2], torch.tensor([[0.5, 0.0], [-1.0, 1.0]]))
    assert seen.valid is not None and torch.equal(seen.valid[0], torch.tensor([[[[True, False], [True, True]]]])) and seen.valid[1].all()
    assert seen_by_networks(Batch(y, y, 0, 0), (RGB, RGB)).valid is None


def test_audit_looks_at_deep_images(tmp_path: Path) -> None:
    source, target = stored(tmp_path / "sar", SAR, count=5, holes=True), stored(tmp_path / "optical", OPTICAL, count=3)
    write(source / "4.tif", read(source / "3.tif", bands=SAR).pixels)  # a copy, whose file says nothing of nodata
    write(source / "other.tif", scene(40, 40, OPTICAL))
    (source / "broken.tif").write_bytes((source / "0.tif").read_bytes()[:60])
    result = audit(source, target, out=tmp_path / "audit", progress=False)
    assert result.source.images == 5 and len(result.source.bad) == 2 and "uint16 with 4 bands" in " ".join(result.source.bad)
    assert list(result.source.kinds) == ["deeper than 8 bits, or of other bands than gray and color"] == list(result.target.kinds)
    assert (tmp_path / "audit/report.html").stat().st_size > 1000
