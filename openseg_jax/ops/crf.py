"""Dense conditional random field: mean-field inference over all pairs of pixels.

Labels agree with their neighbours (a Gaussian of positions) and with pixels of like colour
(a Gaussian of positions and colours); the pairwise cost is Potts.

Source: Krähenbühl and Koltun, "Efficient inference in fully connected CRFs with Gaussian edge
potentials", NIPS 2011; parameters and input conventions of CLIP as RNN (CVPR 2024), which runs
pydensecrf. With `CRFConfig(wrap_u8=True)` marginals follow pydensecrf's to about 1e-4.
"""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from openseg_jax.errors import UserError, check_shape, describe, expected, unknown_name
from openseg_jax.ops import _crf_device, _crf_host
from openseg_jax.ops._crf_features import CRFConfig
from openseg_jax.ops.platform import target
from openseg_jax.types import Array, Bool, Float, Int, UInt8

__all__ = [
    "GAUSSIAN_PIXELS",
    "CRFConfig",
    "cam_probabilities",
    "crf_image",
    "dense_crf",
    "label_map",
    "label_masks",
]

if TYPE_CHECKING:
    AnyArray = Any
else:
    AnyArray = Array | np.ndarray

_DEFAULT = CRFConfig()
_BACKENDS = ("host", "device")
_KERNELS = ("permutohedral", "gaussian")
_BGR_MEAN = (104.008, 116.669, 122.675)
# The exact Gaussian holds a few matrices of n² floats: at this n they take 1 GiB.
GAUSSIAN_PIXELS = 8192


def crf_image(
    image: UInt8[AnyArray, "*B H W 3"], *, wrap_u8: bool = False
) -> UInt8[AnyArray, "*B H W 3"]:
    """Makes the BGR image whose colours the bilateral kernel compares.

    Args:
        image: uint8[... H W 3], RGB.
        wrap_u8: True does as the reference: subtract the BGR mean as floats, then cast to bytes,
            which truncates toward zero and wraps modulo 256. False returns the BGR bytes: a
            constant offset changes no colour difference, so without the wrap there is nothing to
            subtract.
    """
    xp = _namespace(image)
    flipped = image[..., ::-1]
    if not wrap_u8:
        return flipped
    centred = flipped.astype(xp.float32) - np.asarray(_BGR_MEAN, np.float32)
    return (centred.astype(xp.int32) & 255).astype(xp.uint8)


def cam_probabilities(
    cams: Float[AnyArray, "C H W"],
    *,
    bg_factor: float | Float[AnyArray, ""] = 1.0,
    alive: Bool[AnyArray, "C"] | None = None,
) -> Float[AnyArray, "labels H W"]:
    """Puts a background channel before activation maps: (1 − max of maps)^bg_factor.

    Args:
        cams: float32[C H W] in [0, 1].
        bg_factor: exponent; above 1 weakens the background.
        alive: bool[C]; maps of dead texts do not count in the maximum. None means all.

    Returns:
        float32[C+1 H W]; channels do not sum to 1, the CRF normalises them.
    """
    xp = _namespace(cams)
    counted = cams if alive is None else xp.where(alive[:, None, None], cams, 0)
    peak = xp.max(counted, axis=0, initial=0.0)
    background = (1 - peak) ** xp.asarray(bg_factor, xp.float32)
    return xp.concatenate([background[None], cams]).astype(xp.float32)


