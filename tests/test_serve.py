"""`unflip serve`, but for its page: the API, its limits, who is let in, and what a request can reach."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

import unflip
from helpers import make_model
from unflip.data.bands import Bands
from unflip.data.images import read
from unflip.data.save import encode
from unflip.errors import UserError
from unflip.inference.folders import translate_folder
from unflip.inference.translator import Translator

pytest.importorskip("gradio", reason="the extra serve is not installed")
httpx = pytest.importorskip("httpx")
schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from serving import TOKEN, Server, picture, serving, started  # noqa: E402
from unflip.web import app  # noqa: E402
from unflip.web.auth import NAMES, check_token, hosts  # noqa: E402
from unflip.web.files import tidy  # noqa: E402
from unflip.web.limits import CLIENTS, Gate, Limits, Rate, Refused  # noqa: E402
from unflip.web.results import kept, packed  # noqa: E402
from unflip.web.work import TYPES, load_models, translate  # noqa: E402

DEEP = Bands(count=4, depth="uint16", ranges=((0.0, 4000.0),))
PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module", autouse=True)
def outside() -> Iterator[list[Any]]:
    """Whatever this process asks of other machines while it serves. Nothing may be."""
    asked: list[Any] = []
    connect, resolve = socket.socket.connect, socket.getaddrinfo
    local = {"127.0.0.1", "::1", "localhost"}

    def connecting(self: socket.socket, address: Any) -> Any:
        if isinstance(address, tuple) and address[0] not in local:
            asked.append(address)
        return connect(self, address)

    def resolving(host: Any, *more: Any, **options: Any) -> Any:
        if host not in local | {None, "", "0.0.0.0", "nowhere.invalid"}:
            asked.append(host)
        return resolve(host, *more, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connecting)
        patch.setattr(socket, "getaddrinfo", resolving)
        yield asked
    assert asked == []


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Translator]]:
    root = tmp_path_factory.mktemp("models")
    make_model(root / "plain")
    make_model(root / "both", sides=2)
    make_model(root / "deep", source=DEEP, target=Bands(count=1, depth="float32", ranges=((-10.0, 10.0),)))
    make_model(root / "sized", resize="short:16")
    return load_models([str(root / name) for name in ("plain", "both", "deep", "sized")], "cpu")


@pytest.fixture(scope="module")
def server(models: dict[str, dict[str, Translator]]) -> Iterator[Server]:
    """Without a token, as on loopback."""
    with serving(models, names=hosts("127.0.0.1", None)) as served:
        yield served
        failed = [line for line in served.lines() if line.get("status", 500) >= 500]
        assert not failed, failed[0].get("trace", failed)


@pytest.fixture(scope="module")
def locked(models: dict[str, dict[str, Translator]]) -> Iterator[Server]:
    """With a token, and low limits."""
    with serving(models, Limits(bytes=20_000, pixels=4_000, rate=400), token=TOKEN) as served:
        yield served
        assert TOKEN not in served.said.getvalue()


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with server.client() as opened:
        yield opened


def error(answer: Any) -> str:
    """What a refusal says, after a look at its form."""
    assert answer.headers["content-type"] == "application/json" and list(answer.json()) == ["error"]
    text = answer.json()["error"]
    assert text and "\n" not in text and "Traceback" not in text
    return text


# --- what it is for


def test_it_says_what_it_has(client: Any) -> None:
    assert client.get("/healthz").json() == {"status": "ok", "version": unflip.__version__, "waiting": 0, "places": 16}
    models = client.get("/api/models").json()["models"]
    assert [model["name"] for model in models] == ["plain", "both", "deep", "sized"]
    assert [model["directions"] for model in models[:2]] == [["forward"], ["forward", "backward"]]
    assert models[2] | {"name": ""} == {
        "name": "",
        "directions": ["forward"],
        "source": "uint16 with 4 bands",
        "target": "float32 with 1 band",
        "resize": "none",
    }
    assert models[3]["resize"] == "short:16"


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "tif"])
def test_a_translation_is_the_file_that_translate_writes(
    client: Any, models: dict[str, dict[str, Translator]], tmp_path: Path, ending: str
) -> None:
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper())
    data = picture(kind)
    (tmp_path / "in").mkdir()
    (tmp_path / f"in/a.{ending}").write_bytes(data)
    for name, direction in (("plain", "forward"), ("both", "backward"), ("sized", "forward")):
        out = tmp_path / f"{name}{direction}"
        translate_folder(models[name][direction], tmp_path / "in", out)
        query = {"model": name, "direction": direction}
        sent = client.post("/api/translate", params=query, content=data, headers={"Content-Type": f"image/{kind.lower()}"})
        form = client.post("/api/translate", params=query, files={"image": ("any.name", data)})
        assert sent.status_code == form.status_code == 200
        assert sent.content == form.content == (out / f"a.{ending}").read_bytes()
        assert sent.headers["content-type"] == f"image/{kind.lower()}"


def test_deep_images(client: Any, models: dict[str, dict[str, Translator]]) -> None:
    pixels = np.random.default_rng(0).integers(0, 4000, (20, 30, 4), dtype=np.uint16)
    answer = client.post("/api/translate?model=deep&trust=1", content=encode("a.tif", pixels), headers={"Content-Type": "image/tiff"})
    with zipfile.ZipFile(io.BytesIO(answer.content)) as file:
        found = read("a.tif", file=io.BytesIO(file.read("translation.tif")), bands=models["deep"]["forward"].target).pixels
    assert (found.shape, found.dtype) == ((20, 30, 1), np.float32)
    assert np.array_equal(found, models["deep"]["forward"](pixels)) and found.std() > 0.1


def test_trust(client: Any, models: dict[str, dict[str, Translator]], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(picture())
    outcome = translate_folder(models["plain"]["forward"], tmp_path / "in", tmp_path / "out", trust=True)
    answer = client.post("/api/translate?trust=1", content=picture(), headers=PNG)
    assert answer.headers["content-type"] == "application/zip" and float(answer.headers["unflip-trust"]) == outcome.trust["a.png"]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as file:
        assert file.namelist() == ["translation.png", "trust.png"]
        assert file.read("translation.png") == (tmp_path / "out/a.png").read_bytes()
        assert file.read("trust.png") == (tmp_path / "out_trust/a.png").read_bytes()


def test_names_are_made_unique(tmp_path: Path, models: dict[str, dict[str, Translator]]) -> None:
    runs = [str(make_model(tmp_path / folder / "run")) for folder in "abc"]
    assert [*load_models(runs, "cpu")] == ["run", "run-2", "run-3"]
    with pytest.raises(UserError, match="nowhere"):
        load_models([str(tmp_path / "nowhere")], "cpu")


def test_a_model_of_the_way_back_alone(monkeypatch: pytest.MonkeyPatch, models: dict[str, dict[str, Translator]]) -> None:
    """An exported file may be; it is not taken for one of the way there."""
    monkeypatch.setattr("unflip.web.work.load", lambda run, device, direction="forward": models["both"]["backward"])
    (sides,) = load_models(["back.onnx"], "cpu").values()
    assert [*sides] == ["backward"]
    with serving({"back": sides}) as server, server.client() as client:
        assert client.get("/api/models").json()["models"][0]["directions"] == ["backward"]
        refused = client.post("/api/translate?direction=forward", content=picture(), headers=PNG)
        assert refused.status_code == 404 and "backward only" in error(refused)
        made = client.post("/api/translate?direction=backward", content=picture(), headers=PNG)
        assert made.status_code == 200
        assert client.post("/api/translate", content=picture(), headers=PNG).content == made.content, "as the lines in /docs have it"


def test_its_description_needs_nothing_from_outside(client: Any) -> None:
    for path in ("/docs", "/login", "/"):
        answer = client.get(path)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
        loaded = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", answer.text)
        assert [each for each in loaded if "//" in each] == [], "nothing but what lies here is loaded"
    shown = client.get("/docs").text
    paths = client.get("/openapi.json").json()["paths"]
    assert [*paths] == ["/healthz", "/api/models", "/api/translate"] and all(path in shown for path in paths)
    assert "curl" in shown and client.headers.get("authorization") is None


# --- what it refuses


def empty_form() -> dict[str, Any]:
    return {"content": b"--x--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}


DAMAGED = picture()[:-40]
WRONG: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "no image": ("", {"content": b"", "headers": PNG}, 400, "no image"),
    "an empty form": ("", empty_form(), 400, "image"),
    "a form without its boundary": ("", {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "image"),
    "a form with another file": ("", {"files": {"picture": picture()}}, 400, "no file in the form is called image"),
    "a form with text": ("", {"data": {"image": "text"}, "files": {"x": b"1"}}, 400, "no file in the form is called image"),
    "a form with more": ("", {"data": {"model": "both"}, "files": {"image": picture()}}, 400, "the form holds 'model', too"),
    "a broken form": ("", {"content": b"--y\r\n\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400, "form"),
    "two files": ("", {"files": [("image", picture()), ("image", picture())]}, 400, "Too many files"),
    "no kind": ("", {"content": picture()}, 415, "image/png"),
    "JSON": ("", {"json": {"image": "http://nowhere.invalid/a.png"}}, 415, "multipart/form-data"),
    "GIF": ("", {"content": picture("GIF"), "headers": {"Content-Type": "image/gif"}}, 415, "image/png"),
    "GIF that says it is PNG": ("", {"content": picture("GIF"), "headers": PNG}, 422, "not an image that unflip reads"),
    "text that says it is PNG": ("", {"content": b"hello", "headers": PNG}, 422, "not an image that unflip reads"),
    "a truncated image": ("", {"content": DAMAGED, "headers": PNG}, 422, "broken or truncated image"),
    "8 bits for a deep model": ("?model=deep", {"content": picture(), "headers": PNG}, 422, "uint16 with 4 bands is needed"),
    "no such model": ("?model=..%2F..%2Fetc", {"content": picture(), "headers": PNG}, 404, "there are plain, both"),
    "no such direction": ("?direction=backward", {"content": picture(), "headers": PNG}, 404, "forward only"),
    "no direction": ("?direction=up", {"content": picture(), "headers": PNG}, 422, "direction"),
    "no such parameter": ("?trsut=1", {"content": picture(), "headers": PNG}, 422, "no parameter is called 'trsut'"),
    "no truth": ("?trust=maybe", {"content": picture(), "headers": PNG}, 422, "trust"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_requests(client: Any, case: str) -> None:
    query, request, status, said = WRONG[case]
    answer = client.post(f"/api/translate{query}", **request)
    assert answer.status_code == status and said in error(answer)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/translate"), ("PUT", "/api/models"), ("OPTIONS", "/api/translate"), ("DELETE", "/")]
)
def test_wrong_methods(client: Any, method: str, path: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code == (404 if path == "/" else 405)
    error(answer)
    assert not any(name.startswith("access-control-") for name in answer.headers)


def test_too_many_bytes(locked: Server) -> None:
    """Not even read, where their number is said; else no more than the limit."""
    key = {**PNG, "Authorization": f"Bearer {TOKEN}"}
    with locked.client(headers=key) as client:
        assert client.post("/api/translate", content=picture(size=(100, 60))).status_code == 413, "within the bytes, not within the pixels"
        assert "too many bytes" in error(client.post("/api/translate", content=bytes(30_000)))
        assert client.post("/api/translate", content=bytes(10**6)).status_code == 413

        def pieces() -> Iterator[bytes]:
            for _ in range(10):
                yield bytes(10**5)

        try:
            answer = client.post("/api/translate", content=pieces())
        except httpx.TransportError:  # the connection is closed on whoever goes on
            pass
        else:
            assert answer.status_code == 413
    port = int(locked.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(
            f"POST /api/translate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: image/png\r\n"
            "Content-Length: 9999999999\r\n\r\n".encode()
        )
        assert raw.recv(100).startswith(b"HTTP/1.1 413 "), "and nothing has been sent yet"


@pytest.mark.filterwarnings("ignore:Image size")
def test_too_many_pixels(locked: Server, models: dict[str, dict[str, Translator]]) -> None:
    """By the header: the image is not decoded. What a resize would make of it counts, too."""
    with locked.client(headers={**PNG, "Authorization": f"Bearer {TOKEN}"}) as client:
        black = io.BytesIO()
        Image.new("L", (20_000, 20_000)).save(black, "PNG", compress_level=1)
        bomb = black.getvalue()[:19_000]
        answer = client.post("/api/translate", content=bomb)
        assert answer.status_code == 413 and "too many pixels" in error(answer) and "20000x20000" in error(answer)
        assert client.post("/api/translate?model=sized", content=picture(size=(300, 1))).status_code == 413
        assert client.post("/api/translate?model=sized", content=picture(size=(300, 4))).status_code == 413
        assert client.post("/api/translate?model=sized", content=picture(size=(40, 10))).status_code == 200


def test_too_slow(models: dict[str, dict[str, Translator]]) -> None:
    lines = "POST /api/translate HTTP/1.1", "Host: x", "Content-Type: image/png", "Content-Length: 9", "", "1"
    with (
        serving(models, Limits(rate=0, seconds=0.5)) as server,
        socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as raw,
    ):
        raw.sendall("\r\n".join(lines).encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 408 ")


def test_who_has_sent_all_is_not_too_slow(models: dict[str, dict[str, Translator]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server itself was busy until after the time, though more was sent than it takes in beforehand."""
    receive = app.image_of

    async def late(*arguments: Any) -> bytes:
        time.sleep(1)  # nothing else goes on in the server
        return await receive(*arguments)

    monkeypatch.setattr(app, "image_of", late)
    data = picture(size=(400, 300))
    assert len(data) > 5 * 2**16
    with serving(models, Limits(rate=0, seconds=0.5)) as server, server.client(headers=PNG) as client:
        assert client.post("/api/translate", content=data).status_code == 200


