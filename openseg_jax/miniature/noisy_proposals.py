"""Mask proposals of the quality that generators deliver, made from exact masks of the miniature.

| kind | what it is |
|---|---|
| truth | the mask of one thing or one stuff, exact |
| shifted | the same mask, moved by 15 to 45 % of its extent |
| dilated | grown by 10 to 35 % of its size, so that it takes in what is around it |
| halved | cut by a line through its middle; one side is kept |
| merged | the union of two masks |
| random | an ellipse or a box anywhere |

Every set is a pure function of (seed, stream, index), as the scenes are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int
from scipy import ndimage

from openseg_jax.errors import UserError, check_shape
from openseg_jax.miniature.streams import STREAMS, Scene
from openseg_jax.miniature.world import THINGS, UNSEEN_THINGS, WORLD_SEED, class_id

KINDS: tuple[str, ...] = ("truth", "shifted", "dilated", "halved", "merged", "random")

_SALT = 7  # keeps the proposals' chance apart from the scene's
_MIN_AREA = 4  # pixels; a proposal with fewer is drawn again as a random one
_SHIFT = (0.15, 0.45)
_GROWTH = (0.10, 0.35)


@dataclasses.dataclass(frozen=True)
class NoisyProposals:
    """A fixed number of class-agnostic masks.

    Attributes:
        masks: Bool[M H W]; no kept mask is empty.
        valid: Bool[M]; all True, for `count` is always reached. There for the batch's sake.
        kind: Int8[M], index into `KINDS`. For reports; no model may see it.
    """

    masks: Bool[np.ndarray, "M H W"]
    valid: Bool[np.ndarray, "M"]
    kind: Int[np.ndarray, "M"]


def regions(scene: Scene, *, unseen: bool = True) -> Bool[np.ndarray, "R H W"]:
    """Lists the exact masks of a scene: each thing by itself, and each stuff.

    Args:
        scene: the scene.
        unseen: whether UNSEEN_THINGS are among them. In training they must not be: their masks
            would come in as proposals although nothing may show them.

    Returns:
        One mask a thing or stuff, things first; slivers below 4 pixels are left out.
    """
    hidden = {class_id(name) for name in UNSEEN_THINGS}
    masks = [
        scene.instance == i + 1
        for i, thing in enumerate(scene.things)
        if unseen or thing.thing not in hidden
    ]
    masks += [scene.semantic == kind for kind in np.unique(scene.semantic) if kind > len(THINGS)]
    kept = [mask for mask in masks if np.count_nonzero(mask) >= _MIN_AREA]
    return np.array(kept, bool).reshape(-1, *scene.semantic.shape)


def noisy_proposals(
    stream: str,
    index: int,
    truth: Bool[np.ndarray, "R H W"],
    count: int = 32,
    *,
    seed: int = 0,
    kinds: Sequence[str] = KINDS,
) -> NoisyProposals:
    """Draws proposals around exact masks.

    Each mask gets one proposal of every kind in turn, then two more rounds of imperfect ones, and
    random shapes fill what is left. Where that is more than `count`, the first round is served
    first: as long as there are `count` masks at most, every one has its exact proposal. The order
    of the result is shuffled.

    Args:
        stream: the scene's.
        index: the scene's place in it.
        truth: exact masks, see `regions`; may be none.
        count: M.
        seed: the scene's.
        kinds: which of `KINDS` to draw; "random" always fills the rest.

    Returns:
        The proposals; the same arguments give the same ones.

    Raises:
        UserError: for an unknown stream or kind, or a count below 1.
    """
    from openseg_jax.errors import unknown_name

    if stream not in STREAMS:
        unknown_name(stream, STREAMS, "miniature stream")
    for kind in kinds:
        if kind not in KINDS:
            unknown_name(kind, KINDS, "kind of proposal")
    if count < 1:
        raise UserError(f"count: expected 1 proposal or more, got {count}; ask for some")
    check_shape(truth, "R H W", "truth")
    words = np.random.SeedSequence([WORLD_SEED, seed, STREAMS[stream], index, _SALT])
    rng = np.random.Generator(np.random.PCG64(words))
    rounds = ([k for k in KINDS[:-1] if k in kinds], [k for k in KINDS[1:-1] if k in kinds])
    plan = [(kind, r) for kind in rounds[0] for r in rng.permutation(len(truth))]
    for _ in range(2):
        more = [(kind, r) for kind in rounds[1] for r in range(len(truth))]
        plan += [more[i] for i in rng.permutation(len(more))]
    masks, names = [], []
    for kind, r in plan[:count]:
        mask = _DRAW[kind](rng, truth, int(r))
        if np.count_nonzero(mask) < _MIN_AREA:
            kind, mask = "random", _random(rng, truth.shape[1:])
        masks.append(mask)
        names.append(KINDS.index(kind))
    while len(masks) < count:
        masks.append(_random(rng, truth.shape[1:]))
        names.append(KINDS.index("random"))
    order = rng.permutation(count)
    return NoisyProposals(
        np.array(masks, bool)[order], np.ones(count, bool), np.array(names, np.int8)[order]
    )


def _truth(rng: np.random.Generator, truth: np.ndarray, r: int) -> np.ndarray:
    del rng
    return truth[r]


def _shifted(rng: np.random.Generator, truth: np.ndarray, r: int) -> np.ndarray:
    rows, columns = np.nonzero(truth[r])
    angle, reach = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(*_SHIFT)
    down = round(np.sin(angle) * reach * (np.ptp(rows) + 1))
    right = round(np.cos(angle) * reach * (np.ptp(columns) + 1))
    height, width = truth[r].shape
    rows, columns = rows + down, columns + right
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    moved = np.zeros_like(truth[r])
    moved[rows[inside], columns[inside]] = True
    return moved


def _dilated(rng: np.random.Generator, truth: np.ndarray, r: int) -> np.ndarray:
    radius = max(rng.uniform(*_GROWTH) * np.sqrt(np.count_nonzero(truth[r])), 1.0)
    away = ndimage.distance_transform_edt(~truth[r])
    return np.asarray(away) <= radius


def _halved(rng: np.random.Generator, truth: np.ndarray, r: int) -> np.ndarray:
    rows, columns = np.nonzero(truth[r])
    angle = rng.uniform(0.0, 2.0 * np.pi)
    height, width = truth[r].shape
    along = np.cos(angle) * np.arange(width) + np.sin(angle) * np.arange(height)[:, None]
    return truth[r] & (along >= np.median(along[rows, columns]))


def _merged(rng: np.random.Generator, truth: np.ndarray, r: int) -> np.ndarray:
    if len(truth) < 2:
        return truth[r] | _random(rng, truth.shape[1:])
    other = int(rng.integers(len(truth) - 1))
    return truth[r] | truth[other + (other >= r)]


def _random(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    height, width = size
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    half_h, half_w = rng.uniform(0.06, 0.4, 2) * (height, width)
    down = np.abs(np.arange(height)[:, None] + 0.5 - y) / max(half_h, 1.5)
    across = np.abs(np.arange(width)[None] + 0.5 - x) / max(half_w, 1.5)
    if rng.random() < 0.5:
        return down**2 + across**2 <= 1.0
    return np.maximum(down, across) <= 1.0


_DRAW = {
    "truth": _truth, "shifted": _shifted, "dilated": _dilated, "halved": _halved,
    "merged": _merged,
}  # fmt: skip
