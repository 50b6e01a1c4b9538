"""Times the dense CRF on both backends: `python -m tests.benchmarks.bench_crf`.

Prints CPU seconds (all threads) and wall seconds a call, the first call apart: it builds the
spatial lattice on the host, and compiles on the device. On an accelerator read the wall time.
pydensecrf on an AMD EPYC with AVX2 takes 0.78 CPU-s for 4 labels and 1.56 for 21 at 375x500.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from PIL import Image

from openseg_jax.ops.crf import CRFConfig, dense_crf


def picture(kind: str, height: int, width: int) -> np.ndarray:
    """Makes a test image: a photograph, smooth colour fields, or those with noise."""
    if kind == "photo":
        from skimage import data

        return np.asarray(Image.fromarray(data.coffee()).resize((width, height)))
    rng = np.random.default_rng(0)
    image = scipy.ndimage.gaussian_filter(rng.normal(size=(height, width, 3)), (12, 12, 0))
    image = (image - image.min()) / np.ptp(image) * 255
    if kind == "noisy":
        image += rng.normal(size=image.shape) * 6
    return np.clip(image, 0, 255).astype(np.uint8)


def probabilities(labels: int, height: int, width: int) -> np.ndarray:
    """Makes smooth random probabilities float32[labels H W]."""
    noise = np.random.default_rng(1).random((labels, height, width))
    maps = np.exp(20 * scipy.ndimage.gaussian_filter(noise, (0, 10, 10)))
    return (maps / maps.sum(0)).astype(np.float32)


def clock(call: Callable[[], Any], repeats: int) -> tuple[float, float, float]:
    """Returns wall seconds of the first call, then CPU and wall seconds of a later one."""
    wall = time.perf_counter()
    jax.block_until_ready(call())
    first = time.perf_counter() - wall
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        jax.block_until_ready(call())
    return first, (time.process_time() - cpu) / repeats, (time.perf_counter() - wall) / repeats


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), metavar=("H", "W"))
    parser.add_argument("--labels", type=int, nargs="+", default=[4, 21])
    parser.add_argument("--images", nargs="+", default=["photo", "smooth", "noisy"])
    parser.add_argument("--backends", nargs="+", default=["host", "device"])
    parser.add_argument("--capacity", type=float, help="room for vertices, in units of pixels")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    height, width = args.size
    capacity = None if args.capacity is None else int(args.capacity * height * width)
    device = jax.devices()[0]
    print(f"{height}x{width}  {platform.processor()}  {device.device_kind}  jax {jax.__version__}")
    print(f"{'image':<8}{'labels':>7}  {'backend':<8}{'first s':>9}{'CPU s':>9}{'wall s':>9}")
    for kind in args.images:
        image = picture(kind, height, width)
        for labels in args.labels:
            probs = probabilities(labels, height, width)
            for backend in args.backends:
                given = (image, probs)
                if backend == "device":
                    given = tuple(jnp.asarray(a) for a in given)
                times = clock(
                    lambda given=given, backend=backend: dense_crf(
                        *given,
                        config=CRFConfig(wrap_u8=True),
                        backend=backend,
                        capacity=capacity if backend == "device" else None,
                    ),
                    args.repeats,
                )
                first, cpu, wall = times
                print(f"{kind:<8}{labels:>7}  {backend:<8}{first:9.3f}{cpu:9.3f}{wall:9.3f}")


if __name__ == "__main__":
    main()
