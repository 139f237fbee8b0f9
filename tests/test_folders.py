"""Finding and checking images."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from unflip.data.folders import Entry, everything, find_images, relative_names, same_folder, survey
from unflip.errors import UserError

Folder = Callable[..., Path]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_images(root)]


def test_folders_are_searched_in_depth_in_natural_order(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "b/10.png",
        "b/9.JPG",
        "b/c/1.webp",
        "a2/x.tif",
        "a10/x.tiff",
        "z.bmp",
        "a2/notes.txt",
        *(f"ties/{zeros}1.png" for zeros in ("", "00", "0", "000")),
    )
    touch(tmp_path, "٣.png")  # a decimal digit, but not of ours
    assert found(tmp_path) == [
        *("a2/x.tif", "a10/x.tiff", "b/9.JPG", "b/10.png", "b/c/1.webp"),
        *(f"ties/{zeros}1.png" for zeros in ("000", "00", "0", "")),
        "z.bmp",
        "٣.png",
    ]


def test_hidden_is_skipped_below_the_root_only(tmp_path: Path) -> None:
    root = tmp_path / ".data"
    touch(root, "a.png", ".b.png", ".cache/c.png", "__MACOSX/._d.png")
    assert found(root) == ["a.png"]


def test_links_are_followed_without_loops(tmp_path: Path) -> None:
    touch(tmp_path, "data/a.png", "elsewhere/b.png")
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "self").symlink_to(tmp_path / "data")
    assert found(tmp_path / "data") == ["a.png", "link/b.png"]
    (tmp_path / "data" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"gone\.png"):
        survey(find_images(tmp_path / "data"))


def test_pipes_are_no_files(tmp_path: Path) -> None:
    touch(tmp_path, "data/a.png", "data/sub/b.txt")
    os.mkfifo(tmp_path / "data/README")
    (tmp_path / "data/c.txt").symlink_to(tmp_path / "data/README")
    (tmp_path / "data/d.txt").symlink_to(tmp_path / "data/sub/b.txt")
    (tmp_path / "data/gone.txt").symlink_to("nowhere")
    assert sorted(everything(tmp_path / "data")) == ["a.png", "d.txt", "gone.txt", "sub/b.txt"]


def test_what_a_link_leads_to_has_its_own_name(tmp_path: Path) -> None:
    """As `current` does to the newest of several folders; annotations name the folder itself."""
    touch(tmp_path, "data/z/train/1.png", "data/other/2.png")
    (tmp_path / "data" / "current").symlink_to(tmp_path / "data/z/train")
    (tmp_path / "data" / "other" / "link").symlink_to(tmp_path / "data/z")
    assert found(tmp_path / "data") == ["other/2.png", "z/train/1.png"]


def test_a_list_is_read_relative_to_its_folder(tmp_path: Path) -> None:
    touch(tmp_path, "set/b.png", "set/a.png", "c d.png")
    names = tmp_path / "set" / "train.txt"
    names.write_text(f"\ufeff# a comment\nb.png\n\n  a.png  \n{tmp_path / 'c d.png'}\n../set/b.png\n", encoding="utf-8")
    paths = find_images(names)
    assert [path.name for path in paths] == ["b.png", "a.png", "c d.png", "b.png"]  # its own order; twice is twice
    assert all(path.is_file() for path in paths)
    assert [name.as_posix() for name in relative_names(paths, names)] == ["set/b.png", "set/a.png", "c d.png", "set/b.png"]


def test_names_of_a_list_never_leave_the_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "set/a.png", "other/b.png")
    (tmp_path / "set" / "train.txt").write_text(f"a.png\n../other/b.png\n{tmp_path}/set/a.png\n")
    monkeypatch.chdir(tmp_path / "set")
    for names in (Path("train.txt"), tmp_path / "set" / "train.txt"):
        assert relative_names(find_images(names), names) == [Path("set/a.png"), Path("other/b.png"), Path("set/a.png")]


def test_relative_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "data/a/1.png", "data/b/1.png")
    data = tmp_path / "data"
    assert [name.as_posix() for name in relative_names(find_images(data), data)] == ["a/1.png", "b/1.png"]
    one = data / "a" / "1.png"
    assert find_images(one) == [one] and relative_names([one], one) == [Path("1.png")]
    monkeypatch.chdir(data)
    assert [name.as_posix() for name in relative_names(find_images(Path(".")), Path("."))] == ["a/1.png", "b/1.png"]


def test_nothing_to_find_is_an_error_that_says_where(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "texts/readme.md", "model.safetensors")
    names = tmp_path / "names.txt"
    cases = {tmp_path / "missing": "no such", tmp_path / "empty": "no images", tmp_path / "texts": "no images"}
    for where, words in {**cases, tmp_path / "model.safetensors": "neither"}.items():
        with pytest.raises(UserError, match=f"{words}.*{where.name}.*; "):
            find_images(where)
    for text, words in {
        "": "no images",
        "# only\n": "no images",
        "a.png\n": r"no such image.*a\.png \(line 1",
        "texts/readme.md": "not an image",
    }.items():
        names.write_text(text)
        with pytest.raises(UserError, match=f"{words}.*; "):
            find_images(names)
    names.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        find_images(names)


def test_a_survey_keeps_the_order_and_tells_its_progress(images_folder: Folder) -> None:
    paths = [*find_images(images_folder("wide", 20, (40, 30))), *find_images(images_folder("tall", 20, (30, 40)))]
    seen: list[tuple[int, int]] = []
    entries = survey(paths, progress=lambda done, total: seen.append((done, total)))
    assert entries == [Entry(path, *((40, 30) if path.parent.name == "wide" else (30, 40))) for path in paths]
    assert seen == [(i, 40) for i in range(1, 41)]


def test_all_bad_files_make_one_error(images_folder: Folder) -> None:
    folder = images_folder(count=8)
    for i in (1, 3, 4, 6, 7):
        data = (folder / f"{i:03}.png").read_bytes()
        (folder / f"{i:03}.png").write_bytes(data[:-40] if i % 2 else b"fake")
    with pytest.raises(UserError) as raised:
        survey(find_images(folder))
    text = str(raised.value)
    assert "\n" not in text and text.startswith("5 of 8 images cannot be used") and text.count("; ") == 1
    assert [name in text for name in ("001.png", "003.png", "004.png", "006.png", "000.png")] == [True, True, True, False, False]
    assert "and 2 more" in text


def test_an_interrupted_survey_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Path] = []

    def slow(path: Path) -> tuple[int, int]:
        checked.append(path)
        time.sleep(0.002)
        return 1, 1

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unflip.data.folders.check", slow)
    with pytest.raises(KeyboardInterrupt):
        survey([Path("a.png")] * 5000, progress=interrupt)
    assert len(checked) < 1000


def test_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    assert same_folder(tmp_path / "a", Path("b/../a")) and same_folder(Path("a"), Path("link"))
    assert not same_folder(Path("a"), Path("b")) and not same_folder(Path("a"), Path("new"))
    assert same_folder(Path("new"), Path(os.getcwd()) / "new")


def test_some_images_of_a_list_have_the_names_that_they_have_among_all(tmp_path: Path) -> None:
    touch(tmp_path, "set/a/1.png", "set/a/2.png", "set/b/1.png")
    names = tmp_path / "some.txt"
    names.write_text("set/a/1.png\nset/a/2.png\nset/b/1.png\n")
    every = find_images(names)
    assert relative_names(every[:1], names) == [Path("a/1.png")] == relative_names(every, names)[:1]
    names.write_text("# root: set\nset/a/1.png\nset/a/2.png\n")
    assert relative_names(find_images(names), names) == [Path("a/1.png"), Path("a/2.png")]
    names.write_text("# root: set/b\nset/a/1.png\n")
    with pytest.raises(UserError, match=r"1\.png is not below .*b, the root of .*some\.txt; correct the line"):
        relative_names(find_images(names), names)
