"""ImageNet backbones: pickles of NumPy arrays, and nothing that calls anything."""

import os
import pickle

import jax
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.models.resnet import ResNet, ResNetConfig
from openseg_jax.weights.backbone import load_backbone, read_arrays
from openseg_jax.weights.generator import resnet_leaves
from openseg_jax.weights.tree import flatten

TINY = ResNetConfig((1, 1, 1, 3), (16, 24, 24, 24), stem_width=8)


def state(prefix=""):
    """Draws a backbone by detectron2's names, and returns it with what it must become."""
    blank = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    spec = flatten(jax.eval_shape(ResNet(TINY).init, jax.random.key(0), blank)["params"])
    rng = np.random.default_rng(0)
    ours = {k: rng.normal(size=s.shape).astype(np.float32) for k, s in spec.items()}
    theirs = {
        prefix + leaf.source: (
            ours[leaf.target].transpose(3, 2, 0, 1) if leaf.layout == "conv" else ours[leaf.target]
        )
        for leaf in resnet_leaves(TINY, source="")
    }
    return theirs, ours


def write(path, arrays, protocol=2):
    path.write_bytes(pickle.dumps(arrays, protocol=protocol))
    return path


@pytest.mark.parametrize("prefix", ["", "backbone.", "backbone.bottom_up."])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_of_arrays_becomes_a_backbone(tmp_path, prefix, protocol):
    theirs, ours = state(prefix)
    extra = {} if prefix else {"stem.fc.weight": np.zeros((10, 24), np.float32)}
    whole = {"model": theirs | extra, "__author__": "someone", "matching_heuristics": True}
    params, report = load_backbone(write(tmp_path / "R.pkl", whole, protocol), TINY)
    found = flatten(params)
    assert set(found) == set(ours)
    for name, want in ours.items():
        np.testing.assert_array_equal(found[name], want)
    assert str(tmp_path / "R.pkl") in report.file


class Malice:
    def __reduce__(self):
        return os.system, ("echo malice",)


@pytest.mark.parametrize("what", [Malice(), {"model": {"x": Malice()}}])
def test_a_pickle_that_calls_something_is_refused(tmp_path, what, capfd):
    with pytest.raises(UserError, match=r"asks for (posix|nt)\.system"):
        read_arrays(write(tmp_path / "R.pkl", what))
    assert "malice" not in capfd.readouterr().out


def test_arrays_of_objects_are_never_handed_on(tmp_path):
    objects = np.array([{"a": 1}, None], dtype=object)
    assert read_arrays(write(tmp_path / "R.pkl", {"a": objects, "b": np.ones(2)})).keys() == {"b"}


def test_mistakes_are_named(tmp_path):
    theirs, _ = state()
    with pytest.raises(UserError, match="no such file"):
        read_arrays(tmp_path / "none.pkl")
    cut = tmp_path / "cut.pkl"
    cut.write_bytes(pickle.dumps({"model": theirs})[:-900])
    with pytest.raises(UserError, match="cannot be read"):
        read_arrays(cut)
    with pytest.raises(UserError, match="dict of arrays"):
        read_arrays(write(tmp_path / "list.pkl", [1, 2]))
    with pytest.raises(UserError, match=r"stem\.conv1\.weight"):
        load_backbone(write(tmp_path / "other.pkl", {"conv1_w": np.ones(3)}), TINY)
    lacking = {k: x for k, x in theirs.items() if k != "res3.0.conv2.weight"}
    with pytest.raises(UserError, match=r"res3\.0\.conv2\.weight"):
        load_backbone(write(tmp_path / "less.pkl", lacking), TINY)
    with pytest.raises(UserError, match="surprise"):
        more = theirs | {"surprise": np.ones(3, np.float32)}
        load_backbone(write(tmp_path / "more.pkl", more), TINY)
    wrong = theirs | {"stem.conv1.weight": np.ones((4, 3, 7, 7), np.float32)}
    with pytest.raises(UserError, match=r"stem\.conv1\.weight"):
        load_backbone(write(tmp_path / "shape.pkl", wrong), TINY)
