"""What is fuzzed: for every target the whole files that it starts from, how they are damaged, and the calls that must survive that."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import fuzz_images as images
import fuzz_mutations as mutations
import numpy as np
import torch
import yaml
from fuzz_mutations import Mutation, Rng, pick
from PIL import Image

import unflip.data.labels as labels
from unflip import modelfolder
from unflip.data.bands import Bands, GivenBands
from unflip.data.classes import Classes, read_classes
from unflip.data.folders import Entry
from unflip.data.images import check, kind_of, read
from unflip.data.inventory import take_inventory
from unflip.data.measure import find_bands
from unflip.data.shards import members, opened
from unflip.data.videos import frames, look, upright
from unflip.errors import UserError
from unflip.files import sha256
from unflip.inference.folders import translate_folder
from unflip.inference.translator import load
from unflip.modelfolder import ModelConfig
from unflip.networks import MultiscaleConfig, ResnetConfig
from unflip.networks.multiscale import build
from unflip.recipes.imports import import_weights
from unflip.runs import collect, from_yaml, to_yaml, validate
from unflip.segmenterfolder import SegmenterModelConfig, load_segmenter, read_segmenter, save_segmenter
from unflip.types import Size


class Target(NamedTuple):
    """``make``: whole files, or folders as ``{name: bytes}``. ``damage``: what is done to one. ``call``: with the damaged file or folder
    and a folder to write to; ``UserError`` is a right answer of each of its parts, and nothing else that is raised."""

    group: str
    name: str
    """Of the damaged file or folder."""
    make: Callable[[], list[Any]]
    damage: Callable[[Rng, Any], Any]
    call: Callable[[Path, Path, Rng], list[str | None]]


def attempt(*calls: Callable[[], Any]) -> list[str | None]:
    """What each call says that is wrong; None: nothing."""
    said: list[str | None] = []
    for call in calls:
        try:
            call()
            said.append(None)
        except UserError as error:
            said.append(str(error))
            cause: BaseException | None = error
            while cause is not None:
                # FFmpeg has an error of that name for sizes that it does not believe, before it takes any memory
                if isinstance(cause, MemoryError) and not type(cause).__module__.startswith("av."):
                    raise
                cause = cause.__cause__ or cause.__context__
    return said


def either(special: Mutation, share: float = 0.5) -> Callable[[Rng, bytes], bytes]:
    """Fields of the format, bytes, or one after the other."""

    def damage(rng: Rng, data: bytes) -> bytes:
        if rng.random() < share:
            data = special(rng, data)
            return mutations.by_bytes(rng, data) if rng.random() < 0.2 else data
        return mutations.by_bytes(rng, data)

    return damage


COLORS = Classes(names=("a", "b", "c"), palette=((0, 0, 0), (1, 1, 1), (200, 0, 0)))


def read_image(path: Path, out: Path, rng: Rng) -> list[str | None]:
    def of_its_kind() -> None:
        kind = kind_of(path)
        bands = find_bands([Entry(path, 1, 1, kind)], GivenBands(), "these")
        read(path, "short:20", bands=bands)

    calls: list[Callable[[], Any]] = [lambda: check(path), of_its_kind, lambda: read(path), lambda: labels.read_labels(path, COLORS)]
    if rng.random() < 0.1:
        calls.append(lambda: take_inventory([path]))
    if rng.random() < 0.1:
        calls.append(lambda: translate(path, out))
    if rng.random() < 0.1 and path.suffix == ".tif":
        calls.append(lambda: translate(path, out / "deep", Bands(count=1, depth="float32", ranges=((0, 51200.0),)), tile=64))
    return attempt(*calls)


def translate(path: Path, out: Path, bands: Bands | None = None, tile: Any = "auto") -> None:
    """By a tiny model, whose folder is made once; what fails is in the outcome."""
    bands = bands or Bands()
    translator = load(_model(bands), device="cpu", tile=tile)
    outcome = translate_folder(translator, path, out, progress=False)
    if outcome.failed:
        raise UserError(outcome.failed[0])


@cache
def _scratch() -> Path:
    import atexit
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="unflip-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def _model(bands: Bands, sides: int = 1, multiscale: bool = False) -> Path:
    folder = _scratch() / f"{bands.count}-{bands.depth}-{sides}-{multiscale}"
    two = MultiscaleConfig(attention=4, window=Size(16, 16)) if multiscale else None
    config = ModelConfig(generator=ResnetConfig(width=4, blocks=1), multiscale=two, source=bands, target=bands, sides=sides)
    names = ["to_target", "to_source"][:sides]
    rng = torch.Generator().manual_seed(0)
    networks = {name: build(config.generator, two, config.channels, config.channels, rng) for name in names}
    modelfolder.save(folder, config, torch.nn.ModuleDict(networks), None)
    return folder


# Folders


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def models() -> list[dict[str, bytes]]:
    deep = Bands(count=2, depth="uint16", ranges=((0, 9000.0),), nodata=0, masked=True)
    return [files_of(_model(Bands())), files_of(_model(deep, 2)), files_of(_model(Bands(), 1, True))]


def segmenters() -> list[dict[str, bytes]]:
    own = _scratch() / "segmenter"
    config = SegmenterModelConfig(network={"width": 4, "halvings": 2}, classes=COLORS)  # type: ignore[arg-type]
    save_segmenter(own, config, config.network.build(3, torch.Generator().manual_seed(0)))
    held_out = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 4}
    figures = {name: held_out for name in ("pixel_accuracy", "class_accuracy", "mean_iou")}
    blocks = {"per_class_iou": {"a": held_out}, "sizes": [2, 2], "voids": [0, 0], "blocks": [[[1, 0, 0]] * 3] * 2}
    found = [files_of(own) | {"heldout.json": json.dumps(figures | blocks).encode()}]
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    small = {"depths": [1] * 4, "hidden_sizes": [8] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 8, "num_labels": 3}
    SegformerForSemanticSegmentation(SegformerConfig(**small)).save_pretrained(_scratch() / "foreign")
    return [*found, files_of(_scratch() / "foreign")]


def damaged_folder(rng: Rng, files: dict[str, bytes]) -> dict[str, bytes]:
    """One file is damaged, or gone; where it is the weights, their digest is mostly put right."""
    files = dict(files)
    name = "config.json" if rng.random() < 0.6 else pick(rng, sorted(files))
    if rng.random() < 0.03:
        del files[name]
    elif name.endswith(".json"):
        files[name] = mutations.json_text(rng, files[name])
    elif name.endswith(".safetensors"):
        files[name] = _weights(rng, files[name])
        if rng.random() < 0.9:
            config = json.loads(files["config.json"])
            config.pop("files", None)
            files["config.json"] = json.dumps(config).encode()
    else:
        files[name] = mutations.by_bytes(rng, files[name])
    return files


def _weights(rng: Rng, data: bytes) -> bytes:
    if rng.random() < 0.4:
        return mutations.by_bytes(rng, data)
    size = int.from_bytes(data[:8], "little")
    header = mutations.json_text(rng, data[8 : 8 + size])
    length = len(header) if rng.random() < 0.8 else int(pick(rng, mutations.NUMBERS))
    return length.to_bytes(8, "little") + header + data[8 + size :]


def use_model(folder: Path, out: Path, rng: Rng) -> list[str | None]:
    def use() -> None:
        direction = pick(rng, ["forward", "forward", "backward"])
        translator = load(folder, device="cpu", direction=direction)
        if rng.random() < 0.5 and translator.source.plain and translator.source.count == 3:
            shutil.copyfile(_picture(), folder.parent / "a.png")
            translate_folder(translator, folder.parent / "a.png", out / "images", progress=False)
        else:
            translator(np.zeros((24, 20, translator.source.count), translator.source.depth))

    def copy() -> None:
        before = {name: sha256(folder / name) for name in modelfolder.read_config(folder).files if (folder / name).is_file()}
        if before:
            modelfolder.copy(folder, out / "copy", images_seen=3)

    return attempt(use, copy)


@cache
def _picture() -> Path:
    path = _scratch() / "a.png"
    Image.fromarray(images.scene(side=24)).save(path)
    return path


def use_segmenter(folder: Path, out: Path, rng: Rng) -> list[str | None]:
    def use() -> None:
        found = load_segmenter(folder)
        with torch.inference_mode():
            found.network(torch.zeros(1, 3, 32, 32))
            found.network.pooled(torch.zeros(1, 3, 32, 32))

    return attempt(lambda: read_segmenter(folder), use)


# Texts


def configs() -> list[bytes]:
    (_scratch() / "classes.json").write_bytes(json.dumps(COLORS.model_dump(mode="json")).encode())
    given = {"source": "a", "target": "b", "budget": 1000}
    plain = [to_yaml(validate(collect(method, **given))).encode() for method in ("srunit", "cyclegan", "semst")]
    return [*plain, to_yaml(validate(collect("cut", **given, source_labels="l", classes=_scratch() / "classes.json"))).encode()]


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{n}: &{n} [{','.join(['*' + p] * 9)}]\n" for p, n in zip("abcdefghi", "bcdefghij", strict=True)
)
_ODD = """
&a [*a] | a: &a {b: *a}, data: *a | ? [a] : b | a: 2001-99-99 | seed: !!int x | budget: 0x | <<: *x | <<: [{a: 1}] | budget: 190:20:30
size: !!binary x | seed: !!set {a} | %YAML 9.9 | a: *b | seed: .inf | seed: 1e999 | data: {source: &s a, target: *s} | --- a --- b
"""
BOMBS = [LAUGHS, f"{LAUGHS}method: *j\n", f"{LAUGHS}terms: *j\n", "[" * 5000, "{a: " * 3000, "budget: " + "9" * 5000, "\t", "\x00", ""]
BOMBS += ["!!python/object/apply:os.system ['touch ../../fuzz-escaped']", *(part.strip() for part in _ODD.replace("\n", "|").split("|"))]


def yaml_text(rng: Rng, data: bytes) -> bytes:
    what = rng.random()
    if what < 0.3:
        return mutations.by_bytes(rng, data)
    if what < 0.45:
        bomb = pick(rng, BOMBS)
        return bomb.encode() if rng.random() < 0.5 else data + b"\n" + bomb.encode()
    try:
        return yaml.safe_dump(mutations.tree(rng, yaml.safe_load(data)), allow_unicode=bool(rng.random() < 0.5)).encode(
            "utf-8", "surrogatepass"
        )
    except (RecursionError, yaml.YAMLError, ValueError):  # what cannot be written is no text to read
        return mutations.by_bytes(rng, data)


def use_config(path: Path, out: Path, rng: Rng) -> list[str | None]:
    text = path.read_text(encoding="utf-8", errors="replace")
    line = pick(rng, [line for line in text.splitlines() if line.strip()] or ["x"])[:200].replace(": ", "=", 1)
    return attempt(
        lambda: to_yaml(from_yaml(path)),
        lambda: to_yaml(validate(collect(file=path, source="c"))),
        lambda: validate(collect("cut", settings=[line, f"seed={line[:100]}"], source="a", target="b", budget=9)),
    )


def classes() -> list[bytes]:
    ways = [{"label": "*_L", "values": {"0": 0, "7": 1}}, {"label": "*_color", "colors": [[9, 9, 9, -1]], "ignore_others": True}]
    return [json.dumps(COLORS.model_dump(mode="json") | {"ignore": [2], "stored": ways}).encode()]


def use_classes(path: Path, out: Path, rng: Rng) -> list[str | None]:
    def use() -> None:
        found = read_classes(path)
        for name in ("a.png", "a_L.png", "a_color.png"):
            shutil.copyfile(_picture(), path.parent / name)
            attempt(lambda name=name: labels.read_labels(path.parent / name, found))  # type: ignore[misc]

    given = {"source": "a", "target": "b", "budget": 9, "source_labels": "l", "classes": path}
    return attempt(use, lambda: to_yaml(validate(collect("cut", **given))))


def shards() -> list[bytes]:
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as tar:
            for name in ("a.png", "a.seg.png", "b.png", "b.json", f"{'deep/' * 30}c.png"):
                info = tarfile.TarInfo(name)
                info.size = len(data := _picture().read_bytes())
                info.pax_headers = {"comment": "x", "mtime": "1.5"} if form == tarfile.PAX_FORMAT else {}
                tar.addfile(info, io.BytesIO(data))
        found.append(file.getvalue())
    return found


def use_shard(path: Path, out: Path, rng: Rng) -> list[str | None]:
    def look() -> None:
        for member in members([path]):
            attempt(lambda member=member: check(member), lambda member=member: opened(member).read())  # type: ignore[misc]

    return attempt(look, *([lambda: translate(path, out)] if rng.random() < 0.3 else []))


def videos() -> list[bytes]:
    import av

    found = []
    for form, codec in (("mp4", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mjpeg"), ("mov", "mjpeg")):
        file = io.BytesIO()
        with av.open(file, "w", format=form) as out:
            stream: Any = out.add_stream(codec, rate=5)
            stream.width, stream.height, stream.pix_fmt = 56, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
            sound: Any = out.add_stream("pcm_s16le", rate=8000, layout="mono") if form in ("matroska", "avi") else None
            if sound is not None:
                wave = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.int16), format="s16", layout="mono")
                wave.sample_rate = 8000
                out.mux(sound.encode(wave))
            for _ in range(3):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(images.scene(), format="rgb24")))
            out.mux(stream.encode())
        found.append(file.getvalue())
    return found


def use_video(path: Path, out: Path, rng: Rng) -> list[str | None]:
    def watch() -> None:
        turn = look(path).turn
        for frame in islice(frames(path), 20):
            upright(frame, turn)

    return attempt(watch, *([lambda: translate(path, out)] if rng.random() < 0.2 else []))


SHAPES = {
    "1": (2, 3, 7, 7),
    "4": (4, 2, 3, 3),
    "7": (8, 4, 3, 3),
    "10.conv_block.1": (8, 8, 3, 3),
    "10.conv_block.5": (8, 8, 3, 3),
    "11": (8, 4, 3, 3),
    "14": (4, 2, 3, 3),
    "18": (3, 2, 7, 7),
}
"""Of the weights of a published generator of one block and 2 channels; 11 and 14 are transposed."""


def weights() -> list[bytes]:
    """As torch writes them now, and as it did before version 1.6."""
    rng = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in SHAPES.items():
        tensors[f"model.{name}.weight"] = torch.randn(shape, generator=rng)
        tensors[f"model.{name}.bias"] = torch.randn(shape[1 if name in ("11", "14") else 0], generator=rng)
    found = []
    for new in (True, False):
        file = io.BytesIO()
        torch.save(tensors, file, _use_new_zipfile_serialization=new)
        found.append(file.getvalue())
    return found


def use_weights(path: Path, out: Path, rng: Rng) -> list[str | None]:
    return attempt(lambda: import_weights(path, out / "model"))


def target(group: str, name: str, make: Callable[[], list[Any]], damage: Any, call: Any) -> Target:
    return Target(group, name, cache(make), damage, call)


def image(name: str, make: Callable[[], list[bytes]], special: Mutation, share: float = 0.5) -> Target:
    return target("images", name, make, either(special, share), read_image)


TARGETS = {
    "png": image("a.png", lambda: images.pillows(format="PNG"), mutations.png),
    "png16": image("a.png", images.deep_pngs, mutations.png),
    "jpeg": image("a.jpg", lambda: images.pillows(format="JPEG"), mutations.jpeg),
    "webp": image("a.webp", lambda: images.pillows(format="WEBP") + images.pillows(format="WEBP", lossless=True), mutations.fields(4, 44)),
    "bmp": image("a.bmp", lambda: images.pillows(format="BMP"), mutations.fields(2, 60)),
    "tiff": image("a.tif", images.everyday_tiffs, mutations.tiff, 0.7),
    "tiff_palette": image("a.tif", images.palette_tiffs, mutations.tiff, 0.7),
    "tiff_deep": image("a.tif", images.deep_tiffs, mutations.tiff, 0.7),
    "tiff_tiled": image("a.tif", images.tiled_tiffs, mutations.tiff, 0.7),
    "tiff_bands": image("a.tif", images.banded_tiffs, mutations.tiff, 0.7),
    "tiff_masked": image("a.tif", images.masked_tiffs, mutations.tiff, 0.7),
    "geotiff": image("a.tif", images.geo_tiffs, mutations.tiff, 0.7),
    "models": target("models", "model", models, damaged_folder, use_model),
    "segmenters": target("segmenters", "segmenter", segmenters, damaged_folder, use_segmenter),
    "config": target("configs", "config.yaml", configs, yaml_text, use_config),
    "classes": target("configs", "classes.json", classes, mutations.json_text, use_classes),
    "videos": target("videos", "a.mp4", videos, either(mutations.fields(0, 900)), use_video),
    "pth": target("weights", "latest_net_G.pth", weights, either(mutations.pickled, 0.8), use_weights),
    "shards": target("shards", "000.tar", shards, either(mutations.tar), use_shard),
}
"""By name. Another kind of file is one more line: what it starts from, how it is damaged, and what is called with it."""
