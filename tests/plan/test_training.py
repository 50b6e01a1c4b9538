"""Experiments without data and weights, and what a plan once found wrong with a mesh."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax
import pytest

from openseg_jax.cli.train import load_config, override
from openseg_jax.errors import UserError
from openseg_jax.plan.experiments import architecture, experiment
from openseg_jax.train.sharding import make_mesh
from openseg_jax.train.state import flat_names


def planned(name: str, *settings: str):
    config = override(load_config(name), settings)
    return experiment(config, make_mesh(devices=jax.devices()[:1]))


def test_a_billion_parameters_are_shapes_only():
    made = planned("clip_finetune", "init=ViT-H-14", "batch_size=64")
    names = flat_names(made.params)
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in names.values())
    assert 980e6 < sum(x.size for x in names.values()) < 990e6
    assert made.batch["image"].shape == (64, 224, 224, 3)
    assert made.batch["ids"].shape == (64, 77)
    assert made.task.clip.config.text.vocab_size == 49408


def test_maft_needs_neither_its_clip_nor_its_generator():
    made = planned("maft_stage2:bf16", "init=ViT-B-16")
    assert set(made.params) == {"visual"}
    assert made.frozen["text"].shape == (171, 512)
    assert made.frozen["generator"]
    assert made.batch["image"].shape == (16, 640, 640, 3)
    assert made.batch["segments"].shape == (16, 32, 640, 640)
    assert "proposals" not in made.batch


def test_maft_with_proposals_in_the_batch():
    made = planned("maft_stage2", "init=ViT-B-16", "input.masks.proposals=regions", "batch_size=2")
    assert made.batch["proposals"].shape == (2, 100, 160, 160)
    assert "generator" not in made.frozen


def test_architectures_by_name():
    assert architecture("ViT-B/16") == architecture("ViT-B-16")
    assert architecture("miniature").name == "miniature"
    with pytest.raises(UserError, match="ViT-B-16"):
        architecture("runs/maft_stage1/model")


_FSDP = """
import contextlib, json
from openseg_jax.configs.miniature_clip import get_config
from openseg_jax.plan.topology import parse
from openseg_jax.plan.training import plan_training
from openseg_jax.train import program

def look():
    config = get_config("tiny")
    config.batch_size, config.scan, config.mesh.fsdp = 512, True, 2
    found = plan_training(config, parse("h100:8")).measured
    return [sum(found.cost.sent().values()), found.cost.flops * 8 / found.traced]

kept = look()
program.rows_on = lambda *_: contextlib.nullcontext()
print(json.dumps([kept, look()]))
"""


@pytest.mark.slow
def test_shared_parameters_are_gathered_and_activations_are_not_summed():
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", _FSDP], capture_output=True, text=True, check=False,
        env={**os.environ, "XLA_FLAGS": flags},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (sent, repeated), (loose, _) = json.loads(done.stdout.splitlines()[-1])
    assert repeated == pytest.approx(1.0, abs=0.02)
    # Without the constraint the compiler sums activations in every block.
    assert loose > 5 * sent
