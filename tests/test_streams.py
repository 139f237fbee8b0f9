"""Work does not end because nobody can read what it says any more."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import unflip
from helpers import refused
from unflip.data import streets
from unflip.errors import UserError
from unflip.files import disk_errors, refuse_unwritable, undone_on_failure, whole_folder
from unflip.report.blocks import Text
from unflip.report.page import Page, write

SMALL = ["generator.width=4", "generator.blocks=1", "discriminator.width=4", "discriminator.layers=2", "projector.width=8", "nce.patches=8"]


@pytest.mark.skipif(os.name != "posix", reason="needs pipes that can be closed")
def test_a_training_outlives_who_reads_its_progress(tmp_path: Path) -> None:
    """As with ``2>&1 | head -1``."""
    streets.write(tmp_path / "source", count=2, look="render", width=48, height=32)
    streets.write(tmp_path / "target", count=2, look="photo", first=9, width=48, height=32)
    command = [sys.executable, "-m", "unflip", "train", "--method", "cut", "--budget", "20", "--size", "32", "--device", "cpu"]
    command += ["--source", str(tmp_path / "source"), "--target", str(tmp_path / "target"), "--out", str(tmp_path / "run")]
    command += [part for setting in SMALL for part in ("--set", setting)]
    environment = {**os.environ, "PYTHONPATH": str(Path(unflip.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    assert process.stderr.readline()
    process.stderr.close()
    assert process.wait(120) == 0
    assert (tmp_path / "run/model/model.safetensors").is_file() and (tmp_path / "run/report.html").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_behind_the_output_is_one_line() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(unflip.__file__).parents[1])}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "unflip", "methods"], env=environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == "error: what was to be printed cannot be written: the disk is full\n"


@pytest.mark.parametrize("reason", ["mount", "parent"])
def test_a_folder_that_cannot_be_replaced_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """A container's volume, or a folder in one of somebody else's."""
    folder = tmp_path / "volume"
    folder.mkdir()
    place = folder.stat().st_ino
    if reason == "mount":
        monkeypatch.setattr(Path, "is_mount", lambda self: self == folder)
    else:
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and access(path, mode))
    with whole_folder(folder) as temporary:
        for name in ("config.json", "model.safetensors"):
            (temporary / name).write_text(name)
    assert folder.stat().st_ino == place
    assert {path.name: path.read_text() for path in folder.iterdir()} == {name: name for name in ("config.json", "model.safetensors")}
    with pytest.raises(ValueError, match="broken"), whole_folder(folder) as temporary:
        (temporary / "config.json").write_text("new")
        raise ValueError("broken")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {name: name for name in ("config.json", "model.safetensors")}


def test_a_link_to_a_folder_is_filled_again_and_again(tmp_path: Path) -> None:
    """As a segmenter's is: before its reading, and after it."""
    link, there = tmp_path / "link", tmp_path / "there"
    there.mkdir()
    link.symlink_to(there)
    for text in ("first", "second"):
        with whole_folder(link) as temporary:
            (temporary / "config.json").write_text(text)
        assert link.is_symlink() and (there / "config.json").read_text() == text
    (tmp_path / ".there.old").symlink_to(tmp_path)  # whatever it is of
    with whole_folder(there) as temporary:
        (temporary / "config.json").write_text("third")
    assert (there / "config.json").read_text() == "third" and sorted(path.name for path in tmp_path.iterdir()) == ["link", "there"]


def test_what_others_put_beside_a_folder_meanwhile_stays(tmp_path: Path) -> None:
    """Both were begun when the folder that they have in common was not there."""
    with pytest.raises(UserError, match="stopped"), undone_on_failure(tmp_path / "models/a/deep"):
        (tmp_path / "models/a/deep/half").mkdir()
        (tmp_path / "models/b").mkdir()
        (tmp_path / "models/b/config.json").write_text("whole")
        raise UserError("stopped")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["models", "models/b", "models/b/config.json"]
    with pytest.raises(UserError, match="stopped"), undone_on_failure(tmp_path / "alone/a"):
        raise UserError("stopped")
    assert not (tmp_path / "alone").exists()


def test_a_look_whether_a_folder_can_be_written_takes_nothing_of_others_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = tempfile.TemporaryFile

    def meanwhile(**given: Any) -> Any:
        (tmp_path / "models/b").mkdir()
        (tmp_path / "models/a/mine").write_text("of another process with the same --out")
        return look(**given)

    monkeypatch.setattr(tempfile, "TemporaryFile", meanwhile)
    refuse_unwritable(tmp_path / "models/a")
    assert (tmp_path / "models/b").is_dir() and (tmp_path / "models/a/mine").is_file()


def test_what_cannot_be_written_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(lambda: refuse_unwritable(tmp_path / "file/out"), "a part of that path is a file")
    refuse_unwritable(tmp_path / "a/b/c")
    (tmp_path / "there").mkdir()
    refuse_unwritable(tmp_path / "there")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "there"]
    for what in ("read", "write"):
        with pytest.raises(UserError, match=f"cannot {what} .*: no permission to {what} there"), disk_errors(tmp_path, what):
            raise PermissionError(13, "Permission denied")


def test_names_that_are_no_text_do_not_break_a_page(tmp_path: Path) -> None:
    write(Page("bad\udcff.png", "", [Text(["bad\udcff.png"])]), tmp_path / "page.html")
    assert "bad\\udcff.png" in (tmp_path / "page.html").read_text(encoding="utf-8")
