"""Joint operations: one draw for a picture and all that lies on it, in NumPy and in tf.data."""

import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from openseg_jax.compat import big_vision
from openseg_jax.compat.joint import JOINT
from openseg_jax.compat.pp_string import from_bv_string
from openseg_jax.errors import UserError
from tests.compat.tensorflow_side import tensorflow

FAKE = Path(__file__).parent / "fake"
RUN = "PYTHONPATH=path/to/big_vision python -m pytest -n0 tests/compat/test_joint.py"
CALLS = [
    "joint_resize(24)",
    "joint_resize_small(20)",
    "joint_flip_lr",
    "joint_random_crop((20, 30))",
    "joint_inception_crop(24)",
    "joint_views(24, short_sides=(48, 64), colours=False)",
]


def example():
    """A picture whose grey is its label times four, in blocks, so that both tell of each other."""
    label = np.kron(np.arange(48).reshape(6, 8), np.ones((8, 8))).astype(np.uint8)
    return {"image": np.repeat(4 * label[..., None], 3, axis=2), "labels": label[..., None]}


def agree(image, labels):
    """Share of pixels whose grey is that of their label; blocks' edges are mixed by resizing."""
    return (np.abs(image[..., 0].astype(int) - 4 * labels[..., 0].astype(int)) <= 2).mean()


@pytest.fixture(params=["fake", "real"])
def registry(request, monkeypatch):
    """big_vision's registry with our operations in it: the real one where it is importable."""
    if request.param == "fake":
        for name in [n for n in sys.modules if n.split(".")[0] == "big_vision"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(str(FAKE))
    elif importlib.util.find_spec("big_vision") is None:
        pytest.skip(f"big_vision is not importable (it has no package): {RUN}")
    made = importlib.import_module("big_vision.pp.registry").Registry
    kept = dict(made.global_registry())
    assert big_vision.register() == list(JOINT)
    yield made
    made.global_registry().clear()
    made.global_registry().update(kept)
    if request.param == "fake":
        for name in [n for n in sys.modules if n.split(".")[0] == "big_vision"]:
            del sys.modules[name]


@pytest.mark.parametrize("call", CALLS)
def test_both_move_together(call):
    for seed in range(4):
        out = from_bv_string(call)(example(), np.random.default_rng(seed))
        assert out["image"].shape[:2] == out["labels"].shape[:2]
        assert out["image"].dtype == out["labels"].dtype == np.uint8
        inside = out["labels"][..., 0] != 255
        assert agree(out["image"][inside][None], out["labels"][inside][None]) > 0.6
        assert set(np.unique(out["labels"])) <= {*range(48), 255}


def test_apart_they_would_not_agree():
    """The test can fail: a flip of the picture alone."""
    data = example()
    assert agree(data["image"][:, ::-1], data["labels"]) < 0.2


@pytest.mark.parametrize("call", CALLS)
def test_the_registry_s_lookup_builds_them(registry, call):
    op = registry.lookup(f"preprocess_ops.{call}")()
    np.random.seed(0)
    first = op(example())
    np.random.seed(0)
    again = op(example())
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])
    assert agree(first["image"], first["labels"]) > 0.3


def test_registering_twice_is_once_and_taken_names_are_told(registry):
    table = registry.global_registry()
    before = dict(table)
    assert big_vision.register() == list(JOINT) and table == before
    table["preprocess_ops.joint_resize"] = mine = lambda: None
    with pytest.raises(UserError, match="joint_resize: somebody registered that name"):
        big_vision.register()
    assert table["preprocess_ops.joint_resize"] is mine
    big_vision.register(replace=True)
    assert table["preprocess_ops.joint_resize"] is not mine


@pytest.mark.parametrize("call", CALLS)
def test_in_a_graph_they_move_together_and_follow_the_seed(registry, call):
    tf = tensorflow()
    op = registry.lookup(f"preprocess_ops.{call}")()

    def views():
        tf.random.set_seed(7)
        data = tf.data.Dataset.from_tensors({**example(), "id": 5}).repeat(12)
        return list(data.map(op).as_numpy_iterator())

    first, again = views(), views()
    for a, b in zip(first, again, strict=True):
        assert a["id"] == 5
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["labels"], b["labels"])
        inside = a["labels"][..., 0] != 255
        assert agree(a["image"][inside][None], a["labels"][inside][None]) > 0.6
    if "resize" not in call:
        assert len({(a["image"].shape, a["image"].tobytes()) for a in first}) > 1


def test_sizes_survive_a_graph_so_that_batches_can_be_made(registry):
    tf = tensorflow()
    op = registry.lookup("preprocess_ops.joint_inception_crop(24)")()
    data = tf.data.Dataset.from_tensors(example()).repeat(4).map(op).batch(2)
    assert data.element_spec["image"].shape.as_list() == [None, 24, 24, 3]
    assert data.element_spec["labels"].shape.as_list() == [None, 24, 24, 1]
    assert next(iter(data))["labels"].dtype == tf.uint8


def test_importing_asks_for_neither_tensorflow_nor_big_vision():
    import subprocess

    code = (
        "import sys, openseg_jax.compat.big_vision, openseg_jax.compat.pp_string\n"
        "print({m.split('.')[0] for m in sys.modules} & {'tensorflow', 'big_vision'})"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_without_big_vision_the_error_says_how_to_get_it(monkeypatch):
    if importlib.util.find_spec("big_vision") is not None:
        pytest.skip("big_vision is importable here")
    with pytest.raises(UserError, match="PYTHONPATH"):
        big_vision.register()


@pytest.mark.parametrize(
    ("call", "change", "match"),
    [
        ("joint_flip_lr", lambda d: d.pop("labels"), "labels: no such key"),
        ("joint_flip_lr", lambda d: d.update(labels=np.zeros((4, 4))), "one height and width"),
        ("joint_flip_lr", lambda d: d.update(labels=np.zeros(4)), r"expected \[H W\]"),
        ("joint_random_crop(99)", lambda d: None, "crop_size: expected at most"),
        ("joint_resize(0)", lambda d: None, "size: expected pixels"),
    ],
)
def test_mistakes_are_named(call, change, match):
    data = example()
    change(data)
    with pytest.raises(UserError, match=match):
        from_bv_string(call)(data, np.random.default_rng(0))


def test_other_keys_and_flat_maps():
    data = example()
    data = {"picture": data["image"], "a": data["labels"][..., 0], "b": data["labels"] > 3}
    call = "joint_inception_crop(16, area_min=20, images='picture', masks=('a', 'b'))"
    out = from_bv_string(call)(data, np.random.default_rng(0))
    assert out["a"].shape == (16, 16) and out["b"].shape == (16, 16, 1)
    np.testing.assert_array_equal(out["b"][..., 0], out["a"] > 3)
    assert out["b"].dtype == bool
