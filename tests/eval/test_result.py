"""Results go to JSON and back exactly, and their metrics are those of an independent count."""

import json

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.eval.result import (
    ImageRow,
    ReferringResult,
    ReferringRow,
    Result,
    result_from_json,
)


def semantic(*, seed=0, classes=5, missed=True, **changes) -> Result:
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 2**40, (classes, classes)) * (rng.random((classes, classes)) < 0.6)
    fields = {
        "benchmark": "voc20",
        "method": "car",
        "model": "miniature",
        "classes": tuple(f"class {i}" for i in range(classes)),
        "matrix": matrix,
        "background": False,
        "unseen": np.arange(classes) >= classes - 2,
        "rows": (ImageRow("a/1", 0.1 + 0.2, 7), ImageRow("ü", float("nan"), 0)),
        "provenance": {"weights": "abc", "nested": {"x": (1, np.int64(2))}},
        "timings": {"total": 1 / 3, "device": float("nan")},
        "missed": rng.integers(0, 9, classes) if missed is True else missed,
    }
    return Result(**{**fields, **changes})


def referring() -> ReferringResult:
    rows = (
        ReferringRow("1", ("the left one", "man"), 30, 40),
        ReferringRow("2", ("dog",), 0, 0),
        ReferringRow("3", ("cat",), 500, 1000),
    )
    return ReferringResult("refcoco_val", "car", "m", rows, {"rule": "x"}, {"total": 2.5})


@pytest.mark.parametrize("one", [semantic(), semantic(missed=None, unseen=None), referring()])
def test_a_result_goes_to_json_and_back_exactly(one):
    text = json.dumps(one.to_json(), allow_nan=False)
    back = result_from_json(json.loads(text))
    assert type(back) is type(one)
    assert json.dumps(back.to_json(), allow_nan=False) == text
    if isinstance(one, Result):
        np.testing.assert_array_equal(back.matrix, one.matrix)
        assert back.matrix.dtype == np.int64
        assert back.rows[0] == one.rows[0] and np.isnan(back.rows[1].miou)


def test_missed_pixels_are_misses_unless_forgotten():
    one = semantic()
    hit, truth = np.diagonal(one.matrix), one.matrix.sum(1)
    predicted = one.matrix.sum(0)
    counted = hit / (truth + one.missed + predicted - hit)
    np.testing.assert_allclose(one.metrics().iou, counted, rtol=1e-12)
    forgotten = hit / (truth + predicted - hit)
    np.testing.assert_allclose(one.metrics(forget_missed=True).iou, forgotten, rtol=1e-12)
    split = one.split_metrics("all")
    assert split.unseen == pytest.approx(np.nan_to_num(counted[one.unseen]).mean(), rel=1e-12)
    assert split.seen == pytest.approx(np.nan_to_num(counted[~one.unseen]).mean(), rel=1e-12)
    accuracy = hit[one.unseen].sum() / (truth + one.missed)[one.unseen].sum()
    assert split.unseen_accuracy == pytest.approx(accuracy, rel=1e-12)


def test_a_split_counts_the_same_with_and_without_an_empty_column():
    plain = semantic(missed=None)
    zero = Result(**{**vars(plain), "missed": np.zeros(len(plain.classes), int)})
    for convention in ("gt", "union", "all"):
        assert plain.split_metrics(convention) == zero.split_metrics(convention)
    assert semantic(unseen=None).split_metrics() is None


def test_referring_metrics_are_the_papers():
    found = referring().metrics()
    assert found.oiou == pytest.approx(530 / 1040)
    assert found.miou == pytest.approx((0.75 + 0 + 0.5) / 3)
    assert found.found == {
        0.5: pytest.approx(2 / 3),
        **{x: pytest.approx(1 / 3) for x in (0.6, 0.7)},
        **{x: 0 for x in (0.8, 0.9)},
    }
    none = ReferringResult("refcoco_val", "car", "m", (), {}, {}).metrics()
    assert np.isnan(none.oiou) and np.isnan(none.miou)


@pytest.mark.parametrize(
    "field, value, word",
    [
        ("matrix", np.zeros((5, 4), int), "matrix"),
        ("unseen", np.zeros(4, bool), "unseen"),
        ("missed", np.zeros(6, int), "missed"),
    ],
)
def test_fields_of_other_sizes_are_refused(field, value, word):
    with pytest.raises(UserError, match=word):
        Result(**{**vars(semantic()), field: value})


def test_what_json_has_no_number_for_becomes_null():
    one = semantic(provenance={"x": [float("inf"), np.float32("nan"), 0.5]})
    assert json.loads(json.dumps(one.to_json(), allow_nan=False))["provenance"]["x"] == [
        None, None, 0.5,
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["format", "classes", "matrix", "rows", "all"])
def test_a_broken_file_is_a_message(damage):
    read = semantic().to_json()
    read = [] if damage == "all" else {**read, damage: 7}
    with pytest.raises(UserError, match="evaluate again"):
        result_from_json(read)
