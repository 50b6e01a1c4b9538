"""The accelerators that a plan can be made for, in numbers that their makers publish.

Rates are peaks, so a time computed from them is a bound and never a promise.
"""

from __future__ import annotations

import dataclasses

GIB = 2**30
_TPU = "https://docs.cloud.google.com/tpu/docs/"


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of accelerator. All numbers are of one device as JAX lists it.

    Attributes:
        name: as topologies spell it.
        kind: "tpu" or "gpu".
        flops: peak of bfloat16 products, FLOP/s, dense.
        hbm: capacity, bytes, as published.
        usable: bytes that a program may take: what libtpu's own compiler refuses to exceed
            (read from its messages), the published capacity where that is less, or for GPUs
            the 0.75 that JAX takes at start by default.
        hbm_rate: bytes/s between memory and chip.
        link_rate: bytes/s that one device sends over all its links together, one way (half of a
            published bidirectional number).
        links: over which that is spread; an exchange with one neighbour uses one of them.
        axes: of the torus: 2 or 3; 0 for a switch.
        per_chip: devices that JAX lists a chip.
        counts: what the number in a name like "v4-512" counts: "cores" (two a chip) or "chips".
        pod: devices of the largest slice, or of one box of GPUs.
        node_rate: bytes/s that a device sends to other boxes, for GPUs.
        sources: where the numbers stand.
    """

    name: str
    kind: str
    flops: float
    hbm: int
    usable: int
    hbm_rate: float
    link_rate: float
    links: int
    axes: int
    per_chip: int = 1
    counts: str = "chips"
    pod: int = 256
    node_rate: float = 0.0
    sources: tuple[str, ...] = ()


_ALL = (
    Chip(
        "v4", "tpu", 275e12, 32 * GIB, int(30.75 * GIB), 1200e9, 270e9, 6, 3,
        counts="cores", pod=4096,
        sources=(
            f"{_TPU}v4 (275 TFLOP/s, 32 GiB, 1200 GB/s)",
            "https://jax-ml.github.io/scaling-book/tpus (45 GB/s a link one way, six links)",
        ),
    ),
    Chip(
        "v5e", "tpu", 197e12, 16 * GIB, int(15.75 * GIB), 819e9, 200e9, 4, 2,
        sources=(f"{_TPU}v5e (197 TFLOP/s, 16 GB, 819 GB/s, links 400 GB/s both ways)",),
    ),
    Chip(
        "v5p", "tpu", 459e12, 95 * GIB, int(95 * GIB), 2765e9, 600e9, 6, 3,
        counts="cores", pod=6144,
        sources=(f"{_TPU}v5p (459 TFLOP/s, 95 GB, 2765 GB/s, links 4800 Gbit/s one way)",),
    ),
    Chip(
        "v6e", "tpu", 918e12, 32 * GIB, int(31.25 * GIB), 1638e9, 400e9, 4, 2,
        sources=(f"{_TPU}v6e (918 TFLOP/s, 32 GB, 1638 GB/s, links 800 GB/s both ways)",),
    ),
    Chip(
        "tpu7x", "tpu", 2307e12 / 2, 96 * GIB, int(94.75 * GIB), 7380e9 / 2, 600e9 / 2, 6, 3,
        per_chip=2, counts="cores", pod=9216 * 2,
        sources=(
            f"{_TPU}tpu7x (2307 TFLOP/s, 192 GiB, 7380 GB/s, links 1200 GB/s both ways; of a chip, "
            "which JAX lists as two devices)",
        ),
    ),
    Chip(
        "a100", "gpu", 312e12, 80 * 10**9, int(0.75 * 80e9), 2039e9, 300e9, 12, 0,
        pod=8, node_rate=25e9,
        sources=(
            "https://www.nvidia.com/en-us/data-center/a100 (SXM 80 GB: 312 TFLOP/s, 2039 GB/s, "
            "NVLink 600 GB/s both ways)",
            "between boxes: one 200 Gbit/s adapter a card, as in DGX A100",
        ),
    ),
    Chip(
        "h100", "gpu", 989.4e12, 80 * 10**9, int(0.75 * 80e9), 3350e9, 450e9, 18, 0,
        pod=8, node_rate=50e9,
        sources=(
            "https://www.nvidia.com/en-us/data-center/h100 (SXM: 1979 TFLOP/s sparse, half of it "
            "dense, 80 GB, 3.35 TB/s, NVLink 900 GB/s both ways)",
            "between boxes: one 400 Gbit/s adapter a card, as in DGX H100",
        ),
    ),
    Chip(
        "h200", "gpu", 989.4e12, 141 * 10**9, int(0.75 * 141e9), 4800e9, 450e9, 18, 0,
        pod=8, node_rate=50e9,
        sources=(
            "https://www.nvidia.com/en-us/data-center/h200 (SXM: 1979 TFLOP/s sparse, half of it "
            "dense, 141 GB, 4.8 TB/s, NVLink 900 GB/s both ways)",
            "between boxes: one 400 Gbit/s adapter a card, as in DGX H200",
        ),
    ),
)  # fmt: skip

CHIPS: dict[str, Chip] = {chip.name: chip for chip in _ALL}