class Slow:
    """A translator that takes as long as it is told."""

    def __init__(self, translator: Translator) -> None:
        self.translator, self.go, self.began = translator, threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["translator"], name)

    def pixels(self, *arguments: Any) -> Any:
        self.began.set()
        assert self.go.wait(30)
        return self.translator.pixels(*arguments)


def test_a_full_queue_sends_away_and_nothing_is_lost(models: dict[str, dict[str, Translator]]) -> None:
    slow: Any = Slow(models["plain"]["forward"])
    with (
        serving({"slow": {"forward": slow}}, Limits(places=3, rate=0, patience=0)) as server,
        ThreadPoolExecutor(3) as pool,
        server.client() as client,
    ):
        try:
            waiting = [pool.submit(client.post, "/api/translate", content=picture(seed=i), headers=PNG) for i in range(3)]
            assert slow.began.wait(30)
            deadline = time.monotonic() + 20
            while client.get("/healthz").json()["waiting"] < 3 and time.monotonic() < deadline:
                time.sleep(0.01)
            answer = client.post("/api/translate", content=picture(), headers=PNG)
            assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1 and "queue" in error(answer)
            page = client.post("/gradio_api/run/predict", json=event(server, heavy=True, data=[[], "slow", "forward", False, None]))
            assert page.status_code == 200 and "all places in the queue are taken" in page.text, "its visitors stand in the same line"
        finally:
            slow.go.set()
        done = [each.result() for each in waiting]
        assert [each.status_code for each in done] == [200] * 3
        alone = [encode("a.png", slow.translator(np.asarray(Image.open(io.BytesIO(picture(seed=i)))))) for i in range(3)]
        assert [each.content for each in done] == alone
        assert client.get("/healthz").json()["waiting"] == 0


