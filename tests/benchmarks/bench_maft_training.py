"""Counts the work of MAFT's fine-tuning step: `python -m tests.benchmarks.bench_maft_training`.

ViT-B/16 at 480², 100 proposals: the whole step, backward pass and AdamW included, of three forms.

| form | masked student, unmasked student, teacher |
|---|---|
| ours | the two student passes share the blocks before the masks |
| three forwards | the same three passes, nothing shared |
| published | as three forwards, with one dense attention over N + L tokens in masked blocks |

FLOPs are the compiler's own count of the lowered program, all loops unrolled and attention in one
batch. Target: 0.80 of the three forwards. `--memory` also compiles ours and the three forwards, as
they are run, and prints the compiler's temporary memory; `--time` runs both in turn.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.models.ip_clip import masked_tail, plain_tail, split_trunk
from openseg_jax.models.layers import run_stack
from openseg_jax.models.variants import Preprocess, variant
from openseg_jax.models.vit import VisionTransformer
from openseg_jax.tasks import maft
from openseg_jax.train.optim import make_adamw, trainable_names
from openseg_jax.train.state import flat_names
from openseg_jax.train.step import init_state, make_train_step
from tests.benchmarks.bench_maft import dense

SIDE, VIEW, PROPOSALS, SEGMENTS, CLASSES, TARGET = 480, 640, 100, 16, 171, 0.80


def three_forwards(visual: Any, image: Any, inside: Any, start: int) -> tuple[Any, Any]:
    """Encodes masks and whole picture with two passes that share nothing."""
    masked = masked_tail(visual, split_trunk(visual, image, start=start), inside, start=start)
    # Without the barrier the compiler would find out that both passes begin alike.
    again = jax.lax.optimization_barrier(image)
    return masked, plain_tail(visual, split_trunk(visual, again, start=start), start=start)


def published(visual: Any, image: Any, inside: Any, start: int) -> tuple[Any, Any]:
    """Encodes masks by dense attention, and the whole picture by a pass of its own."""
    unrolled = functools.partial(run_stack, scan=False)
    with mock.patch("tests.benchmarks.bench_maft.run_stack", unrolled):
        masked = dense(visual, image, inside, start=start)
    return masked, visual(jax.lax.optimization_barrier(image))


def shapes(batch: int) -> dict[str, Any]:
    """Describes a batch of 640² views with proposals at stride 4."""
    struct = jax.ShapeDtypeStruct
    small = VIEW // 4
    return {
        "image": struct((batch, VIEW, VIEW, 3), jnp.uint8),
        "segments": struct((batch, SEGMENTS, VIEW, VIEW), jnp.bool_),
        "segment_class": struct((batch, SEGMENTS), jnp.int32),
        "segment_valid": struct((batch, SEGMENTS), jnp.bool_),
        "proposals": struct((batch, PROPOSALS, small, small), jnp.float32),
        "proposals_valid": struct((batch, PROPOSALS), jnp.bool_),
    }


def prepare(name: str, batch: int, **switches: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Builds a training step and the shapes of what it takes."""
    config = variant(name)
    tower = VisionTransformer(config.vision, config.embed_dim, **switches)
    image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    weights = {"visual": jax.eval_shape(tower.init, jax.random.key(0), image)["params"]}
    text = jax.ShapeDtypeStruct((CLASSES, config.embed_dim), jnp.float32)
    task = maft.MaftTask(tower, Preprocess(SIDE), weights, np.zeros((1, 1)), 8, (SIDE, SIDE))
    trained = trainable_names(task.trainable, flat_names(weights))
    decay = ((r".*/ln_\w+/.*", 0.0), (r".*", 1e-4))
    tx = make_adamw(trained, lambda i: 1e-5, b2=0.999, clip=0.01, weight_decay=decay)
    state = jax.eval_shape(lambda p: init_state(p, tx, trained), weights)
    frozen = {"teacher": weights["visual"], "text": text}
    arguments = (state, frozen, shapes(batch), jax.eval_shape(lambda: jax.random.key(0)))
    return make_train_step(task, tx, trained), arguments


FORMS = {"ours": maft._student, "three forwards": three_forwards, "published": published}


def lowered(form: str, name: str, batch: int, **switches: Any) -> tuple[Any, tuple[Any, ...]]:
    """Lowers the step of a form."""
    step, arguments = prepare(name, batch, **switches)
    with mock.patch.object(maft, "_student", FORMS[form]):
        return jax.jit(step).lower(*arguments), arguments


def main() -> None:
    """Prints the counts and their ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--time", action="store_true")
    args = parser.parse_args()
    print(f"{args.model}, {SIDE}², {PROPOSALS} proposals, batch {args.batch}")
    flops = {}
    for form in FORMS:
        # Loops would be counted once, and so would attention mapped over heads.
        program, _ = lowered(form, args.model, args.batch, scan=False, backend="xla")
        flops[form] = program.cost_analysis()["flops"]
        print(f"{form:>15}: {flops[form] / 1e9:8.1f} GFLOP", flush=True)
    for form in ("three forwards", "published"):
        print(f"ours / {form}: {flops['ours'] / flops[form]:.3f}")
    print(f"target: {TARGET} of three forwards")
    if not (args.memory or args.time):
        return
    for form in ("ours", "three forwards"):
        program, arguments = lowered(form, args.model, args.batch)
        compiled = program.compile()
        temporary = compiled.memory_analysis().temp_size_in_bytes
        print(f"{form:>15}: {temporary / 2**20:8.0f} MiB of temporary memory", flush=True)
        if args.time:
            values = jax.tree.map(_drawn, arguments[:-1])
            clocks = []
            for _ in range(3):
                wall, cpu = time.perf_counter(), time.process_time()
                jax.block_until_ready(compiled(*values, jax.random.key(0)))
                clocks.append((time.process_time() - cpu, time.perf_counter() - wall))
            cpu, wall = min(clocks)
            print(f"{form:>15}: {cpu:8.2f} CPU s, {wall:.2f} s wall", flush=True)


def _drawn(shape: Any) -> Any:
    """Makes an array of a shape; numbers are small, so that nothing overflows."""
    if shape.dtype in (jnp.bool_, jnp.uint8, jnp.int32):
        return jnp.ones(shape.shape, shape.dtype)
    return jnp.asarray(np.random.default_rng(0).normal(size=shape.shape) * 0.02, shape.dtype)


if __name__ == "__main__":
    main()
