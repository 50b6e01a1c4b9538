"""Makes the picture of docs/serve.md: python -m tests.web.screenshot docs/images/serve.png."""

from __future__ import annotations

import io
import sys
import tempfile

from PIL import Image

from tests.web.conftest import Server, chromium
from tests.web.visitor import Visitor


def main(path):
    """Starts the server, segments an example, and writes what a browser shows."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        server = Server(folder)
        try:
            chrome = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            visitor = Visitor(chrome, server.url)
            visitor.page.set_viewport_size({"width": 1280, "height": 1180})
            visitor.example(3)
            visitor.result()
            visitor.point(52, 82, (96, 96))
            visitor.page.wait_for_timeout(500)
            shot = Image.open(io.BytesIO(visitor.page.screenshot()))
            small = shot.convert("RGB").resize((960, 885), Image.Resampling.LANCZOS)
            small.quantize(256, method=Image.Quantize.FASTOCTREE).save(path, optimize=True)
            chrome.close()
        finally:
            server.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
