"""The TFDS builders: from archives in the official layout to records read without TensorFlow."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
import unittest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from openseg_jax.errors import UserError
from openseg_jax.inputs.augment import IGNORE
from openseg_jax.inputs.data_sets import data_set
from openseg_jax.inputs.tfds_labels import TfdsLabels, open_tfds_labels
from tests.data import label_archives
from tests.data.test_every_benchmark import WRITERS
from tests.inputs.layouts import write_layout

# Builder -> its configs, each with the data set that it holds.
BUILDERS = {
    "voc2012_segmentation": {"": "voc"},
    "pascal_context": {"60": "context", "459": "context459"},
    "coco_object": {"": "coco_object"},
    "coco_stuff": {"": "coco_stuff"},
    "ade20k_semantic": {"150": "ade", "847": "ade847"},
    "cityscapes_semantic": {"": "cityscapes"},
}
NAMES = [f"{b}/{c}".rstrip("/") for b, configs in BUILDERS.items() for c in configs]


def _missing(*modules: str) -> bool:
    return any(importlib.util.find_spec(name) is None for name in modules)


needs_tfds = pytest.mark.skipif(
    _missing("tensorflow_datasets", "importlib_resources"),
    reason="needs tensorflow_datasets; run: pip install 'openseg_jax[test,data]' && "
    "pytest tests/data/test_builders.py",
)
needs_tensorflow = pytest.mark.skipif(
    _missing("tensorflow_datasets", "importlib_resources", "tensorflow", "dill"),
    reason="TFDS's own builder test needs TensorFlow and dill; run: pip install "
    "'openseg_jax[test,test-builders]' && pytest -m slow tests/data/test_builders.py",
)


def write_archives(name: str, root: Path) -> dict[str, np.ndarray]:
    """Writes two pictures of a data set in its official layout; returns labels by item."""
    count = {"count": 2} if name in label_archives.WRITERS else {}
    return WRITERS[name](root, **count)


def build(name: str, root: Path, folder: Path) -> TfdsLabels:
    from openseg_jax.data.builders.build import build

    build(name, root, folder)
    return open_tfds_labels(name, folder=str(folder))


@needs_tfds
@pytest.mark.parametrize("name", NAMES)
def test_from_official_files_to_records(name, tmp_path):
    kind, _, config = name.partition("/")
    facts = data_set(BUILDERS[kind][config])
    truth = write_archives(facts.name, tmp_path)
    found = build(name, tmp_path, tmp_path / "tfds")
    assert len(found) == len(truth) == 2 and found.classes == facts.classes
    for index in range(len(found)):
        image, labels = found.read(index)
        want = truth[bytes(found.source[index]["name"]).decode()]
        np.testing.assert_array_equal(labels, want)
        assert image.shape == (*want.shape, 3) and labels.dtype == np.int32


@needs_tfds
def test_what_the_record_of_a_data_set_says(tmp_path):
    import tensorflow_datasets as tfds

    write_archives("ade847", tmp_path)
    build("ade20k_semantic/847", tmp_path, tmp_path / "tfds")
    # As somebody reads it who has TFDS and not this library.
    info = tfds.builder("ade20k_semantic/847", data_dir=tmp_path / "tfds").info
    assert info.features["labels"].num_classes == 847
    assert info.features["labels"].np_dtype == np.uint16
    assert info.metadata["ignore"] == 65535 and info.metadata["vocabulary"] == "ade847"
    assert "research" in info.redistribution_info.license and "2019" in info.citation
    assert info.homepage.startswith("https://") and "65535" in info.description


@needs_tfds
def test_building_and_reading_import_no_tensorflow(tmp_path):
    write_archives("voc", tmp_path)
    code = (
        "import sys\n"
        "from openseg_jax.data.builders.build import main\n"
        "from openseg_jax.inputs.tfds_labels import open_tfds_labels\n"
        f"root = {str(tmp_path)!r}\n"
        "name = 'voc2012_segmentation'\n"
        "assert main([name, '--root', root, '--data-dir', root + '/tfds']) == 0\n"
        "assert main(['voc2012', '--root', root]) == 1\n"
        "found = open_tfds_labels(name, folder=root + '/tfds')\n"
        "assert found.read(0)[0].ndim == 3\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    assert "tensorflow_datasets" in done.stdout.split()
    assert "tensorflow" not in done.stdout.split()
    assert "did you mean 'voc2012_segmentation'" in done.stderr


@needs_tfds
def test_a_picture_that_exif_turns_keeps_the_pixels_that_are_labelled(tmp_path):
    written = write_layout(data_set("ade"), data_set("ade").layouts[0], tmp_path)
    name, want = next(iter(written.truth.items()))
    stored = np.random.default_rng(0).integers(0, 256, (*want.shape, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = written.images / f"{name}.jpg"
    Image.fromarray(stored).save(path, exif=exif)
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    found = build("ade20k_semantic/150", tmp_path, tmp_path / "tfds")
    images = [found.read(i)[0] for i in range(2)]
    assert any(i.shape == pixels.shape and (i == pixels).all() for i in images)


@needs_tfds
def test_missing_and_wrong_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"VOCtrainval_11-May-2012\.tar"):
        build("voc2012_segmentation", tmp_path, tmp_path / "tfds")
    written = write_layout(data_set("ade"), data_set("ade").layouts[0], tmp_path)
    name, labels = next(iter(written.truth.items()))
    Image.fromarray(np.full(labels.shape, 200, np.uint8)).save(written.labels / f"{name}.png")
    with pytest.raises(UserError, match=rf"{name}\.png.*200"):
        build("ade20k_semantic/150", tmp_path, tmp_path / "tfds")
    with pytest.raises(UserError, match=r"-m openseg_jax\.data\.builders ade20k_semantic/150"):
        open_tfds_labels("ade20k_semantic/150", folder=str(tmp_path / "tfds"))


@pytest.mark.slow
@needs_tensorflow
@pytest.mark.parametrize("kind", BUILDERS)
def test_tfds_own_builder_test(kind, tmp_path):
    import openseg_jax.data.builders  # noqa: F401 - registers the builders
    import tensorflow_datasets as tfds

    # Archives of one root belong together: those of 459 classes will do for 59.
    for name in set(BUILDERS[kind].values()) - {"context"}:
        write_archives(name, tmp_path)
    case: Any = tfds.testing.DatasetBuilderTestCase
    members = {
        "DATASET_CLASS": tfds.builder_cls(kind),
        "EXAMPLE_DIR": tmp_path,
        "SPLITS": {"validation": 2},
    }
    own = type(case)("OwnTest", (case,), members)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(own).run(result)
    assert result.testsRun >= 4 and result.wasSuccessful(), result.errors + result.failures


def _png(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def test_records_are_checked_when_they_are_read():
    image = _png(np.zeros((4, 5, 3), np.uint8))
    rows = [np.array([[0, 1, 2, 255, 0]] * 4, np.uint8), np.full((4, 5), 3, np.uint8),
            np.zeros((4, 4), np.uint8)]  # fmt: skip
    found = TfdsLabels("x", ("a", "b", "c"), [{"image": image, "labels": _png(r)} for r in rows])
    np.testing.assert_array_equal(found.read(0)[1][0], [0, 1, 2, IGNORE, 0])
    with pytest.raises(UserError, match=r"record 1.*below 3"):
        found.read(1)
    with pytest.raises(UserError, match=r"record 2.*4x5"):
        found.read(2)
    broken = TfdsLabels("x", ("a",), [{"image": image, "labels": b"no picture"}])
    with pytest.raises(UserError, match=r"record 0.*damaged"):
        broken.read(0)
