"""How TPUs are called: by people, by Google Cloud, and by the software they boot with."""

from __future__ import annotations

import dataclasses
import difflib
import re

from openseg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Generation:
    """One generation of TPUs.

    Attributes:
        cloud: what Google Cloud and XPK call it in an accelerator type.
        runtime: software version of its TPU VMs; "" where there are none.
        counts: what the number after the dash counts.
        one_host: the largest number that is one host.
    """

    cloud: str
    runtime: str
    counts: str
    one_host: int


# Runtime versions: cloud.google.com/tpu/docs/runtimes. v5e and v6e are counted in chips, the
# others in TensorCores, two a chip. tpu7x has no TPU VMs of its own: "This page applies to the
# Cloud TPU API. For Ironwood (TPU7x), you must use Google Kubernetes Engine"
# (docs.cloud.google.com/tpu/docs/queued-resources).
GENERATIONS = {
    "v2": Generation("v2", "tpu-ubuntu2204-base", "TensorCores", 8),
    "v3": Generation("v3", "tpu-ubuntu2204-base", "TensorCores", 8),
    "v4": Generation("v4", "tpu-ubuntu2204-base", "TensorCores", 8),
    "v5e": Generation("v5litepod", "v2-alpha-tpuv5-lite", "chips", 8),
    "v5p": Generation("v5p", "v2-alpha-tpuv5", "TensorCores", 8),
    "v6e": Generation("v6e", "v2-alpha-tpuv6e", "chips", 8),
    "tpu7x": Generation("tpu7x", "", "TensorCores", 8),
}
# Other spellings in use.
ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "v7x": "tpu7x", "ironwood": "tpu7x"}


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A TPU slice.

    Attributes:
        name: what people call it, `v5e-256`.
        cloud: what Google Cloud calls it, `v5litepod-256`.
        runtime: software version of its TPU VMs; "" where there are none.
        several_hosts: whether it takes more than one process.
    """

    name: str
    cloud: str
    runtime: str
    several_hosts: bool


def accelerator(text: str) -> Accelerator:
    """Reads the name of a TPU slice, such as `v5e-256`, `v5litepod-256` or `v4-512`.

    Raises:
        UserError: for an unknown generation or a size that is none.
    """
    match = re.fullmatch(r"([a-z][a-z0-9]*)-([0-9]+)", text.lower())
    if match is None:
        hint = "a size follows the name, as in v5e-256"
        if (known := ALIASES.get(text.lower(), text.lower())) in GENERATIONS:
            hint = f"add the number of {GENERATIONS[known].counts}, as in {known}-16"
        raise UserError(f"--type: expected NAME-SIZE, got {text!r}; {hint}")
    name, size = ALIASES.get(match[1], match[1]), int(match[2])
    if name not in GENERATIONS:
        near = difflib.get_close_matches(name, GENERATIONS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}-{size}? " if near else ""
        raise UserError(
            f"--type: unknown generation {name!r}; {hint}known: {', '.join(GENERATIONS)}"
        )
    found = GENERATIONS[name]
    least = 1 if found.counts == "chips" else 2
    if size < least or (size & (size - 1) and found.counts == "chips"):
        raise UserError(
            f"--type: expected a number of {found.counts}, got {text!r}; "
            f"sizes of {name} are powers of two, as in {name}-16"
        )
    return Accelerator(
        name=f"{name}-{size}",
        cloud=f"{found.cloud}-{size}",
        runtime=found.runtime,
        several_hosts=size > found.one_host,
    )
