"""From a batch of pictures on a canvas to labels at their own size, on all local devices.

Pictures of many sizes share few compiled programs: they lie at the top left of a canvas, `valid`
tells which pixels exist, and each picture's own pair of matrices brings its masks from the size
they were segmented at to its own size, before pixels are labelled. Where all pictures of a canvas
have its size, neither is needed.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from openseg_jax.eval.rules import Pass
from openseg_jax.ops.masks import to_label_map
from openseg_jax.ops.resize import half_pixel, pad_matrix
from openseg_jax.types import Array, Bool, Float, Int, Masks, UInt8

__all__ = ["Batch", "Labeller", "most_rows", "restoring"]

ROOM = 2**28
"""Mask values that one device holds at once; batches are made smaller for it."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """Pictures on one canvas.

    Attributes:
        image: RGB at the size of segmentation.
        valid: pixels that exist, or None for all.
        rows, columns: matrices from there to the pictures' own sizes, or None where they agree.
    """

    image: UInt8[np.ndarray, "B h w 3"]
    valid: Bool[np.ndarray, "B h w"] | None
    rows: Float[np.ndarray, "B H h"] | None
    columns: Float[np.ndarray, "B W w"] | None

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The four, as the compiled program takes them."""
        return self.image, self.valid, self.rows, self.columns


def restoring(
    given: tuple[int, int], own: tuple[int, int], canvas: tuple[int, int], target: tuple[int, int]
) -> tuple[Float[np.ndarray, "H h"], Float[np.ndarray, "W w"]]:
    """Makes a picture's matrices: bilinear, half-pixel centres, no antialias.

    Args:
        given: (h, w) at which it is segmented. own: (H, W) of the picture.
        canvas, target: what they are padded to.

    Source: maft.md §4.5; for methods whose masks are 0 or 1 it smooths their edges.
    """
    pair = [
        pad_matrix(half_pixel(given[i], own[i]), target[i], canvas[i]).astype(np.float32)
        for i in (0, 1)
    ]
    return pair[0], pair[1]


class Labeller:
    """Labels batches of pictures with the classes of a benchmark.

    Args:
        passes: painted one over the other, the first at the bottom.
        host_loop: on a single CPU, call the methods as they are: their own loops are faster.
            Those that cannot be compiled are called as they are on any device.
        devices: of this process that share each batch; None takes all. Batches must have a
            multiple of their number of rows.
    """

    def __init__(
        self,
        passes: Sequence[Pass],
        devices: Sequence[Any] | None = None,
        *,
        host_loop: bool = False,
    ) -> None:
        self.passes = tuple(passes)
        self.devices = list(jax.local_devices() if devices is None else devices)
        alone = len(self.devices) == 1 and self.devices[0].platform == "cpu"
        must = any(getattr(one.segmenter, "host_only", False) for one in self.passes)
        self.on_host = must or (host_loop and alone)
        self.mesh = Mesh(np.asarray(self.devices), ("data",), axis_types=(AxisType.Auto,))
        self._programs: dict[Any, Any] = {}
        self.compile_seconds = 0.0

    @functools.cached_property
    def _held(self) -> Any:
        """Parameters, texts and label tables of all passes, a copy on each device."""
        trees = [(p.segmenter.params, p.text, p.ids) for p in self.passes]
        if self.on_host:
            return trees
        arrays = jax.tree.map(np.asarray, [(text, ids) for _, text, ids in trees])
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        placed: dict[int, Any] = {}
        for params, _, _ in trees:
            if id(params) not in placed:
                placed[id(params)] = jax.device_put(params, everywhere)
        texts = jax.device_put(arrays, everywhere)
        return [(placed[id(t[0])], *rest) for t, rest in zip(trees, texts, strict=True)]

    def __call__(self, batch: Batch) -> Int[Array, "B H W"]:
        """Labels a batch: uint16, 0 background, i + 1 class i."""
        return self.run(self.place(batch))

    def place(self, batch: Batch) -> tuple[Any, ...]:
        """Sends a batch to the devices, rows shared out evenly, and compiles what it needs."""
        if self.on_host:
            return batch.arrays
        split = NamedSharding(self.mesh, PartitionSpec("data"))
        placed = tuple(None if x is None else jax.device_put(x, split) for x in batch.arrays)
        self.program(placed)
        return placed

    def run(self, placed: tuple[Any, ...]) -> Int[Array, "B H W"]:
        """Labels a placed batch; unless it is a NumPy array, what it returns may be under way."""
        if self.on_host:
            return self._each(Batch(*placed))
        return self.program(placed)(self._held, *placed)

    def program(self, arrays: tuple[Any, ...]) -> Any:
        """Returns the compiled program for arrays of these shapes, compiling it at first."""
        key = tuple(None if x is None else x.shape for x in arrays)
        if key not in self._programs:
            start = time.perf_counter()
            # Each device works on its own pictures and nothing is exchanged. Said by hand, since
            # methods that map over pictures would otherwise have each device do all of them.
            rows = tuple(PartitionSpec("data") for _ in arrays)
            local = jax.shard_map(
                self._labels, mesh=self.mesh, in_specs=(PartitionSpec(), *rows),
                out_specs=PartitionSpec("data"), check_vma=False,
            )  # fmt: skip
            run = jax.jit(local if len(self.devices) > 1 else self._labels)
            self._programs[key] = run.lower(self._held, *arrays).compile()
            self.compile_seconds += time.perf_counter() - start
        return self._programs[key]

    def _labels(self, held: Any, image: Any, valid: Any, rows: Any, columns: Any) -> Array:
        label: Any = None
        for one, (params, text, ids) in zip(self.passes, held, strict=True):
            masks = one.segmenter.segment(params, image, text, valid)
            found = _paint_masks(
                masks, ids, rows, columns, count=len(one.names), threshold=one.threshold
            )
            label = found if label is None else jnp.where(found > 0, found, label)
        return label.astype(jnp.uint16)

    def _each(self, batch: Batch) -> Array:
        label: Any = None
        for one, (params, text, ids) in zip(self.passes, self._held, strict=True):
            masks = one.segmenter.segment(params, batch.image, text, batch.valid)
            paint = self._paint(len(one.names), one.threshold)
            found = np.asarray(paint(masks, ids, batch.rows, batch.columns))
            label = found if label is None else np.where(found > 0, found, label)
        return label.astype(np.uint16)

    def _paint(self, count: int, threshold: float | None) -> Any:
        key = ("paint", count, threshold)
        if key not in self._programs:
            self._programs[key] = jax.jit(
                functools.partial(_paint_masks, count=count, threshold=threshold)
            )
        return self._programs[key]


def _paint_masks(
    masks: Masks, ids: Any, rows: Any, columns: Any, *, count: int, threshold: float | None
) -> Int[Array, "B H W"]:
    if rows is not None:
        high = jax.lax.Precision.HIGHEST
        probs = jnp.einsum("bmhw,bWw->bmhW", masks.probs, columns, precision=high)
        probs = jnp.einsum("bmhW,bHh->bmHW", probs, rows, precision=high)
        masks = dataclasses.replace(masks, probs=probs)
    labels = to_label_map(masks, threshold=threshold)
    # What a background text has won comes behind the classes.
    return ids[jnp.where(labels > count, 0, labels)]


def most_rows(masks: int, size: tuple[int, int], wanted: int) -> int:
    """Bounds the pictures of a batch on one device by the masks that have to be held.

    Args:
        masks: of a picture. size: of the canvas, pixels. wanted: rows asked for.
    """
    return max(1, min(wanted, ROOM // (max(masks, 1) * size[0] * size[1])))
