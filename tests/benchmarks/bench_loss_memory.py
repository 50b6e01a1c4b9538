"""Memory and time of contrastive losses: `python -m tests.benchmarks.bench_loss_memory`.

Value and gradients (images, texts, scale, bias) of a global batch on 8 devices that the CPU
pretends to be, in three forms that give the same numbers:

| form | |
|---|---|
| jit | the plain loss; the compiler alone decides what is exchanged |
| all-gather | `shard_map`: every device gathers all texts and makes its rows of the logits |
| ring | `ops.ring_softmax` and `ops.ring_sigmoid`, tiles of 1024 × 1024 |

Memory is the compiler's count of temporary bytes a device at `--batch`, and what a device sends is
counted in the compiled program, loops as often as they run. Target: the ring's memory is at most
0.25 of all-gather's. `--topology v5e:16x16` compiles for a TPU that is not here, and times nothing
(it needs libtpu, see `openseg plan`).

Time is measured at `--timed`, since the other two forms need the memory
of all 8 devices at once; `--whole` also times the ring at `--batch`. On the fake devices an
exchange is a copy: the times compare arithmetic, not networks.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from openseg_jax.ops.losses import same_caption, sigmoid_contrastive, softmax_contrastive
from openseg_jax.ops.ring import Ring
from openseg_jax.ops.ring_sigmoid import ring_sigmoid
from openseg_jax.ops.ring_softmax import ring_softmax
from openseg_jax.plan.compiled import devices_of
from openseg_jax.plan.cost import cost_of
from openseg_jax.plan.hlo import parse as parse_program
from openseg_jax.plan.topology import parse as parse_machine

AXES = ("data", "fsdp")
TARGET = 0.25
MIB = 2**20


def make_mesh(devices: list[Any]) -> Mesh:
    """Lays devices out in two columns, so that a ring has to go around two axes."""
    shape = (len(devices) // 2, 2)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def plain(name: str) -> Any:
    """Returns the loss of `ops.losses`."""

    def loss(image: Any, text: Any, scale: Any, bias: Any, caption: Any) -> Any:
        positive = same_caption(caption)
        if name == "sigmoid":
            return sigmoid_contrastive(image, text, scale, bias, positive)
        return softmax_contrastive(image, text, scale, positive)

    return loss


def gathered(name: str, mesh: Mesh) -> Any:
    """Returns the loss as open_clip and big_vision compute it: all texts on each device.

    Softmax gathers the images too, for the rows of the other direction.
    """

    def rows(own: Any, others: Any, scale: Any, caption: Any, captions: Any) -> Any:
        logits = jnp.dot(own, others.T, preferred_element_type=jnp.float32) * scale
        target = (caption[:, None] == captions[None, :]).astype(jnp.float32)
        target = target / target.sum(axis=1, keepdims=True)
        return -(target * jax.nn.log_softmax(logits, axis=1)).sum()

    def part(image: Any, text: Any, scale: Any, bias: Any, caption: Any) -> Any:
        texts, captions = (jax.lax.all_gather(x, AXES, tiled=True) for x in (text, caption))
        if name == "sigmoid":
            logits = jnp.dot(image, texts.T, preferred_element_type=jnp.float32) * scale + bias
            sign = jnp.where(caption[:, None] == captions[None, :], 1.0, -1.0)
            return jax.lax.psum(-jax.nn.log_sigmoid(sign * logits).sum(), AXES) / len(captions)
        images = jax.lax.all_gather(image, AXES, tiled=True)
        both = rows(image, texts, scale, caption, captions)
        both = both + rows(text, images, scale, caption, captions)
        return jax.lax.psum(both, AXES) / (2 * len(captions))

    one, split = PartitionSpec(), PartitionSpec(AXES)
    return jax.shard_map(
        part, mesh=mesh, in_specs=(split, split, one, one, split), out_specs=one, check_vma=False
    )


def ring(name: str, mesh: Mesh, block: int) -> Any:
    """Returns the loss of this library for large batches."""
    how = Ring(mesh, AXES, block)

    def loss(image: Any, text: Any, scale: Any, bias: Any, caption: Any) -> Any:
        if name == "sigmoid":
            return ring_sigmoid(image, text, scale, bias, caption, how)[0]
        return ring_softmax(image, text, scale, caption, how)[0]

    return loss


def forms(name: str, mesh: Mesh, block: int) -> dict[str, Any]:
    """Returns value and gradients of each form, jitted, with rows on all devices."""
    split, one = NamedSharding(mesh, PartitionSpec(AXES)), NamedSharding(mesh, PartitionSpec())
    places = (split, split, one, one, split)
    losses = {"jit": plain(name), "all-gather": gathered(name, mesh)}
    losses["ring"] = ring(name, mesh, block)
    return {
        form: jax.jit(
            jax.value_and_grad(loss, argnums=(0, 1, 2, 3)),
            in_shardings=places,
            out_shardings=(one, places[:4]),
        )
        for form, loss in losses.items()
    }


def shapes(batch: int, width: int) -> tuple[Any, ...]:
    """Describes the arguments of a loss."""
    struct = jax.ShapeDtypeStruct
    rows, one = struct((batch, width), jnp.float32), struct((), jnp.float32)
    return rows, rows, one, one, struct((batch,), jnp.int32)


def examples(batch: int, width: int) -> tuple[Any, ...]:
    """Draws unit vectors; one caption in eight or so has a twin."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, batch, width)).astype(np.float32)
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    caption = rng.integers(0, 8 * batch, batch).astype(np.int32)
    return x[0], x[1], np.float32(10.0), np.float32(-10.0), caption