def dense_crf(
    image: UInt8[AnyArray, "H W 3"],
    probs: Float[AnyArray, "labels H W"],
    alive: Bool[AnyArray, "C"] | None = None,
    *,
    valid: Bool[AnyArray, "H W"] | None = None,
    iterations: int = 10,
    config: CRFConfig = _DEFAULT,
    backend: str | None = None,
    capacity: int | None = None,
) -> Float[AnyArray, "labels H W"]:
    """Runs mean-field inference and returns the marginals.

    Args:
        image: uint8[H W 3], RGB.
        probs: float32[C+1 H W] in [0, 1], background first; the unary is −log(clip(p, 1e-5, 1)).
        alive: bool[C]; the marginal of a dead label is exactly 0, and the others are what they
            would be without its channel. None means all. The background is always alive.
        valid: bool[H W]; padding takes no part, and its marginal is 1 for the background.
        iterations: mean-field updates, ≥ 0.
        config: pairwise terms.
        backend: "host" (NumPy lattice, SciPy sparse products), "device" (JAX throughout, jitted,
            works inside jit and vmap), or None: device inside a transformation and off the CPU,
            else host.
        capacity: device only; static room for vertices of the bilateral lattice, None is the worst
            case 6·H·W (photographs need about H·W). If it does not suffice, marginals are NaN.

    Returns:
        float32[C+1 H W], summing to 1 over labels; a NumPy array from the host, else a JAX array.

    Raises:
        UserError: for wrong shapes, an unknown backend or kernel, or a "gaussian" too large.
    """
    _check(image, probs, alive, valid, iterations, config)
    labels = probs.shape[0]
    if _resolve(backend, image, probs, alive, valid) == "host":
        return _crf_host.infer(
            np.asarray(crf_image(np.asarray(image), wrap_u8=config.wrap_u8)),
            np.asarray(probs, np.float32),
            None if alive is None else np.asarray(alive, bool),
            None if valid is None else np.asarray(valid, bool),
            iterations,
            config,
        )
    return _crf_device.infer(
        crf_image(jnp.asarray(image), wrap_u8=config.wrap_u8),
        probs,
        jnp.ones(labels - 1, bool) if alive is None else alive,
        jnp.ones(image.shape[:2], bool) if valid is None else valid,
        iterations,
        # Settled above: a flag that changes nothing below must not compile anything anew.
        config=dataclasses.replace(config, wrap_u8=False),
        capacity=capacity,
    )


def label_map(marginals: Float[AnyArray, "*B labels H W"]) -> Int[AnyArray, "*B H W"]:
    """Returns the most probable label of each pixel, int32: 0 background, i+1 for text i."""
    xp = _namespace(marginals)
    return xp.argmax(marginals, axis=-3).astype(xp.int32)


def label_masks(
    labels: Int[AnyArray, "H W"], count: int, *, one_hot_truncation: bool = False
) -> Bool[AnyArray, "M H W"]:
    """Splits a label map into one mask a text, the background left out.

    Args:
        labels: int32[H W] from `label_map`.
        count: number of texts.
        one_hot_truncation: parity flag, host only. The reference sizes its one-hot code by the
            largest label that occurs, so trailing texts without a pixel get no mask at all, and
            an image of background alone gets none. False gives every text its mask.

    Returns:
        bool[M H W]: M = count, or labels.max() under the parity flag.
    """
    xp = _namespace(labels)
    rows = int(labels.max()) if one_hot_truncation else count
    return labels[None] == xp.arange(1, rows + 1, dtype=xp.int32)[:, None, None]


def _namespace(x: Any) -> ModuleType:
    return jnp if isinstance(x, jax.Array) else np


def _resolve(backend: str | None, *arrays: Any) -> str:
    traced = any(isinstance(a, Tracer) for a in arrays)
    if backend is None:
        return "device" if traced or target() != "cpu" else "host"
    if backend not in _BACKENDS:
        unknown_name(backend, _BACKENDS, "backend")
    if backend == "host" and traced:
        raise UserError("backend: 'host' cannot run inside jit or vmap; use 'device' or None there")
    return backend


def _check(image: Any, probs: Any, alive: Any, valid: Any, iterations: int, config: Any) -> None:
    check_shape(image, "H W 3", "image", dtype="uint8", fix="give one RGB image of bytes")
    height, width = image.shape[:2]
    if 0 in (height, width):
        raise expected("image", "at least one pixel", describe(image), "skip empty images")
    check_shape(probs, f"labels {height} {width}", "probs", fix="resize it to the image")
    if probs.shape[0] < 1:
        raise expected("probs", "a background channel", describe(probs), "see cam_probabilities")
    if alive is not None:
        check_shape(alive, str(probs.shape[0] - 1), "alive", fix="one flag a text, no background")
    if valid is not None:
        check_shape(valid, f"{height} {width}", "valid")
    if iterations < 0:
        raise expected("iterations", "0 or more", str(iterations), "the paper uses 10")
    for name in ("spatial_sigma", "bilateral_sigma", "colour_sigma"):
        if not getattr(config, name) > 0:
            raise expected(name, "a positive number", str(getattr(config, name)), "see CRFConfig")
    if config.kernel not in _KERNELS:
        unknown_name(config.kernel, _KERNELS, "kernel")
    if config.kernel == "gaussian" and height * width > GAUSSIAN_PIXELS:
        raise expected(
            "kernel",
            f"at most {GAUSSIAN_PIXELS} pixels for 'gaussian' (memory grows with their square)",
            f"{height}x{width}",
            "use 'permutohedral' or a smaller image",
        )
