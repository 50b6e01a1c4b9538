"""SegCLIP's contest on the miniature, with answers that are known beforehand."""

import json
import types

import numpy as np
import pytest
from scipy.special import softmax

from openseg_jax.errors import UserError
from openseg_jax.eval import miniature_contest, miniature_segclip
from openseg_jax.eval.miniature_contest import Contest, ContestScores, Tuned, best_threshold, pool
from openseg_jax.eval.miniature_segclip import CLASSES, PatchText
from openseg_jax.miniature.streams import scene

SCENES = [scene("val", i, 24) for i in range(4)]
TRUTHS = [miniature_segclip.things_only(s) for s in SCENES]


def exact_scores(truths, low=0.1):
    """Scores of a model that knows the truth; what is background scores `low` for thing 1."""
    hot = np.eye(CLASSES)[np.stack(truths)][..., 1:]
    hot[..., 0] = np.maximum(hot[..., 0], low)
    return hot


def test_stuff_is_background():
    for one, truth in zip(SCENES, TRUTHS, strict=True):
        assert truth.max() < CLASSES
        np.testing.assert_array_equal(truth == 0, one.semantic >= CLASSES)


def test_painting_with_a_threshold():
    scores = np.array([[[0.2, 0.1], [0.6, 0.3], [0.1, 0.5]]])
    assert miniature_segclip.paint(scores, 0.4).tolist() == [[0, 1, 2]]
    # the best score always passes
    assert miniature_segclip.paint(scores, 0.9).tolist() == [[0, 1, 0]]
    # stuff stands behind the things, and what it wins is background
    both = np.full((1, 2, CLASSES), 0.1)
    both[0, 0, CLASSES - 1], both[0, 1, 2] = 0.9, 0.9
    assert miniature_segclip.paint(both, 0.0).tolist() == [[0, 3]]


def test_the_best_threshold_is_found():
    value, threshold = best_threshold(exact_scores(TRUTHS), TRUTHS)
    assert value == 1.0 and 0.1 < threshold <= 1.0
    worse, _ = best_threshold(exact_scores(TRUTHS, low=1.0), TRUTHS)
    assert worse < 1.0


def test_all_background_counts_the_background_as_a_class():
    truth = np.array([[0, 0, 0, 5]])
    assert miniature_segclip.all_background([truth]) == pytest.approx(0.75 / 2)


def test_an_oracle_names_groups_by_their_majority():
    groups = np.array([[0, 0, 0, 2, 2]])
    truth = np.array([[7, 7, 1, 0, 0]])
    assert miniature_segclip.oracle_labels(groups, truth).tolist() == [[7, 7, 7, 0, 0]]


def test_points_far_apart():
    points = np.array([[0.0], [0.1], [5.0], [5.1], [9.0]])
    assert miniature_segclip.far_apart(points, 3).ravel().tolist() == [9.0, 0.0, 5.0]


def test_bootstrap_surrounds_the_mean():
    labels = [np.where(np.arange(t.size).reshape(t.shape) % 3 == 0, 0, t) for t in TRUTHS]
    counts = miniature_segclip.matrices(TRUTHS, labels)
    drawn = miniature_contest.bootstrap(counts)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert low <= miniature_segclip.foreground(counts.sum(0)) <= high and high - low < 0.5
    exact = miniature_segclip.matrices(TRUTHS, TRUTHS)
    np.testing.assert_allclose(miniature_contest.bootstrap(exact), 1.0)


def test_rivals_may_be_told_of_stuff():
    rival = PatchText.__new__(PatchText)
    rival.temperature, rival.top, rival.stuff = 10.0, None, False
    dense = np.zeros((1, 1, 1, CLASSES + 5))
    assert rival.heat((dense[0, 0], dense)).shape[-1] == CLASSES - 1
    assert rival.tuned(10.0, 2, True).heat((dense[0, 0], dense)).shape[-1] == CLASSES + 5


def test_rivals_may_hold_five_classes_at_most():
    rival = PatchText.__new__(PatchText)
    rival.temperature, rival.top, rival.stuff = 10.0, None, True
    whole, dense = np.array([[0.3, 0.1, 0.2]]), np.array([[[[0.1, 0.5, 0.2]]]])
    np.testing.assert_allclose(rival.heat((whole, dense)), softmax(10 * dense, axis=-1))
    kept = rival.tuned(10.0, 2, True).heat((whole, dense))
    assert kept[0, 0, 0, 1] == 0 and kept[0, 0, 0, 2] > kept[0, 0, 0, 0] > 0


