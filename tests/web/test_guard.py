"""The guard in front of gradio: addresses, paths, sizes, headers. No gradio is needed."""

import asyncio
import json

import pytest

from openseg_jax.web import guard
from openseg_jax.web.guard import BODY_BYTES, Guard, is_open, outside_paths, sweep


class App:
    """What stands behind: reads the whole body and answers 200."""

    def __init__(self):
        self.bodies = []

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body")
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def app():
    return App()


def ask(app, folder, path, body=b"", *, method="GET", length=None, kind="http", parts=1):
    """Returns status and headers of the answer to one request."""
    answers = []
    size = -(-len(body) // parts) if body else 1
    chunks = [body[i : i + size] for i in range(0, max(len(body), 1), size)]
    messages = [
        {"type": "http.request", "body": c, "more_body": i + 1 < len(chunks)}
        for i, c in enumerate(chunks)
    ]

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        answers.append(message)

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    scope = {"type": kind, "path": path, "method": method, "headers": headers}
    asyncio.run(
        Guard(app, folder=folder, upload_bytes=200_000, folder_bytes=10**6)(scope, receive, send)
    )
    return answers[0].get("status"), dict(answers[0].get("headers", ()))


def test_what_the_page_needs_is_open():
    for path in ("/", "/config", "/config/", "/assets/x.js", "/gradio_api/queue/join",
                 "/gradio_api/upload", "/gradio_api/heartbeat/abc"):  # fmt: skip
        assert is_open(path)
    for path in ("/gradio_api/proxy=http://a.b/", "/gradio_api/stream/x", "/file=/etc/passwd",
                 "/gradio_api/vibe-edit/", "/gradio_api/component_server", "/monitoring",
                 "/gradio_api/run/segment", "/gradio_api/dev/reload", "/docs"):  # fmt: skip
        assert not is_open(path)


def test_other_addresses_do_not_reach_gradio(app, tmp_path):
    assert ask(app, tmp_path, "/gradio_api/proxy=http://example.org/")[0] == 404
    assert ask(app, tmp_path, "/gradio_api/x", kind="websocket") == (None, {})
    assert not app.bodies
    status, headers = ask(app, tmp_path, "/")
    assert status == 200 and b"default-src 'self'" in headers[b"content-security-policy"]
    assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "etc/passwd", "{}/../secret", "{}/a/../../secret", "{}2/x", "http://a.b/c",
     "{}/link", "", "{}/x\x00"],
)  # fmt: skip
def test_only_uploads_are_served(app, tmp_path, path):
    folder = tmp_path / "up"
    folder.mkdir()
    (tmp_path / "secret").write_text("x")
    (folder / "link").symlink_to(tmp_path / "secret")
    status, _ = ask(app, folder, "/gradio_api/file=" + path.format(folder))
    assert status == 403 and not app.bodies
    assert ask(app, folder, f"/gradio_api/file={folder}/abc/a.png")[0] == 200


@pytest.mark.parametrize(
    "data",
    [
        {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]},
        {"data": [[{"a": {"path": "http://127.0.0.1/x"}}]]},
        {"data": [{"path": 5}]},
        {"path": "relative.png"},
        {"path": "/\ud800.png"},
    ],
)
def test_requests_cannot_name_files(app, tmp_path, data):
    body = json.dumps(data).encode()
    assert list(outside_paths(data, tmp_path))
    assert ask(app, tmp_path, "/gradio_api/queue/join", body, method="POST")[0] == 403
    assert not app.bodies


def test_requests_with_uploads_arrive_whole(app, tmp_path):
    data = {"data": [{"path": f"{tmp_path}/ab/x.png", "url": None}, {"path": None}, "a, b"]}
    body = json.dumps(data).encode()
    for parts in (1, 7):
        status, _ = ask(app, tmp_path, "/gradio_api/queue/join", body, method="POST", parts=parts)
        assert status == 200 and app.bodies.pop() == body
    assert ask(app, tmp_path, "/gradio_api/queue/join", b"no JSON", method="POST")[0] == 200


@pytest.mark.parametrize("told", [True, False])
def test_large_bodies_are_refused(app, tmp_path, told):
    body = b"x" * (BODY_BYTES + 1)
    length = len(body) if told else None
    path = "/gradio_api/queue/join"
    assert ask(app, tmp_path, path, body, method="POST", length=length, parts=9)[0] == 413
    assert not app.bodies
    body = b"x" * (200_000 + guard.FORM_BYTES + 1)
    length = len(body) if told else None
    path = "/gradio_api/upload"
    assert ask(app, tmp_path, path, body, method="POST", length=length, parts=9)[0] == 413
    assert not app.bodies
    assert ask(app, tmp_path, path, body[:-1], method="POST", parts=9)[0] == 200


def test_a_deeply_nested_request_does_no_harm(app, tmp_path):
    body = b"[" * 100_000 + b"]" * 100_000
    assert ask(app, tmp_path, "/gradio_api/queue/join", body, method="POST")[0] in (200, 403)


def test_the_oldest_uploads_go_first(tmp_path):
    import os

    for i in range(5):
        path = tmp_path / str(i) / "x.png"
        path.parent.mkdir()
        path.write_bytes(bytes(100))
        os.utime(path, (i, i))
    sweep(tmp_path, 500, least=1)
    assert len(list(tmp_path.rglob("*.png"))) == 5
    sweep(tmp_path, 250, least=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "4"]


def test_uploads_without_a_byte_are_bounded_too(tmp_path):
    for i in range(40):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "x.png").touch()
    (tmp_path / "half").touch()  # one that is being written lies beside the folders
    sweep(tmp_path, 10 * guard.LEAST_BYTES)
    assert len(list(tmp_path.rglob("*.png"))) <= 10
    assert len(list(tmp_path.iterdir())) <= 11
    sweep(tmp_path, 0)
    assert tmp_path.is_dir() and not list(tmp_path.iterdir())
