"""Measures dense CLIP: one image with 21 texts, each last block beside the tower's own pass.

    taskset -c 0,1 python -m tests.benchmarks.bench_clip_dense
    python -m tests.benchmarks.bench_clip_dense --repeats 5 --variants naclip

Weights are random and have ViT-B/16's sizes. "tower" is the plain forward pass of the same image
tower on the same windows, from normalised pixels to one vector a window; the others go from bytes
to masks. Rows are timed in turn, so that a busy machine slows all of them; the ratio is that of the
medians. Compare rows of one run only.
"""

from __future__ import annotations

import argparse
import os
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.methods.clip_dense import ClipDense
from openseg_jax.methods.clip_dense_config import configure
from openseg_jax.methods.clip_dense_texts import from_embeddings
from openseg_jax.methods.windows import cut_windows, window_starts
from openseg_jax.models.last_block import LAST_BLOCKS
from openseg_jax.models.variants import variant
from tests.benchmarks.bench_car import clock, picture, random_clip


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-16", help="whose sizes")
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), metavar=("H", "W"))
    parser.add_argument("--texts", type=int, default=21)
    parser.add_argument("--variants", nargs="+", default=list(LAST_BLOCKS))
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    clip = random_clip(variant(args.model), 0)
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(args.texts, clip.config.embed_dim)).astype(np.float32)
    text = from_embeddings(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    image = picture(*args.size)[None]

    calls: dict[str, Any] = {}
    for name in args.variants:
        dense = ClipDense(clip, configure(variant=name), dtype=args.dtype)
        # One copy of the weights for all.
        params = calls.setdefault("params", dense.params)
        calls[name] = lambda d=dense, p=params: d.segment(p, image, text).probs
        tower, plan = dense.reader.tower, dense.reader.plan
    params = calls.pop("params")
    pixels = jnp.asarray(cut_windows(plan, image)[0], jnp.float32) / 128 - 1
    forward = jax.jit(lambda p, x: tower.apply({"params": p}, x))
    calls = {"tower": lambda: forward(params["visual"], pixels), **calls}

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {cores} cores, {args.dtype}")
    windows = len(window_starts(plan, tuple(args.size)))
    print(f"{args.model}, one image {tuple(args.size)}, {args.texts} texts, {windows} windows")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for call in calls.values():
        clock(call)
    for _ in range(args.repeats):
        for name, call in calls.items():
            times[name].append(clock(call))
    print("| | CPU s | wall s | wall / tower | CPU / tower |\n|---|---|---|---|---|")
    cpu, wall = (
        {name: statistics.median(t[i] for t in found) for name, found in times.items()}
        for i in (0, 1)
    )
    for name in calls:
        print(
            f"| {name} | {cpu[name]:.2f} | {wall[name]:.2f} | {wall[name] / wall['tower']:.2f} | "
            f"{cpu[name] / cpu['tower']:.2f} |"
        )
    print(f"load at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
