"""Times CaR and counts its floating point operations: `python -m tests.benchmarks.bench_car`.

One 375×500 image, 20 texts of which 3 survive the first step, 15 templates, ViT-B/16 for the maps
and ViT-L/14 for the classifier, random weights. θ is set between the third and the fourth score of
the first step, so that the work is that of a VOC image. The published code needs 59.5 TFLOP for it.

FLOPs are the compiler's own count (`compiled.cost_analysis`). It counts the body of a loop once, so
every stage is compiled with its loops unrolled and multiplied by the number of times it runs. CPU
seconds are those of all threads; wall seconds mean little on a machine that does other work.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from openseg_jax.methods import car as car_module
from openseg_jax.methods import car_geometry
from openseg_jax.methods.car import CaR
from openseg_jax.methods.car_config import configure
from openseg_jax.methods.car_finish import masks_of_maps
from openseg_jax.methods.car_loop import Stepper, bucket, knobs
from openseg_jax.methods.car_texts import CarText, bucketed, from_embeddings
from openseg_jax.models.variants import CLIPConfig, Preprocess, variant
from openseg_jax.models.vit import VisionTransformer
from openseg_jax.ops import attention
from openseg_jax.text.tokenizer import word_tokenizer
from openseg_jax.weights.loaded import LoadedClip
from openseg_jax.weights.report import Report


def random_clip(config: CLIPConfig, seed: int) -> LoadedClip:
    """Draws the image tower of a CLIP; texts are drawn as embeddings."""
    tower = VisionTransformer(config.vision, config.embed_dim)
    size = config.vision.image_size
    visual = jax.jit(tower.init)(jax.random.key(seed), jnp.zeros((1, size, size, 3)))["params"]
    params = {"visual": visual, "logit_scale": np.float32(np.log(100.0))}
    return LoadedClip(
        config, params, Preprocess(size), word_tokenizer(["a"], 77), {}, {}, Report("random")
    )


def picture(height: int, width: int) -> np.ndarray:
    """Makes smooth colour fields with a little noise, UInt8[H W 3]."""
    rng = np.random.default_rng(0)
    image = scipy.ndimage.gaussian_filter(rng.normal(size=(height, width, 3)), (12, 12, 0))
    image = (image - image.min()) / np.ptp(image) * 255 + rng.normal(size=image.shape) * 3
    return np.clip(image, 0, 255).astype(np.uint8)


def texts(cam: LoadedClip, classifier: LoadedClip, count: int, templates: int) -> CarText:
    """Draws embeddings of `count` texts and 23 backgrounds."""
    rng = np.random.default_rng(1)
    return from_embeddings(
        rng.normal(size=(count, cam.config.embed_dim)),
        rng.normal(size=(templates, count, classifier.config.embed_dim)),
        background=rng.normal(size=(23, cam.config.embed_dim)),
    )


@contextlib.contextmanager
def unrolled() -> Iterator[None]:
    """Makes scans Python loops and attention one batch, so that nothing hides from the count."""

    def scan(f: Any, init: Any, xs: Any = None, length: int | None = None, **_: Any) -> Any:
        count = jax.tree.leaves(xs)[0].shape[0] if length is None else length
        outs = []
        for i in range(count):
            init, out = f(init, jax.tree.map(lambda x, i=i: x[i], xs))
            outs.append(out)
        return init, jax.tree.map(lambda *y: jnp.stack(y), *outs)

    with (
        mock.patch.object(jax.lax, "scan", scan),
        mock.patch.object(attention, "choose_backend", lambda *_: "xla"),
    ):
        yield


def flops(f: Callable[..., Any], *args: Any) -> float:
    """Returns the compiler's count for one call."""
    with unrolled():
        compiled = jax.jit(f).lower(*args).compile()
    cost = compiled.cost_analysis()
    return float((cost[0] if isinstance(cost, list) else cost)["flops"])


def clock(f: Callable[[], Any]) -> tuple[float, float]:
    """Returns CPU and wall seconds of one call; the caller has warmed it up."""
    cpu, wall = time.process_time(), time.perf_counter()
    jax.block_until_ready(f())
    return time.process_time() - cpu, time.perf_counter() - wall


