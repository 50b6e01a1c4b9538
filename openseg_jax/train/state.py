"""What changes during training, as one pytree."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from openseg_jax.types import Array, Int, Params

# An ml_collections.ConfigDict with the keys of configs/base.py; they have no static types.
Config = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state that a checkpoint holds.

    Attributes:
        step: updates done; −s where the update of step s, counted from 1, was not finite.
        params: all parameters that the task returned, trained or not.
        opt_state: the optimiser's, over the trained parameters only.
        average: of the trained parameters by flat name, float32; None where none is kept.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: Any
    average: Any = None

    def fields(self) -> dict[str, Any]:
        """Returns what there is by name, for checkpoints: older ones know no averages."""
        every = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in every.items() if value is not None}


def flat_names(params: Params) -> dict[str, Any]:
    """Flattens nested parameters to {"a/b/c": leaf}."""
    return flatten_dict(dict(params), sep="/")


def nested(flat: dict[str, Any]) -> Params:
    """Undoes `flat_names`."""
    return unflatten_dict(flat, sep="/")


def split_params(params: Params, names: frozenset[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits parameters into those called `names` and the rest, both flat."""
    flat = flat_names(params)
    return (
        {name: leaf for name, leaf in flat.items() if name in names},
        {name: leaf for name, leaf in flat.items() if name not in names},
    )
