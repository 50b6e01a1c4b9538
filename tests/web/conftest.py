"""One real server and one real browser for the slow tests of the page."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

COMMAND = "apt install chromium && pip install -e '.[web,test-people]'"
PATIENCE = 240


def chromium():
    """Path of an installed Chromium, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


class Server:
    """`openseg serve` as a person starts it."""

    def __init__(self, folder, *words):
        self.folder = Path(folder)
        environment = {**os.environ, "TMPDIR": str(folder), "OPENSEG_CACHE": "off"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "openseg_jax.cli.main", "serve", "--port", "0", *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )  # fmt: skip
        self.lines, self.url = [], None
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(PATIENCE) or self.url is None:
            self.stop()
            pytest.fail("the server did not start:\n" + "".join(self.lines[-30:]))

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"openseg serve: (http://\S+/)", line):
                self.url = found[1]
                self._ready.set()
        self._ready.set()

    def memory(self):
        """Resident memory, million bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) / 1000

    def uploads(self):
        """Files that visitors left."""
        return [p for p in self.folder.glob("openseg_serve_*/**/*") if p.is_file()]

    def stop(self):
        """Ends it as a service manager does, and returns its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()  # what it said last
        return self.process.returncode


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A running server; what it leaves behind is checked when it ends."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip(f"gradio is not installed; run: {COMMAND}")
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    code = running.stop()
    said = "".join(running.lines)
    assert code == 0, said[-3000:]
    # gradio tells the terminal about values that its own sliders and lists refuse.
    assert said.count("Traceback") <= said.count("gradio.exceptions.Error"), said[-3000:]
    assert not list(running.folder.glob("openseg_serve_*"))


@pytest.fixture(scope="module")
def chrome():
    """A headless Chromium. Not for longer: while it runs, nothing else may run an event loop."""
    missing = [n for n in ("playwright", "gradio") if importlib.util.find_spec(n) is None]
    path = chromium()
    if missing or path is None:
        what = " and ".join([*missing, *([] if path else ["chromium"])])
        pytest.skip(f"{what} not installed; run: {COMMAND}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=path, args=["--no-sandbox"], timeout=1000 * PATIENCE
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(server, chrome):
    """Opens the page as a new visitor; no visitor's browser may ask anyone else for anything."""
    from tests.web.visitor import Visitor

    visitors = []

    def opened(**options):
        visitors.append(Visitor(chrome, server.url, **options))
        return visitors[-1]

    yield opened
    for visitor in visitors:
        visitor.leave()
        assert not visitor.elsewhere, visitor.elsewhere
        assert not visitor.errors, visitor.errors
