"""Every method on the miniature: exported, run by run.py alone, and compared with itself."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from openseg_jax import export
from openseg_jax.export.canvas import fit
from openseg_jax.export.programs import PLATFORMS
from openseg_jax.methods.base import load_segmenter
from openseg_jax.methods.maft import Maft
from openseg_jax.methods.proposals import GivenMasks
from openseg_jax.miniature import scene
from tests.export.exports import live, needs_flatbuffers

pytestmark = [pytest.mark.slow, needs_flatbuffers]

SIZE = (96, 112)
METHODS = {
    "car": {}, "car_pamr": {"refine": "pamr"}, "clip_dense": {}, "maft": {}, "segclip": {},
}  # fmt: skip
# Nothing of the library can be imported, wherever it is installed.
ALONE = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("openseg_jax", "flax"):
            raise ImportError(f"{name} must not be needed")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def names_of(*scenes):
    """Words for what scenes show, and some that they do not."""
    from openseg_jax.miniature import CLASS_NAMES

    seen = {int(i) for s in scenes for i in np.unique(s.semantic) if 0 < i <= len(CLASS_NAMES)}
    shown = [CLASS_NAMES[i - 1] for i in sorted(seen)]
    return [*shown, *(name for name in ("zebra", "lemon", "snow") if name not in shown)]


@pytest.fixture(scope="module", params=METHODS)
def case(request, tmp_path_factory):
    """A segmenter and the folder of its export, whose class table is of other words."""
    method = request.param.partition("_pamr")[0]
    segmenter = load_segmenter(method, "miniature", **METHODS[request.param])
    folder = tmp_path_factory.mktemp("exports") / request.param
    export.write(segmenter, folder, size=SIZE, labels=["water", "sand"])
    return method, segmenter, folder


def drawn(method, images, valid):
    """Proposals for MAFT, which cannot draw them without the library."""
    if method != "maft":
        return None
    source = load_segmenter("maft", "miniature").source
    masks, _ = jax.jit(lambda x, v: source.propose({}, x, None, v))(images, valid)
    return np.asarray(jax.image.resize(masks, (*masks.shape[:2], *SIZE), "nearest"))


def given(segmenter, masks):
    if masks is None:
        return segmenter
    return Maft(segmenter.clip, GivenMasks(masks), segmenter.config)


@pytest.mark.parametrize("count", [1, 3])
def test_labels_are_the_segmenters(case, count):
    method, segmenter, folder = case
    scenes = [scene("test", i) for i in range(3)]
    # The first fills the canvas's height, the others only a part.
    cuts = [s.image[: 96 - 20 * i, : 96 - 12 * i] for i, s in enumerate(scenes)]
    model = export.load(folder)
    canvases, there = zip(*(fit(cut, SIZE, model.manifest["fit"]) for cut in cuts), strict=True)
    images, valid = np.stack(canvases), np.stack(there)
    masks = drawn(method, images, valid)
    names = names_of(*scenes)
    images, valid = images[:count], valid[:count]
    masks = None if masks is None else masks[:count]
    labels, scores, alive = model.segment(images, model.classes(names), valid, masks)
    wanted, wanted_scores, wanted_alive = live(given(segmenter, masks), images, valid, names)
    # Different programs round differently, so a pixel between two classes may fall to either.
    assert (labels == wanted).mean() > 0.995
    assert len(np.unique(labels)) > 2
    assert (alive == wanted_alive).mean() > 0.95
    both = alive & wanted_alive
    np.testing.assert_allclose(scores[both], wanted_scores[both], atol=5e-3)
    # The twin: the same words in another order are another answer, so the comparison can fail.
    turned, _, _ = model.segment(images, model.classes(names[::-1]), valid, masks)
    found = wanted > 0
    assert (turned == wanted)[found].mean() < 0.9


def test_run_py_works_where_the_library_cannot_be_imported(case, tmp_path):
    method, segmenter, folder = case
    one = scene("test", 4)
    Image.fromarray(one.image).save(tmp_path / "photo.png")
    names = names_of(one)
    words = [str(folder / "run.py"), "photo.png", "--labels", ", ".join(names), "-o", "made"]
    model = export.load(folder)
    image, valid = (x[None] for x in fit(one.image, SIZE, model.manifest["fit"]))
    masks = drawn(method, image, valid)
    if masks is not None:
        height, width = one.image.shape[:2]
        np.save(tmp_path / "masks.npy", masks[0, :, :height, :width])
        words += ["--masks", "masks.npy"]
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, *words], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"}, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    labels = np.asarray(Image.open(tmp_path / "made" / "photo.png")).astype(np.int32)
    wanted, wanted_scores, _ = live(given(segmenter, masks), image, valid, names)
    assert (labels == wanted[0][valid[0]].reshape(labels.shape)).mean() > 0.995
    rows = json.loads((tmp_path / "made" / "photo.json").read_text(encoding="utf-8"))
    assert [row["label"] for row in rows] == names
    found = [row for row in rows if row["found"]]
    assert found
    for row in found:
        assert row["score"] == pytest.approx(wanted_scores[0, row["id"] - 1], abs=5e-3)


@pytest.mark.tpu_backend
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed; pip install -e '.[tpu-plan,export]' && "
    "pytest -m tpu_backend tests/export",
)
def test_the_compiler_for_tpus_takes_every_program(case):
    from jax import export as jax_export
    from jax.sharding import SingleDeviceSharding

    from openseg_jax.plan.compiled import devices_of
    from openseg_jax.plan.topology import parse

    _, _, folder = case
    here = SingleDeviceSharding(devices_of(parse("v5e-1"))[0])
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["platforms"] == list(PLATFORMS)
    sizes = {"b": 2, "8*k": 16, "8*g": 32, "8*m": 16, "n": 8, "l": 16}
    for entries in manifest["programs"].values():
        (entry,) = (e for e in entries if "tpu" in e["platforms"])
        program = jax_export.deserialize(bytearray((folder / entry["file"]).read_bytes()))

        def spec(aval):
            shape = tuple(n if isinstance(n, int) else sizes[str(n)] for n in aval.shape)
            return jax.ShapeDtypeStruct(shape, aval.dtype, sharding=here)

        arguments, _ = jax.tree.unflatten(program.in_tree, map(spec, program.in_avals))
        compiled = jax.jit(program.call).lower(*arguments).compile()
        assert compiled.memory_analysis().argument_size_in_bytes > 0
