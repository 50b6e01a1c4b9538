"""Learning rates that fall from a tower's output to its input, for weights that know a lot."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from openseg_jax.errors import expected

# A tower's blocks are stacked leaves [depth, …]. SegCLIP cuts its image tower's stack in two.
_TOWER = re.compile(r"((?:.*/)?(?:visual|text))/(.*)")
_BLOCKS, _AFTER = "blocks/", "blocks_after/"
# What comes before the first block: the patch or token table, positions, and CLIP's first norm.
_INPUT = re.compile(r"(conv1|ln_pre)/.*|(class|positional|token)_embedding")


def layer_rates(params: Mapping[str, Any], decay: float) -> dict[str, Any]:
    """Computes each parameter's share of the learning rate from its depth in its tower.

    In a tower of L blocks, block i (from 0) has the share decay^(L − i), so that the last one has
    `decay`; what comes before the blocks (patch convolution, class token, token and position
    tables, the norm before the blocks) has decay^(L + 1); the final norm, the projection, the
    temperature and every part that is no tower of CLIP's have 1. Each tower counts its own blocks.
    SegCLIP's image tower is one of `blocks` and `blocks_after`; its group module, reconstruction
    branch and decoder are fresh and sit above blocks, so that they have 1.

    Source: BEiT's `get_num_layer_for_vit` (Bao et al. 2022), taken over by MAE's fine-tuning (He et
    al. 2022, `param_groups_lrd`) and by CLIP's (Dong et al. 2022, EVA-CLIP). These know no norm
    before the blocks and would give it 1; it belongs to the input, as the tables that it scales.

    Args:
        params: shapes or arrays of all parameters, trained or not, by flat name; blocks are
            stacked along the first axis.
        decay: in (0, 1]; 1 gives every parameter the share 1.

    Returns:
        By name: a number, or for a stacked leaf float32[depth, 1, …], which broadcasts over it.

    Raises:
        UserError: for a decay outside (0, 1], or one below 1 where no tower has blocks.
    """
    if not 0.0 < decay <= 1.0:
        raise expected(
            "optim.layer_decay", "a number in (0, 1]", repr(decay),
            "1.0 trains all layers alike; fine-tuning often takes 0.65 to 0.9",
        )  # fmt: skip
    if decay == 1.0:
        return dict.fromkeys(params, 1.0)
    first, after = _depths(params, _BLOCKS), _depths(params, _AFTER)
    if not first:
        raise expected(
            "optim.layer_decay", "parameters with an image or text tower", "none",
            "leave it at 1.0 for this task",
        )  # fmt: skip
    shares: dict[str, Any] = dict.fromkeys(params, 1.0)
    for name, leaf in params.items():
        tower, rest = _split(name)
        if tower not in first:
            continue
        below, depth = first[tower], first[tower] + after.get(tower, 0)
        if rest.startswith(_BLOCKS):
            shares[name] = _stacked(decay, depth - np.arange(below), leaf)
        elif rest.startswith(_AFTER):
            shares[name] = _stacked(decay, depth - np.arange(below, depth), leaf)
        elif _INPUT.fullmatch(rest):
            shares[name] = decay ** (depth + 1)
    return shares


def _split(name: str) -> tuple[str, str]:
    found = _TOWER.fullmatch(name)
    return (found[1], found[2]) if found else ("", name)


def _depths(params: Mapping[str, Any], stack: str) -> dict[str, int]:
    """Finds the number of blocks in each tower's stack of that name."""
    split = {name: _split(name) for name in params}
    return {
        tower: params[name].shape[0]
        for name, (tower, rest) in split.items()
        if tower and rest.startswith(stack)
    }


def _stacked(decay: float, powers: np.ndarray, leaf: Any) -> np.ndarray:
    shares = np.power(decay, powers).astype(np.float32)
    return shares.reshape(-1, *[1] * (len(leaf.shape) - 1))
