"""What a block keeps for its backward pass, and what it computes again: by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from openseg_jax.errors import unknown_name

# Name to policy. "none" keeps everything; "full" keeps what enters a block, for a third more
# products; "dots" keeps the results of products with weights as well, so that what is computed
# again (attention, norms, activations) costs next to no product.
REMAT: dict[str, Any] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
_PLAIN = {"true": "full", "false": "none"}


def remat_name(remat: bool | str) -> str:
    """Returns the name of what to recompute; True is "full", False "none".

    Raises:
        UserError: for a name that is not in `REMAT`.
    """
    name = str(remat).lower()
    name = _PLAIN.get(name, name)
    if name not in REMAT:
        unknown_name(str(remat), REMAT, "remat")
    return name


def recomputed(
    body: Callable[..., Any], remat: bool | str, *, looped: bool = False
) -> Callable[..., Any]:
    """Returns `body` with parts of it computed again in the backward pass.

    Args:
        body: a block.
        remat: name, see `REMAT`.
        looped: whether it is the body of a scan, which the compiler cannot merge with its own
            second computation; elsewhere it has to be kept from that.
    """
    name = remat_name(remat)
    if name == "none":
        return body
    return jax.checkpoint(body, policy=REMAT[name], prevent_cse=not looped)
