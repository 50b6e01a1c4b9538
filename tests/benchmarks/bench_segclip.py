"""Measures SegCLIP: one image with 21 classes, and a training step with all three losses.

    taskset -c 0,1 python -m tests.benchmarks.bench_segclip            # both
    python -m tests.benchmarks.bench_segclip --no-train --repeats 5

Weights are random and have ViT-B/16's sizes. FLOPs are the compiler's count of the whole program,
loops unrolled and attention as one batch; seconds are of a warm call. The machine is printed with
the numbers: compare rows of one run only.
"""

from __future__ import annotations

import argparse
import os
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.methods.segclip import SegClip
from openseg_jax.methods.segclip_config import configure
from openseg_jax.methods.segclip_texts import from_embeddings
from openseg_jax.methods.windows import window_starts
from openseg_jax.models.segclip import SegCLIP, SegCLIPConfig
from openseg_jax.models.variants import Preprocess, variant
from openseg_jax.ops.masked_patches import kept_patches
from openseg_jax.tasks.segclip import FROZEN, SegClipTask
from openseg_jax.text.tokenizer import word_tokenizer
from openseg_jax.train.optim import trainable_names
from openseg_jax.train.state import nested, split_params
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.report import Report
from openseg_jax.weights.segclip import segclip_spec
from openseg_jax.weights.segclip_folder import NAME, split_clip
from openseg_jax.weights.tree import unflatten
from tests.benchmarks.bench_car import clock, flops, picture


