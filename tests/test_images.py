"""Single images: what is read is what was stored, what is written is whole, and what is broken is named."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from unflip.data import limits
from unflip.data.images import check, header, prepare, read, read_rgb
from unflip.data.resize import parse_resize
from unflip.data.save import write
from unflip.data.transforms import to_image, to_network
from unflip.errors import UserError

BITMAP = ("png", "bmp", "tiff", "webp")


def noise(height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + y) * 255 // (height + width - 2)], axis=2).astype(np.uint8)


def says(path: Path, *words: str) -> pytest.RaisesExc[UserError]:
    """Raises a UserError of one line that names the file and holds the words."""

    def fits(error: UserError) -> bool:
        text = str(error)
        return "\n" not in text and path.name in text and all(word in text for word in words)

    return pytest.RaisesExc(UserError, check=fits)


# Reading


@pytest.mark.parametrize("suffix", BITMAP)
def test_rgb_comes_back_as_it_was(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise()).save(path, lossless=True)  # WebP's option; the others ignore it
    rgb, alpha, *_ = read(path)
    assert rgb.dtype == np.uint8 and alpha is None
    assert np.array_equal(rgb, noise())
    rgb[0] = 0  # writable


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright = smooth()
    rows = upright.swapaxes(0, 1) if orientation >= 5 else upright  # as stored, by the EXIF standard: where row 0 and column 0 lie
    flip_rows, flip_columns = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}[orientation]
    # 6: row 0 is the right side, column 0 the top; 8: row 0 is the left side, column 0 the bottom.
    stored = rows[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=100)
    assert np.abs(read_rgb(path).astype(int) - upright).mean() < 3  # JPEG and WebP lose a little
    assert check(path)[:2] == (64, 48)
    assert read_rgb(path, "32x24").shape == (24, 32, 3)


def test_exif_behind_the_pixels_of_a_png(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(noise()).save(path, exif=exif)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    path.write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])
    assert np.array_equal(read_rgb(path), np.rot90(noise(), -1))
    assert check(path)[:2] == (24, 32)


def test_damaged_exif_damages_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(noise()).save(path, exif=b"Exif\0\0 not a header at all")
    assert check(path)[:2] == (32, 24)
    assert read_rgb(path).shape == (24, 32, 3)


def test_palette_gray_and_1_bit(tmp_path: Path) -> None:
    colors = np.array([[128, 64, 128], [70, 70, 70], [0, 255, 0]], dtype=np.uint8)
    classes = np.random.default_rng(0).integers(0, 3, (8, 10), dtype=np.uint8)
    palette = Image.fromarray(classes)
    palette.putpalette(colors.tobytes())
    palette.save(tmp_path / "p.png")
    assert palette.mode == "P"
    assert np.array_equal(read_rgb(tmp_path / "p.png"), colors[classes])

    Image.fromarray(noise()[..., 0]).save(tmp_path / "gray.png")
    assert np.array_equal(read_rgb(tmp_path / "gray.png"), np.repeat(noise()[..., :1], 3, axis=2))

    bits = np.random.default_rng(0).random((8, 10)) < 0.5
    Image.fromarray(bits).save(tmp_path / "bits.png")
    assert np.array_equal(read_rgb(tmp_path / "bits.png"), np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))


def test_a_turned_palette_keeps_its_colors(tmp_path: Path) -> None:
    palette = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    palette.putpalette(list(range(18)))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    palette.save(tmp_path / "p.png", exif=exif)
    expected = np.rot90(np.arange(18, dtype=np.uint8).reshape(2, 3, 3), -1)
    assert np.array_equal(read_rgb(tmp_path / "p.png"), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_kept_apart_and_colors_under_it_stay(tmp_path: Path, mode: str) -> None:
    rgb, alpha = (noise() if mode == "RGBA" else np.repeat(noise()[..., :1], 3, axis=2)), noise(seed=1)[..., 0]
    alpha[:8] = 0
    image = Image.fromarray(rgb).convert(mode[:-1])
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "a.png")
    found, found_alpha, *_ = read(tmp_path / "a.png")
    assert np.array_equal(found, rgb) and found_alpha is not None and np.array_equal(found_alpha, alpha)
    assert np.array_equal(read_rgb(tmp_path / "a.png"), rgb)
    # Resized, colors still know nothing of alpha.
    image.convert("RGB").save(tmp_path / "opaque.png")
    assert np.array_equal(read_rgb(tmp_path / "a.png", "16x12"), read_rgb(tmp_path / "opaque.png", "16x12"))
    half = read(tmp_path / "a.png", "16x12")
    assert half.alpha is not None and np.array_equal(half.alpha, alpha), "transparency passes through unresized"
    assert half.pixels.shape == (12, 16, 3) and half.size == (32, 24)


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 128])])
def test_palette_with_transparency(tmp_path: Path, transparency: int | bytes) -> None:
    classes = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
    colors = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], dtype=np.uint8)
    image = Image.fromarray(classes)
    image.putpalette(colors.tobytes())
    image.save(tmp_path / "p.png", transparency=transparency)
    rgb, alpha, *_ = read(tmp_path / "p.png")
    table = np.array([255, 0, 255 if isinstance(transparency, int) else 128], dtype=np.uint8)
    assert np.array_equal(rgb, colors[classes]) and alpha is not None and np.array_equal(alpha, table[classes])


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (200, 30, 90)).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read_rgb(tmp_path / "a.jpg").astype(int) - [200, 30, 90]).max() <= 3
    Image.new("CMYK", (16, 16), (55, 225, 165, 0)).save(tmp_path / "a.tiff")
    assert np.array_equal(read_rgb(tmp_path / "a.tiff")[0, 0], [200, 30, 90])


def png_of_16_bit_color(path: Path) -> None:
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + bytes(range(12)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def test_16_bit_and_float_are_refused_where_8_bits_are_needed(tmp_path: Path) -> None:
    png_of_16_bit_color(tmp_path / "color.png")  # Pillow itself cuts these to 8 bits without a word
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(tmp_path / "gray.png")
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(tmp_path / "gray.tiff")
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "float.tiff")
    kinds = {"color.png": ("uint16", 3), "gray.png": ("uint16", 1), "gray.tiff": ("uint16", 1), "float.tiff": ("float32", 1)}
    for name, (depth, bands) in kinds.items():
        with says(tmp_path / name, f"{depth} with {bands} band", "where uint8 with 3 bands is needed"):
            read(tmp_path / name)
        assert check(tmp_path / name).kind[:2] == (bands, depth)


def test_pillow_images_are_prepared_as_files_are(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(noise()).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(prepare(image, "short:12")[0], read_rgb(tmp_path / "a.png", "short:12"))
        assert image.size == (32, 24)  # the caller's image stays as it is
    assert prepare(Image.fromarray(noise()).convert("RGBA"))[1] is not None
    with pytest.raises(UserError, match="16-bit"):
        prepare(Image.fromarray(np.zeros((4, 4), np.uint16)))


# Broken files


def saved(path: Path) -> bytes:
    Image.fromarray(noise(200, 200)).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff"])
def test_truncated_files_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    data = saved(path)
    assert check(path)[:2] == (200, 200)
    for kept in (len(data) // 2, len(data) * 9 // 10):
        path.write_bytes(data[:kept])
        with says(path):
            check(path)
        with says(path):
            read_rgb(path)


def test_a_truncated_header_a_fake_and_nothing_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for data in (saved(path)[:20], b"<!DOCTYPE html><html>404</html>", b""):
        path.write_bytes(data)
        with says(path, "remove"):
            check(path)
        with says(path, "remove"):
            read(path)
    with says(tmp_path / "missing.png", "No such file"):
        check(tmp_path / "missing.png")


def test_other_formats_of_pillow_are_not_tried(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(noise()).save(path, format="GIF")
    with says(path, "not an image that unflip reads"):
        check(path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_data_behind_the_end_is_legal(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(saved(path) + b"\0" * 100)
    assert check(path)[:2] == (200, 200)
    assert read_rgb(path).shape == (200, 200, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_whole_file_is_checked_without_decoding(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / f"a.{suffix}")
    from PIL.ImageFile import ImageFile

    def fail(self: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile, "load", fail)
    assert check(tmp_path / f"a.{suffix}")[:2] == (200, 200)


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "a.png")
    monkeypatch.setenv(limits.NAME, "39999")
    with says(tmp_path / "a.png", "200x200", "UNFLIP_MAX_PIXELS=39999"):
        check(tmp_path / "a.png")
    monkeypatch.setenv(limits.NAME, "40000")
    assert check(tmp_path / "a.png")[:2] == (200, 200)


# Resizing


@pytest.mark.parametrize("text", ["none", "short:256", "640x480", "1x1"])
def test_a_resize_is_spelled_as_it_was(text: str) -> None:
    assert str(parse_resize(text)) == text


@pytest.mark.parametrize(
    "text", ["", "None", "short", "short:", "short:0", "short:-4", "0x4", "4x", "4X4", "4x4x4", "4.5x4", "99999x1", " 4x4", "4x4\n"]
)
def test_no_resize_is_guessed(text: str) -> None:
    with pytest.raises(UserError, match="not a resize"):
        parse_resize(text)


@given(width=st.integers(1, 5000), height=st.integers(1, 5000), short=st.integers(1, 2000))
def test_the_shorter_side_is_met_and_the_aspect_kept(width: int, height: int, short: int) -> None:
    scale = short / min(width, height)
    assume(width * height * scale**2 < 0.99 * limits.DEFAULT)  # a strip that short:N makes too large is refused, as another test holds
    new_width, new_height = parse_resize(f"short:{short}").size_for(width, height)
    assert min(new_width, new_height) == short
    assert abs(new_width - width * scale) <= 0.5 and abs(new_height - height * scale) <= 0.5
    assert parse_resize("none").size_for(width, height) == (width, height)
    assert parse_resize("7x9").size_for(width, height) == (7, 9)


def test_label_maps_get_no_new_colors_and_photos_do(tmp_path: Path) -> None:
    colors = np.random.default_rng(0).integers(0, 256, (64, 3), dtype=np.uint8)
    classes = np.arange(96 * 96).reshape(96, 96) * 7 % 64
    Image.fromarray(colors[classes]).save(tmp_path / "flat.png")
    palette = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8))  # 256 colors: flat by its mode
    palette.putpalette(noise(1, 256).tobytes())
    palette.save(tmp_path / "palette.png")
    Image.fromarray(np.random.default_rng(0).random((96, 96)) < 0.5).save(tmp_path / "bits.png")
    for name in ("flat", "palette", "bits"):
        before, after = read_rgb(tmp_path / f"{name}.png"), read_rgb(tmp_path / f"{name}.png", "41x31")
        assert after.shape == (31, 41, 3)
        assert {*map(tuple, after.reshape(-1, 3).tolist())} <= {*map(tuple, before.reshape(-1, 3).tolist())}

    colors = np.concatenate([colors, [[1, 2, 3]]]).astype(np.uint8)  # one color more than a label map may have
    Image.fromarray(colors[np.arange(96 * 96).reshape(96, 96) * 7 % 65]).save(tmp_path / "photo.png")
    after = read_rgb(tmp_path / "photo.png", "41x31")
    assert len(np.unique(after.reshape(-1, 3), axis=0)) > 65


def test_photos_are_resized_without_aliasing(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    stripes[0, :, 0] = np.arange(64) * 4  # more than 64 colors
    stripes[1, :, 1] = np.arange(64) * 4
    Image.fromarray(stripes).save(tmp_path / "a.png")
    assert np.abs(read_rgb(tmp_path / "a.png", "short:16")[4:, 2:-2].astype(int) - 127).max() < 20  # unfiltered: 0 or 255


def test_enlarging_is_bicubic(tmp_path: Path) -> None:
    Image.fromarray(noise()).save(tmp_path / "a.png")
    expected = np.asarray(Image.fromarray(noise()).resize((64, 48), Image.Resampling.BICUBIC))
    assert np.array_equal(read_rgb(tmp_path / "a.png", "short:48"), expected)


# Writing


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_written_is_read_again_with_alpha(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / "folder" / f"a.{suffix}"
    alpha = noise(seed=1)[..., 0]
    alpha[:4] = 0
    write(path, noise(), alpha)
    rgb, found, *_ = read(path)
    assert np.array_equal(rgb, noise()) and found is not None and np.array_equal(found, alpha)
    write(path, noise(seed=2))  # over the old one
    rgb, found, *_ = read(path)
    assert np.array_equal(rgb, noise(seed=2)) and found is None
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "bmp"])
def test_formats_without_alpha_drop_it(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"a.{suffix}", smooth(), np.zeros((48, 64), np.uint8))
    rgb, alpha, *_ = read(tmp_path / f"a.{suffix}")
    assert alpha is None and np.abs(rgb.astype(int) - smooth()).mean() < 2


def test_jpeg_keeps_full_color_resolution(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", noise())
    with Image.open(tmp_path / "a.jpg") as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]


def test_new_files_have_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write(tmp_path / "a.png", noise())
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def fill_disk(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write(path, noise())
    fill_disk(monkeypatch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with says(path, "the disk is full"):
        write(path, noise(seed=1))
    assert os.listdir(tmp_path) == ["a.png"] and np.array_equal(read_rgb(path), noise())
    fill_disk(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write(path, noise(seed=1))
    assert os.listdir(tmp_path) == ["a.png"] and np.array_equal(read_rgb(path), noise())


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with says(tmp_path / "file", "cannot write"):
        write(tmp_path / "file" / "a.png", noise())
    with says(Path("a.gif"), ".png"):
        write(tmp_path / "a.gif", noise())
    with says(Path("a.webp"), "another format"):
        write(tmp_path / "a.webp", np.zeros((1, 17_000, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        write(tmp_path / "a.png", noise().astype(np.float64))
    with says(Path("a.png"), "PNG cannot hold float32 with 3 bands", ".tif"):
        write(tmp_path / "a.png", noise().astype(np.float32))
    assert os.listdir(tmp_path) == ["file"]


# Into the networks and out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_value_survives_the_network_range(dtype: torch.dtype) -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    inside = to_network(values, dtype)
    assert inside.dtype == dtype and inside.min() == -1 and inside.max() == 1
    assert torch.equal(inside, (values.double() / 127.5 - 1).to(dtype)) or dtype == torch.float32
    assert torch.equal(to_image(inside), values)


def test_values_beyond_are_clamped_and_between_are_rounded() -> None:
    assert to_image(torch.tensor([-9.0, -1.001, 1.001, 9.0])).tolist() == [0, 0, 255, 255]
    assert to_image(torch.tensor([99.4, 99.6]) / 127.5 - 1).tolist() == [99, 100]


@pytest.mark.parametrize("name", ["a.webp", "a.png"])
def test_animations_are_refused(tmp_path: Path, name: str) -> None:
    """Their other frames would be lost; a picture of one frame is a picture."""
    frames = [Image.fromarray(noise(seed=i)) for i in range(3)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=100)
    for ask in (check, header, read):
        with says(tmp_path / name, "an animation of 3 frames"):
            ask(tmp_path / name)
    frames[0].save(tmp_path / name, save_all=True, lossless=True)
    assert np.array_equal(read(tmp_path / name).pixels, noise(seed=0))


def test_what_a_phone_puts_behind_a_jpeg_is_no_animation(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(seed=i)) for i in range(2)]
    frames[0].save(tmp_path / "a.mpo", "MPO", save_all=True, append_images=frames[1:])
    (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    assert read(tmp_path / "a.jpg").pixels.shape == noise().shape
