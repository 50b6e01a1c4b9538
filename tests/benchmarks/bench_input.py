"""Times reading of captioned pictures for training: `python -m tests.benchmarks.bench_input`.

Writes photograph-like JPEG files (noise whose power falls with frequency, as that of photographs
does; 375×500, quality 90, about 90 kB each) as a folder with captions and as tar shards, and reads
them as a training does: order, decoding, random crop of half to all of the area, bicubic resize to
224², caption to token ids, batches of 64. Each row has the process and its workers on the cores
that it names. "wall" is images a second by the clock, which shrinks when others use the cores too;
"CPU" is images for each second of CPU time that was spent, times the cores: what they do when
nobody else is there. `--priority` (root, Linux) lets the reading go before everybody else's work,
for a machine that is shared. The last table is where the CPU time goes; "decode" is what nobody
who reads JPEG files with Pillow can go without.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from openseg_jax.configs.base import get_config
from PIL import Image, features

from openseg_jax.inputs.crops import random_crop, resize_crop
from openseg_jax.inputs.images import decode_image
from openseg_jax.inputs.pipeline import batches
from openseg_jax.text.tokenizer import openai_tokenizer
from openseg_jax.train.pair_inputs import open_pairs, pair_source

HEIGHT, WIDTH, SIZE, BATCH = 375, 500, 224, 64
CAPTION = "a photograph of a brown dog that runs over green grass near the water, number {}"


def photograph(seed: int) -> bytes:
    """Draws a picture with a photograph's spectrum, as JPEG bytes."""
    rng = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = 1.0

    def field(power: float) -> np.ndarray:
        noise = rng.normal(size=(2, HEIGHT, WIDTH // 2 + 1))
        drawn = np.fft.irfft2((noise[0] + 1j * noise[1]) / frequency**power, s=(HEIGHT, WIDTH))
        return drawn / drawn.std()

    # Light varies more, and more finely, than colour.
    planes = [128 + 50 * field(1.2), 128 + 15 * field(1.6), 128 + 15 * field(1.6)]
    pixels = np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels, "YCbCr").convert("RGB").save(data, "JPEG", quality=90)
    return data.getvalue()


def write(folder: Path, count: int) -> int:
    """Writes `photos/` with captions and `shards/`; returns the mean size of a file, bytes."""
    photos, shards = folder / "photos", folder / "shards"
    photos.mkdir()
    shards.mkdir()
    lines, total = [], 0
    names = [f"{number:06d}" for number in range(count)]
    for number, name in enumerate(names):
        data = photograph(number)
        total += len(data)
        (photos / f"{name}.jpg").write_bytes(data)
        lines.append(f"{name}.jpg\t{CAPTION.format(number)}")
    (photos / "captions.tsv").write_text("\n".join(lines) + "\n")
    half = -(-count // 2)
    for shard in range(2):
        with tarfile.open(shards / f"{shard:05d}.tar", "w") as tar:
            for number in range(shard * half, min(count, (shard + 1) * half)):
                tar.add(photos / f"{names[number]}.jpg", f"{names[number]}.jpg")
                text = CAPTION.format(number).encode()
                entry = tarfile.TarInfo(f"{names[number]}.txt")
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text))
    return total // count


def source(folder: Path, kind: str) -> Any:
    """Opens the pictures as a training config does."""
    config: Any = get_config()
    config.input.name = kind
    config.input.path = str(folder / {"folder": "photos", "webdataset": "shards"}[kind])
    pairs = open_pairs(config)
    assert pairs is not None
    return pair_source(config, pairs, openai_tokenizer(), SIZE)


def one(
    folder: Path, kind: str, threads: int, workers: int, seconds: float, priority: bool
) -> tuple[float, float]:
    """Returns images a second by the clock, and for each CPU second of all processes."""
    if priority:
        # Threads and processes that are started from here on inherit it.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    stream = batches(source(folder, kind), BATCH, threads=threads, workers=workers)
    for _ in range(2 + 2 * workers):
        next(stream)  # starts threads, processes and the tokenizer
    cpu, wall, count = _cpu_seconds(), time.perf_counter(), 0
    while time.perf_counter() - wall < seconds:
        count += len(next(stream)["image"])
    rate = count / (time.perf_counter() - wall)
    each = count / (_cpu_seconds() - cpu)
    stream.close()
    return rate, each


