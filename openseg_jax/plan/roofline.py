"""The least time that a step can take on a machine, and what it is bound by."""

from __future__ import annotations

import dataclasses
import math

from openseg_jax.plan.cost import Cost, Exchange
from openseg_jax.plan.topology import Machine


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of a step if one thing alone took time, and all else ran beside it.

    Attributes:
        compute: products at the chip's peak. memory: traffic at HBM's rate. exchange: bytes sent
            at the links' rate.
        model: at the peak rate, products without recomputation and evenly shared.
    """

    compute: float
    memory: float
    exchange: float
    model: float

    @property
    def time(self) -> float:
        """The largest of the three."""
        return max(self.compute, self.memory, self.exchange)

    @property
    def utilisation(self) -> float:
        """Model FLOPs over what the chips could do in `time`."""
        return self.model / self.time if self.time else 0.0

    @property
    def most(self) -> float:
        """The utilisation that no run can beat: traffic, an upper estimate, left out."""
        least = max(self.compute, self.exchange)
        return self.model / least if least else 0.0

    @property
    def bound(self) -> str:
        """What the largest is called."""
        parts = {"compute": self.compute, "HBM": self.memory, "interconnect": self.exchange}
        return max(parts, key=lambda name: parts[name])


def rate_of(exchange: Exchange, machine: Machine) -> float:
    """Chooses the bytes/s that a device sends at in an exchange.

    A permutation moves to one neighbour, over one link (a switch gives it all). Other kinds use
    all links. Between boxes of GPUs the adapters are what counts.
    """
    chip = machine.chip
    if chip.kind == "gpu":
        apart = machine.shape[1] > 1 and exchange.group > machine.shape[0]
        return chip.node_rate if apart else chip.link_rate
    if exchange.kind == "collective-permute":
        return chip.link_rate / chip.links
    return chip.link_rate


def roofline(machine: Machine, cost: Cost, model_flops: float) -> Roofline:
    """Computes the bounds for one step.

    Args:
        machine: for which.
        cost: of one device's program.
        model_flops: of all devices together, without recomputation.
    """
    chip = machine.chip
    compute = cost.flops / chip.flops
    memory = cost.traffic / chip.hbm_rate
    exchange = math.fsum(e.sent / rate_of(e, machine) for e in cost.exchanges)
    return Roofline(compute, memory, exchange, model_flops / (chip.flops * machine.devices))


def gradient_bound(parameters_bytes: float, copies: int) -> float:
    """Computes what every device must send so that all know a sum: 2·(n−1)/n of its bytes."""
    return 2.0 * (copies - 1) / copies * parameters_bytes
