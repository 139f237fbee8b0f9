"""The report: what it says, how numbers are written, and that the file needs nothing but itself."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unflip.report.blocks import Cell, Columns, Fact, Facts, Folded, Made, Notes, Section, Table, Text, Verdict
from unflip.report.charts import Bar, Bars, Matrix
from unflip.report.curves import HEIGHT, WIDTH, Curves
from unflip.report.evaluation import Case, evaluation_page
from unflip.report.numbers import Amount, number, percent, signed_percent, trimmed
from unflip.report.page import Page, write
from unflip.report.pictures import COLORS, LARGEST, Comparison, Picture, Row, encode, shrunk
from unflip.report.verdict import top_flips, unjudged, verdict

VOID = {"meta", "link", "img", "input", "br", "hr"}
GRAY = np.full((4, 6, 3), 128, np.uint8)


class Parsed(HTMLParser):
    """A page's tags, attributes and visible text; fails where a tag is not closed, or closed twice."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self.text = re.sub(r"\s+", " ", " ".join(self.texts).replace("\N{NO-BREAK SPACE}", " "))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice: <{tag} {attrs}>"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.texts.append(data)

    def count(self, tag: str, kind: str = "") -> int:
        return sum(name == tag and kind in ["", *(attrs.get("class") or "").split()] for name, attrs in self.tags)


def written(page: Page, folder: Path) -> tuple[str, Parsed]:
    html = write(page, folder / "page.html").read_text(encoding="utf-8")
    parsed = Parsed(html)
    for _, attrs in parsed.tags:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            assert (attrs.get(name) or "data:").startswith("data:"), f"leads out of the file: {attrs}"
    assert not re.findall(r"url\((?!data:)|@import|https?://", html)
    return html, parsed


def figure(value: float | None, n: int = 144, interval: float | None = 0.1) -> dict[str, Any]:
    if value is None or interval is None:
        return {"value": value, "low": None, "high": None, "n": n}
    return {"value": value, "low": value * (1 - interval), "high": value * (1 + interval), "n": n}


