"""Every benchmark from a small archive in the official layout to counts: prepare, verify, evaluate.

The truth is what the archives were written from, and the counts are made pixel by pixel here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from openseg_jax.data.prepare.run import prepare
from openseg_jax.data.prepare.verify import verify

from openseg_jax.eval.benchmarks import BENCHMARKS, benchmark
from openseg_jax.eval.evaluate import Evaluator, Options
from openseg_jax.eval.referring import ReferringEvaluator
from openseg_jax.inputs.data_sets import data_set
from openseg_jax.inputs.labelled_set import open_set
from openseg_jax.inputs.referring_set import open_referring
from openseg_jax.types import Masks
from tests.data import label_archives, test_hard_recipes, test_referring

SEMANTIC = [bench.name for bench in BENCHMARKS.values() if bench.task == "semantic"]
REFERRING = [bench.name for bench in BENCHMARKS.values() if bench.task == "referring"]


class Hashes:
    """A segmenter that gives each pixel the class that its colour adds up to."""

    threshold = 0.5

    def __init__(self):
        self.params = {}

    def classes(self, names, background=None):
        return np.zeros((len(names),), np.float32)

    def segment(self, params, image, text, valid=None):
        count = text.shape[0]
        wanted = jnp.asarray(image, jnp.int32).sum(-1) % count
        probs = (wanted[:, None] == jnp.arange(count)[:, None, None]).astype(jnp.float32)
        if valid is not None:
            probs = probs * valid[:, None]
        return Masks(probs, None, jnp.ones(probs.shape[:2], bool))


def ade847(root):
    raw = data_set("ade847").vocabulary.raw
    lookup = {number: index for index, number in enumerate(raw)}
    numbers = test_hard_recipes.write_ade(root, sizes=((14, 18), (12, 15)))
    return {
        name: np.array([[lookup.get(n, -1) for n in row] for row in values.tolist()])
        for name, values in numbers.items()
    }


def context459(root):
    values = test_hard_recipes.write_context(root)
    return {name: values[name] - 1 for name in test_hard_recipes.VAL}


def coco_object(root):
    test_hard_recipes.write_coco(root, test_hard_recipes.coco())
    return {"000000000004": np.zeros((12, 10), int), "000000000009": test_hard_recipes.drawn()}


WRITERS = {
    **label_archives.WRITERS,
    "ade847": ade847,
    "context459": context459,
    "coco_object": coco_object,
}


@pytest.mark.parametrize("name", SEMANTIC)
def test_from_archive_to_counts(name, tmp_path):
    bench = benchmark(name)
    truth = WRITERS[bench.data_set](tmp_path)
    prepare(bench.data_set, tmp_path, workers=1)
    assert len(verify(bench.data_set, tmp_path, workers=1).problems) == 1  # too few pictures
    source = open_set(bench.data_set, tmp_path)
    found = Evaluator(
        Hashes(), bench, source, bench.plain, method="hashes", model="none",
        options=Options(devices=jax.devices()[:1]),
    ).run()  # fmt: skip
    count = len(bench.plain.names)
    counts = np.zeros((count + 1, count + 1), np.int64)
    assert [item.name for item in source.items] == sorted(truth)
    for index, item in enumerate(source.items):
        image, labels = source.read(index)[0].astype(int), truth[item.name]
        if data_set(bench.data_set).background:  # row 0 is background already
            labels = labels if bench.background else np.where(labels == 0, -1, labels)
        else:
            labels = np.where(labels < 0, -1, labels + 1)
        np.add.at(counts, (labels[labels >= 0], 1 + image.sum(-1)[labels >= 0] % count), 1)
    assert counts.sum() > 100
    if not bench.background:
        counts = counts[1:, 1:]
    np.testing.assert_array_equal(found.matrix, counts)
    assert not np.array_equal(found.matrix, np.roll(counts, 1, axis=0))  # one class further
    assert found.benchmark == name and len(found.rows) == len(truth)


@pytest.mark.parametrize("name", REFERRING)
def test_from_pickle_to_overlaps(name, tmp_path):
    bench = benchmark(name)
    rows = [{**row, "split": bench.part} for row in test_referring.ROWS]
    partition = "umd" if bench.data_set == "refcocog" else "unc"
    test_referring.write(tmp_path, bench.data_set, rows, partition)
    prepare(bench.data_set, tmp_path, workers=1)
    assert len(verify(bench.data_set, tmp_path, workers=1).problems) == 1
    source = open_referring(bench.data_set, bench.part, tmp_path)
    found = ReferringEvaluator(Hashes(), bench, source, method="hashes", model="none").run()
    assert [row.name for row in found.rows] == [item.name for item in source.items]
    assert len(found.rows) == len(rows)