def test_a_rate_fills_up_again() -> None:
    now = [0.0]
    rate = Rate(60, clock=lambda: now[0])
    for _ in range(60):
        rate.pay("10.0.0.1", 1)
    with pytest.raises(Refused, match="slow down") as refused:
        rate.pay("10.0.0.1", 1)
    assert refused.value.status == 429 and refused.value.headers == {"Retry-After": "1"}
    rate.pay("10.0.0.2", 1)
    now[0] = 2.5
    rate.pay("10.0.0.1", 2)
    with pytest.raises(Refused):
        rate.pay("10.0.0.1", 1)
    rate.fine("10.0.0.3", 1000)
    with pytest.raises(Refused) as refused:
        rate.pay("10.0.0.3", 1000)
    assert refused.value.headers == {"Retry-After": "120"}, "it owes what a minute gives, and no more"


def test_neighbors_share_a_rate_and_clients_are_forgotten() -> None:
    rate = Rate(1)
    rate.pay("2001:db8::1", 1)
    with pytest.raises(Refused):
        rate.pay("2001:db8::ffff:2", 1)
    rate.pay("2001:db8:0:1::1", 1)
    for i in range(CLIENTS + 50):
        rate.pay(f"name {i}", 1)
    assert len(rate.buckets) == CLIENTS
    Rate(0).pay("any", 10**9)


