"""The page of `unflip serve` in a real browser: what a visitor does works, and nothing leaves this machine."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers import make_model

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("gradio", reason="the extra serve is not installed")

from serving import TOKEN, Server, picture, serving  # noqa: E402
from unflip.web.limits import Limits  # noqa: E402
from unflip.web.work import load_models  # noqa: E402

KNOWN = {"Method not implemented."}
"""What Gradio's scripts write to the console of a healthy page."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("models")
    runs = [str(make_model(root / "streets")), str(make_model(root / "both", sides=2, seed=3))]
    with serving(load_models(runs, "cpu"), Limits(bytes=40_000, rate=0)) as served:
        yield served
        assert [line for line in served.lines() if line.get("status", 500) >= 500] == []


class Visit:
    """A window with the page in it; ``asked``: all that it asked for."""

    def __init__(self, browser: Any, server: Server, width: int = 1280) -> None:
        self.server, self.asked, self.complaints = server, [], []
        self.context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True)
        self.page = self.context.new_page()
        self.page.on("request", lambda asked: self.asked.append(asked.url))
        self.page.on("console", lambda message: message.text in KNOWN or self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(server.url)

    def drop(self, **files: bytes) -> None:
        given = [{"name": name.replace("_", "."), "mimeType": "image/png", "buffer": data} for name, data in files.items()]
        self.page.locator("#drop input[type=file]").set_input_files(given)

    def pictures(self) -> list[np.ndarray]:
        """What the slider shows: the source and the translation, or what is doubted in it."""
        images = self.page.locator("#slider img")
        playwright.expect(images).to_have_count(2)
        return [np.asarray(Image.open(io.BytesIO(self.fetched(image.get_attribute("src")))).convert("RGB")) for image in images.all()]

    def fetched(self, url: str) -> bytes:
        return self.context.request.get(url).body()

    def download(self, name: str) -> tuple[str, bytes]:
        with self.page.expect_download() as started:
            self.page.locator(f"#{name}").click()
        return started.value.suggested_filename, Path(started.value.path()).read_bytes()


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Visit]:
    visit = Visit(browser, server)
    yield visit
    visit.context.close()
    assert visit.complaints == []
    assert len(visit.asked) > 20 and {url for url in visit.asked if not url.startswith((server.url, "data:", "blob:"))} == set()


def translated(server: Server, data: bytes, **query: Any) -> bytes:
    with server.client() as client:
        answer = client.post("/api/translate", params=query, content=data, headers={"Content-Type": "image/png"})
        assert answer.status_code == 200
        return answer.content


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_a_visit(visit: Visit, server: Server) -> None:
    """Drop, look, move the slider, see the doubts, take it with you; then with another model, and the other way round."""
    page, data = visit.page, picture(size=(96, 64))
    visit.drop(scene_png=data)
    source, shown = visit.pictures()
    made = translated(server, data)
    assert np.array_equal(source, pixels(data)) and np.array_equal(shown, pixels(made))
    assert "96 × 64 pixels" in page.locator("#facts").inner_text()

    box = page.locator("#slider").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    before = page.locator("#slider").screenshot()
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - box["width"] / 4, middle[1], steps=4)
    page.mouse.up()
    after = page.locator("#slider").screenshot()
    strip = [np.asarray(Image.open(io.BytesIO(each)).convert("RGB"), dtype=int)[100:-100] for each in (before, after)]
    change = np.abs(strip[0] - strip[1]).mean((0, 2))
    left, right = change[int(len(change) * 0.28) : int(len(change) * 0.45)], change[int(len(change) * 0.55) : int(len(change) * 0.75)]
    assert left.min() > 10 and right.max() < 5, "more of the translation is seen, and all else is as it was"

    name, taken = visit.download("file")
    assert (name, taken) == ("scene.png", made)
    with zipfile.ZipFile(io.BytesIO(translated(server, data, trust=1))) as file:
        assert visit.download("map") == ("scene_trust.png", file.read("trust.png"))

    right_one = page.locator("#slider img").nth(1)
    page.locator("#doubt input").check()
    playwright.expect(right_one).to_have_attribute("src", re.compile("doubted"))
    orange = visit.pictures()[1].astype(int)
    assert not np.array_equal(orange, shown) and (orange[..., 0] >= orange[..., 2]).all(), "gray to orange"
    page.locator("#doubt input").uncheck()
    playwright.expect(right_one).to_have_attribute("src", re.compile("translation"))

    assert not page.get_by_label("target to source").is_visible()
    first = right_one.get_attribute("src")
    page.get_by_label("Model").click()
    page.get_by_role("option", name="both").click()
    playwright.expect(right_one).not_to_have_attribute("src", first)
    assert np.array_equal(visit.pictures()[1], pixels(translated(server, data, model="both")))
    second = right_one.get_attribute("src")
    page.get_by_label("target to source").check()
    playwright.expect(right_one).not_to_have_attribute("src", second)
    assert np.array_equal(visit.pictures()[1], pixels(translated(server, data, model="both", direction="backward")))


