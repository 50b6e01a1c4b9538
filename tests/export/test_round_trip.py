"""An export does what the segmenter did: other words, other batches, without its code."""

from __future__ import annotations

import ast
import json
import sys

import numpy as np
import pytest

from openseg_jax import export
from openseg_jax.export import standalone
from tests.export.exports import (
    SIZE,
    exported_folder,  # noqa: F401
    live,
    needs_flatbuffers,
    pictures,
    tiny_dense,  # noqa: F401
)

OTHERS = ["lemon, zebra", "grass", "scene"]


@pytest.fixture(scope="module")
def loaded(exported_folder):  # noqa: F811
    return export.load(exported_folder)


@needs_flatbuffers
@pytest.mark.parametrize("count", [1, 3])
def test_other_words_and_batches_give_what_the_segmenter_gives(loaded, tiny_dense, count):  # noqa: F811
    images, valid = pictures(count, SIZE)
    labels, scores, alive = loaded.segment(images, loaded.classes(OTHERS), valid)
    wanted, wanted_scores, wanted_alive = live(tiny_dense, images, valid, OTHERS)
    # Two programs round differently: a pixel between two classes may fall to either.
    assert (labels == wanted).mean() > 0.99
    assert count == 1 or len(np.unique(labels)) > 1
    same = alive & wanted_alive
    np.testing.assert_allclose(scores[same], wanted_scores[same], atol=1e-3)
    assert not labels[~valid].any()


@needs_flatbuffers
def test_the_class_table_is_what_its_words_give(loaded):
    ready, made = loaded.classes(), loaded.classes(["zebra", "grass"])
    assert ready.names == made.names and loaded.classes(["zebra", "grass"]) is made
    assert (loaded.classes(background=[]).arrays["kind"] == 2).sum() == 0
    for name, array in made.arrays.items():
        np.testing.assert_allclose(ready.arrays[name], array, atol=1e-5)


@needs_flatbuffers
def test_background_texts_count(loaded):
    # The twin: what is left out of the words shows.
    one, other = loaded.classes(OTHERS), loaded.classes(OTHERS, ["photo", "of"])
    assert (one.arrays["kind"] == 2).sum() == 1 and (other.arrays["kind"] == 2).sum() == 2
    assert not np.allclose(one.arrays["rows"], other.arrays["rows"], atol=1e-3)


@needs_flatbuffers
def test_a_picture_of_any_size_comes_back_at_its_own(loaded, picture):
    result = loaded.picture(picture, ["zebra", "sky"])
    assert result.labels.shape == (40, 48) and set(result.scores) == {"zebra", "sky"}
    assert set(np.unique(result.labels)) <= {0, 1, 2}
    assert set(result.kept) <= {"zebra", "sky"}


@needs_flatbuffers
def test_the_folder_says_what_it_holds(loaded, exported_folder):  # noqa: F811
    from jax import export as jax_export

    manifest = json.loads((exported_folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["platforms"] == ["cpu", "cuda", "tpu"]
    assert manifest["provenance"]["models"][0]["licence"] == "Apache-2.0"
    assert manifest["size"] == list(SIZE) and manifest["patch"] == 8
    for entries in manifest["programs"].values():
        assert [e["platforms"] for e in entries] == [["cpu"], ["cuda", "tpu"]]
        for entry in entries:
            data = bytearray((exported_folder / entry["file"]).read_bytes())
            program = jax_export.deserialize(data)
            assert list(program.platforms) == entry["platforms"]
            foreign = [
                line for line in program.mlir_module().splitlines()
                if "custom_call @" in line and "shape_assertion" not in line
            ]  # fmt: skip
            assert not foreign
    inside = {str(p.relative_to(exported_folder)) for p in exported_folder.rglob("*.*")}
    assert inside == {*manifest["files"], "run.py", "manifest.json"}
    # Files say nothing of the folders of the machine that wrote them.
    for path in exported_folder.iterdir():
        assert path.is_dir() or str(exported_folder.parent).encode() not in path.read_bytes()


def test_run_py_needs_nothing_of_this_package():
    text = standalone.source()
    tree = ast.parse(text)
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(str(node.module).split(".")[0])
    others = modules - set(sys.stdlib_module_names)
    assert others == {"jax", "numpy", "PIL", "safetensors", "sentencepiece", "tokenizers"}
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert len(names) == len(set(names))
    assert '__name__ == "__main__"' in text and ast.get_docstring(tree)
