"""The contest on the miniature world, with answers that are known beforehand."""

import json

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.eval import miniature_car
from openseg_jax.methods.car import CaR, CarResult
from openseg_jax.miniature.streams import scene
from openseg_jax.miniature.world import CLASS_NAMES


@pytest.fixture
def oracle(monkeypatch):
    """CaR and similarities that know the truth; `asked` lists the texts that were let through."""
    truths = {}
    asked = []

    def predict(self, image, text, observe=None):
        semantic, alive = truths[image.tobytes()], np.asarray(text.valid).copy()
        asked.append(np.flatnonzero(alive))
        masks = np.stack([(semantic == i + 1) & alive[i] for i in range(len(alive))])
        if self.config.confidence_threshold == 0:
            # One pass paints each text that is not there over a row of its own.
            for i in np.flatnonzero(alive & ~masks.any((1, 2))):
                masks[i, i % masks.shape[1]] = True
        scores = np.where(alive, 1 - 0.01 * masks.mean((1, 2)), 0).astype(np.float32)
        return CarResult(masks, scores, alive, masks[:, :1, :1], 1, tuple(text.names))

    def similarity(self, images):
        rows = [np.bincount(truths[i.tobytes()].ravel(), minlength=31)[1:] > 0 for i in images]
        noise = np.random.default_rng(0).uniform(0, 0.1, (len(images), 30))
        return np.stack(rows) * 0.5 + noise

    def learn(stream, index):
        one = scene(stream, index, 24)
        truths[one.image.tobytes()] = one.semantic
        return one

    monkeypatch.setattr(CaR, "predict", predict)
    monkeypatch.setattr(miniature_car.Contest, "similarity", similarity)
    return learn, asked


def test_the_three_variants(oracle, world_model):
    learn, asked = oracle
    contest = miniature_car.Contest(str(world_model))
    with pytest.raises(UserError, match="call tune first"):
        contest.image_filter(scene("test", 0, 24).image)
    threshold = contest.tune([learn("val", i) for i in range(4)])
    assert 0.05 < threshold < 0.6
    asked.clear()
    truths = [learn("test", i) for i in range(3)]
    seen = []
    scores = miniature_car.score(
        contest, truths, 0, 4, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [len(rows) for rows in asked[:2]] == [30, 30] and len(asked[2]) < 9
    assert scores.miou["recurrence"] == 1.0
    assert 0 < scores.miou["one_pass"] < scores.miou["image_filter"] <= 1.0
    assert scores.gain == pytest.approx(1.0 - scores.miou["one_pass"])
    data = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert data["variants"]["recurrence"]["miou"]["gt"] == 1.0 and data["scenes"] == 3
    assert scores.scenes == 3 and scores.threshold == threshold
    assert len(scores.measured["recurrence"].iou) == len(CLASS_NAMES) + 1


def test_tuning_looks_at_the_given_scenes_only(oracle, world_model):
    learn, asked = oracle
    contest = miniature_car.Contest(str(world_model))
    val = [learn("val", i) for i in range(2)]
    contest.tune(val)
    # Equal choices of texts are segmented once.
    assert len(asked) <= 2 * miniature_car.FILTER_GRID
    assert contest.single.config.confidence_threshold == 0
    assert contest.car.config.confidence_threshold > 0


@pytest.mark.slow
def test_all_of_it_on_random_weights(world_model):
    scores = miniature_car.car_miou(
        str(world_model), scenes=1, validation_scenes=1, size=24, refine="none"
    )
    assert all(0 <= value < 0.5 for value in scores.miou.values())
