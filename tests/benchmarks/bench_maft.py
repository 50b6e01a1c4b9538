"""Times MAFT's encoder against plain CLIP: `python -m tests.benchmarks.bench_maft`.

ViT-B/16 with random weights at 480², one image: the mask-aware encoder with 100 and with 1,000
proposals, and the unchanged tower. They are run in turn, so that what else the machine does falls
on all of them. The published dense form costs 1.5 times plain CLIP for 100 proposals; `--dense`
times it too. Targets: 1.10 for 100 proposals, 1.6 for 1,000.

CPU seconds are those of all threads; wall seconds mean little on a machine that does other work.
FLOPs are the compiler's own count, with loops unrolled and attention in one batch. Temporary
memory is the compiler's for the program as it is run. `--dtype bfloat16 --batch …` is for GPUs:
the share of the card's own rate for a large matrix product is printed with it.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.models import ip_clip
from openseg_jax.models.layers import run_stack
from openseg_jax.models.variants import variant
from openseg_jax.models.vit import VisionTransformer
from tests.benchmarks.bench_car import clock

SIDE = 480
TARGETS = {100: 1.10, 1000: 1.6}


def dense(visual: VisionTransformer, image: Any, masks: Any, *, start: int) -> Any:
    """Encodes masks as published: one attention over N + L tokens with a block mask."""
    tokens = ip_clip.split_trunk(visual, image, start=start)
    n, length = masks.shape[1], tokens.shape[1] - 1
    x = jnp.concatenate([jnp.repeat(tokens[:, :1], n, axis=1), tokens[:, 1:]], axis=1)
    among = jnp.broadcast_to(jnp.eye(n, dtype=bool), (len(x), n, n))
    top = jnp.concatenate([among, masks], axis=2)
    rest = jnp.concatenate([jnp.zeros((length, n), bool), jnp.ones((length, length), bool)], 1)
    mask = jnp.concatenate([top, jnp.broadcast_to(rest, (len(x), *rest.shape))], axis=1)
    x = run_stack(visual.block(), visual.blocks, x, start=start, mask=mask[:, None])
    return visual.project(visual.post(x[:, :n]))


def programs(
    config: Any, counts: list[int], with_dense: bool, **switches: Any
) -> dict[str, Callable[..., Any]]:
    """Builds the functions of (params, image, masks) that are compared, plain CLIP first."""
    # Plain CLIP as everybody calls it; the masked forms as the method calls them.
    plain = VisionTransformer(config.vision, config.embed_dim, **switches)
    tower = VisionTransformer(config.vision, config.embed_dim, **{"scan": "index", **switches})
    start = ip_clip.default_start(config.vision.depth)

    def apply(method: Any) -> Callable[..., Any]:
        return lambda params, image, masks: tower.apply(
            {"params": params}, image, masks, method=method
        )

    made: dict[str, Callable[..., Any]] = {
        "plain CLIP": lambda params, image, masks: plain.apply({"params": params}, image)
    }
    forms = {"masked": ip_clip.ip_encode} | ({"dense, masked": dense} if with_dense else {})
    for name, form in forms.items():
        for count in counts:
            made[f"{name}, {count} proposals"] = apply(
                lambda visual, image, masks, n=count, form=form: form(
                    visual, image, masks[:, :n], start=start
                )
            )
    return made


def counted(make: Callable[..., dict[str, Any]], args: tuple[Any, ...]) -> dict[str, float]:
    """Returns the compiler's FLOPs of each program, loops unrolled and attention in one batch."""
    found = {}
    for name, f in make(scan=False, backend="xla").items():
        cost: Any = jax.jit(f).lower(*args).compile().cost_analysis()
        found[name] = float((cost[0] if isinstance(cost, list) else cost)["flops"])
    return found


def matmul_rate(dtype: Any, side: int = 8192, repeats: int = 20) -> float:
    """Measures the device's rate for one large matrix product, FLOP/s."""
    x = jnp.ones((side, side), dtype)

    @jax.jit
    def chain(x: Any) -> Any:
        return jax.lax.fori_loop(0, repeats, lambda i, y: (y @ x) * 1e-4, x)

    jax.block_until_ready(chain(x))
    return repeats * 2.0 * side**3 / min(clock(lambda: chain(x))[1] for _ in range(3))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--proposals", type=int, nargs="+", default=sorted(TARGETS))
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dense", action="store_true", help="time the published form too")
    parser.add_argument("--no-flops", action="store_true")
    args = parser.parse_args()
    config, dtype = variant(args.model), jnp.dtype(args.dtype)
    tower = VisionTransformer(config.vision, config.embed_dim)
    native = config.vision.image_size
    params = jax.jit(tower.init)(jax.random.key(0), jnp.zeros((1, native, native, 3)))["params"]
    if args.dtype != "float32":
        params = jax.tree.map(lambda x: x.astype(dtype), params)
    patches = (SIDE // config.vision.patch_size) ** 2
    device = jax.devices()[0]
    print(f"{args.model}, {SIDE}², {args.dtype}, {device.device_kind}, {platform.processor()} "
          f"{os.cpu_count()} cores, JAX {jax.__version__}")  # fmt: skip
    rate = matmul_rate(dtype) if device.platform != "cpu" else None
    if rate:
        print(f"one 8192² product: {rate / 1e12:.0f} TFLOP/s")

    def make(**switches: Any) -> dict[str, Callable[..., Any]]:
        return programs(config, args.proposals, args.dense, dtype=dtype, **switches)

    print(f"{'batch':>5}  {'program':28}  {'CPU s':>8}  {'wall s':>8}  {'ratio':>13}  "
          f"{'GFLOP':>8}  {'temp MiB':>8}")  # fmt: skip
    for batch in args.batch:
        rng = np.random.default_rng(0)
        image = jnp.asarray(rng.normal(size=(batch, SIDE, SIDE, 3)), dtype)
        masks = jnp.asarray(rng.random((batch, max(args.proposals), patches)) < 0.2)
        work = {} if args.no_flops else counted(make, (params, image, masks))
        compiled = {n: jax.jit(f).lower(params, image, masks).compile() for n, f in make().items()}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in compiled}
        for turn in range(args.repeats + 1):
            for name, f in compiled.items():
                took = clock(functools.partial(f, params, image, masks))
                if turn:
                    times[name].append(took)
        base = [statistics.median(x) for x in zip(*times["plain CLIP"], strict=True)]
        for name, took in times.items():
            cpu, wall = (statistics.median(x) for x in zip(*took, strict=True))
            memory: Any = compiled[name].memory_analysis()
            temp = memory.temp_size_in_bytes / 2**20 if memory else float("nan")
            flop = work.get(name, float("nan"))
            share = f"  {flop / wall / rate:.0%} of the product's rate" if rate else ""
            ratio = f"{cpu / base[0]:6.3f} {wall / base[1]:6.3f}"
            print(
                f"{batch:5}  {name:28}  {cpu:8.3f}  {wall:8.3f}  {ratio}  {flop / 1e9:8.1f}  "
                f"{temp:8.0f}{share}"
            )


if __name__ == "__main__":
    main()
