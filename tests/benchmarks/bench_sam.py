"""Times Segment Anything at full size, random weights: `python -m tests.benchmarks.bench_sam`.

One picture of the canvas's size through the image encoder, one chunk of points through the decoder,
and masks brought to 480×640. Prints FLOPs of the compiled program (loops counted as often as they
run), the memory that it needs beside its arguments, and CPU (all threads) and wall seconds of one
call after the first. On an accelerator read the wall time.
"""

from __future__ import annotations

import argparse
import os
import resource

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.methods.sam_masks import SamMasks, SamMasksConfig
from openseg_jax.models.sam import mask_matrices
from openseg_jax.plan.cost import cost_of
from openseg_jax.plan.hlo import parse
from openseg_jax.weights.report import Report
from openseg_jax.weights.sam import LoadedSam
from tests.benchmarks.bench_crf import clock
from tests.weights.sam_side import drawn
from tests.weights.test_sam import PUBLISHED, full_size

MASKS = 48


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=PUBLISHED, default="SAM-B")
    parser.add_argument("--points", type=int, default=16, help="decoded at once")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    config, rng = full_size(args.model), np.random.default_rng(0)
    loaded = LoadedSam(config, drawn(config), {}, Report(file=args.model))
    settings = SamMasksConfig(points_per_batch=args.points, dtype=args.dtype)
    sam, side = SamMasks(loaded, settings), config.image_size
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{args.model}  {jax.devices()[0].device_kind}  jax {jax.__version__}  load {load}")
    print(f"{'part':<22}{'GFLOP':>9}{'MiB':>7}{'first s':>9}{'CPU s':>9}{'wall s':>9}")
    canvas = rng.integers(0, 256, (side, side, 3), np.uint8)
    points = rng.uniform(0, side, (args.points, 2)).astype(np.float32)
    grid = config.encoder.grid
    embedding = jnp.asarray(rng.normal(size=(grid, grid, config.decoder.width)), jnp.float32)
    low = jnp.asarray(rng.normal(size=(MASKS, config.mask_size, config.mask_size)), jnp.float32)
    chosen, offset = np.arange(MASKS, dtype=np.int32), np.float32(1)
    given = {
        "encode": (sam._encode, (sam.sam.params, canvas, np.array([side, side], np.int32))),
        f"decode {args.points} points": (
            sam._decode, (sam.sam.params, embedding.astype(args.dtype), points),
        ),
        f"measure {MASKS} masks": (
            sam._measure, (low, chosen, *mask_matrices((480, 640), config), offset),
        ),
    }  # fmt: skip
    for name, (function, inputs) in given.items():
        run = function.lower(*inputs).compile()
        flops = cost_of(parse(run.as_text())).flops / 1e9
        room = run.memory_analysis().temp_size_in_bytes >> 20
        first, cpu, wall = clock(lambda run=run, inputs=inputs: run(*inputs), args.repeats)
        print(f"{name:<22}{flops:9.1f}{room:7}{first:9.2f}{cpu:9.2f}{wall:9.2f}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    count = sum(x.size for x in jax.tree.leaves(loaded.params))
    print(f"{count:,} parameters; peak of the process {peak:,.0f} MiB")


if __name__ == "__main__":
    main()
