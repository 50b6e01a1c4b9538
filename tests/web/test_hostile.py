"""Bad input and crowds: after each, the server answers the next, and its memory is bounded."""

import base64
import concurrent.futures
import contextlib
import http.client
import io
import json
import os
import re
import threading
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from tests.web.conftest import PATIENCE
from tests.web.test_limits import bomb
from tests.web.visitor import drawn, overlap

pytestmark = pytest.mark.slow

SCENE, THING, WORDS = 11, "doughnut", "doughnut, water, sky, lighthouse"
OTHER, OTHER_THING, OTHER_WORDS = 35, "ladybird", "ladybird, cactus, road, zebra"
GROWTH_MB = 300
"""What all the bad input together may add to the server's memory."""


class Caller:
    """A program that uses the page's own interface."""

    def __init__(self, server):
        pytest.importorskip("gradio_client")
        from gradio_client import Client

        # The client would give up after five seconds, which a busy server may need for an upload.
        self.client = Client(
            server.url, verbose=False, analytics_enabled=False, httpx_kwargs={"timeout": None}
        )

    def segment(self, path, labels, method="MAFT", **more):
        """Returns the job of one request; MAFT is quick."""
        from gradio_client import handle_file

        method = {"MAFT": "maft", "CaR": "car"}.get(method, method)
        return self.client.submit(
            handle_file(str(path)), labels, method=method, api_name="/segment", **more
        )

    @staticmethod
    def labels(answer):
        """The label map and the names of an answer."""
        links = re.findall(r'download="([\w.]+)" href="data:[^;]+;base64,([^"]+)"', answer[0])
        files = {name: base64.b64decode(data) for name, data in links}
        table = json.loads(files["coco.json"])["categories"]
        label_map = np.asarray(Image.open(io.BytesIO(files["labels.png"])))
        return label_map, {c["name"]: c["id"] for c in table}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Two pictures as files: path, what to look for, and where one thing is."""
    folder, found = tmp_path_factory.mktemp("scenes"), []
    for index, thing, words in ((SCENE, THING, WORDS), (OTHER, OTHER_THING, OTHER_WORDS)):
        data, truth = drawn(index)
        path = folder / f"{index}.png"
        path.write_bytes(data)
        found.append((path, words, thing, truth[thing]))
    return found


def right(answer, scene):
    """Whether an answer is about this scene: its thing is where it has to be."""
    label_map, names = Caller.labels(answer)
    _, words, thing, truth = scene
    return list(names) == words.split(", ") and overlap(label_map == names[thing], truth) > 0.6


@pytest.fixture(scope="module")
def caller(server, scenes):
    """A caller whose first request, which compiles, is done."""
    found = Caller(server)
    assert right(found.segment(*scenes[0][:2]).result(PATIENCE), scenes[0])
    return found


@pytest.fixture(scope="module")
def bounded(server, caller):
    """Measures the server's memory around all tests that ask for it."""
    before = server.memory()
    yield
    after = server.memory()
    print(f"\nthe server: {before:.0f} MB before bad input, {after:.0f} MB after")
    assert after - before < GROWTH_MB, f"{before:.0f} MB before, {after:.0f} MB after"


@pytest.fixture
def next_one(bounded, caller, scenes):
    """After a test, the next request is answered."""
    yield
    assert right(caller.segment(*scenes[0][:2]).result(PATIENCE), scenes[0])


def ask(server, method, path, body=None, headers=None):
    """One request as no browser would make it; returns status and body."""
    where = urllib.parse.urlsplit(server.url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=PATIENCE)
    # Refused before all of it was sent: the answer is there.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request(method, path, body, headers or {})
    try:
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (ConnectionResetError, http.client.RemoteDisconnected):
        return 413, b""
    finally:
        connection.close()


