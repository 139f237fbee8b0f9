"""The report in a real browser: nothing from outside, the slider moves, it fits a phone, and it can be read in the dark."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unflip.report.blocks import Cell, Columns, Fact, Facts, Folded, Key, Made, Notes, Section, Table, Text, Verdict
from unflip.report.charts import Bar, Bars, Matrix
from unflip.report.curves import Curves
from unflip.report.links import Links
from unflip.report.numbers import Amount
from unflip.report.page import Page, write
from unflip.report.pictures import Comparison, Picture, Row

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

RED, BLUE = (np.full((48, 64, 3), color, np.uint8) for color in ((200, 0, 0), (0, 0, 200)))
LONG = "folder/" + 20 * "a_name_without_any_spaces_" + ".png"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every kind of block, names that are too long, and more classes than fit."""
    ramp = [[(i - j) / 15 for j in range(16)] for i in range(16)]
    names = [f"class{i}" for i in range(16)]
    crowd = (np.eye(40) * 0.9 + 0.1 * np.eye(40, k=1)).tolist()
    row = [Comparison(Picture("before", RED), Picture("after", BLUE)), Picture("flips", BLUE), *(Picture(LONG, RED),) * 3]
    table = Table(["method", "mean IoU"] * 5, [[LONG, Cell("31.2 %", "± 1.2", strong=True, tone="bad")] * 5], "caption")
    blocks = [
        Verdict("question", "headline", "text", "bad"),
        Notes("Mind this", [LONG]),
        Facts([Fact(LONG, "31.2 %", "30 to 32", LONG, "bad"), *[Fact("name", "1")] * 6]),
        Key({LONG: (255, 0, 0), **{f"class{i}": (i, i, i) for i in range(30)}}),
        Folded(LONG, [Text(["folded"]), Row("folded", [Picture("folded", RED)])]),
        Links([(LONG, "elsewhere/report.html")] * 3),
        Section(
            LONG,
            [
                Text(["body text"]),
                Columns([Matrix(names, ramp, "signed"), Bars([Bar(LONG, [Amount(0.3, 0.2, 0.4), Amount(None)])], ("a", LONG))]),
                Matrix(names, [[abs(value) for value in line] for line in ramp], "confusion", signed=False),
                Matrix([f"{i} {LONG}" for i in range(40)], crowd, "crowd", signed=False),
                Row(LONG, row, LONG, large=2),
                Row("equal", row),
                Columns([Curves("curve", {"a": [(0, 0.1), (1000, 0.3)], LONG: [(0, None)]}, chosen=1000)] * 3),
                table,
                Made([("command", f"unflip {LONG}"), (LONG, "two\nlines")]),
            ],
            "note",
        ),
    ]
    return write(Page("Title", "lead", blocks), tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def visit(browser: Any, report: Path) -> Iterator[Callable[..., Any]]:
    """``visit(width, ...)`` opens the report in a window of its own; fails afterwards if it complained, or asked for anything."""
    contexts, complaints = [], []

    def opened(width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or complaints.append(asked.url))
        context.set_offline(True)
        page.goto(report.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints


def shown(page: Any, index: int = 0) -> float:
    """How many percent of the upper picture's width the browser shows, by the clip that it computed."""
    return page.evaluate(
        """(index) => {
          const upper = document.querySelectorAll(".slider .upper")[index];
          const right = getComputedStyle(upper).clipPath.match(/^inset\\(0(?:px)? (.+?) 0(?:px)? 0(?:px)?\\)$/)[1];
          const probe = document.createElement("div");
          upper.parentNode.append(probe);
          probe.style.cssText = `position:absolute;height:1px;width:${right}`;
          const hidden = probe.getBoundingClientRect().width;
          probe.remove();
          return 100 - (100 * hidden) / upper.getBoundingClientRect().width;
        }""",
        index,
    )


def colors_at(page: Any, places: tuple[float, ...]) -> list[str]:
    """Which of the two pictures is seen at these shares of the first slider's width, off its handle."""
    box = page.locator(".slider").first
    image = Image.open(io.BytesIO(box.screenshot())).convert("RGB")
    pixels = [image.getpixel((int(place * image.width), image.height // 8)) for place in places]
    return ["red" if pixel[0] > pixel[2] else "blue" for pixel in pixels]


def test_the_slider_follows_mouse_keys_and_value(visit: Callable[..., Any]) -> None:
    page = visit()
    assert shown(page) == pytest.approx(50, abs=0.5) and colors_at(page, (0.3, 0.7)) == ["red", "blue"]
    slider, box = page.locator(".slider input").first, page.locator(".slider").first.bounding_box()
    slider.fill("80")
    assert shown(page) == pytest.approx(80, abs=0.5) and colors_at(page, (0.3, 0.7, 0.9)) == ["red", "red", "blue"]
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.8 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.2 * box["width"], middle, steps=3)
    assert shown(page) == pytest.approx(20, abs=1) and colors_at(page, (0.1, 0.3)) == ["red", "blue"]
    page.mouse.move(box["x"] - 50, middle)
    assert shown(page) == pytest.approx(0, abs=0.5), "dragged out of the picture"
    page.mouse.up()
    page.mouse.move(box["x"] + 0.9 * box["width"], middle)
    assert shown(page) == pytest.approx(0, abs=0.5), "let go"
    page.keyboard.press("End")
    assert shown(page) == pytest.approx(100, abs=0.5), "the slider has the focus"
    page.keyboard.press("ArrowLeft")
    assert 90 <= shown(page) < 100
    assert shown(page, 1) == pytest.approx(50, abs=0.5), "the other slider has not moved"


def test_the_slider_is_reached_by_the_tab_key_and_says_what_it_does(visit: Callable[..., Any]) -> None:
    page = visit()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type") == "range":
            break
    assert "before" in page.evaluate("document.activeElement.ariaLabel")
    outline = page.evaluate("getComputedStyle(document.activeElement.closest('.slider')).outlineStyle")
    assert outline == "solid", "where the focus is can be seen"


def test_the_slider_follows_a_finger(visit: Callable[..., Any]) -> None:
    page = visit(390, has_touch=True, is_mobile=True)
    slider = page.locator(".slider").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    page.touchscreen.tap(box["x"] + 0.25 * box["width"], box["y"] + box["height"] / 2)
    assert shown(page) == pytest.approx(25, abs=1)


def test_without_scripts_both_pictures_are_seen(visit: Callable[..., Any]) -> None:
    page = visit(java_script_enabled=False)
    assert colors_at(page, (0.3, 0.7)) == ["red", "blue"]


@pytest.mark.parametrize("width", [320, 360, 390, 700, 1280])
def test_nothing_is_wider_than_the_window(visit: Callable[..., Any], width: int) -> None:
    page = visit(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = """[...document.querySelectorAll("body *")].filter((e) => !e.closest(".scroll, svg") &&
      e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))"""
    assert page.evaluate(wide) == []
    boxes = page.evaluate("[...document.querySelectorAll('.matrix .scroll')].map((e) => [e.scrollWidth, e.clientWidth])")
    assert boxes[2][0] > boxes[2][1] or width >= 700, "what does not fit scrolls in its own box"


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_large_pictures_are_large(visit: Callable[..., Any], width: int) -> None:
    page = visit(width)
    wide = page.evaluate("[...document.querySelectorAll('.mixed > div')].map((e) => e.getBoundingClientRect().width)")
    assert np.allclose(wide[1], wide[0], atol=1) and np.allclose(wide[3:], wide[2], atol=1) and 1.9 < wide[0] / wide[2] < 2.15
    rendering = page.evaluate("[...document.querySelectorAll('.mixed img')].map((e) => getComputedStyle(e).imageRendering)")
    assert set(rendering) == {"pixelated"}, "64 pixels wide"


CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  canvas.canvas.width = canvas.canvas.height = 1;
  const paint = (layers) => {
    for (const layer of layers) { canvas.fillStyle = layer; canvas.fillRect(0, 0, 1, 1); }
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = (rgb) => {
    const [r, g, b] = [...rgb].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    const style = getComputedStyle(element);
    if (!own || ["SCRIPT", "STYLE"].includes(element.tagName) || element.closest("svg") || style.fontSize === "0px") continue;
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const { backgroundImage, backgroundColor } = getComputedStyle(e);
      const tint = backgroundImage.match(/rgba?\\([^)]*\\)/);
      if (tint) layers.unshift(tint[0]);
      layers.unshift(backgroundColor);
    }
    const behind = light(paint(["white", ...layers]));
    const text = light(paint(["white", ...layers, style.color]));
    const [low, high] = [behind, text].sort((a, b) => a - b);
    found.push([(high + 0.05) / (low + 0.05), element.outerHTML.slice(0, 90)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(visit: Callable[..., Any], scheme: str) -> None:
    page = visit(color_scheme=scheme)
    ratios = page.evaluate(CONTRASTS)
    assert len(ratios) > 500, "the cells of the matrices are among them"
    assert [each for each in ratios if each[0] < 4.5] == []


def test_it_is_dark_in_the_dark(visit: Callable[..., Any]) -> None:
    def brightness(page: Any, selector: str) -> float:
        color = page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).backgroundColor")
        return float(np.mean([float(part) for part in color.removeprefix("rgb(").removesuffix(")").split(",")]))

    light, dark = visit(color_scheme="light"), visit(color_scheme="dark")
    for selector in ("body", ".verdict", ".matrix tbody td:not([class])"):
        assert brightness(light, selector) > 200 and brightness(dark, selector) < 60
    dark.emulate_media(media="print", color_scheme="dark")
    assert brightness(dark, "body") > 200, "paper is white"


def test_pointing_at_a_cell_tells_its_value(visit: Callable[..., Any]) -> None:
    page = visit()
    crowd = page.locator(".matrix.crowded")
    assert page.evaluate("getComputedStyle(document.querySelector('.crowded tbody td')).fontSize") == "0px"
    crowd.locator("tbody tr").nth(2).locator("td").nth(3).hover()
    assert crowd.locator("output").inner_text().replace("\xa0", " ") == f"2 {LONG} read as 3 {LONG}: 10.0 %"
    crowd.locator("tbody tr").nth(2).locator("td").nth(4).click()
    assert crowd.locator("output").inner_text().endswith(": 0\xa0%")
