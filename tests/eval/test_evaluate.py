"""The loop: exact against NumPy, whatever the canvas; resumable; one message for each mistake."""

import dataclasses
import errno

import jax
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.eval.counting import score
from openseg_jax.eval.evaluate import Evaluator, Options
from openseg_jax.eval.feed import plan_buckets
from openseg_jax.eval.labeller import Labeller
from openseg_jax.eval.record import to_cells, total
from openseg_jax.eval.rules import Pass
from openseg_jax.inputs.augment import IGNORE
from tests.eval.colours import NAMES, SIZES, TEXTS, Colours, Pictures, benchmark, predict


def evaluator(source=None, bench=None, segmenter=None, **options):
    source = Pictures(SIZES) if source is None else source
    return Evaluator(
        segmenter or Colours(), bench or benchmark(source.background), source, TEXTS,
        method="colours", model="none", options=Options(devices=jax.devices()[:1], **options),
    )  # fmt: skip


def independent(source):
    """Counts with Python's own means, pixel by pixel; row and column 0 are background."""
    counts = np.zeros((len(NAMES) + 1,) * 2, np.int64)
    for i in range(len(source)):
        image, truth = source.read(i)
        truth = truth if source.background else np.where(truth == IGNORE, IGNORE, truth + 1)
        np.add.at(counts, (truth[truth != IGNORE], predict(image)[truth != IGNORE]), 1)
    return counts


@pytest.mark.parametrize("canvas", [0, 16, 64])
def test_counts_agree_with_numpy_on_every_canvas(canvas):
    source = Pictures(SIZES)
    found = evaluator(source, canvas=canvas, batch=3).run()
    np.testing.assert_array_equal(found.matrix, independent(source))
    assert found.matrix.dtype == np.int64 and found.missed is None
    assert found.matrix[-1].sum() == 0 and found.classes == ("background", *NAMES)
    assert [row.name for row in found.rows] == [item.name for item in source.items]
    assert np.isnan(found.rows[2].miou) and found.rows[2].pixels == 0


def test_a_canvas_that_is_not_undone_would_show():
    source = Pictures(SIZES)
    shifted = Colours()
    whole = shifted.segment
    shifted.segment = lambda params, image, text, valid=None: whole(
        params, image[:, ::-1], text, valid
    )
    found = evaluator(source, segmenter=shifted).run()
    assert not np.array_equal(found.matrix, independent(source))


def test_without_background_what_no_class_wins_is_missed():
    class Shy(Colours):
        # Keeps its threshold: methods that decide themselves leave pixels to no class.
        def segment(self, params, image, text, valid=None):
            masks = super().segment(params, image, text, valid)
            numbers = np.arange(len(NAMES))[:, None, None]
            best = masks.probs.argmax(1)[:, None] == numbers
            probs = best * (masks.probs > 0.5).astype(np.float32)
            return dataclasses.replace(masks, probs=probs, scores=probs.max((2, 3)))

    source = Pictures(SIZES, background=False)
    one = evaluator(source, segmenter=Shy())
    one.kind = "car"
    found, wanted = one.run(), independent(source)
    np.testing.assert_array_equal(found.missed, wanted[1:, 0])
    np.testing.assert_array_equal(found.matrix.sum(1) + found.missed, wanted[1:].sum(1))
    assert found.missed.sum() > 0 and found.metrics().pixel_accuracy < 1


def test_without_background_each_pixel_gets_a_class():
    found = evaluator(Pictures(SIZES, background=False)).run()
    assert found.missed is not None and not found.missed.any() and not found.background


def test_two_methods_see_the_same_pictures():
    matrices = [evaluator(batch=batch).run().matrix for batch in (1, 8)]
    np.testing.assert_array_equal(*matrices)


def test_reduced_pictures_are_compared_at_their_own_size():
    found = evaluator(Pictures(((48, 64), (48, 48)), absent=0), max_side=32).run()
    pixels = sum((Pictures(((48, 64), (48, 48))).read(i)[1] != IGNORE).sum() for i in (0, 1))
    assert found.matrix.sum() == pixels
    assert "resize_long_side 32" in found.provenance["resize_rule"]


def test_seen_and_unseen_follow_the_split():
    found = evaluator(bench=benchmark(hidden=("blue", "white"))).run()
    assert found.unseen.tolist() == [False, False, False, True, True, False]
    sides = found.split_metrics()
    assert sides.harmonic == pytest.approx(2 / (1 / sides.seen + 1 / sides.unseen))


def test_a_limit_takes_the_first_and_the_rest_follows(tmp_path):
    some = evaluator().run(limit=3, workdir=tmp_path)
    assert len(some.rows) == 3 and some.provenance["pictures"] == f"3 of {len(SIZES)}"
    whole = evaluator().run(workdir=tmp_path)
    np.testing.assert_array_equal(whole.matrix, independent(Pictures(SIZES)))
    assert whole.provenance["resumed"] == 3


