"""The miniature world as a benchmark: scenes of its test stream, needing no download.

- "miniature": all 30 names, every pixel belongs to one of them;
- "miniature_things": the 24 things, and all stuff is background, as VOC-21 is built.

Seven things are "unseen": the fine-tuning on masks never showed them. The numbers are about this
drawn world only; they say nothing about photographs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from openseg_jax.errors import expected, unknown_name
from openseg_jax.eval.benchmarks import Benchmark
from openseg_jax.miniature.streams import scene
from openseg_jax.miniature.world import CLASS_NAMES, STUFF, THINGS, UNSEEN_THINGS
from openseg_jax.types import Int, UInt8

__all__ = ["MINIATURES", "Scenes", "miniature"]

SCENES = 200
"""Pictures of the benchmark, from the beginning of the test stream."""

MINIATURES: Mapping[str, Benchmark] = {
    "miniature": Benchmark(
        "miniature", "miniature", classes=CLASS_NAMES, hidden=UNSEEN_THINGS
    ),
    "miniature_things": Benchmark(
        "miniature_things", "miniature", classes=THINGS, hidden=UNSEEN_THINGS, background=True,
        background_texts=STUFF,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SceneItem:
    """A scene's name and (H, W)."""

    name: str
    size: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Scenes of one world, read like any data set's pictures.

    Attributes:
        things: only things have labels; stuff is background, class 0.
        count: scenes. side: pixels. seed: of the world. stream: "test" or "val".
    """

    things: bool = False
    count: int = SCENES
    side: int = 96
    seed: int = 0
    stream: str = "test"
    name: str = "miniature"

    @property
    def background(self) -> bool:
        """Whether class 0 is background."""
        return self.things

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return ("background", *THINGS) if self.things else CLASS_NAMES

    @functools.cached_property
    def items(self) -> tuple[SceneItem, ...]:
        """One entry a scene."""
        size = (self.side, self.side)
        return tuple(
            SceneItem(f"{self.stream}_{self.seed}_{i:05d}", size) for i in range(self.count)
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What the provenance says about the pictures."""
        return {
            "source": f"{self.stream} stream of the miniature world, seed {self.seed}: drawings, "
            "not photographs",
            "licence": "Apache-2.0",
            "count": self.count,
            "side": self.side,
        }

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], Int[np.ndarray, "H W"]]:
        """Renders a scene: picture, and the class of each pixel."""
        drawn = scene(self.stream, index, self.side, seed=self.seed)
        if self.things:
            labels = np.where(drawn.semantic <= len(THINGS), drawn.semantic, 0)
        else:
            labels = drawn.semantic - 1
        return drawn.image, labels.astype(np.int32)


def miniature(name: str, scenes: int = SCENES, seed: int = 0) -> tuple[Benchmark, Scenes]:
    """Makes a benchmark of the miniature world and its scenes.

    Args:
        name: a key of `MINIATURES`. scenes: how many, 1 or more. seed: of the world.
    Raises:
        UserError: for an unknown name or no scenes.
    """
    if name not in MINIATURES:
        unknown_name(name, MINIATURES, "benchmark")
    if scenes < 1:
        raise expected("scenes", "at least 1", str(scenes), f"try {SCENES}")
    bench = MINIATURES[name]
    return bench, Scenes(things=bench.background, count=scenes, seed=seed)
