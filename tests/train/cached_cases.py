"""Accumulated steps on 8 devices that the CPU pretends to be: `python -m tests.train.cached_cases`.

Prints a JSON object of measurements; `test_cached.py` judges them.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from openseg_jax.models.clip import CLIP
from openseg_jax.models.variants import CLIPConfig, Preprocess, TextConfig, VisionConfig
from openseg_jax.tasks.clip import ClipTask
from openseg_jax.train.optim import trainable_names
from openseg_jax.train.sharding import BATCH_AXES, batch_sharding, make_mesh
from openseg_jax.train.state import flat_names
from openseg_jax.train.step import init_state, make_train_step

ROWS, KEY = 16, jax.random.key(0)
CONFIG = CLIPConfig(
    "mu", 8, VisionConfig(16, 8, 16, 1, 2, 32, "quick_gelu"),
    TextConfig(6, 20, 16, 1, 2, 32, "quick_gelu"), logit_bias=True,
)  # fmt: skip


class OneStage:
    """Hides that a task could keep its negatives: what an accumulating trainer does by mistake."""

    def __init__(self, task: ClipTask) -> None:
        self.trainable, self.loss = task.trainable, task.loss
        self.constrain: Callable[..., Any] = task.constrain


def make_task(name: str, **settings: Any) -> ClipTask:
    """Builds a task whose loss has two parts."""
    # The attention of CPUs is a loop over examples, for which the compiler gathers them.
    clip = CLIP(CONFIG, scan=False, backend="xla")
    return ClipTask(clip, Preprocess(16), loss_name=name, patch_mean_weight=0.5, **settings)


def batch() -> dict[str, Any]:
    """Draws pictures and captions, some of them equal."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 19, (ROWS, 6)).astype(np.int32)
    ids[:, -1] = 19
    ids[9] = ids[2]
    caption = np.arange(ROWS, dtype=np.int32)
    caption[9] = caption[2]
    image = rng.integers(0, 256, (ROWS, 16, 16, 3)).astype(np.uint8)
    return {"image": image, "ids": ids, "caption": caption}


def start(task: ClipTask) -> Any:
    """Draws parameters whose temperature is not the start's, so that negatives count."""
    params, _ = task.init(KEY, {})
    low = jnp.float32(-2.0) if "logit_bias" in params else None
    return {**params, "logit_bias": low}


def step(task: Any, params: Any, mesh: Any = None, **settings: Any) -> tuple[Any, str]:
    """Takes one step of SGD.

    Returns:
        (parameters by name, mean of each metric), and the compiled program's text.
    """
    trained, tx = trainable_names(task.trainable, flat_names(params)), optax.sgd(0.5)
    placed = None if mesh is None else batch_sharding(mesh)
    update = make_train_step(task, tx, trained, placed=placed, **settings)
    state, data = init_state(params, tx, trained), batch()
    if mesh is not None:
        data = jax.device_put(data, placed)
    done = jax.jit(update).lower(state, {}, data, KEY).compile()
    state, metrics = done(state, {}, data, KEY)
    means = {name: float(total / count) for name, (total, count) in metrics.items()}
    return (flat_names(state.params), means), done.as_text()


def difference(got: Any, want: Any, before: Any) -> dict[str, float]:
    """Measures parameters' differences over the largest change of any, and those of metrics."""
    start = flat_names(before)
    moved = max(
        float(np.abs(np.asarray(x) - np.asarray(start[n])).max()) for n, x in want[0].items()
    )
    params = max(
        float(np.abs(np.asarray(got[0][n]) - np.asarray(x)).max()) for n, x in want[0].items()
    )
    metrics = max(abs(got[1][n] - x) / max(abs(x), 1e-6) for n, x in want[1].items())
    assert set(got[1]) == set(want[1])
    return {"params": params / moved, "metrics": metrics}


def exchanged(text: str) -> list[str]:
    """Lists collectives that gather or redistribute rows, or send pictures anywhere."""
    found = re.findall(r"= (\S+) (all-gather|all-to-all|collective-permute)\(", text)
    return [f"{kind} {x}" for x, kind in found if kind != "collective-permute" or "u8[" in x]


def main() -> None:
    """Compares two parts on 8 devices, around the ring, with the plain loss of one device.

    Arguments name the losses.
    """
    out = {}
    mesh = make_mesh(data=4, fsdp=2)
    for name in sys.argv[1:]:
        plain = make_task(name)
        params = start(plain)
        want, _ = step(plain, params)
        ringed = make_task(name, loss_block=2, mesh=mesh, axes=BATCH_AXES)
        got, text = step(ringed, params, mesh, accumulate=2)
        out[name] = {**difference(got, want, params), "exchanged": exchanged(text)}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