def test_a_client_that_asks_too_often(models: dict[str, dict[str, Translator]]) -> None:
    with serving(models, Limits(rate=3)) as server, server.client() as client:
        sent = [client.post("/api/translate", content=picture(), headers=PNG) for _ in range(5)]
        assert [each.status_code for each in sent] == [200] * 3 + [429] * 2
        assert 1 <= int(sent[-1].headers["retry-after"]) <= 20 and "slow down" in error(sent[-1])
        assert client.post("/gradio_api/run/predict", json=event(server)).status_code == 429
        assert client.post("/gradio_api/upload", files={"files": picture()}).status_code == 429


def test_places_are_given_back() -> None:
    import asyncio

    async def use() -> None:
        gate = Gate(1)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with gate.place():
                    with pytest.raises(Refused, match="queue"):
                        async with gate.place():
                            pass
                    await gate.work(lambda: 1 // 0)
            assert gate.taken == 0

    asyncio.run(use())


# --- who is let in


@pytest.mark.parametrize(
    "path", ["/", "/api/models", "/docs", "/openapi.json", "/gradio_api/startup-events", "/theme.css", "/config", "/x"]
)
def test_nothing_without_the_token(locked: Server, path: str) -> None:
    with locked.client() as client:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": TOKEN},
            {"Cookie": "unflip=x"},
            {"Cookie": f"unflip={TOKEN}"},
        ):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
            error(answer)
        assert client.get("/healthz").status_code == 200
        assert client.get(path, headers={"Authorization": f"bearer {TOKEN}"}).status_code in (200, 404)


@pytest.mark.parametrize("path", ["/api/translate", "/gradio_api/upload", "/gradio_api/run/predict", "/gradio_api/queue/join"])
def test_nothing_is_taken_without_the_token(locked: Server, path: str) -> None:
    with locked.client() as client:
        assert client.post(path, content=b"{}").status_code == 401


def test_a_browser_logs_in(locked: Server) -> None:
    with locked.client() as client:
        shown = client.get("/", headers={"Accept": "text/html,*/*"}, follow_redirects=True)
        assert shown.url.path == "/login" and "password" in shown.text
        wrong = client.post("/login", data={"token": "not it"})
        assert wrong.status_code == 401 and "That is not the token" in wrong.text and "set-cookie" not in wrong.headers
        right = client.post("/login", data={"token": TOKEN})
        assert right.status_code == 303 and right.headers["location"] == "/"
        assert "HttpOnly" in right.headers["set-cookie"] and TOKEN not in right.headers["set-cookie"]
        assert client.get("/api/models").status_code == 200, "the cookie is enough"
        assert client.get("/").status_code == 200


def test_a_token_cannot_be_tried_for_long(models: dict[str, dict[str, Translator]]) -> None:
    with serving(models, Limits(rate=100), token=TOKEN) as server, server.client() as client:
        one, other = {"X-Forwarded-For": "10.0.0.1"}, {"X-Forwarded-For": "10.0.0.2"}
        tries = [client.get("/api/models", headers={"Authorization": f"Bearer {i}", **one}).status_code for i in range(24)]
        assert tries.count(401) <= 21 and tries[-1] == 429
        tries = [client.post("/login", data={"token": str(i)}, headers=other).status_code for i in range(24)]
        assert tries.count(401) <= 21 and tries[-1] == 429
        assert client.get("/api/models", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200, "others are not locked out"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "localhost.evil.example", "", "127.0.0.1.evil.example"])
def test_other_names_are_not_answered(client: Any, host: str) -> None:
    answer = client.get("/api/models", headers={"Host": host})
    assert answer.status_code == 400 and "not called that" in error(answer)


