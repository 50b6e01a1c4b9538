"""A person at the page, by a real browser."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
from PIL import Image

from openseg_jax.miniature.streams import scene
from openseg_jax.miniature.world import CLASS_NAMES

SECONDS = 1000
PATIENCE = 180 * SECONDS


def drawn(index):
    """A scene of the miniature's test stream: PNG bytes, and where each thing in it is."""
    truth = scene("test", index)
    file = io.BytesIO()
    Image.fromarray(truth.image).save(file, "PNG")
    names = [CLASS_NAMES[i - 1] for i in np.unique(truth.semantic)]
    return file.getvalue(), {n: truth.semantic == CLASS_NAMES.index(n) + 1 for n in names}


def overlap(one, other):
    """Intersection over union of two masks."""
    return (one & other).sum() / max((one | other).sum(), 1)


class Visitor:
    """What a person does and sees. `elsewhere` and `errors` hold what should not happen."""

    def __init__(self, chrome, url, *, width=1280, dark=False):
        scheme = "dark" if dark else "light"
        self.context = chrome.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        self.page = self.context.new_page()
        self.elsewhere, self.errors = [], []
        self.page.on("request", lambda r: self._asked(r.url, url))
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("response", lambda r: self._answered(r.status, r.url))
        self.page.set_default_timeout(PATIENCE)
        self.page.goto(f"{url}?__theme={scheme}")
        self.page.wait_for_selector("#os-choose button[data-example]")

    def _asked(self, address, url):
        if not address.startswith((url, "data:", "blob:")):
            self.elsewhere.append(address)

    def _answered(self, status, address):
        if status >= 400:
            self.errors.append(f"{status} {address}")

    def upload(self, data, name="picture.png"):
        """Chooses a file; waits until the page has it."""
        files = {"name": name, "mimeType": "image/png", "buffer": data}
        with self.page.expect_response(lambda r: "/upload" in r.url and r.request.method == "POST"):
            self.page.set_input_files("#os-picture input[type=file]", [files])
        self.page.wait_for_selector("#os-picture img")

    def example(self, index):
        """Clicks an example, which also segments it."""
        self.page.click(f"#os-choose [data-example='{index}']")

    def label(self, text):
        """Writes labels."""
        self.page.fill("#os-labels textarea", text)

    def method(self, title):
        """Chooses a method and waits until its settings are there."""
        self.page.get_by_label(title, exact=True).check()
        self.page.wait_for_timeout(500)

    def segment(self):
        """Clicks the button."""
        self.page.click("#os-go")

    def result(self, *, other_than=None):
        """Waits for a result that is drawn (and not `other_than`), and returns its element."""
        test = """old => {
            const view = document.querySelector(".os-view[data-ready=yes]");
            return view && view.querySelector(".os-index").src !== old ? view : null;
        }"""
        return self.page.wait_for_function(test, arg=other_than or "").as_element()

    def index(self):
        """The address of the picture of label ids: another result has another."""
        return self.page.locator(".os-index").get_attribute("src")

    def picture(self):
        """The picture that was segmented, as the result shows it."""
        address = self.page.locator(".os-picture").get_attribute("src")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))

    def rows(self):
        """The table: (name, id, score) of every mask."""
        found = self.page.locator(".os-row").evaluate_all(
            "rows => rows.map(r => [r.dataset.name, Number(r.dataset.id), "
            "Number(r.dataset.score), r.cells[0].innerText.trim()])"
        )
        assert all(name == shown for name, _, _, shown in found)
        return [(name, place, score) for name, place, score, _ in found]

    def painted(self):
        """The pixels of the masks' canvas, UInt8[h w 4]."""
        width, height, data = self.page.evaluate(
            """() => {
                const c = document.querySelector(".os-paint");
                const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
                let text = "";
                for (let i = 0; i < d.length; i += 8192)
                    text += String.fromCharCode.apply(null, d.subarray(i, i + 8192));
                return [c.width, c.height, btoa(text)];
            }"""
        )
        return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)

    def point(self, row, column, size):
        """Moves the mouse to a pixel of a picture of `size` (H, W)."""
        box = self.page.locator(".os-paint").bounding_box()
        self.page.mouse.move(
            box["x"] + box["width"] * (column + 0.5) / size[1],
            box["y"] + box["height"] * (row + 0.5) / size[0],
        )

    def tip(self):
        """The name beside the mouse, or None."""
        tip = self.page.locator(".os-tip")
        return tip.inner_text() if tip.is_visible() else None

    def download(self, title):
        """Clicks a download and returns its name and bytes."""
        with self.page.expect_download() as waiting:
            self.page.get_by_text(title, exact=True).click()
        found = waiting.value
        with open(found.path(), "rb") as file:
            return found.suggested_filename, file.read()

    def json(self, title):
        """Downloads JSON."""
        return json.loads(self.download(title)[1])

    def complaint(self, words):
        """Waits for an error message with these words, returns all of it, and closes it."""
        toast = self.page.locator(".toast-body", has_text=words).first
        toast.wait_for()
        text = toast.inner_text()
        assert "Traceback" not in text
        toast.locator(".toast-close").first.click()
        toast.wait_for(state="detached")
        return text

    def leave(self):
        """Closes the browser window."""
        self.context.close()
