"""The site builds without a warning, has formulas and shapes, and loads nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys

import pytest

from tests.docs.blocks import ROOT

INSTALL = "pip install -e '.[docs]'"
LACKING = [m for m in ("mkdocs", "material", "mkdocstrings", "latex2mathml")
           if importlib.util.find_spec(m) is None]  # fmt: skip


def build(checkout, target):
    """Builds the site of a checkout; returns the exit code and what was said."""
    call = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(target)]
    done = subprocess.run(
        call, cwd=checkout, capture_output=True, text=True, timeout=1800, check=False,
        env={"PATH": "/usr/bin:/bin", "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(checkout)},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if LACKING:
        pytest.skip(f"{', '.join(LACKING)} not installed: {INSTALL} && pytest -m slow tests/docs")
    target = tmp_path_factory.mktemp("site")
    code, said = build(ROOT, target)
    assert code == 0, said
    return target


@pytest.mark.slow
def test_no_page_asks_another_host(site):
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 20
    loads = re.compile(
        r"<(?:script|img|iframe|source)[^>]+src=\"(?:https?:)?//|"
        r"<link[^>]+rel=\"?(?:stylesheet|preconnect|preload|icon)[^>]+href=\"?(?:https?:)?//|"
        r"(?:@import|url\()\s*[\"']?(?:https?:)?//"
    )
    found = {
        f"{page.relative_to(site)}: {match[0]}"
        for page in pages
        for match in loads.finditer(page.read_text(encoding="utf-8"))
    }
    assert not found
    # The pattern finds what it is for.
    for text in ('<script src="https://a.b/c.js">', '<link rel="stylesheet" href="//a.b/c.css">',
                 '@import "https://a.b"', '<img alt="" src="http://a.b/c.png">'):  # fmt: skip
        assert loads.search(text)


@pytest.mark.slow
def test_formulas_are_drawn_and_shapes_are_shown(site):
    for name in ("car", "maft", "segclip", "clip_dense", "scaling"):
        page = (site / name / "index.html").read_text(encoding="utf-8")
        assert page.count("<math") >= 2 and "arithmatex" not in page, name
    page = (site / "reference/ops/index.html").read_text(encoding="utf-8")
    text = re.sub(r"<[^>]+>", "", page)
    assert "Float[Array" in text.replace("&quot;", '"') and "B M H W" in text
    page = (site / "reference/api/index.html").read_text(encoding="utf-8")
    assert 'id="openseg_jax.api.segment"' in page
    index = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))
    assert any("recurrence" in entry["text"].lower() for entry in index["docs"])


SPOILT = {
    "a dead link": ("docs/clip.md", "\n[x](nothing.md)\n", "nothing.md"),
    "a dead anchor": ("docs/clip.md", "\n[x](car.md#nothing)\n", "nothing"),
    "a dead link to code": ("docs/clip.md", "\n[x](../openseg_jax/nothing.py)\n", "nothing.py"),
    "a formula of unknown commands": ("docs/clip.md", "\n$\\nosuchsign x$\n", "nosuchsign"),
    "a module that is not there": ("docs/clip.md", "\n::: openseg_jax.nothing\n", ""),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A checkout with the pages, without the reference's modules, to be spoilt."""
    folder = tmp_path_factory.mktemp("small") / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", "*.safetensors")
    for name in ("docs", "launch"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    (folder / "openseg_jax").symlink_to(ROOT / "openseg_jax")
    for name in ("mkdocs.yml", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("configs", "data", "tests"):
        (folder / name).symlink_to(ROOT / name)
    hooks = folder / "docs/hooks.py"
    text = hooks.read_text(encoding="utf-8")
    assert text.count("found = [") == 1
    hooks.write_text(text.replace("found = [", "found = [] and ["), encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("what", [*SPOILT, "a page in no menu"])
def test_the_build_fails_for(what, small, tmp_path):
    if LACKING:
        pytest.skip(f"{', '.join(LACKING)} not installed: {INSTALL} && pytest -m slow tests/docs")
    page, text, says = SPOILT.get(what, ("docs/forgotten.md", "# Forgotten\n", "forgotten.md"))
    path = small / page
    before = path.read_text(encoding="utf-8") if path.exists() else None
    try:
        path.write_text((before or "") + text, encoding="utf-8")
        code, said = build(small, tmp_path / "site")
    finally:
        path.unlink() if before is None else path.write_text(before, encoding="utf-8")
    assert code != 0 and says in said, said
