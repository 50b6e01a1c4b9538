"""MAFT's claim in miniature: does mask-aware fine-tuning help to name noisy masks?

Every test scene gets the same 32 noisy proposals (`miniature.noisy_proposals`) for a frozen and a
fine-tuned image tower. Both classify them against all 30 names; a pixel takes the class with the
largest Σ score · mask. Seven of the names are unseen: no mask of them was ever trained on, neither
as a target nor as a proposal. The first masked block, input size and temperature are chosen for
each tower by itself, on validation scenes, by the harmonic mean of seen and unseen mIoU: a tower
that never saw masks wants them early, and the frozen one shall have its best.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import softmax

from openseg_jax.errors import expected
from openseg_jax.eval.confusion import confusion_matrix, split_metrics
from openseg_jax.eval.gates import in_chunks
from openseg_jax.methods.maft import Maft, load
from openseg_jax.methods.maft_scores import class_logits
from openseg_jax.miniature.noisy_proposals import noisy_proposals, regions
from openseg_jax.miniature.streams import scene
from openseg_jax.miniature.world import CLASS_NAMES, UNSEEN_THINGS, class_id
from openseg_jax.types import Array, Bool, Float, Int, Params, UInt8
from openseg_jax.weights.loaded import LoadedClip

__all__ = [
    "CLAIM",
    "SIZES",
    "STARTS",
    "TEMPERATURES",
    "Choice",
    "Claim",
    "Scenes",
    "Tower",
    "confusions",
    "gain_interval",
    "measure",
    "noisy_scenes",
    "splits",
    "tune",
]

CLAIM = {"seen": 0.08, "unseen": 0.05}
"""What fine-tuning has to add to the frozen tower's mIoU."""

STARTS = (0, 1, 2, 4)
SIZES = (64, 96)
TEMPERATURES = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 250.0)
PROPOSALS = 32

UNSEEN = np.isin(np.arange(len(CLASS_NAMES) + 1), [class_id(name) for name in UNSEEN_THINGS])
"""Bool[C + 1]; column 0 is "no mask covers this pixel", which no ground truth holds."""


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Scenes with their proposals.

    Attributes:
        image: UInt8[S H W 3]. semantic: Int[S H W], 1..30.
        masks: Bool[S M H W].
    """

    image: UInt8[np.ndarray, "S H W 3"]
    semantic: Int[np.ndarray, "S H W"]
    masks: Bool[np.ndarray, "S M H W"]


def noisy_scenes(
    stream: str, count: int, *, seed: int = 0, size: int = 96, proposals: int = PROPOSALS
) -> Scenes:
    """Renders the first scenes of a stream with noisy proposals of all that they show.

    Args:
        stream: "val" to choose by, "test" for numbers to report.
        count: how many scenes. seed: which world. size: side, pixels.
        proposals: M.
    """
    if count < 1:
        raise expected("scenes", "at least 1", str(count), "ask for some")
    drawn = [scene(stream, index, size, seed=seed) for index in range(count)]
    return Scenes(
        np.stack([s.image for s in drawn]),
        np.stack([s.semantic for s in drawn]),
        np.stack(
            [
                noisy_proposals(stream, i, regions(s), proposals, seed=seed).masks
                for i, s in enumerate(drawn)
            ]
        ),
    )


class Tower:
    """One image tower as a classifier of masks, at one input size.

    Attributes:
        segmenter: MAFT over it.
        rows: Float[C E], the class embeddings.
    """

    def __init__(
        self, clip: LoadedClip, *, tuned: bool, size: int, start: int | None = None
    ) -> None:
        kind = "tuned" if tuned else "frozen"
        if tuned and "visual" not in clip.extras.get("maft", {}):
            raise expected(
                "model", "a folder with a fine-tuned image tower", clip.config.name,
                "make one with: openseg train --config miniature_maft --workdir DIR",
            )  # fmt: skip
        chosen: dict[str, Any] = {"tower": kind, "size": size}
        if start is not None:
            chosen["start"] = start
        self.segmenter: Maft = load(clip, proposals="regions", **chosen)
        self.rows = self.segmenter.classes(CLASS_NAMES, ()).rows[: len(CLASS_NAMES)]

    @functools.cached_property
    def _cosines(self) -> Callable[[Params, Any, Any, Any], Array]:
        encoder = self.segmenter.encoder

        def run(visual: Params, image: Array, masks: Array, rows: Array) -> Array:
            found = encoder.encode(visual, encoder.pixels(image), masks.astype(jnp.float32))
            return class_logits(found, rows, temperature=1.0)

        return jax.jit(run)

    def cosines(self, scenes: Scenes, *, chunk: int = 20) -> Float[np.ndarray, "S M C"]:
        """Computes every proposal's cosine with every name."""
        visual = self.segmenter.params["visual"]

        def run(part: tuple[Array, Array]) -> Array:
            return self._cosines(visual, part[0], part[1], self.rows)

        return in_chunks(run, (scenes.image, scenes.masks), chunk)


