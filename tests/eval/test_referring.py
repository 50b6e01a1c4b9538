"""Referring expressions: exact overlaps, resumable, one rule for CaR and one for all others."""

import dataclasses
import types

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.eval import referring
from openseg_jax.eval.benchmarks import benchmark
from openseg_jax.eval.referring import ReferringEvaluator, find_object
from openseg_jax.inputs.referring_set import Referring
from tests.eval.colours import COLOURS, Colours

BENCH = benchmark("refcoco_val")
SAID = (("red",), ("GREEN", "green", "/green"), ("blue", "red"), ('"', "/"), ("white",))


@dataclasses.dataclass(frozen=True)
class Things:
    """Objects in memory: rectangles of colour, one of each to be found."""

    name: str = "refcoco"
    twice: bool = False

    @property
    def items(self):
        return tuple(types.SimpleNamespace(name=f"{i}", texts=said) for i, said in enumerate(SAID))

    @property
    def facts(self):
        return {"source": "tests", "count": len(SAID)}

    def __len__(self):
        return len(SAID)

    def read(self, index):
        rng = np.random.default_rng(index)
        size = (20 + index, 30)
        labels = np.kron(rng.integers(0, 5, (6, 6)), np.ones((5, 5), int))[: size[0], : size[1]]
        table = np.array([(90, 90, 90), *(COLOURS[n] for n in ("red", "green", "blue", "white"))])
        mask = labels == index + 1
        if index == 4:
            mask = np.zeros(size, bool)
        mask = mask & (rng.random(size) < 0.8)
        twice = mask & (rng.random(size) < 0.3) if self.twice else None
        return Referring(f"{index}", table[labels].astype(np.uint8), mask, SAID[index], twice)


def evaluator(source=None, segmenter=None, **more):
    source = Things() if source is None else source
    return ReferringEvaluator(
        segmenter or Colours(), BENCH, source, method="colours", model="none", **more
    )


def independent(source):
    """Pixel by pixel: any of the colours that the sentences name."""
    out = []
    for index, said in enumerate(SAID):
        one = source.read(index)
        wanted = {word for word in ("red", "green", "blue", "white") if word in str(said).lower()}
        found = np.zeros(one.mask.shape, bool)
        for word in wanted:
            found |= (one.image == np.array(COLOURS[word])).all(-1)
        out.append((int((found & one.mask).sum()), int((found | one.mask).sum())))
    return out


def test_overlaps_are_exact():
    found = evaluator().run()
    assert [(row.intersection, row.union) for row in found.rows] == independent(Things())
    assert [row.texts for row in found.rows] == list(SAID)
    sums = np.array(independent(Things())).sum(0)
    assert found.metrics().oiou == pytest.approx(sums[0] / sums[1])
    # Sentences of which cleaning leaves nothing find nothing.
    assert found.rows[3].intersection == 0 and found.rows[3].union > 0
    assert found.provenance["objects"] == "5 of 5"
    assert set(found.timings) == {"total", "segment", "metrics", "input"}


def test_a_mask_that_is_shifted_would_show():
    class Shifted(Colours):
        def segment(self, params, image, text, valid=None):
            return super().segment(params, np.roll(image, 3, axis=2), text, valid)

    found = evaluator(segmenter=Shifted()).run()
    assert [(row.intersection, row.union) for row in found.rows] != independent(Things())


def test_a_killed_run_goes_on_and_counts_nothing_twice(tmp_path):
    class Killed(Things):
        def read(self, index):
            if index == 3:
                raise KeyboardInterrupt
            return super().read(index)

    with pytest.raises(KeyboardInterrupt):
        evaluator(Killed()).run(workdir=tmp_path)
    seen = []
    found = evaluator().run(workdir=tmp_path, progress=lambda done, count: seen.append(done))
    assert seen[0] > 0 and seen[-1] == 5
    assert found.provenance["resumed"] == seen[0]
    assert found.rows == evaluator().run().rows
    # All is there: nothing is segmented again.
    again = evaluator(segmenter=Silent()).run(workdir=tmp_path)
    assert again.rows == found.rows


class Silent(Colours):
    def segment(self, *args):
        raise AssertionError("segmented again")


Silent.__name__ = "Colours"  # provenance names the class


def test_other_settings_start_another_log(tmp_path):
    evaluator().run(workdir=tmp_path)
    evaluator(max_side=10).run(workdir=tmp_path)
    assert len(list(tmp_path.glob("counts_*"))) == 2


def test_parity_takes_what_two_outlines_cover_out_of_the_object():
    source = Things(twice=True)
    ours = evaluator(source).run()
    reference = evaluator(source, parity="reference").run()
    assert [r.intersection for r in ours.rows] == [i for i, _ in independent(source)]
    assert sum(r.intersection for r in reference.rows) < sum(r.intersection for r in ours.rows)
    assert ours.provenance["truth"] != reference.provenance["truth"]


def test_car_takes_all_sentences_at_once_by_its_own_rule(monkeypatch):
    calls = []

    def seen(car, image, sentences):
        calls.append(list(sentences))
        return np.ones(image.shape[:2], bool), None

    monkeypatch.setattr(referring, "refer", seen)
    car = types.SimpleNamespace(config=types.SimpleNamespace(competition="alone"))
    image = np.zeros((4, 5, 3), np.uint8)
    assert find_object(car, image, ("The LEFT one", "the left one", ' "', "A/b man")).all()
    assert calls == [["the left one", "ab man"]]
    assert not find_object(car, image, ("/",)).any() and len(calls) == 1
    car.config.competition = "joint"
    with pytest.raises(UserError, match="refcoco"):
        evaluator(segmenter=car)


def test_limit_and_empty_sets():
    assert len(evaluator().run(limit=2).rows) == 2
    with pytest.raises(UserError, match="--limit"):
        evaluator().run(limit=0)

    class Empty(Things):
        def __len__(self):
            return 0

    with pytest.raises(UserError, match="prepare"):
        evaluator(Empty()).run()


def test_a_report_can_look_at_an_object():
    one = evaluator().look(["0"])["0"]
    assert one.truth.max() == 1 and one.image.shape[:2] == one.predicted.shape
    assert (one.predicted == (one.image == np.array(COLOURS["red"])).all(-1)).all()
