"""Which pictures go together in a batch, and reading them ahead of their turn by threads."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from PIL import Image

from openseg_jax.errors import UserError, expected
from openseg_jax.eval.benchmarks import Benchmark
from openseg_jax.eval.labeller import Batch, restoring
from openseg_jax.inputs.images import fit_long_side
from openseg_jax.types import Int, UInt8

__all__ = ["Bucket", "Feed", "Loaded", "Source", "plan_buckets", "sizes_of"]

Size = tuple[int, int]


class Source(Protocol):
    """Pictures with labels, e.g. a `LabelledSet`.

    Attributes:
        name: of the data set. classes: its names.
        background: class 0 is the background.
        items: one with a `name` for each picture; `size`, (H, W), where it is known.
        facts: for the provenance.
    """

    name: str
    classes: tuple[str, ...]
    background: bool
    items: Sequence[Any]
    facts: Any

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], Int[np.ndarray, "H W"]]:
        """Reads a picture and its labels, the data set's classes or `IGNORE`."""
        ...


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Pictures that share a compiled program.

    Attributes:
        canvas: (h, w) that they are padded to for segmentation.
        target: (H, W) that their labels are padded to.
        exact: all have the size of the canvas; nothing is padded.
        restore: labels have another size than what is segmented, of some picture at least.
        indices: which pictures.
    """

    canvas: Size
    target: Size
    exact: bool
    restore: bool
    indices: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """One batch, ready to be segmented.

    Attributes:
        indices: of the pictures, without those that fill the batch up.
        truths: their labels, the benchmark's.
        batch: the pictures on their canvas.
    """

    indices: tuple[int, ...]
    truths: tuple[Int[np.ndarray, "H W"], ...]
    batch: Batch


def sizes_of(source: Source, threads: int = 4) -> list[Size]:
    """Finds (H, W) of every picture, from the headers of its label maps where need be."""

    def size(index: int) -> Size:
        item = source.items[index]
        known = getattr(item, "size", None)
        if known is not None:
            return int(known[0]), int(known[1])
        try:
            with Image.open(item.labels) as picture:
                return picture.height, picture.width
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(
                f"{item.labels}: cannot read the labels ({error}); prepare the data set again"
            ) from error

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(size, range(len(source))))


def plan_buckets(
    sizes: Sequence[Size],
    *,
    fit: Callable[[Size], Size],
    work: Callable[[Size], Size] | None = None,
    step: int,
) -> list[Bucket]:
    """Groups pictures by rounded size.

    Args:
        sizes: (H, W) of all pictures.
        fit: the size that a picture is reduced to. work: the size at which the method takes
            reduced pictures of a padded canvas; None takes them as they are.
        step: canvases are multiples of so many pixels; 0 makes one for each size.
    Returns:
        buckets, each picture in one; the largest canvas first, so that too little memory shows
        at once.
    """
    if step < 0:
        raise expected("canvas", "0 or more pixels", str(step), "try 64")
    groups: dict[tuple[Size, Size], list[int]] = collections.defaultdict(list)
    known: dict[Size, Size] = {}
    for index, size in enumerate(sizes):
        if size not in known:
            known[size] = work(fit(size)) if work is not None else fit(size)
        groups[_up(known[size], step), _up(size, step)].append(index)
    buckets = []
    for (canvas, target), indices in groups.items():
        exact = len({sizes[i] for i in indices}) == 1
        if exact:
            target = sizes[indices[0]]
            canvas = fit(target)
        restore = canvas != target or any(known[sizes[i]] != sizes[i] for i in indices)
        if exact:
            restore = canvas != target
        buckets.append(Bucket(canvas, target, exact, restore, tuple(indices)))
    return sorted(buckets, key=lambda b: (-b.canvas[0] * b.canvas[1], b.indices[0]))


def _up(size: Size, step: int) -> Size:
    step = max(step, 1)
    return -(-size[0] // step) * step, -(-size[1] // step) * step


class Feed:
    """Reads batches ahead with threads.

    Args:
        source: pictures and labels. bench: whose labels are wanted.
        rows: pictures of a batch on a canvas.
        fit, work: as for `plan_buckets`.
        fill: the last batch of a bucket is filled up, for compiled programs of one shape.
        threads: that read. ahead: batches that are kept ready.
    """

    def __init__(
        self,
        source: Source,
        bench: Benchmark,
        *,
        rows: Callable[[Bucket], int],
        fit: Callable[[Size], Size],
        work: Callable[[Size], Size] | None,
        fill: bool = True,
        threads: int = 4,
        ahead: int = 2,
    ) -> None:
        self.source, self.bench, self.fill = source, bench, fill
        self.rows, self.fit, self.work = rows, fit, work
        self.threads, self.ahead = threads, ahead

    def batches(self, buckets: Sequence[Bucket], wanted: set[int]) -> Iterator[Loaded]:
        """Yields the wanted pictures, bucket by bucket."""
        plan = []
        for bucket in buckets:
            left = [i for i in bucket.indices if i in wanted]
            rows = self.rows(bucket)
            plan += [(bucket, tuple(left[k : k + rows])) for k in range(0, len(left), rows)]
        pool = ThreadPoolExecutor(self.threads)
        waiting: collections.deque[tuple[Bucket, tuple[int, ...], list[Future]]] = (
            collections.deque()
        )
        try:
            for bucket, indices in plan:
                jobs = [pool.submit(self._load, i, bucket) for i in indices]
                waiting.append((bucket, indices, jobs))
                if len(waiting) > self.ahead:
                    yield self._assemble(*waiting.popleft())
            while waiting:
                yield self._assemble(*waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _load(self, index: int, bucket: Bucket) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
        image, labels = self.source.read(index)
        truth = self.bench.truth(labels, background=self.source.background)
        own = (image.shape[0], image.shape[1])
        image = fit_long_side(image, max(self.fit(own)))
        if bucket.exact:
            restore = restoring(bucket.canvas, own, *_pair(bucket)) if bucket.restore else None
            return image, truth, np.ones(0), restore
        if self.work is not None:
            image = _bilinear(image, self.work((image.shape[0], image.shape[1])))
        given = (image.shape[0], image.shape[1])
        canvas = np.zeros((*bucket.canvas, 3), np.uint8)
        canvas[: given[0], : given[1]] = image
        valid = np.zeros(bucket.canvas, bool)
        valid[: given[0], : given[1]] = True
        restore = restoring(given, own, *_pair(bucket)) if bucket.restore else None
        return canvas, truth, valid, restore

    def _assemble(self, bucket: Bucket, indices: tuple[int, ...], jobs: list[Future]) -> Loaded:
        found = [job.result() for job in jobs]
        # It is filled up with its last picture, which is not counted.
        full = found + found[-1:] * (self.rows(bucket) - len(found) if self.fill else 0)
        restore = [row[3] for row in full]
        return Loaded(
            indices,
            tuple(row[1] for row in found),
            Batch(
                np.stack([row[0] for row in full]),
                None if bucket.exact else np.stack([row[2] for row in full]),
                None if restore[0] is None else np.stack([pair[0] for pair in restore]),
                None if restore[0] is None else np.stack([pair[1] for pair in restore]),
            ),
        )


def _pair(bucket: Bucket) -> tuple[Size, Size]:
    return bucket.canvas, bucket.target


def _bilinear(image: UInt8[np.ndarray, "H W 3"], size: Size) -> UInt8[np.ndarray, "h w 3"]:
    if image.shape[:2] == size:
        return image
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized)
