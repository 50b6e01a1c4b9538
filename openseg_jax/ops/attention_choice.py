"""Which implementation of attention serves a platform, a dtype and a shape, and why.

| backend | what it is | serves |
|---|---|---|
| `map` | a loop over (batch × heads) of plain 2-D products | CPUs |
| `cudnn` | cuDNN's fused kernel | NVIDIA cards from Ampere on, bfloat16 or float16 |
| `splash` | JAX's fused kernel for TPUs | one TPU device, more than `LONG` tokens, no mask |
| `xla` | two batched products and a softmax | everything else |
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from absl import logging

from openseg_jax.errors import expected, unknown_name
from openseg_jax.ops.platform import target, target_devices

BACKENDS = ("auto", "xla", "map", "cudnn", "splash")
LONG = 1024
"""Tokens up to which XLA's products are as fast as a fused kernel on a TPU."""


def choose_backend(backend: str, dtype: jnp.dtype, head_width: int, **call: object) -> str:
    """Returns the first half of what `explain_backend` returns, of the same arguments."""
    return explain_backend(backend, dtype, head_width, **call)[0]  # type: ignore[arg-type]


def explain_backend(
    backend: str,
    dtype: jnp.dtype,
    head_width: int,
    *,
    platform: str | None = None,
    keys: int | None = None,
    mask: tuple[int, ...] | None = None,
    biased: bool = False,
    capability: tuple[int, int] | None = None,
    devices: int | None = None,
) -> tuple[str, str]:
    """Resolves a backend for one call of attention, and says why.

    A named fused kernel that a call's mask, bias or length keep out gives way to XLA in that
    call, since a model's towers share one setting; one that the setting itself can never have is
    an error.

    Args:
        backend: one of `BACKENDS`.
        dtype: of queries, keys and values.
        head_width: numbers a head.
        platform: "cpu", "gpu" or "tpu"; None asks `ops.platform.target`.
        keys: their number; None where the length is not known yet.
        mask: shape of the mask; None for none.
        biased: whether something is added to the logits.
        capability: of the card, (9, 0) for an H100; None asks the card, and takes Ampere for
            one that is not here.
        devices: that a program runs on; None asks `ops.platform.target_devices`.

    Returns:
        The backend, never "auto", and the reason in words.

    Raises:
        UserError: for an unknown name, or a named kernel that cannot serve platform, dtype or
            head width.
    """
    if backend not in BACKENDS:
        unknown_name(backend, BACKENDS, "attention backend")
    if backend in ("xla", "map"):
        return backend, "as the setting says"
    kind = target() if platform is None else platform
    here = kind == jax.default_backend()
    if backend == "auto" and kind == "cpu":
        return "map", "a loop over heads beats batched products on CPUs"
    if backend == "cudnn" or (backend == "auto" and kind == "gpu"):
        never = None if kind == "gpu" else f"it is for NVIDIA cards, and this is a {kind}"
        never = never or _cudnn_never(dtype, head_width, capability or _capability(here))
        now = _cudnn_not_now(dtype, mask, biased)
        fits = "cuDNN's fused kernel takes this dtype, head width and card"
        return _resolve(backend, "cudnn", never, now, fits)
    if backend == "splash" or (backend == "auto" and kind == "tpu"):
        never = None if kind == "tpu" else f"it is for TPUs, and this is a {kind}"
        now = _splash_not_now(keys, mask, biased, target_devices() if devices is None else devices)
        return _resolve(backend, "splash", never, now, f"more than {LONG} tokens on one TPU")
    return "xla", f"there is no fused kernel for {kind}"


def _resolve(
    backend: str, kernel: str, never: str | None, now: str | None, fits: str
) -> tuple[str, str]:
    if never and backend != "auto":
        raise expected(
            "attention", f"a backend that can serve this, got {kernel!r}", never,
            'use "auto", which takes it where it can',
        )  # fmt: skip
    problem = never or now
    return ("xla", f"not {kernel}: {problem}") if problem else (kernel, fits)


def _cudnn_never(dtype: jnp.dtype, width: int, capability: tuple[int, int]) -> str | None:
    """Says what of setting or card keeps cuDNN out; None where nothing does."""
    if capability < (8, 0):
        return "its fused kernel needs an Ampere card or a later one, and CUDA"
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"it takes bfloat16 and float16, not {jnp.dtype(dtype).name}"
    most = 256 if capability >= (9, 0) else 128
    if width % 8 or width > most:
        return f"heads must be a multiple of 8 and at most {most} wide, not {width}"
    return None


def _cudnn_not_now(dtype: jnp.dtype, mask: tuple[int, ...] | None, biased: bool) -> str | None:
    """Says what of a call keeps cuDNN out; None where nothing does."""
    if mask is not None and dtype == jnp.float16:
        return "a mask becomes a number added to the logits, and float16 has none low enough"
    if biased and mask is not None and mask[0] != 1:
        # Its gradient is made only for a bias that all images share: it would silently be zero.
        return "a bias that learns cannot go with a mask of each image"
    return None


def _splash_not_now(
    keys: int | None, mask: tuple[int, ...] | None, biased: bool, devices: int
) -> str | None:
    """Says what of a call keeps splash attention out; None where nothing does."""
    if mask is not None or biased:
        return "it takes neither masks nor biases"
    if keys is None or keys <= LONG:
        return f"XLA's products are as fast up to {LONG} tokens"
    if devices > 1:
        # Left to jit, every device would gather and compute the whole batch.
        return "the compiler cannot split a kernel over devices"
    return None


def _capability(here: bool) -> tuple[int, int]:
    """Asks the first card what it can do; (8, 0) where there is none, (0, 0) without CUDA."""
    if not here or jax.default_backend() != "gpu":
        return (8, 0)
    device = jax.local_devices()[0]
    if "cuda" not in device.client.platform_version:
        return (0, 0)
    major, _, minor = str(device.compute_capability).partition(".")
    return (int(major), int(minor or 0))


@functools.lru_cache(maxsize=256)
def say_once(chosen: str, why: str, what: str) -> None:
    """Logs a choice, each only once in a process: towers trace the same call again and again."""
    logging.info("attention of %s: %s (%s)", what, chosen, why)