def random_params(config: SegCLIPConfig) -> Any:
    """Draws parameters that keep activations near unit size."""
    rng = np.random.default_rng(0)

    def one(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("scale"):
            return np.full(shape, 4.6 if name == "logit_scale" else 1.0, np.float32)
        x = rng.standard_normal(shape, np.float32)
        return x * np.float32(0.6 * shape[-2] ** -0.5 if len(shape) > 1 else 0.02)

    return unflatten({n: one(n, s.shape) for n, s in segclip_spec(config).items()})


def segmenter(config: SegCLIPConfig, params: Any, dtype: str) -> SegClip:
    """Wraps parameters as loaded weights."""
    clip, rest = split_clip(config, params)
    settings = {key: value for key, value in config.to_dict().items() if key != "clip"}
    loaded = LoadedClip(
        config.clip, clip, Preprocess(config.clip.vision.image_size), word_tokenizer(["a"], 77),
        {}, {}, Report("random"), {NAME: rest}, {NAME: settings},
    )  # fmt: skip
    return SegClip(loaded, configure(), dtype=dtype)


def bench_image(segclip: SegClip, args: argparse.Namespace) -> None:
    """Times one image from bytes to masks."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(args.classes - 1, segclip.clip.config.embed_dim)).astype(np.float32)
    text = from_embeddings(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    image = picture(*args.size)[None]
    windows = len(window_starts(segclip.reader.plan, tuple(args.size)))

    def run() -> Any:
        return segclip.segment(segclip.params, image, text).probs

    clock(run)
    times = [clock(run) for _ in range(args.repeats)]
    print(f"\none image {args.size}, {args.classes} classes with background, {windows} windows")
    print("| CPU s | wall s |\n|---|---|")
    for cpu, wall in times:
        print(f"| {cpu:.2f} | {wall:.2f} |")
    print(f"median wall: {statistics.median(wall for _, wall in times):.2f} s")
    if not args.no_flops:
        count = flops(lambda p, x: segclip.reader.dense(p, x, text), segclip.params, image)
        print(f"compiler's count: {count / 1e9:.1f} GFLOP")


def products(config: SegCLIPConfig, tokens: int) -> dict[str, float]:
    """Counts by hand what the step multiplies for a pair: FLOPs of value and all gradients."""
    vision, text = config.clip.vision, config.clip.text
    seen = kept_patches(patches := vision.grid**2, config.mask_ratio)
    wide, narrow, regions = vision.width, config.decoder_width, config.centers
    pixels = 3 * vision.patch_size**2

    def block(count: int, width: int) -> float:
        return count * (24 * width**2 + 4 * count * width)

    def group(count: int) -> float:
        # Keys and values are never computed: maps of all heads are applied on the centres' side.
        cross = regions * 24 * wide**2 + 4 * vision.heads * regions * (regions + count) * wide
        heads = 2 * count * wide * 2 * wide // vision.heads
        return config.cross_layers * cross + heads + regions * 16 * wide**2

    hidden, all_tokens = patches - seen, 1 + patches
    decoder = (config.decoder_depth - 1) * block(all_tokens, narrow)
    decoder += hidden * (20 * narrow**2 + 4 * all_tokens * narrow) + all_tokens * 4 * narrow**2
    decoder += 2 * hidden * narrow * pixels + 2 * (1 + seen) * wide * narrow
    forward = {
        f"first blocks, {patches} patches": config.first_blocks * block(patches, wide),
        f"first blocks, {seen} seen patches": config.first_blocks * block(seen, wide),
        "text tower": text.depth * block(tokens, text.width),
        "decoder": decoder,
        "reconstruction's own blocks": config.recon_blocks * block(seen, wide),
        "both groupings": group(patches) + group(seen),
        "blocks of the regions": (vision.depth - config.first_blocks) * block(regions, wide),
    }
    # Gradients take two products for each. The patches' embedding is frozen and has none.
    found = {name: 3.0 * count for name, count in forward.items()}
    return found | {"patch embedding": 2.0 * patches * pixels * wide}


def bench_step(config: SegCLIPConfig, params: Any, args: argparse.Namespace) -> None:
    """Times and counts the loss with all gradients of what trains."""
    task = SegClipTask(SegCLIP(config, dtype=jnp.dtype(args.dtype)), Preprocess(224))
    size = config.clip.vision.image_size
    grid = config.clip.vision.grid
    rng = np.random.default_rng(2)
    batch = {
        "image": rng.integers(0, 256, (args.batch, size, size, 3), np.uint8),
        "ids": rng.integers(1, 49000, (args.batch, args.tokens), np.int32),
        "caption": np.arange(args.batch, dtype=np.int32),
        "superpixels": rng.integers(0, 9, (args.batch, grid, grid), np.int32),
    }
    names = trainable_names(FROZEN, segclip_spec(config))
    learning, fixed = split_params(params, names)

    def step(learning: Any, fixed: Any, batch: Any, key: Any) -> Any:
        def loss(learning: Any) -> Any:
            return task.loss(nested({**learning, **fixed}), {}, batch, key=key)[0]

        return jax.value_and_grad(loss)(learning)

    key = jax.random.key(0)
    print(f"\ntraining step without update: batch {args.batch}, {args.tokens} tokens, {args.dtype}")
    if not args.no_flops:
        count = flops(step, learning, fixed, batch, key)
        print(f"compiler's count: {count / 1e9 / args.batch:.1f} GFLOP a pair")
        parts = products(config, args.tokens)
        print(f"by hand, products alone: {sum(parts.values()) / 1e9:.1f}; of these")
        for name, count in parts.items():
            print(f"  {name}: {count / 1e9:.1f}")
    jitted = jax.jit(step)
    learning, fixed = jax.device_put((learning, fixed))
    clock(lambda: jitted(learning, fixed, batch, key))
    print("| CPU s | wall s |\n|---|---|")
    for _ in range(args.repeats):
        cpu, wall = clock(lambda: jitted(learning, fixed, batch, key))
        print(f"| {cpu:.2f} | {wall:.2f} |")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), metavar=("H", "W"))
    parser.add_argument("--classes", type=int, default=21, help="with background")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-flops", action="store_true")
    parser.add_argument("--no-train", action="store_true")
    parser.add_argument("--no-image", action="store_true")
    args = parser.parse_args()
    config = SegCLIPConfig(variant("ViT-B-16"))
    params = random_params(config)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {cores} cores")
    if not args.no_image:
        bench_image(segmenter(config, params, args.dtype), args)
    if not args.no_train:
        bench_step(config, params, args)
    print(f"\nload at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
