"""Times what decides CaR's pixels: `python -m tests.benchmarks.bench_refine`.

From maps at full size to masks by `refine="crf"`, "pamr" and "none", on a photograph, as `predict`
calls it and as one compiled program. Prints CPU seconds (all threads) and wall seconds a call, the
first call apart; on an accelerator read the wall time. The last column is the memory that the
compiled program needs beside its arguments and results.
"""

from __future__ import annotations

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.methods.car_config import configure
from openseg_jax.methods.car_finish import finish
from tests.benchmarks.bench_crf import clock, picture, probabilities


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), metavar=("H", "W"))
    parser.add_argument("--labels", type=int, nargs="+", default=[4, 21], help="with background")
    parser.add_argument("--capacity", type=float, default=1.5, help="of the compiled CRF")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    height, width = args.size
    image = picture("photo", height, width)
    print(f"{height}x{width}  {jax.devices()[0].device_kind}  jax {jax.__version__}")
    print(
        f"{'labels':>6}  {'refine':<6}{'form':<9}{'first s':>9}{'CPU s':>9}{'wall s':>9}{'MiB':>7}"
    )
    for labels in args.labels:
        maps = probabilities(labels, height, width)[1:]
        maps /= maps.max(axis=(1, 2), keepdims=True)
        given = (image, maps, np.ones(labels - 1, np.float32), np.ones(labels - 1, bool))
        for refine in ("crf", "pamr", "none"):
            config = configure(refine=refine, crf_capacity=args.capacity)
            host = functools.partial(finish, config=config)
            traced = jax.jit(functools.partial(host, backend="device"))
            memory = traced.lower(*given).compile().memory_analysis().temp_size_in_bytes
            placed = tuple(jnp.asarray(x) for x in given)
            for form, call, room in (
                ("predict", lambda host=host, given=given: host(*given), ""),
                ("compiled", lambda run=traced, placed=placed: run(*placed), memory >> 20),
            ):
                first, cpu, wall = clock(call, args.repeats)
                times = f"{first:9.3f}{cpu:9.3f}{wall:9.3f}"
                print(f"{labels:>6}  {refine:<7}{form:<9}{times}{room:>7}", flush=True)


if __name__ == "__main__":
    main()
