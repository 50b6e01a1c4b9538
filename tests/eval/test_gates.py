import dataclasses

import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.eval import gates
from openseg_jax.miniature.world import CLASS_NAMES, THINGS


def test_average_precision_by_hand():
    score = np.array([0.9, 0.8, 0.7, 0.6])
    present = np.array([True, False, True, False])
    assert gates.average_precision(score, present) == pytest.approx((1 + 2 / 3) / 2)
    assert gates.average_precision(-score, present) == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert gates.average_precision(score, score > 0.65) == 1.0


@dataclasses.dataclass
class _Oracle:
    """Stands for weights; the embeddings below come from the truth, not from it."""

    name: str = "oracle"


@pytest.mark.parametrize("noise, low, high", [(0.0, 1.0, 1.0), (30.0, 0.0, 0.5)])
def test_scores_of_an_oracle_and_of_noise(monkeypatch, noise, low, high):
    rng = np.random.default_rng(0)
    count, size = len(CLASS_NAMES), 32
    scenes = [gates.scene("val", i, size) for i in range(12)]
    kinds = [t.thing - 1 for s in scenes for t in s.things]
    wholes = np.stack([gates.presence(s) for s in scenes]).astype(np.float32)

    def embed(loaded, images):
        whole = len(images) == len(scenes) and images[0].shape[0] == size
        truth = wholes if whole else np.eye(count, dtype=np.float32)[kinds]
        return truth + noise * rng.normal(size=truth.shape)

    monkeypatch.setattr(gates, "embed_images", embed)
    monkeypatch.setattr(gates, "text_classifier", lambda *args: np.eye(count))
    found = gates.clip_scores(_Oracle(), stream="val", scenes=12, size=size)
    assert low <= found.top1 <= high and low <= found.presence <= max(high, 0.8)
    assert found.crops == len(kinds) and found.scenes == 12
    assert set(found.class_top1) == {THINGS[k] for k in kinds}


@pytest.mark.parametrize("count", [1, 4, 6])
def test_chunks_are_of_one_size_and_come_back_whole(count):
    rows = np.arange(count), np.arange(2.0 * count).reshape(count, 2)
    seen = []

    def run(part):
        seen.append([len(x) for x in part])
        return {"sum": part[0] + part[1].sum(axis=1)}

    out = gates.in_chunks(run, rows, 4)
    np.testing.assert_array_equal(out["sum"], rows[0] + rows[1].sum(axis=1))
    assert seen == [[4, 4]] * -(-count // 4)


def test_some_scenes_are_needed():
    with pytest.raises(UserError, match="scenes"):
        gates.clip_scores(_Oracle(), scenes=0)
