"""What the machine says of itself: its devices' peak speed, memory in use, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import openseg_jax

# Dense bfloat16 matrix products with float32 sums, TFLOP/s of one JAX device, by words of its
# `device_kind`; the first row whose words all occur decides. From the vendors' data sheets:
# cloud.google.com/tpu/docs/system-architecture-tpu-vm (v2, v3 and 7x chips are two devices each)
# and NVIDIA's data sheets of each card, figures without sparsity. T4 and V100 know float16 only.
_PEAKS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("tpu v2",), 22.5),
    (("tpu v3",), 61.5),
    (("tpu v4",), 275.0),
    (("tpu v5", "lite"), 197.0),
    (("tpu v5e",), 197.0),
    (("tpu v5",), 459.0),
    (("tpu v6",), 918.0),
    (("tpu7x",), 1153.5),
    (("tpu v7",), 1153.5),
    (("b200",), 2250.0),
    (("h200",), 989.4),
    (("h100", "pcie"), 756.0),
    (("h100",), 989.4),
    (("a100",), 312.0),
    (("l40s",), 362.0),
    (("l4",), 121.0),
    (("a10g",), 70.0),
    (("rtx 4090",), 165.2),
    (("rtx 3090",), 71.0),
    (("v100",), 125.0),
    (("t4",), 65.0),
)


def peak_flops(kind: str) -> float | None:
    """Returns what a device does at best, FLOP/s in bfloat16; None for one that is not known.

    Args:
        kind: the device's `device_kind`. Processors have no entry: their rate depends on clock,
            vector width and cores that are free, so no utilisation is claimed on them.
    """
    kind = kind.lower()
    found = (peak for words, peak in _PEAKS if all(word in kind for word in words))
    peak = next(found, None)
    return None if peak is None else peak * 1e12


def device_memory() -> dict[str, float]:
    """Returns GiB `device_memory_peak` and `device_memory_limit` of the fullest local device.

    Empty where the backend does not count (processors). The peak is since the process started.
    """
    # memory_stats is None on some backends and lacks keys on others.
    stats = [dict(device.memory_stats() or {}) for device in jax.local_devices()]
    keys = {"peak_bytes_in_use": "device_memory_peak", "bytes_limit": "device_memory_limit"}
    return {
        name: max(s[key] for s in stats) / 2**30
        for key, name in keys.items()
        if stats and all(key in s for s in stats)
    }


def host_memory() -> dict[str, float]:
    """Returns GiB `host_memory` that this process holds now; empty where the system does not say.

    Worker processes of the input are not in it.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return {}
    return {"host_memory": pages * os.sysconf("SC_PAGE_SIZE") / 2**30}


def describe_machine() -> dict[str, Any]:
    """Returns devices, versions and, in a checkout of git, the commit of this library."""
    device = jax.devices()[0]
    versions = {"python": platform.python_version(), "openseg_jax": openseg_jax.__version__}
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy"):
        versions[name] = metadata.version(name)
    return {
        "device_kind": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "versions": versions,
        "commit": _commit(Path(openseg_jax.__file__).parents[1]),
    }


def _commit(folder: Path) -> str:
    """Returns "abc123" or "abc123 with changes"; "" where the library is no checkout."""
    if not (folder / ".git").exists():
        return ""

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit} with changes" if changed else commit
