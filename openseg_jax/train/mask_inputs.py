"""Pictures with label maps, by the names that configs use; for every task on masks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage

from openseg_jax.errors import unknown_name
from openseg_jax.inputs.augment import Views
from openseg_jax.inputs.segmentation import (
    Classes,
    LabelledFolder,
    Segmentation,
    classes_of,
    named_classes,
)
from openseg_jax.miniature import streams
from openseg_jax.miniature.noisy_proposals import noisy_proposals
from openseg_jax.miniature.world import CLASS_NAMES, UNSEEN_THINGS
from openseg_jax.ops.regions import region_proposals
from openseg_jax.train.state import Config
from openseg_jax.types import Bool, Int, UInt8

Proposed = tuple[Bool[np.ndarray, "M h w"], Bool[np.ndarray, "M"]]


@dataclasses.dataclass(frozen=True)
class MaskInputs:
    """Examples with masks and what goes with them.

    Attributes:
        source: of examples.
        classes: names of the training classes.
    """

    source: Segmentation
    classes: tuple[str, ...]


def labelled_regions(labels: Int[np.ndarray, "H W"]) -> Bool[np.ndarray, "R H W"]:
    """Lists the connected regions of equal labels; what is ignored gives none.

    Nothing of an unseen class is among them, for its pixels are ignored already.
    """
    found = []
    for kind in np.unique(labels[labels >= 0]):
        parts, count = ndimage.label(labels == kind)  # type: ignore[misc]
        found += [parts == i + 1 for i in range(count)]
    kept = [mask for mask in found if np.count_nonzero(mask) >= 4]
    return np.array(kept, bool).reshape(-1, *labels.shape)


def noisy(
    image: UInt8[np.ndarray, "H W 3"],
    labels: Int[np.ndarray, "H W"],
    index: int,
    epoch: int,
    *,
    count: int,
    seed: int,
) -> Proposed:
    """Makes noisy proposals around the regions of a label map, see `miniature.noisy_proposals`."""
    del image
    truth = labelled_regions(labels)
    made = noisy_proposals("train", index, truth, count, seed=seed + 1000003 * epoch)
    return made.masks, made.valid


def by_regions(
    image: UInt8[np.ndarray, "H W 3"],
    labels: Int[np.ndarray, "H W"],
    index: int,
    epoch: int,
    *,
    count: int,
    seed: int,
) -> Proposed:
    """Makes training-free region proposals; the label map is not looked at."""
    del labels, index, epoch, seed
    found = region_proposals(image, count)[:count]
    masks = np.zeros((count, *image.shape[:2]), bool)
    masks[: len(found)] = found
    return masks, np.arange(count) < len(found)


# Names of `config.input.masks.proposals`. "none" and "generator" put no proposals in the batch.
PROPOSALS: dict[str, Callable[..., Proposed] | None] = {
    "none": None,
    "generator": None,
    "noisy": noisy,
    "regions": by_regions,
}


class MiniatureScenes:
    """Scenes of the miniature's stream "train", without the masks of its unseen things.

    Args:
        size: side, pixels. seed: which world.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self.classes: Classes = miniature_classes()

    def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        scene = streams.scene("train", index, self.size, seed=self.seed)
        return scene.image, self.classes(scene.semantic)


def miniature_classes() -> Classes:
    """Lists the miniature's classes that training may see masks of; ids of maps begin at 1."""
    unseen = np.isin(CLASS_NAMES, UNSEEN_THINGS)
    return classes_of(CLASS_NAMES, unseen, range(1, len(CLASS_NAMES) + 1))


def _miniature(config: Config) -> MaskInputs:
    m, i = config.input.masks, config.input
    scenes = MiniatureScenes(m.crop, i.seed)
    source = Segmentation(scenes, i.examples, m.segments, None, _propose(config), config.seed)
    return MaskInputs(source, scenes.classes.names)


def _folder(config: Config) -> MaskInputs:
    m, i = config.input.masks, config.input
    classes = named_classes(m.classes, m.split, m.ids)
    pairs = LabelledFolder(i.path, m.labels, classes, m.suffix)
    views = Views(m.crop, tuple(m.short_sides), m.long_side, colours=m.colours)
    source = Segmentation(pairs, len(pairs), m.segments, views, _propose(config), config.seed)
    return MaskInputs(source, classes.names)


def _propose(config: Config) -> Any:
    m = config.input.masks
    if m.proposals not in PROPOSALS:
        unknown_name(m.proposals, PROPOSALS, "input.masks.proposals")
    made = PROPOSALS[m.proposals]
    if made is None:
        return None
    return functools.partial(
        _coarse, made=made, stride=m.stride, count=m.count, seed=config.input.seed
    )


def _coarse(
    image: np.ndarray, labels: np.ndarray, *place: int, made: Any, stride: int, **settings: int
) -> Proposed:
    """Makes proposals at every `stride`-th pixel, as generators give them: a batch stays small."""
    every = slice(stride // 2, None, stride)
    small = np.ascontiguousarray(image[every, every])
    return made(small, labels[every, every], *place, **settings)


# Names of `config.input.name`.
INPUTS: dict[str, Callable[[Config], MaskInputs]] = {"miniature": _miniature, "folder": _folder}
SAW = {
    "miniature": "scenes of the miniature stream (seed {seed}), masks of seen classes only",
    "folder": "pictures of the folder {path} with the label maps of {masks[labels]}"
    " ({masks[classes]}, split {masks[split]!r})",
}


def saw_of(config: Config) -> str:
    """Says what one example of a config's input is.

    Raises:
        UserError: for an unknown input.
    """
    if config.input.name not in SAW:
        unknown_name(config.input.name, SAW, "input")
    return SAW[config.input.name].format(**config.input.to_dict())


def open_masks(config: Config) -> MaskInputs:
    """Opens the examples that a config names.

    Raises:
        UserError: for unknown names, or data that is not there.
    """
    if config.input.name not in INPUTS:
        unknown_name(config.input.name, INPUTS, "input")
    return INPUTS[config.input.name](config)
