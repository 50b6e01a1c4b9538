"""What depends on the sizes of an image and its canvas: resize matrices and position grids.

CaR sees an image at three sizes: the CAM's (rounded up to whole patches), the classifier's square,
and its own. All resizing is by fixed matrices, collected here as one pytree, so that the rest of
CaR has one form for images that fill their canvas (matrices exact, from the host) and for images
of any size at the top left of a common canvas (`measure` makes the matrices on the device).
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.models.variants import Preprocess, VisionConfig
from openseg_jax.ops import resize, resize_uint8
from openseg_jax.ops.posembed import CONVENTIONS, resample_matrix
from openseg_jax.types import Array, Float, Int

__all__ = ["Geometry", "Plan", "exact", "measure"]

_REACH = 3  # taps of a cubic kernel beyond the border that fold onto the edge sample


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Geometry:
    """Sizes and matrices of one image in its canvas.

    Attributes:
        size: Int[2], true (H, W) in pixels. grid: Int[2], true (h, w) in patches.
        cam: bytes of the canvas to the CAM's canvas. classifier: to the classifier's square.
        rows, columns: Float[h R], Float[w R] resample the table of positions.
        up_rows, up_columns: Float[H h], Float[W w] bring maps back to the image.
    """

    size: Int[Array, "2"]
    grid: Int[Array, "2"]
    cam: resize_uint8.BytePair
    classifier: resize_uint8.BytePair
    rows: Float[Array, "h R"]
    columns: Float[Array, "w R"]
    up_rows: Float[Array, "H h"]
    up_columns: Float[Array, "W w"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The static part: what all images of one canvas share.

    Attributes:
        canvas: (H, W) in pixels.
        stride: pixels of a patch in the CAM image, its sides are multiples of `multiple`.
        table: side R of the table of positions. convention: how it is resampled.
        side: of the classifier's square. fit: "short_side_crop" or "squash".
        method: "bicubic" or "bilinear", of the classifier's resize. antialias: whether its
            kernel widens when shrinking.
    """

    canvas: tuple[int, int]
    stride: int
    multiple: int
    table: int
    convention: str
    side: int
    fit: str
    method: str
    antialias: bool

    @property
    def cam_canvas(self) -> tuple[int, int]:
        """(H, W) of the CAM image's canvas in pixels."""
        height, width = (-(-n // self.multiple) * self.multiple for n in self.canvas)
        return height, width

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of its patches."""
        height, width = self.cam_canvas
        return height // self.stride, width // self.stride


def plan(
    canvas: tuple[int, int],
    cam: VisionConfig,
    classifier: VisionConfig,
    preprocess: Preprocess,
    *,
    pad_to_16: bool,
    convention: str | None,
    squash: bool,
) -> Plan:
    """Gathers the static sizes from the two towers and the settings."""
    patch = cam.patch_size
    # The reference pads to 16 whatever the patch; pixels beyond whole patches are then dropped.
    multiple = 16 if pad_to_16 else patch
    return Plan(
        canvas=canvas,
        stride=patch,
        multiple=multiple,
        table=cam.grid,
        convention=convention or cam.pos_resample,
        side=classifier.image_size,
        fit="squash" if squash else preprocess.resize,
        method=preprocess.interpolation,
        antialias=preprocess.antialias,
    )


@functools.lru_cache(maxsize=64)
def exact(plan: Plan, size: tuple[int, int] | None = None) -> Geometry:
    """Builds the geometry on the host in float64, for sizes that are known.

    Args:
        plan: the static part.
        size: true (H, W); None means that the image fills its canvas.
    """
    size = size or plan.canvas
    height, width = (-(-n // plan.multiple) * plan.multiple for n in size)
    cam_size, grid = (height, width), (height // plan.stride, width // plan.stride)
    canvas_grid = plan.grid
    cam = resize_uint8.byte_pair(size, cam_size, canvas=plan.canvas, out_canvas=plan.cam_canvas)
    side = plan.side
    whole = (side, side) if plan.fit == "squash" else resize.short_side_size(size, side)
    convention = "pil" if plan.antialias else "half_pixel"
    classifier = []
    for i in (0, 1):
        weights = resize.matrix(size[i], whole[i], convention=convention, method=plan.method)
        weights = weights[resize.crop_rows(whole[i], side)]
        padded = resize.pad_matrix(weights, side, plan.canvas[i])
        classifier.append(resize_uint8.digits(padded))
    positions = [
        resample_matrix(plan.table, grid[i], plan.convention)
        if grid != (plan.table, plan.table)
        else np.eye(plan.table)
        for i in (0, 1)
    ]
    up = [resize.half_pixel(grid[i], size[i]) for i in (0, 1)]
    return Geometry(
        size=np.asarray(size, np.int32),
        grid=np.asarray(grid, np.int32),
        cam=cam,
        classifier=resize_uint8.BytePair(*classifier),
        rows=_padded(positions[0], canvas_grid[0], plan.table),
        columns=_padded(positions[1], canvas_grid[1], plan.table),
        up_rows=_padded(up[0], plan.canvas[0], canvas_grid[0]),
        up_columns=_padded(up[1], plan.canvas[1], canvas_grid[1]),
    )


def _padded(weights: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return resize.pad_matrix(weights, rows, columns).astype(np.float32)


def measure(plan: Plan, size: Int[Array, "2"]) -> Geometry:
    """Builds the geometry on the device from a size that is only known there.

    The distances between samples are formed as integers and divided once, so that coefficients
    differ from `exact`'s by rounding of float32 alone (bytes of resized images by 1, rarely).
    """
    cam_size = -(-size // plan.multiple) * plan.multiple
    grid = cam_size // plan.stride
    cam_canvas, canvas_grid = plan.cam_canvas, plan.grid
    cam = [
        _digits(_matrix(size[i], cam_size[i], plan.canvas[i], cam_canvas[i], "cubic-0.5", pil=True))
        for i in (0, 1)
    ]
    kind = "linear"
    if plan.method == "bicubic":
        kind = "cubic-0.5" if plan.antialias else "cubic-0.75"
    short = jnp.minimum(size[0], size[1])
    classifier = []
    for i in (0, 1):
        if plan.fit == "squash":
            whole, start = jnp.int32(plan.side), jnp.int32(0)
        else:
            # int(side·long/short), and the centre crop rounds half a pixel to even.
            whole = plan.side * size[i] // short
            gap = whole - plan.side
            start = gap // 2 + (gap % 2) * (gap // 2 % 2)
        weights = _matrix(
            size[i], whole, plan.canvas[i], plan.side, kind, pil=plan.antialias, start=start
        )
        classifier.append(_digits(weights))
    kernel, align, antialias = CONVENTIONS[plan.convention]
    native = (grid[0] == plan.table) & (grid[1] == plan.table)
    positions = []
    for i in (0, 1):
        weights = _matrix(
            jnp.int32(plan.table), grid[i], plan.table, canvas_grid[i], kernel,
            pil=antialias, align=align,
        )  # fmt: skip
        positions.append(jnp.where(native, jnp.eye(weights.shape[0], weights.shape[1]), weights))
    up = [_matrix(grid[i], size[i], canvas_grid[i], plan.canvas[i], "linear") for i in (0, 1)]
    return Geometry(
        size=size,
        grid=grid,
        cam=resize_uint8.BytePair(*cam),
        classifier=resize_uint8.BytePair(*classifier),
        rows=positions[0],
        columns=positions[1],
        up_rows=up[0],
        up_columns=up[1],
    )


def _kernel(kind: str, x: Array) -> Array:
    x = jnp.abs(x)
    if kind == "linear":
        return jnp.maximum(1 - x, 0)
    a = float(kind.removeprefix("cubic"))
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


def _matrix(
    source: Array,
    target: Array,
    columns: int,
    rows: int,
    kind: str,
    *,
    pil: bool = False,
    align: bool = False,
    start: Array | int = 0,
) -> Float[Array, "rows columns"]:
    """Builds a resize matrix for traced lengths in a static canvas.

    Args:
        source, target: true lengths. columns, rows: of the canvas.
        kind: of the kernel. align: corners are aligned.
        pil: the kernel widens when shrinking and is renormalised at the border; else samples
            beyond the border fold onto the edge.
        start: first row, for a crop of the result.
    """
    i = jnp.arange(rows, dtype=jnp.int32)[:, None] + start
    j = jnp.arange(-_REACH, columns + _REACH, dtype=jnp.int32)[None, :]
    if align:
        distance = (j * (target - 1) - i * (source - 1)).astype(jnp.float32)
        distance = distance / jnp.maximum(target - 1, 1).astype(jnp.float32)
        distance = jnp.where(target > 1, distance, j.astype(jnp.float32))
    else:
        distance = ((2 * j + 1) * target - (2 * i + 1) * source).astype(jnp.float32)
        distance = distance / (2 * target).astype(jnp.float32)
    if pil:
        stretch = jnp.maximum(source / target, 1.0)
        weights = jnp.where((j >= 0) & (j < source), _kernel(kind, distance / stretch), 0)
        weights = weights / jnp.maximum(weights.sum(axis=1, keepdims=True), 1e-6)
        weights = weights[:, _REACH : _REACH + columns]
    else:
        weights = _kernel(kind, distance)
        edge = jnp.clip(j[0], 0, source - 1)
        # Columns far beyond the true length are out of the kernel's reach and add zeros.
        weights = jnp.zeros((rows, columns), jnp.float32).at[:, edge].add(weights)
    return jnp.where(i < target, weights, 0)


def _digits(weights: Float[Array, "out in"]) -> Float[Array, "3 out in"]:
    left = jnp.rint(weights * (1 << 22)).astype(jnp.int32)
    parts = []
    for _ in range(2):
        digit = (left + 128) % 256 - 128
        parts.append(digit)
        left = (left - digit) // 256
    return jnp.stack([*parts, left]).astype(jnp.float32)
