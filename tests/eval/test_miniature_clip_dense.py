"""Dense CLIP on the miniature: the three rules, the tuning, and the command."""

import json

import numpy as np
import pytest

from openseg_jax.cli import main as cli
from openseg_jax.cli.claim_clip_dense import print_table
from openseg_jax.errors import UserError
from openseg_jax.eval.miniature_clip_dense import (
    RULES,
    DenseScores,
    Tuned,
    cosine_maps,
    labels,
    measure,
    tune,
)
from openseg_jax.methods.clip_dense import load
from openseg_jax.miniature.streams import scene
from openseg_jax.miniature.world import CLASS_NAMES, THINGS
from openseg_jax.ops.masks import to_label_map

SETTINGS = {"templates": "a photo of a {}", "short_side": 32}


def oracle_cosines(scenes, noise=0.0):
    """Cosines that are highest for the true class."""
    rng = np.random.default_rng(0)
    truth = np.stack([s.semantic for s in scenes])[:, None]
    right = truth == np.arange(1, len(CLASS_NAMES) + 1)[:, None, None]
    return np.where(right, 0.3, 0.2) + noise * rng.normal(size=right.shape)


def test_rules_on_an_oracle():
    scenes = [scene("val", i) for i in range(3)]
    maps = oracle_cosines(scenes)
    truth = np.stack([s.semantic for s in scenes])
    things = np.where(truth > len(THINGS), 0, truth)
    np.testing.assert_array_equal(labels(maps, "all"), truth)
    np.testing.assert_array_equal(labels(maps, "stuff_texts"), things)
    tuned = tune(scenes, maps)
    np.testing.assert_array_equal(labels(maps, "threshold", tuned), things)
    # Without a threshold nothing would be background.
    assert labels(maps, "threshold", Tuned(tuned.scale, 0.0)).min() == 1
    with pytest.raises(UserError, match="tune"):
        labels(maps, "threshold")


def test_maps_are_what_the_segmenter_decides_by(world_model):
    scenes = [scene("test", i) for i in range(2)]
    maps = cosine_maps(world_model, scenes, ("plain", "clearclip"), **SETTINGS)
    maps = maps["clearclip"]
    dense = load(world_model, variant="clearclip", **SETTINGS)
    image = np.stack([s.image for s in scenes])
    masks = dense.segment(dense.params, image, dense.classes(CLASS_NAMES, ()))
    ranked = np.sort(maps, axis=1)
    clear = ranked[:, -1] - ranked[:, -2] > 1e-4
    same = np.asarray(to_label_map(masks)) == labels(maps, "all")
    assert same[clear].all() and clear.mean() > 0.8


def test_measured_from_the_command_line(world_model, capsys):
    call = ["claim", "clip_dense", "--model", str(world_model), "--seeds", "1", "--scenes", "2"]
    assert cli.main([*call, "--start", "1"]) == 2
    assert "maft" in capsys.readouterr().err


def test_measure(world_model):
    rows = measure(
        world_model, scenes=2, validation_scenes=2, variants=("plain", "clearclip"),
        **SETTINGS,
    )  # fmt: skip
    found = json.loads(json.dumps(rows.to_json()))
    assert set(found["miou"]) == set(found["tuned"]) == {"plain", "clearclip"}
    assert set(found["miou"]["plain"]) == set(RULES) and isinstance(rows.holds, bool)
    assert rows.counts["plain", "all"].sum() == 2 * 96 * 96
    with pytest.raises(UserError, match="scenes"):
        measure(world_model, scenes=0)


def test_the_table_is_printed(capsys):
    tuned = {name: Tuned(10.0, 0.25) for name in ("plain", "sclip")}
    counts = {(n, r): np.eye(31, dtype=np.int64) for n in tuned for r in RULES}
    print_table([DenseScores(0, 2, tuned, counts)], False)
    said = capsys.readouterr().out
    assert "sclip" in said and "100.0" in said and "missed" in said
