"""Training-free region proposals: superpixels, grouped step by step into larger regions.

Two over-segmentations from scikit-image (felzenszwalb and SLIC) are each merged greedily, most
similar neighbours first, and every region on the way is a proposal. So there are proposals of all
sizes, and together they cover the picture. Host code: it runs on NumPy arrays, one picture a time.

Source: the grouping and its four similarities (colour, texture, size, fill) follow Uijlings et al.,
"Selective Search for Object Recognition", IJCV 2013, with CIELAB colours and gradient directions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage
from skimage import color, segmentation

from openseg_jax.types import Bool, Float, Int, UInt8

__all__ = ["group", "region_proposals", "superpixels"]

_COLOUR_BINS, _DIRECTIONS, _STRENGTHS = 16, 8, 4
_SAME = 0.95
# How many bits each byte has.
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)


def region_proposals(
    image: UInt8[np.ndarray, "H W 3"], count: int, *, finest: int = 200
) -> Bool[np.ndarray, "M H W"]:
    """Proposes up to `count` regions of all sizes, from several over-segmentations.

    Args:
        image: RGB bytes of 4 pixels a side or more; smaller ones give the whole picture.
        count: how many at most, 2 or more.
        finest: how many superpixels an over-segmentation aims at.

    Returns:
        Distinct regions, each connected to its neighbours' borders. Those of the first
        segmentation cover the picture, and the whole picture is not among them unless nothing else
        was found.
    """
    whole = np.ones((1, *image.shape[:2]), bool)
    if min(image.shape[:2]) < 4:
        return whole
    features = _features(image)
    kinds = ("felzenszwalb", "slic")
    found: list[np.ndarray] = []
    for place, kind in enumerate(kinds):
        labels = superpixels(image, kind, finest)
        room = (count - len(found)) // (len(kinds) - place)
        # A binary tree over k leaves has 2k − 2 regions besides the whole.
        regions = group(labels, features, room // 2 + 1)
        found += regions
    return _distinct(np.stack(found))[:count] if found else whole


def superpixels(
    image: UInt8[np.ndarray, "H W 3"], kind: str, finest: int
) -> Int[np.ndarray, "H W"]:
    """Cuts a picture into about `finest` superpixels or fewer, numbered from 0.

    Args:
        image: RGB bytes.
        kind: "felzenszwalb" follows contrast, "slic" is compact.
        finest: the number aimed at.
    """
    area = image.shape[0] * image.shape[1]
    if kind == "slic":
        labels = segmentation.slic(image, n_segments=finest, compactness=10, start_label=0)
    else:
        least = max(area // (4 * finest), 4)
        labels = segmentation.felzenszwalb(image, scale=100, sigma=0.6, min_size=least)
    return np.unique(labels, return_inverse=True)[1].reshape(image.shape[:2]).astype(np.int32)


def group(
    labels: Int[np.ndarray, "H W"], features: Int[np.ndarray, "F H W"], leaves: int
) -> list[Bool[np.ndarray, "H W"]]:
    """Merges neighbouring regions greedily and returns all that appear from `leaves` on.

    Args:
        labels: superpixels, numbered from 0.
        features: of each pixel: bin numbers, one plane a kind of feature.
        leaves: merging is silent until so many regions are left; those and every union made of
            them afterwards are returned, the whole picture excepted.
    """
    regions = _Regions(labels, features)
    while regions.count > max(leaves, 1):
        regions.merge()
    found = [np.isin(labels, sorted(regions.members[i])) for i in regions.alive()]
    if len(found) == 1:
        return []
    while regions.count > 2:
        new = regions.merge()
        found.append(np.isin(labels, sorted(regions.members[new])))
    return found


class _Regions:
    """Regions with their histograms and similarities; `merge` joins the two most alike."""

    def __init__(self, labels: np.ndarray, features: np.ndarray) -> None:
        count = int(labels.max()) + 1
        self.members = [{i} for i in range(count)]
        self.area = np.bincount(labels.ravel(), minlength=count).astype(np.float64)
        self.total = self.area.sum()
        self.histograms = [_histograms(labels, plane, count, self.area) for plane in features]
        boxes = ndimage.find_objects(labels + 1)
        self.boxes = np.asarray([[b[0].start, b[1].start, b[0].stop, b[1].stop] for b in boxes])
        self.count = count
        self.similarity = np.full((count, count), -np.inf)
        for i, j in _neighbours(labels):
            self.similarity[i, j] = self.similarity[j, i] = self._alike(i, np.asarray([j]))[0]

    def alive(self) -> list[int]:
        return [i for i, members in enumerate(self.members) if members]

    def merge(self) -> int:
        i, j = divmod(int(self.similarity.argmax()), len(self.similarity))
        if np.isneginf(self.similarity[i, j]):
            # Regions that touch nothing (no picture has them, label maps may): any two.
            i, j = self.alive()[:2]
        share = self.area[j] / (self.area[i] + self.area[j])
        for histogram in self.histograms:
            histogram[i] += share * (histogram[j] - histogram[i])
        self.area[i] += self.area[j]
        self.boxes[i, :2] = np.minimum(self.boxes[i, :2], self.boxes[j, :2])
        self.boxes[i, 2:] = np.maximum(self.boxes[i, 2:], self.boxes[j, 2:])
        self.members[i] |= self.members[j]
        self.members[j] = set()
        touched = np.isfinite(self.similarity[i]) | np.isfinite(self.similarity[j])
        touched[[i, j]] = False
        others = np.flatnonzero(touched)
        self.similarity[j], self.similarity[:, j] = -np.inf, -np.inf
        if len(others):
            self.similarity[i, others] = self.similarity[others, i] = self._alike(i, others)
        self.count -= 1
        return i

    def _alike(self, i: int, others: np.ndarray) -> Float[np.ndarray, " n"]:
        score = sum(np.minimum(h[i], h[others]).sum(axis=1) for h in self.histograms)
        both = self.area[i] + self.area[others]
        low = np.minimum(self.boxes[i, :2], self.boxes[others, :2])
        high = np.maximum(self.boxes[i, 2:], self.boxes[others, 2:])
        box = (high - low).prod(axis=1)
        return score + (1 - both / self.total) + (1 - (box - both) / self.total)


def _features(image: np.ndarray) -> Int[np.ndarray, "4 H W"]:
    lab = color.rgb2lab(image)
    scaled = (lab - [0, -128, -128]) / [100, 256, 256]
    # Few pictures use the far ends of a and b: their bins lie around grey.
    scaled[..., 1:] = np.clip((scaled[..., 1:] - 0.5) * 2 + 0.5, 0, 1)
    colours = np.minimum((scaled * _COLOUR_BINS).astype(int), _COLOUR_BINS - 1)
    light = ndimage.gaussian_filter(lab[..., 0], 1.0)
    down, along = np.gradient(light)
    direction = np.floor((np.arctan2(down, along) / np.pi + 1) / 2 * _DIRECTIONS).astype(int)
    strength = np.digitize(np.hypot(down, along), [2.0, 6.0, 15.0])
    texture = (direction % _DIRECTIONS) * _STRENGTHS + strength
    return np.stack([*np.moveaxis(colours, -1, 0), texture])


def _histograms(labels: np.ndarray, plane: np.ndarray, count: int, area: np.ndarray) -> np.ndarray:
    bins = max(_COLOUR_BINS, _DIRECTIONS * _STRENGTHS)
    flat = labels.ravel().astype(np.int64) * bins + plane.ravel()
    counts = np.bincount(flat, minlength=count * bins).reshape(count, bins)
    return counts / area[:, None]


def _neighbours(labels: np.ndarray) -> Any:
    pairs = np.concatenate(
        [
            np.stack([labels[:, :-1].ravel(), labels[:, 1:].ravel()], 1),
            np.stack([labels[:-1].ravel(), labels[1:].ravel()], 1),
        ]
    )
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    return np.unique(pairs, axis=0).tolist()


def _distinct(masks: Bool[np.ndarray, "M H W"]) -> Bool[np.ndarray, "N H W"]:
    """Leaves out masks that equal an earlier one but for a twentieth of their pixels."""
    # Bits, not a matrix product: BLAS threads stand in each other's way on a busy machine.
    bits = np.packbits(masks.reshape(len(masks), -1), axis=1)
    inter = np.stack([_ONES[bits & row].sum(axis=1, dtype=np.int64) for row in bits])
    area = inter.diagonal()
    same = inter >= _SAME * (area[:, None] + area[None, :] - inter)
    kept: list[int] = []
    for i in range(len(masks)):
        if not same[i, kept].any():
            kept.append(i)
    return masks[kept]