class Known:
    """Stands for both kinds of scorers: knows the truths of all scenes."""

    def __init__(self, low):
        self.low = low
        self.method = types.SimpleNamespace()

    def __call__(self, images, stuff, windows):
        # One window is best, and stuff is worse than no stuff.
        low = min(1.0, self.low + 0.9 * (stuff or windows > 1))
        return exact_scores([self.truth(image) for image in images], low)

    def cosines(self, images, windows):
        return self(images, False, windows)

    def heat(self, cosines):
        return cosines

    def tuned(self, temperature, top, stuff):
        return self

    def groups(self, images):
        return np.stack([self.truth(image) for image in images])

    @staticmethod
    def truth(image):
        table = {s.image.tobytes(): t for s, t in zip(SCENES, TRUTHS, strict=True)}
        return table[image.tobytes()]


@pytest.fixture
def contest(monkeypatch):
    made = Contest.__new__(Contest)
    made.name, made.regions, made.tuned = "known", Known(0.1), None
    made.rivals = {name: Known(1.0) for name in ("patch_text", "patch_text_top")}
    made.kmeans = lambda images: np.zeros(images.shape[:3], int)
    index = {("val", i): i for i in range(2)} | {("test", i): 2 + i for i in range(2)}
    monkeypatch.setattr(
        miniature_contest, "scene", lambda stream, i, size, seed: SCENES[index[stream, i]]
    )
    return made


def test_measuring(contest):
    with pytest.raises(UserError, match="call tune"):
        contest.labels(SCENES)
    seen = []
    found = contest.measure(
        scenes=2, validation_scenes=2, size=24, progress=lambda *now: seen.append(now)
    )
    assert seen == [(2, 2)] and found.scenes == 2
    assert found.tuned[0].windows["segclip"] == 1.0 and not found.tuned[0].stuff["segclip"]
    assert found.foreground("segclip") == found.foreground("segclip_oracle") == 1.0
    assert found.foreground("patch_text") < 1.0 and found.foreground("kmeans_oracle") < 1.0
    assert found.passed and found.interval("segclip", "patch_text")[0] > 0
    said = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert said["passed"] and said["foreground"]["segclip"]["mean"] == 1.0
    both = pool([found, found])
    assert both.scenes == 4 and both.foreground("patch_text") == found.foreground("patch_text")


def test_gates_need_both_rivals_beaten():
    exact = miniature_segclip.matrices(TRUTHS, TRUTHS)
    nothing = miniature_segclip.matrices(TRUTHS, [np.zeros_like(t) for t in TRUTHS])
    tuned = (Tuned({}, {}, {}, {}, {}),)

    def scores(ours, rival, background):
        counts = {"segclip": ours, "patch_text": rival}
        return ContestScores("x", (0,), 4, tuned, counts, background, 3.0)

    assert scores(exact, nothing, 0.2).passed
    assert not scores(exact, nothing, 0.4).passed
    assert not scores(nothing, exact, 0.0).passed


def test_spread_over_trainings():
    mean, half = miniature_contest.spread([0.1, 0.2, 0.3])
    assert mean == pytest.approx(0.2) and half == pytest.approx(0.2484, abs=1e-3)
    assert np.isnan(miniature_contest.spread([0.1])[1])


@pytest.mark.slow
def test_all_of_it_on_random_weights(tmp_path, world_model):
    from openseg_jax.configs.segclip_pretrain import get_config

    from openseg_jax.train import setup
    from openseg_jax.weights.segclip import segclip_spec
    from openseg_jax.weights.tree import unflatten

    config = get_config("tiny")
    config.init = str(world_model)
    built = setup.build(config)
    rng = np.random.default_rng(0)
    drawn = {n: rng.normal(0, 0.2, x.shape) for n, x in segclip_spec(built.config).items()}
    about = {"name": "x", "source": "tests", "licence": "Apache-2.0", "saw": "nothing"}
    built.save(tmp_path, unflatten(drawn), about, {}, "float32")
    found = Contest(str(tmp_path), str(world_model)).measure(scenes=2, validation_scenes=2, size=32)
    assert all(0 <= found.foreground(name) <= 1 for name in miniature_contest.VARIANTS)
    assert 1 <= found.groups <= 3
