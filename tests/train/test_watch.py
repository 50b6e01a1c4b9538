"""A whole training that is watched: what it writes, read back as TensorBoard reads it."""

import importlib
import json

import numpy as np
import pytest

from openseg_jax.tasks.clip import ClipTask
from openseg_jax.train.loop import train

pytestmark = pytest.mark.usefixtures("compile_once")

SCALARS = {
    "loss", "grad_norm", "learning_rate", "examples_per_second", "examples_per_second_per_device",
    "step_seconds", "input_wait", "host_memory",
}  # fmt: skip


def _config(name, **watch):
    config = importlib.import_module(f"openseg_jax.configs.{name}").get_config("tiny")
    config.watch.update(watch)
    config.log_every, config.checkpoint_every = 2, 100
    return config


def _events(workdir):
    """Returns {tag: steps} of a folder's event files, by kind."""
    loader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs tensorboard: pip install openseg_jax[train]",
    )
    found = loader.EventAccumulator(str(workdir), size_guidance={loader.IMAGES: 0})
    found.Reload()
    tags = found.Tags()
    return found, set(tags["scalars"]), set(tags["images"]), set(tags["histograms"])


@pytest.mark.slow
def test_a_watched_training(tmp_path, monkeypatch):
    traced = []
    loss = ClipTask.loss

    def counted(self, *args, **more):
        traced.append(1)
        return loss(self, *args, **more)

    monkeypatch.setattr(ClipTask, "loss", counted)
    config = _config("miniature_clip", images_every=4, profile="3:5")
    config.steps = 6
    train(config, tmp_path, show=False)
    assert len(traced) == 1, "counting FLOPs must not trace the step again"
    found, scalars, images, histograms = _events(tmp_path)
    assert scalars >= SCALARS
    assert images == {"examples", "similarity"}
    assert histograms == {"cosines/matching", "cosines/other"}
    assert [event.step for event in found.Images("examples")] == [4]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 4, 6]
    assert all(0 <= row["input_wait"] <= 1 for row in rows if "loss" in row)
    assert list((tmp_path / "profile_3").rglob("*.xplane.pb"))
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("# miniature_clip: finished at step 6 of 6")
    assert "step 6.\n" in text and "TFLOP a step" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "images", "histograms"),
    [
        ("miniature_segclip", {"regions"}, {"assignment/largest", "assignment/share"}),
        ("miniature_maft", {"masks/segments"}, {"masks/best_iou", "masks/attention"}),
    ],
)
def test_every_method_shows_its_masks(tmp_path, name, images, histograms):
    config = _config(name)
    config.watch.images_every = config.steps
    train(config, tmp_path, show=False)
    _, _, shown, spread = _events(tmp_path)
    names = {tag.rsplit("/", 1)[0] if tag.split("/")[-1].isdigit() else tag for tag in shown}
    assert names >= {"examples", *images} and spread >= histograms
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert np.isfinite([value for value in last.values()]).all()
