"""Times contrastive steps beside torch: `python -m tests.benchmarks.bench_clip_step`.

On one GPU (or TPU): a whole update of ViT-B/16 and ViT-L/14, bfloat16 compute with float32
parameters and AdamW, on random pictures and captions that lie on the device. Torch's side is
`transformers`' CLIPModel with SDPA, `torch.compile`, bfloat16 autocast and fused AdamW; nothing is
recomputed in the backward pass on either side unless the row says "remat".

Every row is a process of its own, so that peaks of memory are its own. "share" is the step's
products (counted once, of the step without remat) over the time, against the rate of large
bfloat16 matrix products that was measured first on the same card. Batches are doubled from
`--batch` to the largest that fits; rows of one batch compare throughput, the last ones memory.

`--set KEY=VALUE` changes our config, `--set scan=False` say.

`--tiny` runs all of it on toy towers on whatever is there, a CPU too, to show that it works: its
numbers mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

MODELS = ("ViT-B-16", "ViT-L-14")
SIDES = ("ours", "ours, remat", "torch", "torch, remat")
CONTEXT = 77
REPEAT = 8  # matrix products in a row


def towers(name: str, tiny: bool) -> Any:
    """Returns the architecture."""
    from openseg_jax.models.variants import CLIPConfig, TextConfig, VisionConfig, variant

    if not tiny:
        return variant(name)
    vision = VisionConfig(32, 8, 64, 2, 2, 128, "quick_gelu")
    return CLIPConfig("tiny", 32, vision, TextConfig(CONTEXT, 49408, 64, 2, 2, 128, "quick_gelu"))


def timed(step: Callable[[], None], wait: Callable[[], Any], count: int) -> float:
    """Returns seconds a step, after two to warm up."""
    for _ in range(2):
        step()
    wait()
    start = time.perf_counter()
    for _ in range(count):
        step()
    wait()
    return (time.perf_counter() - start) / count


def matmul_rate(tiny: bool) -> dict[str, float]:
    """Measures large bfloat16 products, FLOP/s: the best of three sizes."""
    import jax
    import jax.numpy as jnp

    best = 0.0
    for size in (128,) if tiny else (4096, 8192, 16384):
        a = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)

        @jax.jit
        def chain(a: Any, b: Any) -> Any:
            # Scaled, so that numbers neither grow nor vanish; each product needs the one before.
            body = lambda _, x: (a @ x) * (a.shape[0] ** -0.5)  # noqa: E731
            return jax.lax.fori_loop(0, REPEAT, body, b)

        found = {"x": a}

        def step(a: Any = a, chain: Any = chain, found: Any = found) -> None:
            found["x"] = chain(a, found["x"])

        seconds = timed(step, lambda found=found: jax.block_until_ready(found["x"]), 3)
        best = max(best, 2.0 * size**3 * REPEAT / seconds)
    return {"flops": best}


def ours(name: str, batch: int, remat: bool, args: argparse.Namespace) -> dict[str, float]:
    """Times our update: the program that `openseg train` runs."""
    import jax
    import numpy as np
    from ml_collections import ConfigDict
    from openseg_jax.configs.base import get_config

    from openseg_jax.cli.train import override
    from openseg_jax.inputs.pipeline import batch_spec
    from openseg_jax.train import setup
    from openseg_jax.train.flops import count_flops
    from openseg_jax.train.program import make_program
    from openseg_jax.train.sharding import make_mesh, put_batch

    config: Any = get_config()
    config.model = ConfigDict(towers(name, args.tiny).to_dict())
    config.batch_size, config.dtype = batch, "bfloat16"
    config.input.name = "synthetic"
    config.task.loss_block = -1
    config.remat = "full" if remat else "none"
    config = override(config, args.set)
    mesh = make_mesh(devices=jax.devices()[:1])
    built = setup.build(config, mesh)
    key = jax.random.key(0)
    params, frozen = built.task.init(key, batch_spec(built.source, batch))
    program = make_program(config, built.task, mesh, params)
    examples = [built.source[i] for i in range(batch)]
    names = [n for n in ("image", "ids", "caption") if n in examples[0]]
    rows = put_batch({n: np.stack([e[n] for e in examples]) for n in names}, mesh, batch)
    held: dict[str, Any] = {"state": program.start(params)}
    del params

    def step() -> None:
        held["state"], held["metrics"] = program.step(held["state"], frozen, rows, key)

    seconds = timed(step, lambda: jax.block_until_ready(held), args.steps)
    assert np.isfinite(float(held["metrics"]["loss"][0]))
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "seconds": seconds,
        "flops": count_flops(program.step.trace(held["state"], frozen, rows, key).jaxpr),
        "peak": stats.get("peak_bytes_in_use", 0) / 2**30,
    }


def torch_side(name: str, batch: int, remat: bool, args: argparse.Namespace) -> dict[str, float]:
    """Times the update of `transformers`' CLIPModel, compiled, with SDPA."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    config = towers(name, args.tiny)
    sides = {}
    for side in ("vision", "text"):
        own = getattr(config, side)
        sides[f"{side}_config"] = {
            "hidden_size": own.width, "num_hidden_layers": own.depth,
            "num_attention_heads": own.heads, "intermediate_size": own.mlp_width,
            "hidden_act": "quick_gelu", "projection_dim": config.embed_dim,
        }  # fmt: skip
    sides["vision_config"] |= {
        "image_size": config.vision.image_size, "patch_size": config.vision.patch_size
    }  # fmt: skip
    vocabulary = config.text.vocab_size
    sides["text_config"] |= {
        "vocab_size": vocabulary, "max_position_embeddings": CONTEXT,
        "eos_token_id": vocabulary - 1, "bos_token_id": vocabulary - 2, "pad_token_id": 0,
    }  # fmt: skip
    whole = CLIPConfig(projection_dim=config.embed_dim, **sides)
    whole._attn_implementation = "sdpa"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    model = CLIPModel(whole).to(device).train()
    if remat:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=device == "cuda")
    size = config.vision.image_size
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
    ids = torch.randint(1, vocabulary - 2, (batch, CONTEXT), device=device)
    ids[:, -1] = vocabulary - 1
    labels = torch.arange(batch, device=device)

    def loss_of(images: Any, ids: Any) -> Any:
        # Grey levels become numbers on the device, as on our side.
        pixels = images.float() / 127.5 - 1.0
        logits = model(input_ids=ids, pixel_values=pixels).logits_per_image.float()
        cross = torch.nn.functional.cross_entropy
        return 0.5 * (cross(logits, labels) + cross(logits.T, labels))

    # On a CPU the toy proves that the script works; its compiler need not be there for that.
    run = torch.compile(loss_of) if device == "cuda" else loss_of
    held: dict[str, Any] = {}

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            loss = run(images, ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        held["loss"] = loss

    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    seconds = timed(step, wait, args.steps)
    assert torch.isfinite(held["loss"])
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return {"seconds": seconds, "peak": peak}


def one(what: str, name: str, batch: int, args: argparse.Namespace) -> dict[str, float] | None:
    """Measures in a process of its own; None where memory does not suffice."""
    words = ["--one", what, name, str(batch), "--steps", str(args.steps)]
    words += ["--tiny"] * args.tiny + [x for one in args.set for x in ("--set", one)]
    command = [sys.executable, "-m", "tests.benchmarks.bench_clip_step", *words]
    # JAX takes three quarters of a card by default; torch takes what it can get.
    env = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95", **os.environ}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode == 0:
        return json.loads(done.stdout.strip().splitlines()[-1])
    told = done.stderr + done.stdout
    if "RESOURCE_EXHAUSTED" in told or "out of memory" in told.lower():
        return None
    raise SystemExit(f"{what} {name} {batch}: failed\n{told[-3000:]}")


def inside(what: str, name: str, batch: int, args: argparse.Namespace) -> dict[str, float]:
    """Runs what `one` asked for."""
    if what == "matmul":
        return matmul_rate(args.tiny)
    measure = ours if what.startswith("ours") else torch_side
    return measure(name, batch, what.endswith("remat"), args)


def table(name: str, start: int, args: argparse.Namespace, rate: float, sides: list[str]) -> None:
    """Doubles the batch of each side until it does not fit, and prints a row for each."""
    print(f"\n{name}\n{'':<14}{'batch':>8}{'step ms':>10}{'examples/s':>12}{'share':>8}{'GiB':>8}")
    # A step's products are the same on both sides; recomputed ones are nobody's merit.
    each: float | None = None
    largest, speed = {}, {}
    for side in sides:
        batch = start
        while batch <= args.most:
            found = one(side, name, batch, args)
            if found is None:
                print(f"{side:<14}{batch:>8}  does not fit")
                break
            if each is None and side == "ours":
                each = found["flops"] / batch
            share = (each or 0.0) * batch / found["seconds"] / rate
            largest[side], speed[side, batch] = batch, batch / found["seconds"]
            print(
                f"{side:<14}{batch:>8}{found['seconds'] * 1e3:>10.1f}"
                f"{batch / found['seconds']:>12.0f}{share:>8.1%}{found['peak']:>8.1f}",
                flush=True,
            )
            batch *= 2
    common = [b for s, b in speed if s == "ours" and ("torch", b) in speed]
    if common:
        ratio = speed["ours", common[-1]] / speed["torch", common[-1]]
        print(f"ours over torch at batch {common[-1]}: {ratio:.2f} × the throughput")
    if "ours, remat" in largest and "torch" in largest:
        ratio = largest["ours, remat"] / largest["torch"]
        print(f"largest batch, ours with remat over torch without: {ratio:.1f} ×")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--batch", type=int, default=256, help="first batch; it is doubled")
    parser.add_argument("--most", type=int, default=16_384, help="largest batch that is tried")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tiny", action="store_true", help="toy towers, to try the script")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        what, name, batch = args.one
        print(json.dumps(inside(what, name, int(batch), args)))
        return
    if args.tiny:
        args.batch, args.most, args.steps, args.models = 4, 4, 2, ["ViT-B-16"]
    found = one("matmul", "-", 0, args)
    assert found is not None
    rate = found["flops"]
    print(f"bfloat16 matrix products on this device: {rate / 1e12:.4g} TFLOP/s")
    sides = list(SIDES)
    if not all(importlib.util.find_spec(need) for need in ("torch", "transformers")):
        print("no torch with transformers here: pip install 'openseg_jax[parity]'; ours alone")
        sides = [side for side in sides if side.startswith("ours")]
    for name in args.models:
        table(name, args.batch, args, rate, sides)


if __name__ == "__main__":
    main()
