"""Times preparing and verifying data sets: `python -m tests.benchmarks.bench_prepare`.

Writes data sets of smooth random label maps of the usual sizes in their official layouts. "plain"
is what nobody can go without: read the label file, map its values, encode a PNG, write it. "job"
is all that `openseg data prepare` does for a picture besides (checks of labels and of the
picture's size, hash, histogram, file put in place as a whole). Both are CPU milliseconds in one
process; the rest is pictures a second of wall time, processes started before ("plain" in as many
processes through the same pool).
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
from openseg_jax.data.prepare import pool, work
from openseg_jax.data.prepare.base import recipe
from openseg_jax.data.prepare.run import prepare
from openseg_jax.data.prepare.verify import verify
from PIL import Image

from openseg_jax.inputs.data_sets import data_set
from openseg_jax.ops import rle

SIZES = {
    "voc": (375, 500), "ade": (512, 683), "coco_stuff": (480, 640), "context": (375, 500),
    "cityscapes": (1024, 2048),
}  # fmt: skip
LAYOUT = {"voc": 0, "ade": 1, "coco_stuff": 2, "cityscapes": 1}
KINDS = 16  # different files, copied; a picture shows about ten classes


def label_map(values: np.ndarray, size: tuple[int, int], seed: int) -> np.ndarray:
    """Regions with curved edges and a little speckle along them."""
    rng = np.random.default_rng(seed)
    some = rng.choice(values, 10)
    noise = rng.normal(size=(10, size[0] // 8, size[1] // 8))
    field = scipy.ndimage.gaussian_filter(noise, (0, 3, 3)).repeat(8, 1).repeat(8, 2)
    field = scipy.ndimage.gaussian_filter(field, (0, 3, 3))
    found = np.pad(field.argmax(0), ((0, size[0] % 8), (0, size[1] % 8)), mode="edge")
    return some[found]


def write(name: str, root: Path, count: int) -> None:
    """Writes a data set; its files are copies of a few."""
    size = SIZES[name]
    pixels = scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(*size, 3)), 3)
    image = Image.fromarray((pixels / np.abs(pixels).max() * 127 + 128).astype(np.uint8))
    if name == "context":
        _write_context(root, image, count)
        return
    layout = data_set(name).layouts[LAYOUT[name]]
    values = np.flatnonzero(layout.table() >= -1)
    folders = [root / f[0].replace("|", "/") for f in (layout.images, layout.labels)]
    names = [f"{name}_{i:06d}" for i in range(count)]
    for folder in folders:
        folder.mkdir(parents=True)
    for i, item in enumerate(names):
        picture, labels = (
            folders[0] / (item + layout.image_end),
            folders[1] / (item + layout.label_end),
        )
        if i < KINDS:
            image.save(picture)
            Image.fromarray(label_map(values, size, i).astype(np.uint8)).save(labels)
        else:
            shutil.copyfile(folders[0] / (names[i % KINDS] + layout.image_end), picture)
            shutil.copyfile(folders[1] / (names[i % KINDS] + layout.label_end), labels)
    for listed in layout.lists:
        path = root / listed.replace("|", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(names))


def _write_context(root: Path, image: Image.Image, count: int) -> None:
    folder = root / "VOCdevkit/VOC2010/JPEGImages"
    folder.mkdir(parents=True)
    size, raw = SIZES["context"], np.array(data_set("context").vocabulary.raw)
    codes = []
    for i in range(KINDS):
        labels = label_map(raw[1:], size, i)
        codes.append([(int(c), rle.encode(labels == c)) for c in np.unique(labels)])
    images, rows = [], []
    for i in range(count):
        image.save(folder / f"{i:06d}.jpg") if i == 0 else shutil.copyfile(
            folder / "000000.jpg", folder / f"{i:06d}.jpg"
        )
        facts = {"phase": "val", "height": size[0], "width": size[1], "image_id": i}
        images.append({"file_name": f"{i:06d}.jpg", **facts})
        rows += [
            {"image_id": i, "category_id": c, "segmentation": code, "id": len(rows)}
            for c, code in codes[i % KINDS]
        ]
    text = json.dumps({"images": images, "annos_segmentation": rows})
    (root / "trainval_merged.json").write_text(text)


def plain(make: Callable[[Any], Any] | None, table: Any, out: Path, job: Any) -> None:
    """Reads, maps, encodes, writes, and nothing else."""
    if make is not None:
        labels = make(job)
    else:
        with Image.open(job.data[-1]) as picture:
            labels = table[np.asarray(picture)]
    buffer = io.BytesIO()
    Image.fromarray(labels.astype(np.uint8)).save(
        buffer, "PNG", compress_level=1, compress_type=zlib.Z_RLE
    )
    (out / f"{job.name}.png").write_bytes(buffer.getvalue())


def cpu(call: Callable[[Any], Any], jobs: Sequence[Any]) -> float:
    """CPU milliseconds of a call."""
    call(jobs[0])
    start = time.process_time()
    for job in jobs:
        call(job)
    return (time.process_time() - start) / len(jobs) * 1e3


def wall(call: Callable[[], Any], count: int) -> float:
    """Pictures a second."""
    start = time.perf_counter()
    call()
    return count / (time.perf_counter() - start)


def measure(name: str, count: int, workers: int, folder: Path) -> str:
    """Makes one row of the table."""
    root, out = folder / name, folder / f"{name}_plain"
    out.mkdir()
    write(name, root, count)
    chosen = recipe(name)
    jobs = chosen.examples(root)
    table = None if name == "context" else data_set(name).layouts[LAYOUT[name]].table()
    make = chosen.make if name == "context" else None
    simple = functools.partial(plain, make, table, out)
    some = jobs[:64]
    where = work.Where(name, root, folder / f"{name}_jobs")
    rows = [cpu(simple, some), cpu(functools.partial(work.do, where), some)]
    list(pool.run(simple, jobs[:40], workers))  # processes start once
    speeds = [
        wall(lambda: list(pool.run(simple, jobs, workers)), count),
        wall(lambda: prepare(name, root, workers=workers), count),
        wall(lambda: verify(name, root, workers=workers, quick=True), count),
        wall(lambda: verify(name, root, workers=workers), count),
    ]
    height, width = SIZES[name]
    return f"{name:<11}{f'{height}x{width}':>10}{rows[0]:9.2f}{rows[1]:9.2f}" + "".join(
        f"{speed:11.1f}" for speed in speeds
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--workers", type=int, default=pool.cores())
    args = parser.parse_args()
    print(f"{args.count} pictures, {args.workers} processes")
    print(
        f"{'data set':<11}{'size':>10}{'plain':>9}{'job':>9}{'plain/s':>11}{'prepare/s':>11}"
        f"{'quick/s':>11}{'verify/s':>11}"
    )
    for name in args.names:
        with tempfile.TemporaryDirectory() as folder:
            print(measure(name, args.count, args.workers, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
