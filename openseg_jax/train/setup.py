"""From a config to what the loop trains: the one place where a task's name is looked up."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any, Protocol

import jax.numpy as jnp
from jax.sharding import Mesh

from openseg_jax.errors import expected, unknown_name
from openseg_jax.inputs.pipeline import Source
from openseg_jax.models.remat import remat_name
from openseg_jax.tasks.base import Task
from openseg_jax.train.state import Config
from openseg_jax.types import Params

# Names of `config.task.name`: module and function that builds the experiment from a config.
# Imported when asked for: a task brings models along that others do not need.
TASKS: dict[str, tuple[str, str]] = {
    "clip": ("openseg_jax.train.setup_clip", "build"),
    "segclip": ("openseg_jax.train.setup_segclip", "build"),
    "maft_stage1": ("openseg_jax.train.setup_maft", "build_stage1"),
    "maft_stage2": ("openseg_jax.train.setup_maft", "build_stage2"),
}
DTYPES: dict[str, Any] = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# Counts of which there is at least one.
_COUNTS = ("steps", "accumulate", "checkpoint_every", "keep", "log_every")


class Setup(Protocol):
    """An experiment: what the loop trains, and how its result becomes a model folder.

    One that can classify pictures while it trains has `evaluator(config, mesh)` besides: None, or
    a function from parameters to numbers (see `train.zero_shot`).
    """

    @property
    def task(self) -> Task:
        """The loss and what learns."""
        ...

    @property
    def source(self) -> Source:
        """The examples."""
        ...

    @property
    def saw(self) -> str:
        """What one example is, for the provenance: "captioned pictures of the … stream"."""
        ...

    def save(
        self,
        folder: str | os.PathLike[str],
        params: Params,
        provenance: Mapping[str, str],
        defaults: Mapping[str, Any],
        dtype: str,
    ) -> None:
        """Writes parameters on the host as a model folder that every command loads."""
        ...


def build(config: Config, mesh: Mesh | None = None) -> Setup:
    """Builds the experiment that a config describes.

    Args:
        config: as `configs/base.py` lists it.
        mesh: the devices of the training, for losses that exchange parts of a batch by hand;
            None where nothing is trained.

    Raises:
        UserError: for an unknown name in it, or a count below 1.
    """
    if config.task.name not in TASKS:
        unknown_name(config.task.name, TASKS, "task")
    if config.dtype not in DTYPES:
        unknown_name(config.dtype, DTYPES, "dtype")
    remat_name(config.remat)
    for name in _COUNTS:
        value = config[name]
        all_kept = name == "keep" and value is None
        if not all_kept and (value is None or value < 1):
            raise expected(name, "1 or more", str(value), "correct it")
    module, function = TASKS[config.task.name]
    built = getattr(importlib.import_module(module), function)(config, mesh)
    if config.evaluate.every and not hasattr(built, "evaluator"):
        raise expected(
            "evaluate.every", f"0: {config.task.name} has no zero-shot evaluation",
            str(config.evaluate.every), "evaluate its model folder after the training",
        )  # fmt: skip
    return built
