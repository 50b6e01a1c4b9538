"""Runs the commands of every page for real, on the miniature and on stand-ins (`scratch.py`)."""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import sys

import jax
import pytest

from openseg_jax.cli.main import main
from tests.docs.blocks import PAGES, ROOT, Block, all_blocks
from tests.docs.running import run_block
from tests.docs.scratch import copy_scratch, write_hub, write_reports, write_scratch

pytestmark = pytest.mark.slow
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
WITH_BLOCKS = [n for n in NAMES if any(b.page == n for b in all_blocks("bash", "python"))]


@pytest.fixture(scope="module")
def patched():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, patched, request):
    """The scratch that each page gets a copy of, and the hub's cache."""
    top = tmp_path_factory.mktemp("pages")
    # Pages repeat one another's commands: what one has compiled serves the next.
    for name, value in (
        ("jax_compilation_cache_dir", str(top / "xla")),
        ("jax_persistent_cache_min_compile_time_secs", 0.0),
        ("jax_persistent_cache_min_entry_size_bytes", -1),
    ):
        before = getattr(jax.config, name)
        jax.config.update(name, value)
        request.addfinalizer(functools.partial(jax.config.update, name, before))
        patched.setenv(name.upper(), str(value))
    write_hub(top / "hub")
    patched.setenv("HF_HUB_CACHE", str(top / "hub"))
    patched.setenv("HF_HUB_OFFLINE", "1")
    # Read when the package is imported, which may have been before.
    constants = importlib.import_module("huggingface_hub.constants")
    patched.setattr(constants, "HF_HUB_CACHE", str(top / "hub"))
    patched.setattr(constants, "HF_HUB_OFFLINE", True)
    write_scratch(top / "scratch")
    patched.chdir(top / "scratch")
    write_reports(top / "scratch")
    return top / "scratch"


@pytest.fixture
def scratch(prepared, tmp_path, monkeypatch):
    folder = tmp_path / "page"
    copy_scratch(prepared, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OPENSEG_LAUNCH_HOME", str(tmp_path / "launch"))
    return folder


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_page(name, scratch):
    if name == "docs/data.md":
        shutil.rmtree(scratch / "data/prepared")  # the page prepares it
    if name == "launch/README.md":  # a run that is fetched from its bucket
        assert main(["train", "--config", "clip_finetune:tiny", "--workdir", "work"]) == 0
    said: list[str] = []
    wrong: list[str] = []
    for block in all_blocks("bash", "python"):
        if block.page != name:
            continue
        try:
            run_block(block, said)
        except Exception as error:
            wrong.append(f"{block}: {type(error).__name__}: {error}")
    print(*said, sep="\n")
    assert not wrong, "\n\n".join(wrong)


WRONG = {
    "bash": (
        "openseg segment nothing.jpg --labels zebra",
        "openseg segment photo.jpg --labels zebra --model no_such_folder/x",
        "openseg demo --seed one",
        "A=1 openseg segmnt photo.jpg",
        "head nothing_there.txt",
        "openseg data verify folder --root nowhere",
    ),
    "python": ("import openseg_jax\nopenseg_jax.segment('nothing.jpg', ['zebra'])", "unknown_name"),
}


@pytest.mark.parametrize(
    "language, text", [(language, text) for language in WRONG for text in WRONG[language]]
)
def test_a_wrong_block_fails(language, text, scratch):
    with pytest.raises((Exception, SystemExit)):
        run_block(Block("page.md", 1, language, text + "\n"), [])


def test_processes_get_this_checkout(scratch):
    run_block(Block("page.md", 1, "bash", 'A=1 python -c "import openseg_jax"\n'), [])
    assert os.path.isabs(sys.executable)
