"""Tables of reports say what the counts say."""

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.eval import measures
from openseg_jax.eval import report_tables as tables
from openseg_jax.eval.result import ImageRow
from tests.eval.test_result import referring, semantic


def column(table, name):
    return [row[table.header.index(name)] for row in table.rows]


def test_the_summary_has_a_row_a_method_and_every_convention():
    results = [semantic(), semantic(seed=1, method="maft")]
    table = tables.summary(results)
    assert column(table, "method") == ["car", "maft"]
    for convention in ("gt", "union", "all"):
        want = [100 * result.metrics().miou[convention] for result in results]
        assert column(table, f"mIoU ({convention})") == pytest.approx(want)
        assert any(note.startswith(f"mIoU ({convention})") for note in table.notes)
    want = [100 * r.metrics(forget_missed=True).miou["gt"] for r in results]
    assert column(table, "mIoU (gt, missed forgotten)") == pytest.approx(want)
    assert column(table, "harmonic (gt)")[0] == pytest.approx(
        100 * results[0].split_metrics().harmonic
    )
    assert "mIoU (gt, missed forgotten)" not in tables.summary([semantic(missed=None)]).header
    assert column(tables.summary([referring()]), "oIoU") == pytest.approx([100 * 530 / 1040])


def test_classes_show_each_methods_iou_and_the_split():
    results = [semantic(), semantic(seed=1, model="other")]
    table = tables.per_class(results)
    assert table.header == (
        "class", "split", "share of truth", "IoU car, miniature", "IoU car, other",
    )  # fmt: skip
    assert sum(column(table, "share of truth")) == pytest.approx(100)
    assert column(table, "split") == ["seen"] * 3 + ["unseen"] * 2
    np.testing.assert_allclose(
        column(table, "IoU car, other"), 100 * results[1].metrics().iou, rtol=1e-12
    )


def test_the_most_mixed_up_pairs_come_first_and_what_was_missed_counts():
    matrix = np.diag([50, 60, 70, 80, 90])
    matrix[0, 3], matrix[4, 1], matrix[2, 0] = 7, 9, 7
    one = semantic(matrix=matrix, missed=np.array([0, 0, 30, 0, 0]))
    found = tables.mixed_up(one)
    assert found.rows == (
        ("class 2", tables.NO_CLASS, 30, pytest.approx(100 * 30 / 107)),
        ("class 4", "class 1", 9, pytest.approx(100 * 9 / 99)),
        ("class 0", "class 3", 7, pytest.approx(100 * 7 / 57)),
        ("class 2", "class 0", 7, pytest.approx(100 * 7 / 107)),
    )
    assert len(tables.mixed_up(one, 2).rows) == 2


def test_worst_and_best_do_not_overlap_and_leave_the_undefined_out():
    worst, best = measures.ranked(referring(), 2)
    assert [name for name, _ in worst] == ["2", "3"] and [name for name, _ in best] == ["1"]
    worst, best = measures.ranked(semantic(), 5)
    assert [name for name, _ in worst] == ["a/1"] and best == []


def test_published_numbers_stand_beside_ours_in_their_convention():
    one = semantic(method="maft", classes=20, unseen=np.arange(20) > 14, missed=None)
    ours, others = tables.beside_published([one])
    found = {row[2]: row for row in ours.rows}
    assert found["mIoU (union)"][4] == f"{100 * one.metrics().miou['union']:.2f} (miniature)"
    assert found["mIoU of unseen classes"][4].startswith(f"{100 * one.split_metrics().unseen:.2f}")
    assert "FreeSeg" in column(others, "method") and "MAFT" not in column(others, "method")
    # CaR's numbers without background do not count what was missed.
    one = semantic()
    ours = tables.beside_published([one])[0]
    assert ours.rows[0][2] == "mIoU (gt, missed forgotten)"
    assert ours.rows[0][4].startswith(f"{100 * one.metrics(forget_missed=True).miou['gt']:.2f}")
    assert tables.beside_published([semantic(benchmark="miniature")]) == []
    assert tables.beside_published([referring()])[0].rows[0][3] == "33.57"


def test_provenance_is_one_line():
    line = tables.provenance_line(semantic())
    assert line == (
        "benchmark: voc20 · method: car · model: miniature · weights: abc · nested: x=1, 2"
    )


def test_time_leaves_compiling_and_what_was_resumed_out():
    clocks = {"total": 16.0, "loop": 15.0, "compile": 5.0, "device": 8.0, "metrics": 0.25}
    rows = tuple(ImageRow(f"{i}", 0.5, 1) for i in range(7))
    one = semantic(timings=clocks, rows=rows, provenance={"resumed": 2, "pictures": "7 of 9"})
    table = tables.timings([one])
    assert table.header == (
        "method", "total, s", "loop, s", "compile, s", "device busy, %", "metrics, %", "pictures",
        "pictures/s",
    )  # fmt: skip
    assert table.rows == (("car", 16.0, 15.0, 5.0, 80.0, 2.5, 5, 0.5),)
    summary = tables.summary([one])
    assert column(summary, "ms each") == [2000.0] and column(summary, "pictures") == [7]
    assert summary.notes[0].startswith("Only 7 of 9 pictures")


def test_groups_keep_the_order_and_need_a_result():
    results = [semantic(), referring(), semantic(seed=1), semantic(classes=4, missed=None)]
    assert measures.groups(results) == [[0, 2], [1], [3]]
    with pytest.raises(UserError, match="evaluate something"):
        measures.groups([])
