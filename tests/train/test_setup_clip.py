import dataclasses
import logging
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from openseg_jax.configs.clip_finetune import get_config

from openseg_jax.cli.train import load_config, override
from openseg_jax.errors import UserError
from openseg_jax.inputs.pipeline import batch_spec, batches
from openseg_jax.inputs.synthetic import POOL, Synthetic
from openseg_jax.train import setup
from openseg_jax.train.loop import train
from openseg_jax.train.optim import trainable_names
from openseg_jax.train.setup_clip import TILE, choose_loss_block
from openseg_jax.train.sharding import make_mesh
from openseg_jax.weights.folder import load_folder


def _mesh(data: int, fsdp: int, tensor: int) -> Any:
    """Stands for more devices than this process has."""
    return SimpleNamespace(shape={"data": data, "fsdp": fsdp, "tensor": tensor})


@pytest.mark.parametrize(
    "asked, batch, mesh, block",
    [
        (-1, 4096, None, 0),
        (-1, 4096, _mesh(1, 1, 1), 0),
        (-1, 4096, _mesh(1, 1, 8), 0),  # the rows of the batch lie on one device
        (-1, 4097, _mesh(1, 1, 1), TILE),
        (-1, 64, _mesh(1, 2, 1), TILE),
        (0, 32768, _mesh(4, 2, 1), 0),
        (512, 64, None, 512),
    ],
)
def test_tiles_are_taken_for_large_batches_and_several_devices(asked, batch, mesh, block):
    config = override(get_config("tiny"), [f"task.loss_block={asked}", f"batch_size={batch}"])
    assert choose_loss_block(config, mesh) == block


def test_no_other_negative_tile():
    with pytest.raises(UserError, match=r"task\.loss_block: expected rows, 0 or -1, got -2"):
        choose_loss_block(override(get_config("tiny"), ["task.loss_block=-2"]), None)


def test_tuning_starts_from_weights_and_takes_its_parts_through_tiles():
    mesh = make_mesh(devices=jax.devices()[:1])
    task: Any = setup.build(get_config("tiny"), mesh).task
    assert (task.loss_block, task.mesh, task.axes) == (4, mesh, ("data", "fsdp"))
    assert task.start is not None and task.clip.config.name == "miniature"


@pytest.mark.slow
@pytest.mark.parametrize("arg", ["tiny", "lit,tiny", "siglip,tiny"])
def test_tuning_runs(arg, tmp_path):
    config = get_config(arg)
    task: Any = setup.build(config).task
    before, _ = task.init(jax.random.fold_in(jax.random.key(config.seed), 0), {})
    after = train(config, tmp_path, show=False)
    assert int(after.step) == 2
    for tower, learns in (("visual", "lit" not in arg), ("text", True)):
        old, new = (p[tower]["blocks"]["mlp"]["c_fc"]["kernel"] for p in (before, after.params))
        assert np.array_equal(old, new) != learns


def test_the_locked_tower_does_not_learn():
    names = ["visual/blocks/mlp/c_fc/kernel", "text/token_embedding", "logit_scale"]
    task = setup.build(get_config("lit,tiny")).task
    assert trainable_names(task.trainable, names) == frozenset(names[1:])


def test_sigmoid_is_for_weights_with_a_bias(caplog):
    with caplog.at_level(logging.WARNING):
        task: Any = setup.build(get_config("siglip,tiny")).task
        assert task.loss_name == "sigmoid" and task.clip.config.logit_bias
        assert "logit bias" not in caplog.text
        setup.build(override(get_config("tiny"), ["task.loss=sigmoid"]))
    assert "logit bias" in caplog.text


def test_the_folder_tells_what_the_weights_were_before(tmp_path):
    built: Any = setup.build(get_config("tiny"))
    start = {"name": "ViT-B-16", "source": "the web", "licence": "MIT", "saw": "400 M pairs"}
    tuned = dataclasses.replace(built, start=start)
    told = {"name": "x", "source": "a test", "licence": "Apache-2.0", "saw": "16 pictures"}
    tuned.save(tmp_path / "tuned", built.task.start, told, {}, "float32")
    about = load_folder(tmp_path / "tuned").provenance
    assert (
        about["licence"] == "MIT" and about["saw"] == "16 pictures; before it ViT-B-16: 400 M pairs"
    )
    # the wrong variant: weights that start from nothing have no such past
    dataclasses.replace(built, start=None).save(
        tmp_path / "fresh", built.task.start, told, {}, "float32"
    )
    assert load_folder(tmp_path / "fresh").provenance == told


def test_unknown_argument_is_named():
    with pytest.raises(UserError, match="siglip"):
        load_config("clip_finetune:sigmoid")


def test_synthetic_examples_are_made_by_index():
    config = override(get_config("siglip,tiny"), ["input.name=synthetic", "input.seed=3"])
    built = setup.build(config)
    assert built.saw == "random pictures with random captions"
    source = built.source
    spec = batch_spec(source, 8)
    assert spec["image"].shape == (8, 32, 32, 3) and spec["ids"].shape == (8, 24)
    one, again, other = source[5], source[5], source[5 + POOL]
    for name in one:
        np.testing.assert_array_equal(one[name], again[name])
    # Pictures come again, captions do not.
    np.testing.assert_array_equal(one["image"], other["image"])
    assert one["caption"] != other["caption"]
    assert not np.array_equal(one["image"], source[6]["image"])
    batch = next(batches(source, 8, threads=1))
    assert batch["image"].dtype == np.uint8 and len(set(batch["caption"].tolist())) == 8


def test_synthetic_captions_are_rows_of_a_tokenizer():
    source = Synthetic(8, 12, 99, start=97, end=98, pad=0, length=1000)
    for index in range(300):
        ids = source[index]["ids"].tolist()
        end = ids.index(98)
        assert ids[0] == 97 and end >= 2
        assert all(0 < i < 97 for i in ids[1:end]) and set(ids[end + 1 :]) <= {0}
    # SigLIP's have no start, and end and padding are one
    source = Synthetic(8, 12, 99, start=None, end=1, pad=1, length=1000)
    ends = [source[i]["ids"].tolist().index(1) for i in range(300)]
    assert min(ends) >= 1 and max(ends) == 11


def test_synthetic_extras_are_made_once_a_picture():
    made = []

    def extras(image):
        made.append(image)
        return {"mean": np.float32(image.mean())}

    source = Synthetic(4, 6, 9, 7, 8, 0, 1000, extras=extras)
    assert source[1]["mean"] == source[1 + POOL]["mean"] != source[2]["mean"]
    assert len(made) == 2