def _cpu_seconds() -> float:
    """CPU seconds of this process and its living descendants."""
    parents, spent = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.name)] = int(fields[1])
        spent[int(entry.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    total = 0.0
    for process, used in spent.items():
        above = process
        while above not in (0, os.getpid()):
            above = parents.get(above, 0)
        total += used if above else 0.0
    return total


def cpu(call: Callable[[int], Any], count: int) -> float:
    """CPU milliseconds of a call."""
    call(0)
    start = time.process_time()
    for index in range(count):
        call(index)
    return (time.process_time() - start) / count * 1e3


def stages(folder: Path) -> list[tuple[str, float]]:
    """Times the parts of an example, one thread."""
    found = source(folder, "folder")
    count = min(len(found), 200)
    blobs = [found.pairs[i][0] for i in range(count)]
    images = [decode_image(blob, "") for blob in blobs[:32]]
    rng = np.random.default_rng(0)
    crops = [random_crop(rng, image.shape[:2]) for image in images]
    return [
        ("read the file", cpu(lambda i: found.pairs[i], count)),
        ("decode, Pillow alone", cpu(lambda i: Image.open(io.BytesIO(blobs[i])).load(), count)),
        ("decode to an array", cpu(lambda i: decode_image(blobs[i], ""), count)),
        ("crop and resize", cpu(lambda i: resize_crop(images[i % 32], crops[i % 32], SIZE), count)),
        ("caption to ids", cpu(lambda i: found.encode([CAPTION.format(i)]), count)),
        ("whole example", cpu(lambda i: found.at(i, 0), count)),
    ]


def measure(folder: Path, kind: str, cores: Sequence[int], *settings: float) -> str:
    """Runs `one` in a process of its own on some cores; returns a row of the table.

    Args:
        folder, kind: of the pictures.
        cores: numbers of these.
        settings: threads, workers, seconds, and whether to go before others.
    """
    words = [str(folder), kind, *map(str, settings)]
    command = [sys.executable, "-m", "tests.benchmarks.bench_input", "--one", *words]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    rate, each = map(float, done.stdout.split()[-2:])
    threads, workers, *_ = settings
    return (
        f"{kind:<12}{len(cores):>6}{threads:>9.0f}{workers:>9.0f}{rate:>11.0f}"
        f"{each * len(cores):>11.0f}"
    )


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="pictures")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each row")
    parser.add_argument("--priority", action="store_true", help="go before others' work")
    parser.add_argument("--one", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        folder, kind, *settings = args.one
        threads, workers, seconds, priority = map(float, settings)
        rates = one(Path(folder), kind, int(threads), int(workers), seconds, priority > 0)
        print(*rates, flush=True)
        os._exit(0)  # what is read ahead need not end
        return
    available = sorted(os.sched_getaffinity(0))
    pair = available[:2]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write(folder, args.count)
        turbo = features.version("libjpeg_turbo") or "none"
        print(
            f"{args.count} JPEG files of {HEIGHT}×{WIDTH}, {size / 1e3:.0f} kB; Pillow "
            f"{Image.__version__}, libjpeg-turbo {turbo}; load {os.getloadavg()[0]:.1f}"
        )
        print(f"{'input':<12}{'cores':>6}{'threads':>9}{'workers':>9}{'wall /s':>11}{'CPU /s':>11}")
        for kind in ("folder", "webdataset"):
            rows = [(pair[:1], 1, 0), (pair, 2, 0), (pair, 4, 0), (pair, 1, 2)]
            for cores, threads, workers in rows:
                print(
                    measure(
                        folder, kind, cores, threads, workers, args.seconds, int(args.priority)
                    ),
                    flush=True,
                )
        print("\nCPU ms an example, one thread")
        for what, spent in stages(folder):
            print(f"{what:<24}{spent:8.2f}")


if __name__ == "__main__":
    main()
