"""A hub on the loopback: as much of Hugging Face's HTTP interface as its own client needs to push and to load a model."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

Files = dict[str, bytes]
TOKEN = "hf_right"


class Hub(ThreadingHTTPServer):
    """Repositories by name, each with its commits and where its branches stand."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits: dict[str, dict[str, Files]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.private: dict[str, bool] = {}
        self.uploads: Files = {}
        self.refused: dict[str, tuple[int, str]] = {}
        """Repositories that are answered for by a status and an error code."""
        self.asked: list[str] = []
        """Every request: method and path."""
        self.messages: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def create(self, name: str, files: Files | None = None, private: bool = False) -> str:
        self.commits[name], self.branches[name], self.private[name] = {}, {}, private
        return self.commit(name, "main", files or {".gitattributes": b"*.safetensors filter=lfs\n"})

    def commit(self, name: str, branch: str, files: Files) -> str:
        made = hashlib.sha1(repr((name, len(self.commits[name]), sorted(files.items()))).encode()).hexdigest()
        self.commits[name][made] = files
        self.branches[name][branch] = made
        return made

    def files(self, name: str, revision: str = "main") -> Files:
        return self.commits[name][self.branches[name].get(revision, revision)]


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for pattern, do in ROUTES:
            match = re.fullmatch(pattern, f"{self.command} {path}")
            if match is not None:
                name = match.groupdict().get("name", "")
                if name in self.server.refused:
                    code, error = self.server.refused[name]
                    self.send(code, {"error": error}, {"X-Error-Code": error})
                elif self.command in ("POST", "PUT") and self.headers.get("Authorization") != f"Bearer {TOKEN}" and "/lfs/" not in path:
                    self.send(401, {"error": "Invalid credentials"})
                elif name and name not in self.server.commits:
                    self.send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
                else:
                    do(self, **match.groupdict())
                return
        self.send(500, {"error": f"the tests' hub does not know {self.command} {path}"})

    def send(self, code: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        for key, text in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def at(self, name: str, revision: str) -> str | None:
        """The commit; None where there is none, which is then answered."""
        commit = self.server.branches[name].get(revision, revision)
        if commit in self.server.commits[name]:
            return commit
        self.send(404, {"error": f"Invalid rev id: {revision}"}, {"X-Error-Code": "RevisionNotFound"})
        return None

    def create(self) -> None:
        given = json.loads(self.body)
        name = f"{given['organization']}/{given['name']}"
        if name in self.server.commits:
            self.send(409, {"error": "You already created this model repo", "url": f"{self.server.address}/{name}"})
            return
        self.server.create(name, private=given.get("private") or given.get("visibility") == "private")
        self.send(200, {"url": f"{self.server.address}/{name}", "name": name})

    def check_card(self) -> None:
        self.send(200, {"errors": [], "warnings": []})

    def branch(self, name: str, branch: str) -> None:
        if branch in self.server.branches[name]:
            self.send(409, {"error": "Reference already exists"})
            return
        self.server.branches[name][branch] = self.server.branches[name]["main"]
        self.send(200, {})

    def info(self, name: str, revision: str | None = None) -> None:
        commit = self.at(name, revision or "main")
        if commit is not None:
            files = [{"rfilename": path} for path in self.server.files(name, commit)]
            self.send(
                200, {"id": name, "modelId": name, "sha": commit, "private": self.server.private[name], "siblings": files, "tags": []}
            )

    def tree(self, name: str, revision: str) -> None:
        commit = self.at(name, revision)
        if commit is not None:
            self.send(200, [entry(path, data) for path, data in self.server.files(name, commit).items()])

    def preupload(self, name: str, revision: str) -> None:
        if self.at(name, revision) is not None:
            paths = [each["path"] for each in json.loads(self.body)["files"]]
            modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in paths}
            self.send(200, {"files": [{"path": path, "uploadMode": modes[path], "shouldIgnore": False} for path in paths]})

    def batch(self, name: str) -> None:
        asked = json.loads(self.body)["objects"]
        objects = [{**each, "actions": {"upload": {"href": f"{self.server.address}/lfs/{each['oid']}"}}} for each in asked]
        self.send(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})

    def upload(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.uploads[oid] = self.body
        self.send(200, {})

    def commit(self, name: str, revision: str) -> None:
        if self.at(name, revision) is None:
            return
        files = dict(self.server.files(name, revision))
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.uploads[value["oid"]]
            else:
                del files[value["path"]]
        made = self.server.commit(name, revision, files)
        self.send(200, {"success": True, "commitOid": made, "commitUrl": f"{self.server.address}/{name}/commit/{made}"})

    def resolve(self, name: str, revision: str, path: str) -> None:
        commit = self.at(name, revision)
        if commit is None:
            return
        data = self.server.files(name, commit).get(path)
        if data is None:
            self.send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        else:
            self.send(200, data, {"ETag": f'"{etag(path, data)}"', "X-Repo-Commit": commit})


def etag(path: str, data: bytes) -> str:
    large = path.endswith(".safetensors")
    return hashlib.sha256(data).hexdigest() if large else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entry(path: str, data: bytes) -> dict[str, Any]:
    """A file, as the hub lists it."""
    plain = {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
    large = {"lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}}
    return plain | (large if path.endswith(".safetensors") else {})


NAME, REVISION = r"(?P<name>[\w.-]+/[\w.-]+)", r"(?P<revision>[\w.-]+)"
ROUTES = [
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.check_card),
    (rf"POST /api/models/{NAME}/branch/(?P<branch>[\w.-]+)", Handler.branch),
    (rf"POST /api/models/{NAME}/preupload/{REVISION}", Handler.preupload),
    (rf"POST /api/models/{NAME}/commit/{REVISION}", Handler.commit),
    (rf"POST /{NAME}\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /lfs/(?P<oid>\w+)", Handler.upload),
    (rf"GET /api/models/{NAME}", Handler.info),
    (rf"GET /api/models/{NAME}/revision/{REVISION}", Handler.info),
    (rf"GET /api/models/{NAME}/tree/{REVISION}", Handler.tree),
    (rf"(?:GET|HEAD) /{NAME}/resolve/{REVISION}/(?P<path>.+)", Handler.resolve),
]


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub, to which nobody is pointed yet."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


def point(patch: pytest.MonkeyPatch, address: str, cache: object, token: str | None = TOKEN) -> None:
    """Let huggingface_hub, which read its settings when it was imported, ask that hub, and keep what it gets in ``cache``."""
    from huggingface_hub import constants

    patch.setattr(constants, "ENDPOINT", address)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    patch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
    patch.setattr(constants, "HF_STORED_TOKENS_PATH", "/nowhere")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        patch.delenv(name, raising=False)
    if token is not None:
        patch.setenv("HF_TOKEN", token)
