"""Plans a training: compiles its step for a batch, and searches for the largest that fits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from openseg_jax.errors import UserError, expected
from openseg_jax.ops.platform import planned_for
from openseg_jax.plan.compiled import Measured, bytes_here, measure, mesh_of
from openseg_jax.plan.experiments import experiment
from openseg_jax.plan.topology import Machine
from openseg_jax.train.flops import count_flops
from openseg_jax.train.program import Program, make_program
from openseg_jax.train.sharding import BATCH_AXES, batch_sharding
from openseg_jax.train.state import Config, flat_names

# What programs are traced for. Kernels of NVIDIA cards cannot be compiled for stand-ins.
PLATFORMS = {"tpu": "tpu", "gpu": "stand-in for a GPU"}


@dataclasses.dataclass(frozen=True)
class Planned:
    """A step that was compiled.

    Attributes:
        config: with everything that was set. mesh: its sizes by axis.
        measured: what the compiler said.
        needed: FLOPs of all devices without recomputation or padding: model FLOPs.
        parameters, trained: how many numbers. gradient: bytes of the trained ones' gradients as
            the step exchanges them, in the dtype of the computation.
    """

    config: Config
    mesh: dict[str, int]
    measured: Measured
    needed: float
    parameters: int
    trained: int
    gradient: float

    @property
    def batch(self) -> int:
        """Examples of a step, over all devices."""
        return self.config.batch_size

    @property
    def rows(self) -> int:
        """Examples that one device works on at once."""
        shares = math.prod(self.mesh[axis] for axis in BATCH_AXES)
        return self.config.batch_size // shares // self.config.accumulate


def for_platform(config: Config, machine: Machine) -> Config:
    """Returns the config with the choices that depend on the platform made for the machine.

    For GPUs attention is XLA's: cuDNN's kernel cannot be compiled for the stand-ins.
    """
    config = config.copy_and_resolve_references()
    if config.attention == "auto":
        config.attention = "xla"
    return config


def check_batch(config: Config, shares: int) -> None:
    """Raises UserError for a batch that does not divide among devices and parts."""
    parts = shares * config.accumulate
    if config.batch_size % parts:
        whole = max(parts, round(config.batch_size / parts) * parts)
        raise expected(
            "batch_size",
            f"a multiple of {parts} ({shares} devices with rows of their own × accumulate "
            f"{config.accumulate})",
            str(config.batch_size),
            f"try --batch {whole}",
        )


def _program(config: Config, mesh: Any) -> tuple[Program, Any]:
    made = experiment(config, mesh)
    return make_program(made.config, made.task, mesh, made.params), made


def _model_flops(config: Config, mesh: Any) -> float:
    """Counts the products of a step that keeps everything and cuts nothing into parts."""
    plain = config.copy_and_resolve_references()
    plain.remat, plain.accumulate = "none", 1
    program, made = _program(plain, mesh)
    traced = program.step.trace(program.like, made.frozen, made.batch, _key())
    return count_flops(traced.jaxpr)


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def plan_training(config: Config, machine: Machine, *, exact: bool = False) -> Planned:
    """Compiles the step that `train` would run, and measures it.

    Args:
        config: as `configs/base.py` lists it.
        machine: for which.
        exact: see `compiled.measure`.

    Raises:
        UserError: for a config that cannot be built or placed on the machine.
    """
    config = for_platform(config, machine)
    mesh = mesh_of(machine, config.mesh.to_dict())
    check_batch(config, math.prod(mesh.shape[axis] for axis in BATCH_AXES))
    with planned_for(PLATFORMS[machine.chip.kind], machine.devices):
        program, made = _program(config, mesh)
        # Only shapes: whatever the task froze stays whole on each device.
        traced = program.step.trace(program.like, made.frozen, made.batch, _key())
        needed = _model_flops(config, mesh)
        measured = measure(
            machine,
            traced,
            state=bytes_here(program.like) + bytes_here(made.frozen),
            batch=bytes_here(made.batch, batch_sharding(mesh)),
            exact=exact,
        )
    names = flat_names(made.params)
    trained = sum(x.size for name, x in names.items() if name in program.trained)
    width = 2 if config.dtype == "bfloat16" else 4
    return Planned(
        config, dict(mesh.shape), measured, needed,
        sum(x.size for x in names.values()), trained, float(width * trained),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Largest:
    """The largest batch that fits.

    Attributes:
        batch: examples of a step; 0 where not even the smallest fits.
        verified: it was compiled and fits.
        refused: the least batch that was compiled and does not fit; None where none was.
        compiles: how many it took beyond the first.
        capped: no larger one was asked for.
    """

    batch: int
    verified: bool
    refused: int | None
    compiles: int
    capped: bool = False


def find_largest(
    first: Planned,
    plan: Callable[[int], Planned],
    *,
    compiles: int = 3,
    most: int = 2**20,
) -> Largest:
    """Searches for the largest batch that fits, with few compiles.

    What a device must hold is near linear in its rows: the state is known from the placements,
    and each compile gives one more point of the line. The answer is the largest batch that was
    compiled and fits, so it is sound, and close to the largest there is: a step of the search is
    1/16 of the batch.

    Args:
        first: the plan for some batch.
        plan: makes a plan for another one.
        compiles: at most this many more.
        most: the largest to consider.
    """
    shares = math.prod(first.mesh[axis] for axis in BATCH_AXES)
    unit = shares * first.config.accumulate
    points = {0: first.measured.state}
    best, refused, spent, at = 0, None, 0, first

    def note(p: Planned) -> None:
        nonlocal best, refused
        if p.measured.needed:
            points[p.batch] = p.measured.needed
        if p.measured.fits:
            best = max(best, p.batch)
        else:
            refused = p.batch if refused is None else min(refused, p.batch)

    note(first)
    while spent < compiles:
        guess = _guess(points, at.measured.limit, best, refused, unit, most)
        if guess is None:
            break
        at = plan(guess)
        spent += 1
        note(at)
    return Largest(best, best > 0, refused, spent, best >= most)


def _guess(
    points: dict[int, int], limit: int, best: int, refused: int | None, unit: int, most: int
) -> int | None:
    """Chooses the next batch to compile: where the line through the outer two points meets the
    limit, within what is still open. None where that is less than 1/16 of the best.
    """
    known = sorted(points)
    high = (refused if refused is not None else most + unit) - unit
    if len(known) < 2 or high <= best:
        return None
    a, b = known[-2], known[-1]
    if points[b] <= points[a]:
        a, b = known[0], known[-1]
    slope = (points[b] - points[a]) / (b - a)
    if slope <= 0:
        return None
    meets = a + (limit - points[a]) / slope
    grain = max(unit, int(best / 16) // unit * unit)
    guess = int(min(meets, high)) // unit * unit
    if guess <= best and refused is not None:
        guess = (best + refused) // 2 // unit * unit
    if guess - best < grain:
        return None
    return guess


def with_batch(config: Config, batch: int) -> Config:
    """Returns the config with another batch."""
    if batch < 1:
        raise UserError(f"--batch: expected 1 or more, got {batch}; correct it")
    config = config.copy_and_resolve_references()
    config.batch_size = batch
    return config
