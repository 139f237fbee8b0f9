"""What a file may claim to hold is limited, in one place and in every decoder; and what it names elsewhere is not followed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import unflip
from helpers import make_model
from unflip import devices, modelfolder, yamls
from unflip.data import limits
from unflip.data.bands import Bands
from unflip.data.codecs import COMPRESSIONS
from unflip.data.images import check, read
from unflip.data.labels import Classes, read_labels
from unflip.data.shards import members
from unflip.errors import UserError
from unflip.inference.folders import translate_folder
from unflip.networks.foreign import DEEPEST, check_config
from unflip.runs import collect, from_yaml, validate
from unflip.segmenterfolder import SegmenterModelConfig, load_segmenter, save_segmenter

CLASSES = Classes(names=("a", "b"), palette=((0, 0, 0), (1, 1, 1)))
BANDS = Bands(count=4, depth="uint8")


def says(call: Callable[[], Any], *words: str) -> str:
    with pytest.raises(UserError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and len(line) < 1000 and all(word in line for word in words), line
    return line


# The number of pixels


@pytest.mark.parametrize(("text", "number"), [(None, limits.DEFAULT), ("", limits.DEFAULT), (" 7 ", 7), ("400_000_000", 400_000_000)])
def test_the_environment_names_the_limit(text: str | None, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(limits.NAME, raising=False)
    if text is not None:
        monkeypatch.setenv(limits.NAME, text)
    assert (limits.max_pixels(), limits.max_values()) == (number, 4 * number)


@pytest.mark.parametrize("text", ["many", "0", "-5", "1e9", "3.5", "1" * 5000])
def test_what_is_no_number_is_one_line(text: str, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(limits.NAME, text)
    result = cli("methods")
    assert result.code == 2 and result.stderr.startswith("error: not a number of pixels, UNFLIP_MAX_PIXELS=")
    assert result.stderr.count("\n") == 1 and len(result.stderr) < 200 and not result.stdout


def test_every_reader_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]) -> None:
    Image.new("L", (40, 30)).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((30, 40), np.uint16))
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(np.zeros((30, 40), np.uint16)))
    monkeypatch.setenv(limits.NAME, "1200")
    assert read_labels(tmp_path / "a.png", CLASSES).shape == (30, 40)
    monkeypatch.setenv(limits.NAME, "1199")
    for name in ("a.png", "deep.tif", "deep.png"):
        says(lambda name=name: check(tmp_path / name), "UNFLIP_MAX_PIXELS=1199 (40x30)", "cut it into tiles, or raise that")  # type: ignore[misc]
    says(lambda: read_labels(tmp_path / "a.png", CLASSES), "UNFLIP_MAX_PIXELS=1199 (40x30)")
    make_model(tmp_path / "model")
    result = cli("translate", tmp_path / "model", tmp_path / "a.png", "--out", tmp_path / "out")
    assert result.code == 2 and "too many pixels for UNFLIP_MAX_PIXELS=1199 (40x30)" in result.stderr


def test_bands_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((10, 10, 9), np.uint16), photometric="minisblack", planarconfig="contig")
    monkeypatch.setenv(limits.NAME, "100")
    says(lambda: check(tmp_path / "a.tif"), "too many values for UNFLIP_MAX_PIXELS=100 (10x10, uint16 with 9 bands)")


def test_a_resize_makes_no_more(tmp_path: Path) -> None:
    """A long thin image, of which a resize of the shorter side would make 65 billion pixels."""
    Image.new("L", (1, 1_000_000)).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((1_000_000, 1), np.uint16))
    says(lambda: read(tmp_path / "a.png", "short:256"), "a.png", "too many pixels", "(256x256000000), resized to short:256")
    says(lambda: read(tmp_path / "a.tif", "short:256", bands=Bands(count=1, depth="uint16", ranges=((0, 9),))), "a.tif", "too many pixels")
    says(lambda: read_labels(tmp_path / "a.png", CLASSES, "short:256"), "too many pixels")


def test_of_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av")
    from unflip.data.videos import look

    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for packet in (*stream.encode(av.VideoFrame(64, 48, "yuv420p")), *stream.encode()):
            file.mux(packet)
    assert look(tmp_path / "a.mp4").size == (64, 48)
    monkeypatch.setenv(limits.NAME, "3000")
    says(lambda: look(tmp_path / "a.mp4"), "UNFLIP_MAX_PIXELS=3000 (64x48)")


def test_a_video_of_nothing_known(tmp_path: Path) -> None:
    """What FFmpeg has no decoder for; and a title that is no text."""
    av = pytest.importorskip("av")
    from unflip.data.videos import look

    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as file:
        file.metadata["title"] = "name of it"
        stream = file.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for packet in (*stream.encode(av.VideoFrame(64, 48, "yuv420p")), *stream.encode()):
            file.mux(packet)
    whole = path.read_bytes()
    assert b"name of it" in whole and b"FMP4" in whole
    path.write_bytes(whole.replace(b"name of it", b"\xe0name of i"))
    assert look(path).size == (64, 48)
    path.write_bytes(whole.replace(b"FMP4", b"ZZZZ"))
    says(lambda: look(path), "a.avi")


def test_pillow_follows_upwards_only(monkeypatch: pytest.MonkeyPatch) -> None:
    png = io.BytesIO()
    Image.new("L", (2, 2)).save(png, "PNG")
    for theirs, ours, then in ((100, "7", 100), (100, "1000", 1000), (None, "1000", None)):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", theirs)
        monkeypatch.setenv(limits.NAME, ours)
        with limits.pillow(png, "a.png"):
            assert then == Image.MAX_IMAGE_PIXELS
        png.seek(0)


def test_pillows_own_words_are_not_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: whatever it warns of is in standard error."""
    Image.new("L", (400, 300)).save(tmp_path / "a.png")
    make_model(tmp_path / "model")
    script = "import sys; from PIL import Image; Image.MAX_IMAGE_PIXELS = 100; from unflip.cli.main import run; sys.exit(run())"
    call = [sys.executable, "-c", script, "translate", str(tmp_path / "model"), str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
    paths = os.pathsep.join(filter(None, [str(Path(unflip.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
    for limit, part in (("100000", "(400x300), "), ("50000", "")):  # Pillow only warns of the first; it refuses the second
        environment = {**os.environ, limits.NAME: limit, "PYTHONPATH": paths}
        done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and done.stderr.startswith(f"error: too many pixels for UNFLIP_MAX_PIXELS={limit}"), done.stderr
        assert part in done.stderr and done.stderr.count("\n") == 1


def test_windows_have_no_limit_of_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is never in memory as a whole may be of any size, in a folder and alone."""
    deep = Bands(count=1, depth="uint16", ranges=((0, 9000),))
    make_model(tmp_path / "model", source=deep, target=deep)
    image = np.random.default_rng(0).integers(0, 9000, (150, 140)).astype(np.uint16)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/a.tif", image, tile=(32, 32))
    monkeypatch.setenv(limits.NAME, "1000")
    translator = unflip.load(tmp_path / "model", device="cpu", tile=64)
    for given in (tmp_path / "in", tmp_path / "in/a.tif"):
        assert translate_folder(translator, given, tmp_path / f"out {given.name}", progress=False).done == 1
    says(lambda: translate_folder(unflip.load(tmp_path / "model", device="cpu"), tmp_path / "in/a.tif", tmp_path / "x"), "too many pixels")


# Formats and their codecs


def test_only_listed_formats_are_opened(tmp_path: Path) -> None:
    for kind in ("GIF", "PPM", "TGA", "ICO", "PCX"):
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png", kind)
        says(lambda: read(tmp_path / "a.png"), "not an image that unflip reads")
        says(lambda: read_labels(tmp_path / "a.png", CLASSES), "cannot be read")


def planes(codec: str, pieces: list[bytes]) -> io.BytesIO:
    """A TIFF of four bands, a tile of 16 x 16 each, whose tiles are ``pieces``."""

    class Kept(io.BytesIO):
        def close(self) -> None:
            self.seek(0)

    file, shape = Kept(), (4, 16, 16)
    tifffile.imwrite(
        file, iter(pieces), shape=shape, dtype=np.uint8, compression=codec, tile=(16, 16), photometric="minisblack", planarconfig="separate"
    )
    file.seek(0)
    return file


def test_a_tile_holds_no_more_than_the_file_says() -> None:
    """A few bytes of JPEG or LERC stand for an image of any size."""
    for codec, encode in (("jpeg", imagecodecs.jpeg_encode), ("lerc", imagecodecs.lerc_encode)):
        small, large = (encode(np.zeros((side, side), np.uint8)) for side in (16, 2000))
        assert read("a.tif", file=planes(codec, [small] * 4), bands=BANDS).pixels.shape == (16, 16, 4)
        assert len(large) < 60_000
        says(lambda: read("a.tif", file=planes(codec, [small, small, large, small]), bands=BANDS), "2000x2000 instead of 16x16")  # noqa: B023
        says(lambda: read("a.tif", file=planes(codec, [b"junk" * 30] * 4), bands=BANDS), "a.tif")  # noqa: B023
    many = bytes(imagecodecs.lerc_encode(np.zeros((16, 16), np.uint8))) * 50
    says(lambda: read("a.tif", file=planes("lerc", [many] * 4), bands=BANDS), "several LERC blobs")


def test_a_strip_is_no_longer_than_its_file(tmp_path: Path) -> None:
    """4 GB of a file of 3 kB would be taken to read them."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.zeros((40, 40, 4), np.uint16), photometric="minisblack", planarconfig="contig", compression="zlib", rowsperstrip=40
    )
    with tifffile.TiffFile(path) as file:
        at = file.pages[0].tags[279].offset
    data = bytearray(path.read_bytes())
    data[at + 2 : at + 12] = b"\x04\0\x01\0\0\0" + b"\xff" * 4
    path.write_bytes(data)
    says(lambda: read(path, bands=Bands(count=4, depth="uint16", ranges=((0, 9),))), "its pixels lie beyond its end")


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_pages_in_circles(tmp_path: Path, bigtiff: bool, byteorder: Any) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((3, 20, 30), np.uint16), photometric="minisblack", bigtiff=bigtiff, byteorder=byteorder)
    assert check(path).kind.bands == 3
    with tifffile.TiffFile(path) as file:
        first, last = (file.pages[k].offset for k in (0, -1))
    size = 8 if bigtiff else 4
    order = "little" if byteorder == "<" else "big"
    data = bytearray(path.read_bytes())
    width, entry = (8, 20) if bigtiff else (2, 12)
    at = last + width + int.from_bytes(data[last : last + width], order) * entry
    assert data[at : at + size] == bytes(size)
    data[at : at + size] = first.to_bytes(size, order)
    path.write_bytes(data)
    says(lambda: check(path), "directories are larger than the file")


@pytest.mark.parametrize("codec", ["jpeg2000", "jpegxl", "png", "jpegxr"])
def test_rare_codecs_are_not_asked(codec: str) -> None:
    file = io.BytesIO()
    tifffile.imwrite(
        file, np.zeros((5, 16, 16), np.uint16), compression=codec, photometric="minisblack", planarconfig="separate", tile=(16, 16)
    )
    again = io.BytesIO(file.getbuffer()) if not file.closed else None
    if again is None:
        pytest.skip("the file was closed by its writer")
    says(lambda: read("a.tif", file=again, bands=Bands(count=5, depth="uint16")), "which is not decoded (none, LZW, JPEG")
    assert len(set(COMPRESSIONS.values())) == 8


def ome(path: Path, old: str, new: str, pages: int = 3) -> Path:
    xml = tifffile.OmeXml()
    xml.addimage(np.uint8, (pages, 20, 30), (pages, 1, 1, 20, 30, 1), axes="CYX")
    text = xml.tostring(declaration=True)
    assert old in text
    tifffile.imwrite(
        path, np.zeros((pages, 20, 30), np.uint8), photometric="minisblack", description=text.replace(old, new).encode(), metadata=None
    )
    return path


def test_the_planes_of_an_ome_tiff_are_not_believed(tmp_path: Path) -> None:
    assert check(ome(tmp_path / "a.tif", 'SizeC="3"', 'SizeC="3"')).kind.bands == 3
    for new in ('SizeC="3000000000"', 'SizeC="&#51;000000000"'):
        says(lambda new=new: check(ome(tmp_path / "a.tif", 'SizeC="3"', new)), "more planes than can be")  # type: ignore[misc]
    says(lambda: check(ome(tmp_path / "a.tif", 'PlaneCount="3"', 'PlaneCount="9999999999"')), "more planes than can be")


def test_an_ome_tiff_leads_to_no_other_file(tmp_path: Path) -> None:
    """Its XML can name the files of its other planes; tifffile would open them."""
    tifffile.imwrite(tmp_path / "secret.tif", np.full((20, 30), 7, np.uint8))
    (tmp_path / "in").mkdir()
    data = '<TiffData IFD="0" PlaneCount="1"><UUID FileName="../secret.tif">urn:uuid:2</UUID></TiffData></Pixels>'
    path = ome(tmp_path / "in/a.tif", "</Pixels>", data)
    opened: list[str] = []

    def note(event: str, given: Any) -> None:
        if event == "open":
            opened.append(str(given[0]))

    sys.addaudithook(note)
    check(path)
    assert any("a.tif" in each for each in opened) and not any("secret" in each for each in opened)


# Texts


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{n}: &{n} [{','.join(['*' + p] * 9)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "is too large: it stands for more than 100,000 values"),
        ("a: &a [*a]", "is without end: a value contains itself"),
        ("a: &a {b: {c: *a}}", "is without end: a value contains itself"),
        ("[" * 3000, "is nested too deeply"),
        ("a: 2001-99-99", "is not valid YAML"),
        ("b: 1\na: [", "is not valid YAML (line"),
        ("a: !!python/object/apply:os.system ['x']", "is not valid YAML (line 1)"),
        ("a: " + "9" * 5000, "is not valid YAML"),
    ],
)
def test_yaml_is_no_larger_than_it_looks(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    says(lambda: from_yaml(tmp_path / "config.yaml"), "config.yaml", words)
    says(lambda: collect(file=tmp_path / "config.yaml"), "config.yaml")


def test_yaml_may_repeat_itself_as_people_do() -> None:
    assert yamls.load("a: &a {x: 1, y: [2]}\nb: {<<: *a, y: 3}") == {"a": {"x": 1, "y": [2]}, "b": {"x": 1, "y": 3}}
    assert yamls.load("") is None and yamls.load("1.5") == 1.5
    says(lambda: collect("cut", settings=["seed=[[[2001-99-99"]), "--set seed")


def test_values_are_quoted_in_part(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    nested: Any = []
    for _ in range(800):
        nested = [nested]
    for odd in ("x" * 10**6, list(range(10**5)), nested, {"k" * 10**5: 1}, {"kind": []}):
        (folder / "config.json").write_text(json.dumps(config | {"generator": odd}))
        says(lambda: modelfolder.read_config(folder), "generator")


# Model folders


@pytest.mark.parametrize("name", ["../../x", "/tmp/x.safetensors", "a/b.safetensors", "..", "x.py", "..\\x.safetensors", "x.safetensors\n"])
def test_the_files_of_a_folder_are_in_it(name: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"files": config["files"] | {name: "0"}}))
    says(lambda: unflip.load(folder), "config.json: files")
    says(lambda: modelfolder.copy(folder, tmp_path / "copy"), "config.json: files")
    assert not (tmp_path / "copy").exists()


def test_what_does_not_fit_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator of 600 GB is refused for its shapes, before it is built."""
    folder = make_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["generator"] |= {"width": 2**13}
    (folder / "config.json").write_text(json.dumps(config))
    says(lambda: unflip.load(folder), "does not fit the configuration")
    own = SegmenterModelConfig(network={"width": 4, "halvings": 2}, classes=CLASSES)  # type: ignore[arg-type]
    save_segmenter(tmp_path / "s", own, own.network.build(2, torch.Generator().manual_seed(0)))
    config = json.loads((tmp_path / "s/config.json").read_text())
    config["network"] |= {"width": 2**12}
    (tmp_path / "s/config.json").write_text(json.dumps(config))
    says(lambda: load_segmenter(tmp_path / "s"), "does not fit the configuration")


@pytest.mark.parametrize(
    "setting", ["discriminator.layers=99999999999999999999", "generator.width=9223372036854775808", "generator.blocks=5000"]
)
def test_sizes_have_bounds(setting: str) -> None:
    says(
        lambda: validate(collect("cut", settings=[setting], source="a", target="b", budget=9)),
        setting.partition("=")[0],
        "less than or equal",
    )


def test_a_type_of_model_that_is_no_name(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    for odd in ([[]], {"a": 1}, 5, "x" * 10**5):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": odd}))
        with pytest.raises(UserError, match="not one for semantic segmentation") as caught:
            load_segmenter(tmp_path)
        assert len(str(caught.value)) < 2000


def test_a_worker_on_another_machine_is_given_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from unflip.inference import scale

    monkeypatch.setenv(limits.NAME, "5")
    here = SimpleNamespace(get_node_id=lambda: "b")
    nodes = [{"NodeID": "a", "Resources": {"CPU": 2.0}}, {"NodeID": "b", "Resources": {"CPU": 4.0, "memory": 1e9}}]
    ray = SimpleNamespace(get=lambda given: given, nodes=lambda: nodes, get_runtime_context=lambda: here)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(devices, "sharing", 1)
    scale._Worker(SimpleNamespace(to=lambda device: None), "cpu", "out", None, "123", 16, None)
    assert devices.sharing == 4, "as many of the 16 as there are cores may be here"
    assert limits.max_pixels() == 123


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_sizes": [8, 2**21]},
        {"num_hidden_layers": DEEPEST + 1},
        {"decoder": {"depths": [1, 10**9]}},
        {"_attn_implementation_internal": "owner/kernels"},
        {"backbone_config": {"attn_implementation": "owner/kernels:run"}},
        {"use_pretrained_backbone": True},
        {"drop": float("inf")},
    ],
)
def test_a_network_of_others_can_be_and_brings_nothing_along(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"too large for a network|names code of somewhere else|would download"):
        check_config(values)
    check_config({"hidden_sizes": [64, 512], "depths": [3, 40], "attn_implementation": "sdpa", "use_pretrained_backbone": False, "x": None})


# Shards


def shard(path: Path, change: Callable[[bytearray], None]) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("a.png", "b.png"):
            info = tarfile.TarInfo(name)
            info.size = 600
            tar.addfile(info, io.BytesIO(bytes(600)))
    data = bytearray(path.read_bytes())
    head = data[:512]
    change(head)
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    path.write_bytes(head + data[512:])
    return path


@pytest.mark.parametrize("size", [b"\xff" * 12, b"\xff" * 10 + b"\xfa\x00", b"\x80" + b"\0" * 3 + b"\xff" * 8, b"77777777777\0"])
def test_a_member_of_a_size_that_cannot_be(size: bytes, tmp_path: Path) -> None:
    """Older Pythons go in circles for negative ones."""

    def change(head: bytearray) -> None:
        head[124:136] = size

    says(lambda: members([shard(tmp_path / "0.tar", change)]), "broken or truncated shard", "0.tar")


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
def test_a_long_name_is_not_read_at_any_length(kind: bytes, tmp_path: Path) -> None:
    def change(head: bytearray) -> None:
        head[124:136], head[156:157] = b"77777777777\0", kind

    says(lambda: members([shard(tmp_path / "0.tar", change)]), "0.tar (a name that is too long)")


def test_a_sparse_member_is_not_filled(tmp_path: Path) -> None:
    def change(head: bytearray) -> None:
        head[156:157] = b"S"
        head[483:495] = b"\x80" + b"\0" * 5 + b"\xff" * 6  # the size that it stands for

    make_model(tmp_path / "model")
    path = shard(tmp_path / "0.tar", change)
    outcome = translate_folder(unflip.load(tmp_path / "model", device="cpu"), path, tmp_path / "out", progress=False)
    assert len(outcome.failed) == 1 and "sparse" in outcome.failed[0] and "0.tar" in outcome.failed[0]
