"""What the server answers at all: few addresses, small bodies, no path and no address from outside.

gradio's server can do more than this page needs: fetch addresses, forward requests, serve files.
The guard stands before it and lets through what the page uses.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

__all__ = ["Guard", "is_open", "outside_paths", "sweep"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

API = "/gradio_api"
FILE = f"{API}/file="
UPLOAD = f"{API}/upload"
EXACT = frozenset(
    ["/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", "/login_check"]
    + [
        f"{API}/{name}"
        for name in (
            "info", "startup-events", "queue/join", "queue/data", "queue/status", "upload",
            "upload_progress", "cancel", "reset", "app_id", "theme.css", "login_check",
        )
    ]
)  # fmt: skip
PREFIXES = ("/assets/", "/static/", "/svelte/", f"{API}/heartbeat/", f"{API}/call/", FILE)

BODY_BYTES = 1_000_000
"""Of a request that is no upload."""

FORM_BYTES = 65_536
"""What a form adds to the file in it."""

LEAST_BYTES = 65_536
"""What a smaller upload counts as, among all uploads."""

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)
"""Browsers load nothing from elsewhere, whatever the page says."""

_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


def is_open(path: str) -> bool:
    """Whether the page needs an address of the server."""
    return (path.rstrip("/") or "/") in EXACT or path.startswith(PREFIXES)


def outside_paths(data: Any, folder: Path) -> Iterator[str]:
    """Finds the file references of a request that are not uploads of this server.

    Args:
        data: JSON data of any shape, as a visitor sent it.
        folder: of the uploads.
    """
    stack = [data]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            path = item.get("path")
            if path is not None and not (isinstance(path, str) and _inside(path, folder)):
                yield str(path)
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _inside(path: str, folder: Path) -> bool:
    if "\x00" in path or not os.path.isabs(path):
        return False
    try:
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    except (OSError, ValueError):  # characters that no name of a file can have
        return False


def sweep(folder: Path, most: int, *, least: int = LEAST_BYTES) -> None:
    """Removes the oldest uploads until a folder holds at most `most` bytes.

    A smaller file counts as `least` bytes, so that the number of files is bounded too.
    """
    files = []
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                about = path.stat()
                files.append((about.st_mtime, max(about.st_size, least), path))
        except OSError:
            continue  # another request has removed it meanwhile
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files, key=lambda file: file[0]):
        if total <= most:
            return
        path.unlink(missing_ok=True)
        if path.parent != folder:  # each upload has a folder of its own
            with contextlib.suppress(OSError):
                path.parent.rmdir()
        total -= size


class Guard:
    """ASGI middleware, see the module's text.

    Args:
        app: what it stands before.
        folder: of the uploads; the only files that are served, and that requests may name.
        upload_bytes: of one upload.
        folder_bytes: of all uploads together; the oldest go first.
    """

    def __init__(
        self, app: Any, *, folder: str | Path, upload_bytes: int, folder_bytes: int
    ) -> None:
        self.app, self.folder = app, Path(folder)
        self.upload_bytes, self.folder_bytes = upload_bytes, folder_bytes
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        path = scope.get("path", "")
        if scope["type"] != "http" or not is_open(path):
            await _refuse(send, 404, "there is nothing here", scope["type"])
            return
        if path.startswith(FILE) and not _inside(path[len(FILE) :], self.folder):
            await _refuse(send, 403, "only uploads of this server are served")
            return
        upload = path.rstrip("/") == UPLOAD
        most = self.upload_bytes + FORM_BYTES if upload else BODY_BYTES
        if _length(scope) > most:
            await _refuse(send, 413, f"expected at most {most / 1e6:.1f} MB")
            return
        if upload:
            with self._lock:
                sweep(self.folder, self.folder_bytes - self.upload_bytes)
            await self._counted(scope, receive, send, most)
            return
        if scope["method"] == "POST":
            body = await _body(receive, most)
            if body is None:
                await _refuse(send, 413, f"expected at most {most / 1e6:.1f} MB")
                return
            if self._names_files(body):
                await _refuse(send, 403, "only uploads of this server can be used")
                return
            receive = _again(body, receive)
        await self.app(scope, receive, _with_headers(send))

    def _names_files(self, body: bytes) -> bool:
        try:
            data = json.loads(body) if body else None
        except (ValueError, RecursionError):
            return False  # no JSON, so no reference; what is behind refuses it
        return any(True for _ in outside_paths(data, self.folder))

    async def _counted(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        got, started = 0, False

        async def counted() -> MutableMapping[str, Any]:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > most:
                raise _TooLarge
            return message

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, counted, _with_headers(noted))
        except _TooLarge:
            if not started:
                await _refuse(send, 413, f"expected at most {most / 1e6:.1f} MB")


class _TooLarge(Exception):
    """A body went on beyond what it may hold."""


def _length(scope: Scope) -> int:
    for name, value in scope.get("headers", ()):
        if name.lower() == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


async def _body(receive: Receive, most: int) -> bytes | None:
    parts, total = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)  # the visitor has gone
        part = message.get("body", b"")
        total += len(part)
        if total > most:
            return None
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Hands a body that was read to whoever reads it next."""
    told = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _with_headers(send: Send) -> Send:
    async def wrapped(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
        await send(message)

    return wrapped


async def _refuse(send: Send, status: int, text: str, kind: str = "http") -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    body = json.dumps({"detail": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await _with_headers(send)({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