def confusions(
    cosines: Float[np.ndarray, "S M C"], scenes: Scenes, temperature: float
) -> Int[np.ndarray, "S C+1 C+1"]:
    """Aggregates scored proposals to label maps and counts each scene's pixels.

    Args:
        cosines: from `Tower.cosines`. temperature: they are multiplied by it.
        scenes: the same.
    """
    scores = softmax(temperature * cosines, axis=-1)
    found = []
    for score, masks, truth in zip(scores, scenes.masks, scenes.semantic, strict=True):
        flat = masks.reshape(len(masks), -1)
        votes = score.T.astype(np.float32) @ flat.astype(np.float32)
        label = np.where(flat.any(axis=0), 1 + votes.argmax(axis=0), 0)
        found.append(confusion_matrix(truth.ravel(), label, score.shape[1] + 1, ignore=None))
    return np.stack(found)


def splits(matrices: Int[np.ndarray, "S C+1 C+1"]) -> dict[str, float]:
    """Returns seen, unseen and harmonic mIoU of all scenes together, over classes in the truth."""
    found = split_metrics(matrices.sum(axis=0), UNSEEN, "gt")
    return {"seen": found.seen, "unseen": found.unseen, "harmonic": found.harmonic}


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a tower is measured with: first masked block, input size in pixels, temperature."""

    start: int
    size: int
    temperature: float


def tune(
    clip: LoadedClip,
    scenes: Scenes,
    *,
    tuned: bool,
    starts: Sequence[int] = STARTS,
    sizes: Sequence[int] = SIZES,
    temperatures: Sequence[float] = TEMPERATURES,
) -> Choice:
    """Chooses on validation scenes, by the harmonic mIoU.

    Args:
        clip: the weights. tuned: whether to take their fine-tuned tower or CLIP's own.
        scenes: of the validation stream.
        starts, sizes, temperatures: to choose from.
    """
    found = {}
    for start in starts:
        for size in sizes:
            cosines = Tower(clip, tuned=tuned, size=size, start=start).cosines(scenes)
            for temperature in temperatures:
                reached = splits(confusions(cosines, scenes, temperature))
                found[Choice(start, size, temperature)] = reached["harmonic"]
    return max(found, key=found.__getitem__)


def gain_interval(
    frozen: Int[np.ndarray, "S C+1 C+1"],
    tuned: Int[np.ndarray, "S C+1 C+1"],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Bootstraps the gain over scenes: 95 % intervals of tuned − frozen.

    Args:
        frozen, tuned: matrices of the same scenes, scene by scene; both are resampled together.
        draws: bootstrap samples. seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    count = len(frozen)
    gains: dict[str, list[float]] = {"seen": [], "unseen": []}
    for _ in range(draws):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        before, after = (splits(np.tensordot(times, x, axes=1)[None]) for x in (frozen, tuned))
        for name, values in gains.items():
            values.append(after[name] - before[name])
    return {
        name: (float(np.percentile(v, 2.5)), float(np.percentile(v, 97.5)))
        for name, v in gains.items()
    }


@dataclasses.dataclass(frozen=True)
class Claim:
    """What came out of one world.

    Attributes:
        seed: of world and training. scenes: how many were measured.
        frozen, tuned: {"seen", "unseen", "harmonic"} mIoU in [0, 1].
        gain: tuned − frozen. interval: its 95 % bootstrap interval over scenes.
        chosen: {"frozen", "tuned"}, from validation.
    """

    seed: int
    scenes: int
    frozen: dict[str, float]
    tuned: dict[str, float]
    gain: dict[str, float]
    interval: dict[str, tuple[float, float]]
    chosen: dict[str, Choice]

    @property
    def holds(self) -> bool:
        """Whether both gains reach `CLAIM`."""
        return all(self.gain[name] >= least for name, least in CLAIM.items())


def measure(
    frozen: LoadedClip,
    tuned: LoadedClip,
    *,
    seed: int = 0,
    scenes: int = 200,
    validation: int = 60,
    stream: str = "test",
    starts: Sequence[int] = STARTS,
    sizes: Sequence[int] = SIZES,
    temperatures: Sequence[float] = TEMPERATURES,
    progress: Callable[[str], None] | None = None,
) -> Claim:
    """Measures a frozen and a fine-tuned tower on one world.

    Args:
        frozen: the CLIP that fine-tuning began with.
        tuned: a folder with the fine-tuned tower.
        seed: of the world. scenes: to measure on. stream: "test", or "val" to look at first.
        validation: scenes to choose on, of another world's validation stream, so that looking at
            "val" is honest too.
        starts, sizes, temperatures: to choose from.
        progress: called with what is going on.
    """
    tell = progress or (lambda text: None)
    tell("rendering")
    choose = noisy_scenes("val", validation, seed=seed + 1000)
    truth = noisy_scenes(stream, scenes, seed=seed)
    matrices, chosen = {}, {}
    for name, clip in (("frozen", frozen), ("tuned", tuned)):
        tell(f"choosing for the {name} tower")
        best = chosen[name] = tune(
            clip, choose, tuned=name == "tuned", starts=starts, sizes=sizes,
            temperatures=temperatures,
        )  # fmt: skip
        tell(f"measuring the {name} tower")
        tower = Tower(clip, tuned=name == "tuned", size=best.size, start=best.start)
        matrices[name] = confusions(tower.cosines(truth), truth, best.temperature)
    before, after = splits(matrices["frozen"]), splits(matrices["tuned"])
    tell("bootstrap")
    return Claim(
        seed, scenes, before, after, {k: after[k] - before[k] for k in before},
        gain_interval(matrices["frozen"], matrices["tuned"]), chosen,
    )  # fmt: skip