def test_files_that_are_no_pictures(visit, next_one):
    visitor = visit()
    visitor.label(WORDS)
    whole = drawn(SCENE)[0]
    for data, name, words in (
        (b"this is text, not a picture", "text.png", "text.png: not a picture"),
        (whole[: len(whole) // 2], "half.png", "damaged or cut short"),
        (bomb(), "bomb.png", "million pixels"),
        (bomb(9000, 9000), "large.png", "at most 25 million pixels, got 9000x9000"),
    ):
        visitor.upload(data, name)
        visitor.segment()
        visitor.complaint(words)
    visitor.upload(whole)
    visitor.method("MAFT")
    visitor.segment()
    visitor.result()
    assert THING in [name for name, _, _ in visitor.rows()]


def test_no_picture_and_no_labels(visit, next_one):
    visitor = visit()
    visitor.segment()
    visitor.complaint("picture: choose one first")
    visitor.upload(drawn(SCENE)[0])
    visitor.segment()
    visitor.complaint("write at least one")


def test_a_file_of_100_mb(visit, server, next_one, tmp_path):
    visitor, path = visit(), tmp_path / "huge.png"
    with open(path, "wb") as file:
        file.truncate(100_000_000)
    visitor.page.set_input_files("#os-picture input[type=file]", path)
    visitor.complaint("maximum allowed size")
    before = server.memory()
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    for told in (True, False):
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        if told:
            headers["Content-Length"] = str(len(head) + 100_000_000)
        pieces = (head if i == 0 else bytes(1_000_000) for i in range(101))
        status, _ = ask(server, "POST", "/gradio_api/upload", pieces, headers)
        assert status == 413
    assert server.memory() - before < 150
    assert sum(p.stat().st_size for p in server.uploads()) < 30_000_000


def test_ten_thousand_labels(visit, caller, next_one, scenes):
    words = ", ".join(f"n{i}" for i in range(10_000))
    with pytest.raises(Exception, match="labels: expected at most"):
        caller.segment(scenes[0][0], words).result(PATIENCE)
    # Fewer characters, too many labels.
    with pytest.raises(Exception, match="labels: expected at most 256, got 6,000"):
        caller.segment(scenes[0][0], "a," * 6000).result(PATIENCE)


def test_choices_that_no_page_offers(caller, next_one, scenes):
    path, words = scenes[0][:2]
    for more in (
        {"method": "/etc/passwd"}, {"model": "/etc/passwd"}, {"model": "../../etc"},
        {"background": "x"}, {"longest_side": -5}, {"longest_side": 10**9},
    ):  # fmt: skip
        with pytest.raises(Exception) as caught:
            caller.segment(path, words, **more).result(PATIENCE)
        assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/gradio_api/file=../../etc/passwd", "/file=/etc/passwd",
        "/gradio_api/file=file:///etc/passwd", "/gradio_api/file=http://127.0.0.1:1/x",
        "/gradio_api/file%3D/etc/passwd", "/gradio_api/file=%2Fetc%2Fpasswd",
        "/static/../../../../etc/passwd", "/static/..%2f..%2f..%2fetc%2fpasswd",
        "/assets/..%2f..%2f..%2f..%2fetc%2fpasswd", "/gradio_api/proxy=http://127.0.0.1:1/",
        "/gradio_api/stream/a/b/c/playlist.m3u8", "/monitoring", "/docs", "/openapi.json",
        "/gradio_api/deep_link", "/custom_component/x/y/z/../../etc/passwd",
    ],
)  # fmt: skip
def test_paths_lead_nowhere(server, path):
    status, body = ask(server, "GET", path)
    assert status in (400, 403, 404), (status, body[:200])
    assert b"root:" not in body


@pytest.mark.parametrize("path", ["/etc/passwd", "http://127.0.0.1:1/a.png", "../x.png"])
def test_requests_cannot_name_files(server, path):
    file = {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}
    for name in ("queue/join", "call/segment", "run/segment", "api/segment"):
        body = json.dumps({"data": [file, "a"], "fn_index": 0, "session_hash": "x"})
        headers = {"Content-Type": "application/json"}
        status, answer = ask(server, "POST", f"/gradio_api/{name}", body, headers)
        assert status in (403, 404) and b"root:" not in answer


def test_a_browser_that_is_closed_while_the_server_works(visit, next_one):
    for _ in range(2):
        visitor = visit()
        visitor.upload(drawn(SCENE)[0])
        visitor.label(WORDS)
        visitor.segment()
        visitor.page.wait_for_timeout(300)
        visitor.page.close()


def test_two_users_at_once(visit, next_one):
    one, two = visit(), visit()
    for visitor, index, words in ((one, SCENE, WORDS), (two, OTHER, OTHER_WORDS)):
        visitor.method("MAFT")
        visitor.upload(drawn(index)[0])
        visitor.label(words)
    one.segment(), two.segment()
    for visitor, thing, words in ((one, THING, WORDS), (two, OTHER_THING, OTHER_WORDS)):
        visitor.result()
        names = [name for name, _, _ in visitor.rows()]
        assert thing in names and set(names) <= set(words.split(", "))


def test_twenty_requests_at_once(caller, next_one, scenes):
    start = threading.Barrier(20)

    def one(number):
        start.wait()
        scene = scenes[number % 2]
        # Nineteen others may come before.
        return right(caller.segment(*scene[:2]).result(20 * PATIENCE), scene)

    with concurrent.futures.ThreadPoolExecutor(20) as crowd:
        assert all(crowd.map(one, range(20)))


def test_many_sizes_do_not_fill_the_memory(caller, next_one, server, tmp_path):
    sizes = []
    for i in range(4):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.full((64 + 8 * i, 96, 3), 90, np.uint8)).save(path)
        job = caller.segment(path, "zebra, sky", method="clip_dense")
        assert Caller.labels(job.result(PATIENCE))[0].shape == (64 + 8 * i, 96)
        sizes.append(server.memory())
    assert max(sizes) < 4000


def test_visitors_leave_small_files_only(server, bounded):
    assert all(os.path.getsize(path) < 21_000_000 for path in server.uploads())