def test_its_own_names_are(client: Any) -> None:
    for host in ("localhost", "localhost:7860", "127.0.0.1:1", "[::1]:7860", "LOCALHOST"):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200
    assert hosts("::1", None) == NAMES and hosts("0.0.0.0", TOKEN) is None


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}])
def test_pages_of_others_cannot_use_it(client: Any, headers: dict[str, str]) -> None:
    for path in ("/api/translate", "/gradio_api/upload", "/login"):
        answer = client.post(path, headers=headers, files={"image": picture()})
        assert answer.status_code == 403
        error(answer)
    own = {"Origin": str(client.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert client.post("/api/translate", headers=own, files={"image": picture()}).status_code == 200


# --- what a request can reach


def event(server: Server, heavy: bool = False, data: Any = None, **fields: Any) -> dict[str, Any]:
    """What the page sends when files have been dropped; or when a box has been ticked."""
    dependencies = server.app.routes[-1].app.__closure__[0].cell_contents.get_blocks().config["dependencies"]
    number = dependencies[0 if heavy else -1]["id"]
    return {"fn_index": number, "session_hash": "abc", "data": data if data is not None else [None] * 5, **fields}


SECRET = "what nobody must read"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.png"
    path.write_text(SECRET)
    return path


OTHERS = "/etc/passwd", "/proc/self/environ", "../../../../etc/passwd", "//etc/passwd", "file:///etc/passwd", "a\0b", "x" * 5000


@pytest.mark.parametrize("name", OTHERS)
def test_no_file_is_read(client: Any, name: str) -> None:
    from urllib.parse import quote

    for prefix in ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/", "/assets/", "/gradio_api/stream/"):
        for text in (quote(name), quote(name, safe=""), quote(quote(name, safe=""))):
            answer = client.get(prefix + text)
            assert answer.status_code in (400, 403, 404) and b"root:" not in answer.content


def test_no_file_is_read_by_an_event(server: Server, client: Any, secret: Path) -> None:
    for path in (str(secret), *OTHERS, 7, None, ["a"], "http://nowhere.invalid/a.png"):
        file = {"path": path, "url": "http://nowhere.invalid/a.png", "meta": {"_type": "gradio.FileData"}}
        answer = client.post("/gradio_api/run/predict", json=event(server, heavy=True, data=[[file], "plain", "forward", False, None]))
        assert answer.status_code == 404 and SECRET not in answer.text
        error(answer)


def test_no_url_is_fetched(client: Any, server: Server) -> None:
    """``outside`` sees what is looked up; a server here sees what comes anyway."""
    came = []
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.3)
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/a.png"
        for path in (f"/gradio_api/file={url}", f"/gradio_api/proxy={url}", f"/file={url}"):
            assert client.get(path).status_code == 404
        up = client.post("/gradio_api/upload", files={"files": ("a.png", picture())}).json()[0]
        file = {"path": up, "url": url, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
        answer = client.post("/gradio_api/run/predict", json=event(server, heavy=True, data=[[file], "plain", "forward", False, None]))
        assert answer.status_code == 200, "the file is taken that was uploaded, and its address is not looked at"
        with contextlib.suppress(TimeoutError):
            came.append(trap.accept())
    assert came == []


NAMES_OF_FILES = [
    "../../../out.png",
    "/etc/out.png",
    "..",
    ".",
    "a/../../out.png",
    "..\\..\\out.png",
    "a\x00.png",
    "x" * 400 + ".png",
    ".bashrc",
]


@pytest.mark.parametrize("name", NAMES_OF_FILES)
def test_no_file_is_written_elsewhere(client: Any, server: Server, tmp_path: Path, name: str) -> None:
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    before = {path for path in folder.parent.glob("*") if path.is_file()}
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="' + name.encode() + b'"\r\n\r\n' + picture() + b"\r\n--x--\r\n"
    answer = client.post("/gradio_api/upload", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    if answer.status_code == 200:
        for path in map(Path, answer.json()):
            assert ".." not in path.parts and path.resolve().parent.parent.name.startswith("unflip-serve-")
            assert client.get(f"/gradio_api/file={path}").content == picture()
    else:
        assert answer.status_code == 400
    assert {path for path in folder.parent.glob("*") if path.is_file()} == before


def test_what_was_uploaded_is_no_page(client: Any) -> None:
    """A script that somebody uploads is not run for somebody else."""
    (up,) = client.post("/gradio_api/upload", files={"files": ("a.html", b"<script>alert(1)</script>")}).json()
    answer = client.get(f"/gradio_api/file={up}")
    assert answer.headers["content-disposition"].startswith("attachment") and "text/html" not in answer.headers["content-type"]
    assert "script-src 'self';" in answer.headers["content-security-policy"]


def test_gradio_remembers_nothing_of_a_stranger(server: Server, client: Any) -> None:
    """No stream for a number that somebody makes up, and no number of an upload."""
    for path in ("/gradio_api/heartbeat/abc", "/gradio_api/upload_progress?upload_id=abc"):
        answer = client.get(path)
        assert (answer.status_code, answer.content) == (204, b"")
    assert client.post("/gradio_api/upload?upload_id=abc", files={"files": ("a.png", picture())}).status_code == 200


def test_behind_a_proxy(locked: Server) -> None:
    """It is believed who the visitor is, as it is on this machine; the page is told its address, and the cookie is kept to HTTPS."""
    told = {"Host": "translate.example", "X-Forwarded-Proto": "https", "X-Forwarded-For": "10.1.2.3", "X-Forwarded-Host": "evil.example"}
    with locked.client(headers=told) as client:
        login = client.post("/login", data={"token": TOKEN}, headers={"Origin": "https://translate.example"})
        assert login.status_code == 303 and login.headers["set-cookie"].endswith("; Secure")
        page = client.get("/", headers={"Authorization": f"Bearer {TOKEN}"}).text
        assert '"root":"https://translate.example"' in page.replace(" ", "") and "evil.example" not in page
    assert locked.lines()[-1]["client"] == "10.1.2.3"


CLOSED = [
    "/config",
    "/info",
    "/gradio_api/info",
    "/gradio_api/openapi.json",
    "/gradio_api/queue/join",
    "/gradio_api/queue/data?session_hash=a",
    "/gradio_api/call/x",
    "/gradio_api/api/predict",
    "/gradio_api/monitoring",
    "/monitoring",
    "/monitoring/summary",
    "/gradio_api/runs",
    "/gradio_api/deep_link",
    "/gradio_api/token",
    "/gradio_api/user",
    "/gradio_api/vibe-edit",
    "/gradio_api/vibe-code",
    "/gradio_api/component_server",
    "/gradio_api/process_recording",
    "/gradio_api/mcp",
    "/logout",
    "/svelte/x",
    "/manifest.json",
    "/pwa_icon",
    "/robots.txt",
    "/gradio_api/dev/reload",
    "/gradio_api/stream/a/b/c/playlist.m3u8",
    "/gradio_api/custom_component/a/client/b/c",
    "/redoc",
    "/gradio_api/cancel",
    "/gradio_api/proxy=http://nowhere.invalid/",
    "/gradio_api/run-history/connect",
    "/gradio_api/profiling/traces",
    "/gradio_api/login_check",
    "/.env",
]


@pytest.mark.parametrize("path", CLOSED)
def test_what_the_page_does_not_need_is_not_there(client: Any, path: str) -> None:
    for answer in (client.get(path), client.post(path, json={})):
        assert answer.status_code == 404
        error(answer)


def events(server: Server) -> dict[str, Any]:
    good = event(server)
    deep: Any = 0
    for _ in range(50):
        deep = [deep]
    return {
        "no JSON": b"{",
        "a list": [],
        "too deep to parse": b"[" * 100_000,
        "too deep": event(server, data=[deep]),
        "no number": good | {"fn_index": "0"},
        "another number": good | {"fn_index": 10**9},
        "a truth": good | {"fn_index": True},
        "no session": good | {"session_hash": None},
        "a long session": good | {"session_hash": "a" * 100},
        "a session that is a path": good | {"session_hash": "../a"},
        "no data": good | {"data": None},
        "too little data": good | {"data": []},
        "other data": event(server, heavy=True, data=[{"a": 1}, [], {}, "x", 7]),
        "no such model": event(server, heavy=True, data=[None, "nowhere", "forward", False, None]),
        "no such direction": event(server, heavy=True, data=[None, "plain", "up", False, None]),
        "too large": b'{"a": "' + b"x" * 300_000 + b'"}',
        "numbers": event(server, heavy=True, data=[1e308, float(2**70), -0.0, False, None]),
    }


def test_malformed_events_are_no_errors_of_the_server(server: Server, client: Any) -> None:
    for case, sent in events(server).items():
        answer = client.post("/gradio_api/run/predict", **({"content": sent} if isinstance(sent, bytes) else {"json": sent}))
        assert answer.status_code == (413 if case == "too large" else 400), case
        error(answer)


def test_every_answer_is_guarded(client: Any) -> None:
    for answer in (client.get("/"), client.get("/theme.css"), client.get("/docs"), client.get("/nowhere"), client.post("/api/translate")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "http" not in policy
        assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["referrer-policy"] == "same-origin"
        assert "server" not in answer.headers and "access-control-allow-origin" not in answer.headers
    first, second = (re.findall(r"'nonce-([^']+)'", client.get("/").headers["content-security-policy"]) for _ in range(2))
    assert first != second and len(first) == 1
    assert set(re.findall(r"<script[^>]*>", re.sub(r'nonce="[^"]+"', "N", client.get("/").text))) <= {
        script for script in re.findall(r"<script[^>]*N[^>]*>", re.sub(r'nonce="[^"]+"', "N", client.get("/").text))
    }, "every script of the page has it"


def test_no_websocket(server: Server) -> None:
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(b"GET /api/models HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        assert b"101" not in raw.recv(100)


def test_files_are_tidied(tmp_path: Path) -> None:
    now = time.time()
    for i in range(6):
        (tmp_path / f"{i}").mkdir()
        path = tmp_path / f"{i}/a"
        path.write_bytes(bytes(100))
        os.utime(path, (now - 1000 * i, now - 1000 * i))
        os.utime(path.parent, (now - 1000, now - 1000))
    tidy(tmp_path, Limits(folder=300, age=4500))
    assert sorted(path.name for path in tmp_path.iterdir() if (path / "a").exists()) == ["0", "1", "2"], "the newest that fit"
    tidy(tmp_path, Limits(files=5, folder=1000, age=4500))
    assert sorted(path.name for path in tmp_path.iterdir() if (path / "a").exists()) == ["0", "1", "2"]
    tidy(tmp_path, Limits(files=2, folder=1000, age=4500))
    assert sorted(path.name for path in tmp_path.iterdir() if (path / "a").exists()) == ["0", "1"]
    tidy(tmp_path, Limits(age=500))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a"], "what is too old goes anyway"


# --- what it says


def test_the_log(locked: Server) -> None:
    with locked.client(headers={**PNG, "Authorization": f"Bearer {TOKEN}"}) as client:
        client.post("/api/translate?trust=1", content=picture())
        client.get(f"/api/models?token={TOKEN}")
        client.post("/login", data={"token": TOKEN}, headers={"Content-Type": "application/x-www-form-urlencoded"})
        client.get("/a%0Ab%22" + "x" * 1000)
    said = locked.said.getvalue()
    lines = locked.lines()
    assert TOKEN not in said
    line = next(line for line in lines if line["path"] == "/api/translate" and line["status"] == 200)
    assert set(line) == {"time", "method", "path", "status", "ms", "bytes", "client"}
    assert line["method"] == "POST" and line["client"] == "127.0.0.1" and line["bytes"] > 1000 and line["ms"] > 0
    assert any(line["path"].startswith('/a\nb"x') and len(line["path"]) == 300 for line in lines), "one line each, whatever it says"


def test_who_goes_away_while_sending_is_no_error(models: dict[str, dict[str, Translator]]) -> None:
    with serving({"plain": models["plain"]}) as server:
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as raw:
            raw.sendall(b"POST /api/translate HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\nabc")
        until = time.monotonic() + 20
        while not (told := server.lines()) and time.monotonic() < until:
            time.sleep(0.05)
        assert [line.get("status") for line in told] == [408] and "level" not in told[0]


@pytest.mark.parametrize("name", ["source.webp", "translation.webp", "doubted.webp", "small.webp"])
def test_an_upload_may_be_called_as_what_the_page_shows(name: str, models: dict[str, dict[str, Translator]], tmp_path: Path) -> None:
    data, translator = picture("WEBP", size=(600, 300)), models["plain"]["forward"]
    (tmp_path / name).write_bytes(data)
    (tmp_path / "served").mkdir()
    shown = kept(translator, tmp_path / name, tmp_path / "served", Limits(), "x")
    made = translate(translator, data, Limits(), trust=True)
    assert Path(shown.file).name == name and Path(shown.file).read_bytes() == made.data
    pictures = [Path(each) for each in (shown.source, shown.translation, shown.doubted, shown.small)]
    assert len({path.read_bytes() for path in [*pictures, Path(shown.file)]}) == 5


def test_names_in_a_zip_are_told_apart(models: dict[str, dict[str, Translator]], tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    shown = []
    for name, kind in (("a.png", "PNG"), ("a.jpg", "JPEG"), ("b.png", "PNG")):
        (tmp_path / name).write_bytes(picture(kind))
        shown.append(kept(models["plain"]["forward"], tmp_path / name, tmp_path / "served", Limits(), "x"))
    with zipfile.ZipFile(packed(shown, tmp_path)) as file:
        assert file.namelist() == ["1_a.png", "1_a_trust.png", "2_a.jpg", "2_a_trust.png", "3_b.png", "3_b_trust.png"]
    with zipfile.ZipFile(packed(shown[1:], tmp_path)) as file:
        assert file.namelist() == ["a.jpg", "a_trust.png", "b.png", "b_trust.png"]


def test_an_error_of_its_own(models: dict[str, dict[str, Translator]]) -> None:
    class Broken(Slow):
        def pixels(self, *arguments: Any) -> Any:
            raise ZeroDivisionError("by nothing")

    broken: Any = Broken(models["plain"]["forward"])
    with serving({"broken": {"forward": broken}}) as server, server.client() as client:
        answer = client.post("/api/translate", content=picture(), headers=PNG)
        assert answer.status_code == 500 and "by nothing" not in error(answer)
        up = client.post("/gradio_api/upload", files={"files": ("a.png", picture())}).json()[0]
        data = [[{"path": up, "meta": {"_type": "gradio.FileData"}}], "broken", "forward", False, None]
        page = client.post("/gradio_api/run/predict", json=event(server, heavy=True, data=data))
        assert page.status_code == 200 and "its log says which" in page.text
        assert client.get("/healthz").json()["waiting"] == 0
        told = [line for line in server.lines() if line.get("level") == "error"]
        assert len(told) == 2 and all("ZeroDivisionError: by nothing" in line["trace"] for line in told)


# --- the command


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("serve nowhere --port 0", "nowhere"),
        ("serve MODEL --host 0.0.0.0", "--token"),
        ("serve MODEL --host ::", "--token"),
        ("serve MODEL --host example.invalid", "--token"),
        ("serve MODEL --token short", "easy to guess"),
        ("serve MODEL --token 'with a space in its middle'", "easy to guess"),
        (f"serve MODEL --host nowhere.invalid --token {TOKEN}", "--host nowhere.invalid"),
        ("serve MODEL --port 70000", "--port"),
        ("serve MODEL --port PORT", "in use"),
        ("serve MODEL --queue 0", "--queue"),
        ("serve", "RUN"),
    ],
)
def test_wrong_calls(cli: Callable[..., Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, said: str) -> None:
    import shlex

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNFLIP_TOKEN", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        names = {"MODEL": str(model), "PORT": str(taken.getsockname()[1])}
        result = cli(*[names.get(word, word) for word in shlex.split(call)])
    assert result.code == 2 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and said in result.stderr
    assert not result.stdout and list(tmp_path.iterdir()) == []


def test_a_missing_extra(cli: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = cli("serve", model)
    assert (result.code, result.stderr) == (2, "error: uvicorn is not installed; run: pip install 'unflip[serve]'\n")


def test_which_hosts_need_a_token() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.1.2.3"):
        check_token(host, None)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.com", ""):
        with pytest.raises(UserError, match="--token"):
            check_token(host, None)
        check_token(host, TOKEN)


@pytest.mark.parametrize(
    ("ask", "code", "last"), [(signal.SIGINT, 130, "interrupted"), pytest.param(signal.SIGTERM, 143, "stopped", marks=pytest.mark.slow)]
)
def test_it_starts_and_ends(model: Path, tmp_path: Path, ask: int, code: int, last: str) -> None:
    temporary, said = tmp_path / "temporary", tmp_path / "log"
    temporary.mkdir()
    process, url = started(model, said, UNFLIP_TOKEN=TOKEN, TMPDIR=str(temporary))
    try:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False, timeout=30) as client:
            assert client.post("/api/translate", content=picture(), headers=PNG).status_code == 200
            assert client.post("/gradio_api/upload", files={"files": ("a.png", picture())}).status_code == 200
            (folder,) = temporary.glob("unflip-serve-*")
            assert folder.stat().st_mode & 0o077 == 0, "nobody else looks into it"
            assert [path for path in folder.rglob("*") if path.is_file()]
        process.send_signal(ask)
        stdout, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code and stdout == ""
    *lines, end = said.read_text().splitlines()
    assert end == last and [json.loads(line)["path"] for line in lines][:1] == ["/api/translate"] and TOKEN not in said.read_text()
    assert list(temporary.iterdir()) == [], "nothing is left"


@pytest.mark.slow
def test_it_ends_in_the_midst_of_an_image(model: Path, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    process, url = started(model, tmp_path / "log", TMPDIR=str(tmp_path / "temporary"))
    large = io.BytesIO()
    Image.new("RGB", (4400, 4400)).save(large, "PNG")
    try:
        with httpx.Client(base_url=url, trust_env=False, timeout=100) as client, ThreadPoolExecutor(1) as pool:
            sent = pool.submit(client.post, "/api/translate?trust=1", content=large.getvalue(), headers=PNG)
            while client.get("/healthz").json()["waiting"] == 0:
                time.sleep(0.05)
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            assert sent.result().status_code == 503
        process.communicate(timeout=15)
    finally:
        process.kill()
    assert process.returncode == 130 and (tmp_path / "log").read_text().splitlines()[-1] == "interrupted"
    assert list((tmp_path / "temporary").iterdir()) == []


# --- against its own description


MODES = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
ENDPOINTS = ("GET", "/healthz"), ("GET", "/api/models"), ("POST", "/api/translate")


def fuzzed(server: Server, method: str, path: str, mode: Any, examples: int, **headers: str) -> None:
    """Requests made from the server's own description of an endpoint, which it answers as that says."""
    for kind in ("png", "jpeg", "webp", "bmp", "tiff"):
        schemathesis.openapi.media_type(f"image/{kind}", st.integers(0, 3).map(lambda seed, kind=kind: picture(kind.upper(), seed=seed)))
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=headers)

    @given(schema[path][method].as_strategy(generation_mode=mode))
    @settings(max_examples=examples, deadline=None, suppress_health_check=[*HealthCheck])
    def validated(case: Any) -> None:
        response = case.call(headers=headers)
        if mode != MODES[1] or response.status_code != 200 or not sent_rightly(response.request):
            case.validate_response(response, headers=headers)

    validated()


def sent_rightly(request: Any) -> bool:
    """Whether nothing is wrong with a request that was to be wrong: an empty list leaves no trace in an address, nor one in a form."""
    asked = parse_qs(urlsplit(request.url).query, keep_blank_values=True)
    kind, form = request.headers["Content-Type"], re.findall(rb'; name="([^"]*)"', request.body)
    return asked.keys() <= {"model", "direction", "trust"} and (
        form == [b"image"] if kind.startswith("multipart/") else kind in TYPES.values()
    )


FUZZED = [*((*endpoint, MODES[0]) for endpoint in ENDPOINTS), (*ENDPOINTS[-1], MODES[1])]
"""What takes no parameters cannot be given wrong ones."""


@pytest.fixture(scope="module")
def common(models: dict[str, dict[str, Translator]]) -> dict[str, dict[str, Translator]]:
    """Those that take every common image, as their description says."""
    return {name: models[name] for name in ("plain", "both")}


@pytest.fixture(scope="module")
def described(common: dict[str, dict[str, Translator]]) -> Iterator[Server]:
    with serving(common) as served:
        yield served
        assert [line for line in served.lines() if line.get("status", 500) >= 500] == []


@pytest.mark.parametrize(("method", "path", "mode"), FUZZED)
def test_it_does_what_it_says(described: Server, method: str, path: str, mode: Any) -> None:
    fuzzed(described, method, path, mode, 8)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path", "mode"), FUZZED)
def test_it_does_what_it_says_for_long(common: dict[str, dict[str, Translator]], method: str, path: str, mode: Any) -> None:
    given = [({}, {})]
    if mode == MODES[0]:  # what is wrong may be that there is no token
        given.append(({"token": TOKEN}, {"Authorization": f"Bearer {TOKEN}"}))
    for options, headers in given:
        with serving(common, **options) as server:
            fuzzed(server, method, path, mode, 400, **headers)
            assert [line for line in server.lines() if line.get("status", 500) >= 500] == []
