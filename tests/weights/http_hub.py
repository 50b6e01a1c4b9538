"""A hub on this machine's loopback, as much of it as the real client asks for."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

TOKEN = "hf_test"


class Store:
    """Repositories in memory: files by name; and what was asked, in order.

    Attributes:
        damage: names of files that are served with one byte changed.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.uploads: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.damage: set[str] = set()

    def commit(self, repo: str) -> str:
        """The hash that names the state of a repository."""
        return hashlib.sha1(repr(sorted(self.repos[repo].items())).encode()).hexdigest()


def _is_large(name: str) -> bool:
    return name.endswith(".safetensors")


def _entry(name: str, data: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob}
    if _is_large(name):
        sha = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 130}
    return entry


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the test's output is its own."""

    def _answer(self, status: int, body: Any = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        sent = {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}
        for key, value in sent.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _handle(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.store.asked.append(f"{self.command} {path}")
        body = self._body()
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        for pattern, method, guarded in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split("/"):
                if guarded and not allowed:
                    return self._answer(401, {"error": "Invalid username or password."})
                name = _NAMES[pattern]
                return getattr(self, name)(*match.groups(), body=body)
        self._answer(
            404, {"error": f"no route {self.command} {path}"}, X_Error_Code="EntryNotFound"
        )

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def create(self, *, body: bytes) -> None:
        """Makes a repository."""
        told = json.loads(body)
        repo = f"{told.get('organization') or 'jane'}/{told['name'].split('/')[-1]}"
        if repo in self.store.repos:
            return self._answer(409, {"error": "exists", "url": f"/{repo}"})
        self.store.repos[repo] = {}
        if told.get("private") or told.get("visibility") == "private":
            self.store.private.add(repo)
        host = self.headers["Host"]
        self._answer(200, {"url": f"http://{host}/{repo}", "name": repo, "id": repo})

    def preupload(self, repo: str, revision: str, *, body: bytes) -> None:
        """Says which files are large."""
        files = json.loads(body)["files"]
        self._answer(200, {"files": [
            {"path": f["path"], "uploadMode": "lfs" if _is_large(f["path"]) else "regular",
             "shouldIgnore": False} for f in files
        ]})  # fmt: skip

    def batch(self, repo: str, *, body: bytes) -> None:
        """Says where large files go."""
        host, told = self.headers["Host"], json.loads(body)
        self._answer(200, {"transfer": "basic", "objects": [
            {"oid": o["oid"], "size": o["size"],
             "actions": {"upload": {"href": f"http://{host}/upload/{o['oid']}"}}}
            for o in told["objects"]
        ]}, Content_Type="application/vnd.git-lfs+json")  # fmt: skip

    def upload(self, oid: str, *, body: bytes) -> None:
        """Takes a large file."""
        assert hashlib.sha256(body).hexdigest() == oid
        self.store.uploads[oid] = body
        self._answer(200)

    def take_commit(self, repo: str, revision: str, *, body: bytes) -> None:
        """Puts all files of a commit in place at once."""
        files = {}
        for line in body.decode().splitlines():
            told = json.loads(line)
            value = told["value"]
            if told["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif told["key"] == "lfsFile":
                files[value["path"]] = self.store.uploads[value["oid"]]
        self.store.repos[repo] |= files
        host, sha = self.headers["Host"], self.store.commit(repo)
        url = f"http://{host}/{repo}/commit/{sha}"
        self._answer(200, {"success": True, "commitOid": sha, "commitUrl": url})

    def yaml(self, *, body: bytes) -> None:
        """Accepts a card's header."""
        assert json.loads(body)["content"].startswith("---\n")
        self._answer(200, {"errors": [], "warnings": []})

    def info(self, repo: str, revision: str, *, body: bytes) -> None:
        """Lists a repository."""
        if repo not in self.store.repos:
            return self._answer(401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        sha = self.store.commit(repo)
        if revision not in ("main", sha):
            return self._answer(404, {"error": "no"}, X_Error_Code="RevisionNotFound")
        files = [_entry(n, d) for n, d in sorted(self.store.repos[repo].items())]
        self._answer(200, {"id": repo, "modelId": repo, "sha": sha, "private": False,
                           "tags": [], "downloads": 0, "likes": 0, "siblings": files})  # fmt: skip

    def tree(self, repo: str, revision: str, *, body: bytes) -> None:
        """Lists a repository as newer clients ask for it."""
        found = []
        for name, data in sorted(self.store.repos[repo].items()):
            entry = _entry(name, data)
            one = {"type": "file", "path": name, "size": len(data), "oid": entry["blobId"]}
            if "lfs" in entry:
                one["lfs"] = {"oid": entry["lfs"]["sha256"], "size": len(data), "pointerSize": 130}
            found.append(one)
        self._answer(200, found)

    def resolve(self, repo: str, revision: str, name: str, *, body: bytes) -> None:
        """Serves a file, whole or from where the client left off."""
        data = self.store.repos[repo].get(name)
        if data is None:
            return self._answer(404, {"error": "no"}, X_Error_Code="EntryNotFound")
        entry = _entry(name, data)
        etag = entry["lfs"]["sha256"] if "lfs" in entry else entry["blobId"]
        if name in self.store.damage:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self._answer(200, data, ETag=f'"{etag}"', X_Repo_Commit=self.store.commit(repo),
                     Content_Type="application/octet-stream", Accept_Ranges="bytes")  # fmt: skip


_REPO = r"([\w.-]+/[\w.-]+)"
_NAMES = {
    r"/api/repos/create": "create",
    rf"/api/models/{_REPO}/preupload/(.+)": "preupload",
    rf"/{_REPO}\.git/info/lfs/objects/batch": "batch",
    r"/upload/(\w+)": "upload",
    rf"/api/models/{_REPO}/commit/(.+)": "take_commit",
    r"/api/validate-yaml": "yaml",
    rf"/api/models/{_REPO}/revision/(.+)": "info",
    rf"/api/models/{_REPO}/tree/([^/]+)": "tree",
    rf"/{_REPO}/resolve/([^/]+)/(.+)": "resolve",
}
_READ = {"info": "GET", "tree": "GET", "resolve": "GET/HEAD"}
_ROUTES = [
    (pattern, _READ.get(name, "POST/PUT"), name not in _READ and name not in ("upload", "yaml"))
    for pattern, name in _NAMES.items()
]


@contextlib.contextmanager
def serve() -> Iterator[tuple[Store, str]]:
    """Runs the hub; yields what it stores and its address."""
    store = Store()
    handler = type("Handler", (_Handler,), {"store": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
