import json

import jax
import numpy as np
import pytest
from openseg_jax.configs.miniature_clip import get_config

from openseg_jax.errors import UserError
from openseg_jax.train import setup
from openseg_jax.train.checkpoint import Checkpoints
from openseg_jax.train.export import exporter
from openseg_jax.train.loop import TrainingDiverged, train
from openseg_jax.train.recorder import reduce_metrics
from openseg_jax.train.state import flat_names
from openseg_jax.weights.folder import load_folder

pytestmark = pytest.mark.usefixtures("compile_once")


def _config(steps, **optim):
    config = get_config("tiny")
    config.steps = steps
    config.optim.update({"schedule": "constant", "warmup": 0, **optim})
    return config


def _equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_metrics_are_weighted_by_their_counts():
    pending = [{"loss": (np.float32(2), np.float32(1))}, {"loss": (np.float32(3), np.float32(4))}]
    assert reduce_metrics(pending) == {"loss": 1.0}


@pytest.mark.slow
def test_stopped_and_resumed_equals_straight_through(tmp_path):
    straight = train(_config(4), tmp_path / "straight", show=False)
    train(_config(2), tmp_path / "stopped", show=False)
    resumed = train(_config(4), tmp_path / "stopped", show=False)
    assert int(resumed.step) == 4
    _equal(resumed, straight)
    # the wrong variant: parameters restored, but data from the beginning
    fresh = train(_config(2), tmp_path / "other", show=False)
    assert not np.array_equal(fresh.params["logit_scale"], straight.params["logit_scale"])
    rows = [json.loads(s) for s in (tmp_path / "stopped/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert {"loss", "grad_norm", "examples_per_second", "learning_rate"} <= set(rows[0])
    # a finished training is a no-op that returns its state
    _equal(train(_config(4), tmp_path / "stopped", show=False), straight)


@pytest.mark.slow
def test_checkpoint_of_another_model_is_refused(tmp_path):
    train(_config(1), tmp_path, show=False)
    config = _config(2)
    config.model.embed_dim = 16
    with pytest.raises(UserError, match="workdir"):
        train(config, tmp_path, show=False)


def test_divergence_stops_and_keeps_the_last_sound_state(tmp_path):
    with pytest.raises(TrainingDiverged, match="learning_rate"):
        train(_config(6, learning_rate=1e38, clip=None), tmp_path, show=False)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    params = checkpoints.restore_params()
    checkpoints.close()
    assert all(np.isfinite(x).all() for x in flat_names(params).values())


@pytest.mark.slow
def test_export_is_a_folder_that_loads(tmp_path):
    config = _config(2)
    state = train(config, tmp_path / "run", on_checkpoint=exporter(config, tmp_path / "out"),
                  show=False)  # fmt: skip
    loaded = load_folder(tmp_path / "out")
    got, want = flat_names(loaded.params), flat_names(jax.device_get(state.params))
    for name, leaf in want.items():
        np.testing.assert_allclose(got[name], leaf, rtol=1e-3, atol=1e-6, err_msg=name)
    assert loaded.provenance["saw"].startswith("16 captioned pictures")
    assert "zebra" in loaded.defaults["labels"]
    assert loaded.tokenizer.unknown("a zebra beside a xylophone") == ["beside", "xylophone"]
    assert loaded.preprocess.size == config.model.vision.image_size


@pytest.mark.parametrize("name", ["steps", "accumulate", "checkpoint_every", "keep", "log_every"])
def test_counts_below_one_are_refused_before_anything_is_built(name):
    config = get_config("tiny")
    config[name] = 0
    with pytest.raises(UserError, match=rf"{name}: expected 1 or more, got 0"):
        setup.build(config)