def count_stages(
    car: CaR, stepper: Stepper, image: np.ndarray, text: CarText, rows: list[int]
) -> dict[str, float]:
    """Counts FLOPs by stage for steps with `rows` texts each."""
    stepper = dataclasses.replace(
        stepper, proposer=dataclasses.replace(stepper.proposer, by_head=False)
    )
    proposer, params = stepper.proposer, car.params
    geometry = car_geometry.exact(proposer.plan)
    visual = params["cam"]["visual"]
    scene_flops = flops(lambda p, i: stepper.scene(p, i, geometry, joint=False), params, image)
    scene = jax.eval_shape(lambda p, i: stepper.scene(p, i, geometry, joint=False), params, image)

    def zeros(x: Any) -> Any:
        return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), x)

    scene = zeros(scene)
    encoded = scene.encoded

    def pull(k: int) -> float:
        one = dataclasses.replace(proposer, text_chunk=k)
        c = np.zeros((k, car.cam.config.embed_dim), np.float32)
        with mock.patch.object(jax.lax, "fori_loop", lambda a, b, f, x: f(jnp.int32(0), x)):
            return flops(lambda p, e, c: one.pull_back(p, e, c, k), visual, encoded, c)

    def classify(p: Any, scene: Any, maps: Any) -> Any:
        images, _ = stepper.prompted(scene, maps, np.float32(0.5))
        pixels = stepper.classifier_pixels(scene.geometry, images)
        return stepper.classifier.embed(p["classifier"]["visual"], pixels)

    height, width = proposer.plan.grid
    image_flops = flops(classify, params, scene, np.zeros((1, height, width), np.float32))
    # The pullback is affine in the number of texts: one forward pass, then so much a text.
    few, many = pull(1), pull(3)
    each = (many - few) / 2
    images = sum(-(-r // stepper.image_chunk) * stepper.image_chunk for r in rows)
    pulled = sum(-(-r // proposer.text_chunk) * proposer.text_chunk for r in rows)
    size = height * width
    return {
        "encode image, affinity (once)": scene_flops,
        "Grad-CAM pullbacks": len(rows) * (few - each) + pulled * each,
        "refine maps": sum(2 * 2.0 * size * size * r for r in rows),
        "classifier images": images * image_flops,
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), metavar=("H", "W"))
    parser.add_argument("--texts", type=int, default=20)
    parser.add_argument("--survivors", type=int, default=3)
    parser.add_argument("--cam", default="ViT-B-16")
    parser.add_argument("--classifier", default="ViT-L-14")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--parity", choices=["reference"], default=None)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--image-chunk", type=int, default=0)
    parser.add_argument("--text-chunk", type=int, default=0)
    parser.add_argument("--no-flops", action="store_true")
    args = parser.parse_args()
    cam, classifier = random_clip(variant(args.cam), 0), random_clip(variant(args.classifier), 1)
    settings = {"image_chunk": args.image_chunk, "text_chunk": args.text_chunk}
    config = configure(parity=args.parity, clipes_threshold=0.4, mask_threshold=0.4, **settings)
    car = CaR(cam, classifier, config, dtype=args.dtype)
    image, text = picture(*args.size), texts(cam, classifier, args.texts, 15)
    stepper = car.stepper(image.shape[:2], padded=False)
    geometry = car_geometry.exact(stepper.proposer.plan)

    def scene() -> Any:
        return car_module._scene(stepper, car.params, image, geometry, joint=False)

    def step(rows: np.ndarray, count: int, first: bool) -> Any:
        return car_module._step(
            stepper, car.params, made, padded, rows, np.int32(count), np.bool_(first),
            knobs(config), debug=False,
        )  # fmt: skip

    made, padded = scene(), bucketed(text)
    everything = np.arange(bucket(args.texts, padded.count), dtype=np.int32)
    everything[args.texts :] = 0
    rows = everything[: bucket(args.survivors, padded.count)]
    for some in (everything, rows):  # Compiles without doing the work: no row counts.
        jax.block_until_ready(step(some, 0, True))
    timed = {"encode image, affinity (once)": clock(scene)}
    timed[f"step 1, {args.texts} texts"] = clock(lambda: step(everything, args.texts, True))
    own = np.sort(np.asarray(step(everything, args.texts, True)[1])[: args.texts])[::-1]
    theta = float(own[args.survivors - 1] + own[args.survivors]) / 2
    car = CaR(
        cam, classifier, dataclasses.replace(config, confidence_threshold=theta), dtype=args.dtype
    )
    timed[f"step 2, {args.survivors} texts"] = clock(lambda: step(rows, args.survivors, False))
    full = np.random.default_rng(0).random((args.survivors, *args.size), np.float32)
    alive = np.ones(args.survivors, bool)
    masks_of_maps(image, full, alive, config)
    timed["dense CRF"] = clock(lambda: masks_of_maps(image, full, alive, config))
    found = car.predict(image, text)
    seen = [args.texts] + [args.survivors] * (found.steps - 1)
    totals = [clock(lambda: car.predict(image, text).masks) for _ in range(args.repeats)]
    memory = Path("/proc/cpuinfo")
    names = memory.read_text().split("model name")[1:2] if memory.exists() else []
    machine = names[0].split(":")[1].split("\n")[0].strip() if names else platform.processor()
    print(f"machine: {machine}, {os.cpu_count()} cores; device: {jax.devices()[0].device_kind}")
    print(f"python {platform.python_version()}, jax {jax.__version__}, numpy {np.__version__}")
    print(f"load at the end: {os.getloadavg()[0]:.1f}; {args.dtype}, parity {args.parity}")
    print(f"texts alive by step: {seen}; {args.cam} + {args.classifier}, {args.size}")
    print("\n| stage | CPU s | wall s |\n|---|---|---|")
    for name, (cpu, wall) in timed.items():
        print(f"| {name} | {cpu:.2f} | {wall:.2f} |")
    for cpu, wall in totals:
        print(f"| **one image, whole** | {cpu:.2f} | {wall:.2f} |")
    if not args.no_flops:
        counted = count_stages(car, stepper, image, text, seen)
        print("\n| stage | GFLOP |\n|---|---|")
        for name, value in counted.items():
            print(f"| {name} | {value / 1e9:.1f} |")
        print(f"| **sum** | {sum(counted.values()) / 1e9:.1f} |")


if __name__ == "__main__":
    main()
