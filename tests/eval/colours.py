"""A segmenter without weights that JAX can trace, and small sets of coloured pictures for it.

A class is named after a colour, and its mask is how near a pixel is to that colour.
"""

from __future__ import annotations

import dataclasses
import types

import jax.numpy as jnp
import numpy as np

from openseg_jax.eval.benchmarks import Benchmark, Texts
from openseg_jax.inputs.augment import IGNORE
from openseg_jax.types import Masks

COLOURS = {
    "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255),
    "yellow": (255, 255, 0),
}  # fmt: skip
NAMES = tuple(COLOURS)


class Colours:
    """Follows `methods.base.Segmenter`."""

    threshold = 0.5

    def __init__(self):
        self.params = {"reach": np.float32(255.0)}

    def classes(self, names, background=None):
        rivals = [name for name in background or () if name in COLOURS]
        return np.array([COLOURS[n] for n in (*names, *rivals)], np.float32)

    def segment(self, params, image, text, valid=None):
        colours = jnp.asarray(text)[None, :, None, None]
        away = jnp.abs(jnp.asarray(image, jnp.float32)[:, None] - colours).max(-1)
        probs = jnp.clip(1 - away / params["reach"], 0, 1)
        if valid is not None:
            probs = probs * valid[:, None]
        return Masks(probs, None, jnp.ones(probs.shape[:2], bool))


def predict(image):
    """Labels a picture as `Colours` does, in plain NumPy."""
    table = np.array([COLOURS[n] for n in NAMES], np.float32)
    away = np.abs(image.astype(np.float32)[..., None, :] - table).max(-1)
    near = 1 - away / np.float32(255)
    return np.where(near.max(-1) > 0.5, near.argmax(-1) + 1, 0)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A data set in memory: colours with noise, labels that are partly wrong or ignored."""

    sizes: tuple[tuple[int, int], ...]
    background: bool = True
    absent: int = 1  # the last classes never occur
    name: str = "colours"
    lacks: bool = False

    @property
    def classes(self):
        return (("background",) if self.background else ()) + NAMES

    @property
    def items(self):
        return tuple(
            types.SimpleNamespace(name=f"picture_{i}", size=size)
            for i, size in enumerate(self.sizes)
        )

    @property
    def facts(self):
        return {"source": "tests", "lacks_background": self.lacks}

    def __len__(self):
        return len(self.sizes)

    def read(self, index):
        rng = np.random.default_rng(index)
        size, count = self.sizes[index], len(NAMES) - self.absent
        # Patches of colour, some of them of no class.
        coarse = rng.integers(0, count + 1, (size[0] // 6 + 1, size[1] // 6 + 1))
        labels = np.kron(coarse, np.ones((6, 6), int))[: size[0], : size[1]]
        table = np.array([(90, 90, 90), *(COLOURS[n] for n in NAMES)])
        image = np.clip(table[labels] + rng.integers(-150, 150, (*size, 3)), 0, 255)
        truth = labels if self.background else labels - 1
        truth = np.where((truth < 0) | (rng.random(size) < 0.2), IGNORE, truth)
        if index == 2:
            truth = np.full(size, IGNORE)
        return image.astype(np.uint8), truth.astype(np.int32)


def benchmark(background=True, hidden=()):
    return Benchmark(
        "colours", "colours", background=background, classes=NAMES, hidden=hidden,
        background_texts=("none",),
    )  # fmt: skip


TEXTS = Texts("colours", NAMES)
SIZES = ((40, 56), (33, 47), (40, 56), (64, 20), (18, 61), (40, 40), (64, 20))