def metrics(count: int = 3, *, real: bool = True, excess: float | None = 0.08, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A ``metrics.json`` of ``count`` classes, of which the first is read as the second in 31 points more than on real images."""
    random = np.random.default_rng([seed, count])
    names = [f"class{i}" for i in range(count)]
    before = 0.9 * np.eye(count) + 0.1 * random.dirichlet(np.ones(count), count)
    after = before.copy()
    after[0, :2] += (-0.31, 0.31)
    base = {
        "format": 1,
        "images": 144,
        "block": 6,
        **{name: figure(0.7) for name in ("pixel_accuracy", "pixel_accuracy_void_wrong", "class_accuracy", "mean_iou")},
        "flip_rate": figure(0.123),
        "excess_flip_rate": figure(excess) if real and excess is not None else None,
        "per_class_iou": {name: figure(0.5 + 0.4 * i / count) for i, name in enumerate(names)},
        "class_shares": dict.fromkeys(names, 1 / count),
        "flips": {
            "classes": names,
            "confusion": after.tolist(),
            "real": before.tolist() if real else None,
            "matrix": (after - before).tolist() if real else None,
        },
        "segmenter": {"path": "segmenter", "held_out": {"images": 101, "mean_iou": 0.812, "pixel_accuracy": 0.961}},
        "per_image": [{"file": f"{i}.png", "flip_rate": rate} for i, rate in enumerate((0.02, 0.3, None, 0.05))],
        "warnings": [],
        "made": {"command": "unflip evaluate --out X", "unflip": "0.1.0", "seed": 0, "config": {"width": 64}, "target": None},
    }
    return base | changes


def case(name: str = "a/0.png", flip_rate: float | None = 0.1, **changes: Any) -> Case:
    pictures = dict.fromkeys(("source", "translation", "label", "reading", "flips"), GRAY)
    return Case(name, flip_rate, **(pictures | changes))


# numbers


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0, "0"),
        (0.31249, "0.312"),
        (0.9996, "1.00"),
        (12.345, "12.3"),
        (99.96, "100"),
        (123.4, "123"),
        (12345.6, "12,346"),
        (-0.25, "−0.250"),
        (0.00312, "0.00312"),
        (1.2e-6, "1.20e−06"),
        (float("-inf"), "−∞"),
    ],
)
def test_numbers(value: float | None, says: str) -> None:
    assert number(value) == says


@pytest.mark.parametrize(
    ("value", "says", "signed"),
    [
        (None, "–", "–"),
        (float("nan"), "–", "–"),
        (0, "0 %", "0 %"),
        (1, "100 %", "+100 %"),
        (0.3124, "31.2 %", "+31.2 %"),
        (0.0421, "4.21 %", "+4.21 %"),
        (-0.0421, "−4.21 %", "−4.21 %"),
        (0.00312, "0.31 %", "+0.31 %"),
        (0.0004, "0.04 %", "+0.04 %"),
        (0.99996, "100 %", "+100 %"),
    ],
)
def test_percents(value: float | None, says: str, signed: str) -> None:
    assert percent(value).replace("\xa0", " ") == says and signed_percent(value).replace("\xa0", " ") == signed


def test_next_to_nothing_has_no_minus() -> None:
    assert percent(-1e-6) == percent(1e-6) == "0.00\xa0%"


def test_amounts() -> None:
    full = Amount.of({"value": 0.3, "low": 0.281, "high": 0.344, "n": 1440})
    assert full.detail(percent) == "28.1 to 34.4\xa0%, n\xa0=\xa01,440" and full.interval(number) == "0.281 to 0.344"
    one = Amount.of({"value": 0.3, "low": None, "high": None, "n": 1})
    assert one.interval(percent) == "" and one.detail(percent) == "n\xa0=\xa01"
    assert Amount.of(None) == Amount.of({"value": float("nan"), "low": float("nan"), "high": None}) == Amount(None)
    assert Amount(None).detail(percent) == ""
    assert [trimmed(text) for text in ("5.00\xa0%", "0.20", "100", "1.25", "100\xa0%")] == ["5\xa0%", "0.2", "100", "1.25", "100\xa0%"]


# pictures


def decoded(pixels: np.ndarray) -> tuple[str, np.ndarray]:
    kind, data = encode(pixels)
    image = Image.open(io.BytesIO(data))
    assert image.format == kind.upper()
    return kind, np.asarray(image.convert("RGB"))


def photo(height: int, width: int) -> np.ndarray:
    """Smooth, with many colors."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 31 + k) * np.cos(y / 23 - k) for k in range(3)]
    return (127 + 120 * np.stack(waves, 2)).astype(np.uint8)


def test_drawn_pictures_are_kept_exactly_at_any_size() -> None:
    random = np.random.default_rng(0)
    palette = random.integers(0, 256, (COLORS, 3), dtype=np.uint8)
    palette[:3] = [(10, 10, 10), (11, 10, 10), (10, 10, 11)]
    for ids in (random.integers(0, COLORS, (300, 400)), random.integers(0, 3, (300, 400)), np.zeros((2, 3), int)):
        kind, back = decoded(palette[ids])
        assert kind == "png" and (back == palette[ids]).all()


def test_photos_become_jpeg_where_they_are_large_and_smaller_for_it() -> None:
    small, large = photo(256, 200), photo(257, 200)
    kind, back = decoded(small)
    assert kind == "png" and (back == small).all()
    kind, back = decoded(large)
    assert kind == "jpeg" and back.shape == large.shape and np.abs(back.astype(int) - large).mean() < 2
    ramp = np.stack(np.broadcast_arrays(np.arange(400)[None] // 2, np.arange(300)[:, None] // 2, 0), 2).astype(np.uint8)
    assert encode(ramp)[0] == "png", "a gradient, which PNG packs better than JPEG"


def test_pictures_too_large_to_send_are_reduced() -> None:
    _, back = decoded(photo(500, 2 * LARGEST))
    assert back.shape == (250, LARGEST, 3)
    expected = photo(500, 2 * LARGEST).reshape(250, 2, LARGEST, 2, 3).mean((1, 3))
    assert np.abs(back - expected).mean() < 3
    colors = np.array([(0, 0, 0), (255, 0, 0), (0, 0, 255)], np.uint8)
    labels = colors[np.random.default_rng(0).integers(0, 3, (30, 3000))]
    kind, back = decoded(labels)
    assert kind == "png" and back.shape == (10, LARGEST, 3)
    assert {tuple(color) for color in back.reshape(-1, 3).tolist()} == {tuple(color) for color in colors.tolist()}
    for pixels in (photo(500, 2 * LARGEST), labels):
        kept = shrunk(pixels)
        assert max(kept.shape) == LARGEST and encode(kept) == encode(pixels), "the page is the same"
    assert shrunk(colors[None]).tolist() == colors[None].tolist()


@pytest.mark.parametrize("pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_other_arrays_are_no_pictures(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        encode(pixels)


def test_a_row_of_pictures(tmp_path: Path) -> None:
    def columns(count: int) -> int:
        return Row("", [Picture("", GRAY)] * count).columns

    assert [columns(n) for n in (0, 1, 4, 6, 7, 12, 13)] == [1, 1, 4, 6, 4, 6, 5]
    assert Row("", [Picture("", GRAY)] * 4, large=2).tracks == "2fr 2fr 1fr"
    assert Row("", [Picture("", GRAY)] * 5, large=2).tracks == "2fr 2fr 1fr 1fr"
    big = photo(300, 20)
    row = Row("scene", [Comparison(Picture("before", GRAY), Picture("after", big)), Picture("label", GRAY)], note="note")
    html, parsed = written(Page("t", "", [row]), tmp_path)
    images = [attrs for tag, attrs in parsed.tags if tag == "img"]
    assert [image["alt"] for image in images] == ["after", "before", "label"], "the left one covers the right one"
    assert [image.get("class") for image in images] == [None, "small", "small"] and images[0]["height"] == "300"
    sent = base64.b64decode(html.split("data:image/png;base64,")[1].split('"')[0])
    assert np.asarray(Image.open(io.BytesIO(sent)).convert("RGB")).shape == GRAY.shape
    assert parsed.count("input") == 1 and "before after" in parsed.text and "scene note" in parsed.text


# charts


def test_a_signed_matrix() -> None:
    matrix = Matrix(["a", "b", "c"], [[-0.4, 0.4, 0.0], None, [-0.1, None, 0.104]], "", least=0.2)
    (_, first), (name, second), (_, third) = matrix.rows
    assert name == "b" and [shade.text for shade in second] == ["–"] * 3 and {shade.color for shade in second} == {"none"}
    assert [(shade.text, shade.color, shade.strength) for shade in first] == [("−40", "gray", 1), ("+40", "hot", 1), ("", "", 0)]
    assert [(shade.text, shade.color, shade.strength) for shade in third] == [
        ("−10", "cold", 0.25),
        ("–", "none", 0),
        ("+10", "gray", 0.26),
    ]
    assert third[2].full == "+10.4\xa0%" and matrix.ends == ("−40.0\xa0%", "+40.0\xa0%")
    pale = Matrix(["a", "b"], [[0.01, -0.004], [0.01, 0.0]], "").rows
    assert max(shade.strength for _, row in pale for shade in row) == 0.05, "next to nothing looks like nothing"
    assert pale[0][1][1].text == "" and pale[0][1][1].full == "−0.40\xa0%", "not −0"
    assert Matrix(["a", "b"], [None, None], "").limit == 0.2


def test_an_unsigned_matrix() -> None:
    (_, first), (_, second) = Matrix(["a", "b"], [[0.9, 0.1], [1.0, 0.0]], "", signed=False).rows
    assert [(shade.text, shade.color, shade.strength) for shade in first] == [("90", "fine", 0.9), ("10", "hot", 0.1)]
    assert second[0].color == "hot" and second[1].text == ""


@pytest.mark.parametrize(("count", "crowded"), [(2, False), (20, False), (21, True), (150, True)])
def test_a_matrix_of_any_size(tmp_path: Path, count: int, crowded: bool) -> None:
    matrix = Matrix([f"c{i}" for i in range(count)], np.eye(count).tolist(), "caption", signed=False)
    _, parsed = written(Page("t", "", [matrix]), tmp_path)
    assert parsed.count("td") == count**2 + 1 and parsed.count("th") == 2 * count
    assert bool(parsed.count("figure", "crowded")) == crowded


def test_bars(tmp_path: Path) -> None:
    bars = Bars([Bar("x", [Amount(0.2, 0.1, 0.4), Amount(None)]), Bar("y", [Amount(0.3), Amount(0.1, -0.1, 0.2)])], ("p", "q"))
    assert bars.span(Amount(0.2, 0.1, 0.4)) == (50, (25, 100)), "the longest interval fills the width"
    assert bars.span(Amount(0.1, -0.1, 0.2)) == (25, (0, 50)) and bars.span(Amount(None)) == (0, None)
    assert Bars(bars.bars, top=1.0).span(Amount(0.2)) == (20, None) and Bars(bars.bars, top=0.1).span(Amount(0.2)) == (100, None)
    assert Bars([Bar("x", [Amount(0.0)])]).span(Amount(0.0)) == (0, None) and Bars([]).span(Amount(1)) == (100, None)
    _, parsed = written(Page("t", "", [bars]), tmp_path)
    assert "x 20.0 % – y 30.0 % 10.0 %" in parsed.text
    styles = [attrs["style"] for tag, attrs in parsed.tags if tag == "i" and attrs.get("style")]
    assert styles == ["width:50.0%", "left:25.0%;width:75.0%", "width:0.0%", "width:75.0%", "width:25.0%", "left:0.0%;width:50.0%"]


def test_curves() -> None:
    curves = Curves("t", {"a": [(0, 1.0), (500, None), (1000, 3.0), (2000, 2.0)], "b": [(2000, 2.5)]}, chosen=1000)
    a, b = curves.lines
    assert a.path.count("M") == 2 and a.path.count("L") == 1, "broken where nothing was measured"
    assert [dot.chosen for dot in a.dots] == [False, True, False] and curves.chosen_at == a.dots[1].x
    x, y = ([getattr(dot, axis) for dot in (*a.dots, *b.dots)] for axis in "xy")
    assert np.allclose(np.polyval(np.polyfit([0, 1000], x[:2], 1), [2000, 2000]), x[2:], atol=0.2), "linear in the images seen"
    assert np.allclose(np.polyval(np.polyfit([1, 3], y[:2], 1), [2, 2.5]), y[2:], atol=0.2) and y[1] < y[0], "and in the value, upwards"
    for tick in (*curves.x_ticks, *curves.y_ticks):
        assert 0 <= tick.at <= max(WIDTH, HEIGHT)
    assert [tick.text for tick in curves.x_ticks] == ["0", "500", "1k", "1.5k", "2k"]
    assert [tick.text for tick in curves.y_ticks] == ["0", "1", "2", "3"]
    assert "1,000 images seen: 3.00" in a.dots[1].says


@pytest.mark.parametrize("points", [[], [(0, None)], [(0, 1.0)], [(500, 0.0), (900, 0.0)], [(5, -2.0), (9, -2.0)]])
def test_curves_of_next_to_nothing(tmp_path: Path, points: list[tuple[float, float | None]]) -> None:
    curves = Curves("t", {"a": points}, form=percent)
    assert curves.drawn == any(value is not None for _, value in points)
    _, parsed = written(Page("t", "", [curves]), tmp_path)
    assert parsed.count("circle") == sum(value is not None for _, value in points)


# blocks


def test_every_block_is_shown_and_escaped(tmp_path: Path) -> None:
    evil = "<script>&\"'</script>"
    fact = Fact(evil, evil, evil, evil)
    table = Table(["name", evil], [[Cell(evil, evil, strong=True, tone="bad", color=(1, 2, 3)), evil]], evil)
    bars = Bars([Bar(evil, [Amount(0.1), Amount(0.2)], evil)], (evil, evil))
    curves = Curves(evil, {evil: [(1, 1.0)], "b": []}, note=evil)
    comparison = Comparison(Picture(evil, GRAY), Picture(evil, GRAY))
    blocks = [
        Verdict(evil, evil, evil, "bad"),
        Text([evil]),
        Notes(evil, [evil]),
        Notes("never shown", []),
        Facts([fact]),
        Section(evil, [Columns([table, bars]), Folded(evil, [Made([(evil, evil), (evil, f"{evil}\n{evil}")])])], evil),
        Matrix([evil], [[0.1]], evil),
        curves,
        Row(evil, [Picture(evil, GRAY), comparison], evil),
    ]
    html, parsed = written(Page(evil, evil, blocks), tmp_path)
    assert parsed.count("script") == 1 and "never shown" not in html
    assert html.count("<script>") == 1 and parsed.text.count(evil) == 41
    assert parsed.count("pre") == 1 and parsed.count("code") == 1 and "background:rgb(1,2,3)" in html


def test_columns_of_numbers() -> None:
    table = Table(["a", "b", "c", "d"], [["x", "1.0", "–", "± 1"], ["y", Cell("−2"), "3 %", "more"]])
    assert table.numeric == [False, True, True, False]


# evaluations


def test_top_flips_are_those_of_the_most_pixels() -> None:
    given = metrics(6, seed=3)
    shares = np.random.default_rng(1).dirichlet(np.ones(6))
    given["class_shares"] = dict(zip(given["flips"]["classes"], shares.tolist(), strict=True))
    random = np.random.default_rng(2)
    after, before = (random.dirichlet(np.ones(6), 6) for _ in range(2))
    given["flips"] |= {"confusion": after.tolist(), "real": before.tolist(), "matrix": (after - before).tolist()}
    mass = shares[:, None] * (after - before) * (1 - np.eye(6))
    order = np.dstack(np.unravel_index(np.argsort(-mass.ravel()), (6, 6)))[0][: (mass > 0).sum()]
    flips = top_flips(given)
    assert [(flip.source, flip.target) for flip in flips] == [(f"class{i}", f"class{j}") for i, j in order]
    assert np.allclose([flip.of_all for flip in flips], np.sort(mass[mass > 0])[::-1])
    assert np.isclose(flips[0].excess, (after - before)[tuple(order[0])])
    given["flips"] |= {"real": None, "matrix": None}
    mass = shares[:, None] * after * (1 - np.eye(6))
    assert np.isclose(top_flips(given)[0].of_all, mass.max()) and len(top_flips(given)) == 30


def test_classes_that_do_not_occur() -> None:
    given = metrics(4)
    given["flips"]["confusion"][2] = given["flips"]["matrix"][2] = None
    given["flips"]["real"][0] = given["flips"]["matrix"][0] = [None] * 4
    said = verdict(given).text
    assert said.startswith("8.00\xa0% of the pixels of classes that real images show (")
    assert "show are 75.0\xa0% of the labeled pixels." in said
    assert unjudged(given) == ["class0"], "class2 is in no translation, so nothing of it could have flipped"
    assert not {"class0", "class2"} & {flip.source for flip in top_flips(given)}
    assert unjudged(metrics(4, real=False)) == []


@pytest.mark.parametrize(
    ("excess", "flips", "tone", "says"),
    [
        (figure(0.08), True, "bad", "Yes: class0 reads as class1"),
        (figure(0.02), True, "fair", "A little: class0 reads as class1"),
        (figure(0.08, interval=1.5), False, "good", "No, nothing"),  # the interval reaches below 0
        (figure(0.08, interval=None), False, "bad", "Yes"),
        (figure(0.004), False, "good", "No, nothing"),
        (figure(-0.02), False, "good", "No, nothing"),
        (figure(-0.02), True, "fair", "A little: class0 reads as class1"),  # what is read better elsewhere hides it in the rate
        (None, True, "plain", "Not known: 12.3\xa0% of the labeled pixels"),
        (figure(None), True, "plain", "Not known: 12.3\xa0% of the labeled pixels"),
    ],
)
def test_verdicts(excess: dict[str, Any] | None, flips: bool, tone: str, says: str) -> None:
    given = metrics(excess_flip_rate=excess)
    if not flips:
        given["flips"] |= {"confusion": given["flips"]["real"], "matrix": np.zeros((3, 3)).tolist()}
    found = verdict(given)
    assert found.tone == tone and found.headline.startswith(says)
    if flips:
        i, j = given["flips"]["confusion"][0][1], given["flips"]["real"][0][1]
        assert (
            f"class0 reads as class1: in {percent(i)} of its pixels, against {percent(j)} on real images" in found.text
            or excess is None
            or (excess["value"] is None)
        )


def test_an_evaluation(tmp_path: Path) -> None:
    realism = {"features": "encoder of S", "target_images": 89, "frechet": figure(12.34), "kid": figure(0.00312), "cmmd": None}
    given = metrics(realism=realism, reference={"delta": 5, "within": figure(0.3), "rmse": figure(41.2)}, warnings=["few target images"])
    validation = [{"seen": 1000 * i, "mean_iou": 0.1 * i, "excess_flip_rate": None, "frechet": 9.0 - i} for i in (1, 2, 3)]
    extra = Section("Extra", [Text(["between"])])
    rates = [0.02, 0.3, None, float("nan"), 0.05]
    cases = [case(f"case{i}.png", rate, more={"trust map": GRAY}) for i, rate in enumerate(rates)]
    page = evaluation_page(
        given,
        cases,
        title="T",
        colors={"class0": (1, 2, 3)},
        validation=validation,
        chosen=2000,
        sections=[extra],
        steps=[("train", "unflip train")],
    )
    _, parsed = written(page, tmp_path)
    in_order = (
        "Did anything flip? Yes: class0 reads as class1 8.00 % of the labeled pixels (7.20 to 8.80 %)",
        "few target images",
        "Excess flip rate 8.00 % 7.20 to 8.80 %, n = 144",
        "the segmenter on real images: 81.2 %",
        "What flips into what",
        "Classes",
        "class0 33.3 % of pixels 50.0 %",
        "Worst images first",
        "at most 5.00 % of the pixels read as another class; in the worst, 30.0 %",
        "case1.png 30.0 % of its pixels",
        "trust map",
        "case4.png",
        "case0.png 2.00 %",
        "case2.png",
        "During training The checkpoint at 2,000 images seen was chosen.",
        "Realism 144 translations against 89 target images. Features: encoder of S.",
        "Fréchet distance 12.3 11.1 to 13.6 to the target; 0",
        "KID 0.00312",
        "CMMD – –",
        "Within 5 30.0 %",
        "Extra between",
        "train unflip train command unflip evaluate --out X unflip 0.1.0 seed 0",
        '"width": 64',
    )
    places = [parsed.text.find(part) for part in in_order]
    assert -1 not in places, [part for part, place in zip(in_order, places, strict=True) if place == -1]
    assert places == sorted(places)
    assert "of all pixels" not in parsed.text and parsed.text.count("of the labeled pixels") > 1, "label maps can leave pixels out"
    assert parsed.count("svg") == 2, "no curve of what was not measured"
    assert parsed.count("input") == len(cases) and parsed.count("img") == 6 * len(cases)
    assert parsed.count("figure", "matrix") == 3


def test_an_evaluation_without_real_images(tmp_path: Path) -> None:
    given = metrics(real=False)
    given["segmenter"]["held_out"] = None
    _, parsed = written(evaluation_page(given, [case(source=None)]), tmp_path)
    assert "Not known" in parsed.text and "no labeled real images" in parsed.text and "Excess flip rate –" in parsed.text
    assert parsed.count("figure", "matrix") == 1 and parsed.count("td", "fine") == 3 and parsed.count("td", "cold") == 0
    assert parsed.count("input") == 0 and parsed.count("img") == 4


def test_an_evaluation_of_which_nothing_is_defined(tmp_path: Path) -> None:
    empty = {"value": None, "low": None, "high": None, "n": 0}
    given = metrics(2, real=False)
    given = {key: empty if isinstance(value, dict) and "value" in value else value for key, value in given.items()}
    given |= {"per_class_iou": {"class0": empty, "class1": empty}, "class_shares": {"class0": None, "class1": None}, "per_image": []}
    given["flips"] |= {"confusion": [None, None]}
    given |= {"realism": {"features": "f", "target_images": 1, "frechet": empty, "lpips": empty}, "images": 1}
    _, parsed = written(evaluation_page(given, []), tmp_path)
    assert "1 translated image," in parsed.text and "Not known" in parsed.text and "None" not in parsed.text and "nan" not in parsed.text
    assert "Mean IoU –" in parsed.text and "LPIPS – –" in parsed.text


@pytest.mark.parametrize(("classes", "cases"), [(2, 0), (21, 13), (150, 200)])
def test_evaluations_of_many_classes_and_cases(tmp_path: Path, classes: int, cases: int) -> None:
    given = metrics(classes, colors={})
    name = "a/" + 60 * "long_name_" + ".png"
    html, parsed = written(evaluation_page(given, [case(f"{i}{name}", i / 1000) for i in range(cases)]), tmp_path)
    assert parsed.count("td") > 3 * classes**2 and parsed.count("input") == cases
    assert len(html) < 5e6
    assert (f"{cases - 12} more" in parsed.text) == (cases > 12)
    if cases:
        assert parsed.text.index(f"{cases - 1}a/") < parsed.text.index(f"{cases - 2}a/")


def test_in_a_crowd_the_classes_that_flip_most_come_first(tmp_path: Path) -> None:
    given = metrics(30)
    matrix = np.zeros((30, 30))
    matrix[17, 4], matrix[4, 9] = 0.4, 0.2
    given["flips"]["matrix"] = matrix.tolist()
    _, parsed = written(evaluation_page(given, []), tmp_path)
    heads = re.findall(r"read as ((?:class\d+ ){30})", parsed.text)[0].split()
    assert heads[:3] == ["class4", "class17", "class9"] and heads[3:5] == ["class0", "class1"]
    cells = [attrs for tag, attrs in parsed.tags if tag == "td"]
    full = [attrs.get("data-full") for attrs in cells[1 + [attrs.get("class") for attrs in cells].index("corner") :]]
    assert full.index("+40.0\xa0%") == 30 * 1 + 0 and full.index("+20.0\xa0%") == 30 * 0 + 2