def compiled(function: Any, batch: int, width: int) -> tuple[int, float]:
    """Compiles; returns the temporary bytes of a device, and the bytes that it sends."""
    done = function.lower(*shapes(batch, width)).compile()
    sent = cost_of(parse_program(done.as_text())).sent()
    return done.memory_analysis().temp_size_in_bytes, sum(sent.values())


def seconds(function: Any, batch: int, width: int, repeats: int) -> tuple[float, float, float]:
    """Measures some runs; returns the least wall and CPU seconds, and the loss."""
    args = examples(batch, width)
    run = function.lower(*args).compile()
    args, spent = jax.device_put(args, run.input_shardings[0]), []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        value, _ = jax.block_until_ready(run(*args))
        spent.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall, cpu = (min(times) for times in zip(*spent, strict=True))
    return wall, cpu, float(value)


def measure(args: argparse.Namespace, mesh: Mesh) -> list[str]:
    """Prints the table's rows; returns what is to be said below it."""
    below = []
    for name in ("softmax", "sigmoid"):
        made, memory = forms(name, mesh, args.block), {}
        for form, function in made.items():
            memory[form], sent = compiled(function, args.batch, args.width)
            row = [name, form, f"{memory[form] / MIB:.1f}", f"{sent / MIB:.1f}"]
            if not args.topology:
                wall, cpu, value = seconds(function, args.timed, args.width, args.repeats)
                row += [f"{wall:.2f}", f"{cpu:.2f}", f"{value:.6f}"]
            print(f"| {' | '.join(row)} |", flush=True)
        share = memory["ring"] / memory["all-gather"]
        verdict = "met" if share <= TARGET else "missed"
        below.append(f"{name}: {share:.4f} of all-gather's memory, target {TARGET}, {verdict}")
        if args.whole and not args.topology:
            wall, cpu, value = seconds(made["ring"], args.batch, args.width, 1)
            below.append(
                f"{name}: ring at {args.batch}: {wall:.1f} s, {cpu:.1f} of CPU, loss {value:.6f}"
            )
    return below


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32768)
    parser.add_argument("--timed", type=int, default=4096)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--block", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--whole", action="store_true", help="time the ring at --batch, minutes")
    parser.add_argument("--topology", help="compile for a TPU, e.g. v6e:2x4, v5e:16x16")
    args = parser.parse_args()
    # Before JAX looks at the machine.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    devices = devices_of(parse_machine(args.topology)) if args.topology else jax.devices()
    where = args.topology or f"{platform.machine()}, {os.cpu_count()} cores, 8 fake devices"
    print(
        f"{where}; Python {platform.python_version()}, jax {jax.__version__}; E={args.width}, "
        f"float32, tiles {args.block}²; load {os.getloadavg()[0]:.1f}\n"
    )
    at = f"s at {args.timed}"
    head = ["loss", "form", f"MiB at {args.batch}", "MiB sent"]
    head += [] if args.topology else [at, f"CPU {at}", "loss there"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    print("\n" + "\n".join(measure(args, make_mesh(devices))))


if __name__ == "__main__":
    main()