def test_several_images_and_one_that_is_none(visit: Visit, server: Server) -> None:
    page, files = visit.page, {f"{name}_png": picture(seed=i) for i, name in enumerate("abc")}
    visit.drop(**files, bad_png=b"<b>no image</b>")
    thumbnails = page.locator("#gallery button img")
    playwright.expect(thumbnails).to_have_count(3)
    said = page.locator("#problem").inner_text()
    assert said == "not an image that unflip reads, bad.png; replace or remove it"
    shown = page.locator("#slider img").nth(1)
    first = shown.get_attribute("src")
    thumbnails.nth(2).click()
    playwright.expect(shown).not_to_have_attribute("src", first)
    made = [translated(server, data) for data in files.values()]
    assert np.array_equal(visit.pictures()[1], pixels(made[2])) and visit.download("file") == ("c.png", made[2])
    name, pack = visit.download("pack")
    with zipfile.ZipFile(io.BytesIO(pack)) as file:
        assert name == "translations.zip" and sorted(file.namelist()) == sorted(
            f"{each}{end}.png" for each in "abc" for end in ("", "_trust")
        )
        assert [file.read(f"{each}.png") for each in "abc"] == made


def test_what_cannot_be_shown_is_said(visit: Visit) -> None:
    page = visit.page
    visit.drop(bad_png=b"no image")
    playwright.expect(page.locator("#problem")).to_contain_text("not an image that unflip reads")
    assert not page.locator("#slider").is_visible() and not page.locator("#file").is_visible()


def test_a_server_that_has_no_room_says_so(browser: Any, tmp_path: Path) -> None:
    with serving(load_models([str(make_model(tmp_path / "run"))], "cpu"), Limits(bytes=40_000, places=0, patience=0)) as full:
        visit = Visit(browser, full)
        visit.drop(large_png=bytes(50_000))
        playwright.expect(visit.page.get_by_text("exceed the maximum allowed size")).to_be_visible()
        visit.page.reload()
        visit.drop(a_png=picture())
        playwright.expect(visit.page.get_by_text("all places in the queue are taken")).to_be_visible()
        visit.context.close()


def test_it_fits_its_window(visit: Visit) -> None:
    page = visit.page
    visit.drop(a_png=picture(size=(96, 64)), b_png=picture(size=(20, 90)))
    playwright.expect(page.locator("#gallery button img")).to_have_count(2)
    visit.pictures()
    for width, least in ((1280, 800), (400, 330)):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("#slider").bounding_box()["width"] > least, "what one has come to see is large"


def test_a_token_is_asked_for(browser: Any, server: Server, tmp_path: Path) -> None:
    models = load_models([str(make_model(tmp_path / "run"))], "cpu")
    with serving(models, token=TOKEN) as locked:
        visit = Visit(browser, locked)
        assert visit.page.url == f"{locked.url}/login"
        visit.page.get_by_label("Token").fill(TOKEN)
        visit.page.get_by_role("button", name="Open").click()
        visit.drop(a_png=picture())
        assert np.array_equal(visit.pictures()[1], pixels(locked_translation(locked)))
        visit.context.close()


def locked_translation(server: Server) -> bytes:
    with server.client(headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "image/png"}) as client:
        return client.post("/api/translate", content=picture()).content