def test_a_stopped_run_goes_on_and_counts_nothing_twice(tmp_path):
    class Stops(Pictures):
        def read(self, index):
            if index == 4:
                raise UserError("stop")
            return super().read(index)

    with pytest.raises(UserError, match="stop"):
        evaluator(Stops(SIZES), batch=1, canvas=0).run(workdir=tmp_path)
    (log,) = tmp_path.glob("counts_*.jsonl")
    before = log.read_bytes()
    assert before.count(b"\n") > 1
    log.write_bytes(before[:-9])  # as a kill in the middle of a line leaves it
    seen = []
    found = evaluator(batch=1, canvas=0).run(
        workdir=tmp_path, progress=lambda done, count: seen.append((done, count))
    )
    np.testing.assert_array_equal(found.matrix, independent(Pictures(SIZES)))
    assert seen[0][0] == found.provenance["resumed"] == before.count(b"\n") - 2
    assert seen[-1] == (len(SIZES), len(SIZES))
    again = evaluator().run(workdir=tmp_path)
    np.testing.assert_array_equal(again.matrix, found.matrix)


def test_other_settings_count_anew(tmp_path):
    evaluator().run(workdir=tmp_path, limit=1)
    other = evaluator(max_side=16).run(workdir=tmp_path, limit=1)
    assert other.provenance["resumed"] == 0 and len(list(tmp_path.glob("counts_*"))) == 2


def test_a_full_disk_is_one_message_and_keeps_what_is_counted(tmp_path, monkeypatch):
    from openseg_jax.eval import record

    append, left = record.Log._append, [4]

    def full(self, row):
        left[0] -= 1
        if left[0] < 0:
            raise self._said(OSError(errno.ENOSPC, "No space left on device"))
        append(self, row)

    monkeypatch.setattr(record.Log, "_append", full)
    with pytest.raises(UserError, match=r"No space left.*stays counted"):
        evaluator(batch=1).run(workdir=tmp_path)
    monkeypatch.undo()
    found = evaluator().run(workdir=tmp_path)
    assert found.provenance["resumed"] == 3
    np.testing.assert_array_equal(found.matrix, independent(Pictures(SIZES)))


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: evaluator().run(limit=0), "--limit: expected at least 1"),
        (lambda: evaluator(Pictures(())), "an empty set"),
        (lambda: evaluator(batch=0), "--batch"),
        (lambda: evaluator(canvas=-1).run(), "canvas"),
        (lambda: evaluator(Pictures(SIZES, lacks=True)), "background labelled"),
        (
            lambda: evaluator(Pictures(SIZES), dataclasses.replace(benchmark(), classes=NAMES[:3])),
            "3 classes",
        ),
    ],
)
def test_mistakes_are_one_message(make, said):
    with pytest.raises(UserError, match=said):
        make()


def test_provenance_says_what_decides():
    found = evaluator().run(limit=1)
    for key in ("texts", "texts_sha", "resize_rule", "background_rule", "convention", "versions"):
        assert found.provenance[key]
    assert {"total", "loop", "device", "metrics", "input"} <= set(found.timings)


def test_look_shows_what_was_counted():
    one = evaluator()
    seen, (image, truth) = one.look(["picture_1"])["picture_1"], one.source.read(1)
    np.testing.assert_array_equal(seen.image, image)
    np.testing.assert_array_equal(seen.truth, truth)
    np.testing.assert_array_equal(seen.predicted, predict(image))


def test_buckets_hold_each_picture_once_and_are_few():
    sizes = [(100 + i % 9, 200 + i % 7) for i in range(60)] + [(50, 50)] * 3
    buckets = plan_buckets(sizes, fit=lambda size: size, step=64)
    assert sorted(i for b in buckets for i in b.indices) == list(range(63))
    assert len(buckets) == 2 and [b.exact for b in buckets] == [False, True]
    assert buckets[0].canvas == (128, 256) and buckets[1].canvas == (50, 50)


def test_scores_of_pictures_are_over_their_own_classes():
    matrix = np.array([[6, 2, 0], [0, 0, 0], [1, 0, 3]])
    mean, pixels = score(to_cells(matrix), 3)
    assert pixels == 12 and mean == pytest.approx((6 / 9 + 3 / 4) / 2)


def test_sums_are_exact_beyond_32_bits():
    cells = to_cells(np.array([[2**40, 1], [0, 2**33]]))
    np.testing.assert_array_equal(total([cells, cells], 2), [[2**41, 2], [0, 2**34]])


def test_without_rounding_each_size_has_its_own_bucket():
    sizes = [(20, 30), (20, 31), (20, 30)]
    buckets = plan_buckets(sizes, fit=lambda size: size, step=0)
    assert sorted(b.indices for b in buckets) == [(0, 2), (1,)]
    assert all(b.exact and not b.restore for b in buckets)


def test_what_cannot_be_compiled_is_called_as_it_is_on_any_device():
    class Plain:
        host_only = False

    class Matched(Plain):
        host_only = True

    def on_host(*kinds, host_loop=False):
        passes = [Pass(kind(), None, (), np.zeros(1, np.int32), 0.5) for kind in kinds]
        return Labeller(passes, jax.devices(), host_loop=host_loop).on_host

    assert not on_host(Plain) and not on_host(object)
    assert on_host(Matched) and on_host(Plain, Matched)
    alone = len(jax.devices()) == 1 and jax.default_backend() == "cpu"
    assert on_host(Plain, host_loop=True) == alone
