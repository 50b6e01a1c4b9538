"""The settings of MAFT at inference, and what parity with the published code sets."""

from __future__ import annotations

import dataclasses
from typing import Any

from openseg_jax.errors import check_types, expected, unknown_name
from openseg_jax.methods.settings import as_pairs, as_tuples, check_templates, from_names
from openseg_jax.models.ip_clip import POSITIONS, default_size, default_start
from openseg_jax.models.variants import VisionConfig
from openseg_jax.ops.posembed import CONVENTIONS
from openseg_jax.text.prompts import templates

__all__ = ["MaftConfig", "Plan", "configure", "plan"]

PUBLISHED_SIZE, PUBLISHED_SHORT_EDGE, LONGEST_EDGE = 480, 640, 2560


@dataclasses.dataclass(frozen=True)
class MaftConfig:
    """How MAFT segments. Defaults are the published system without its padding.

    Attributes:
        proposals: "auto" (the weights' own generator, else regions) or a key of
            `proposals.SOURCES`.
        proposal_settings: of the source, as a dict or as pairs.
        templates: sentences with {} for the name; embeddings are averaged over them.
        background: texts that compete with the labels; pixels they win are background.
        temperature: what cosines are multiplied by before the softmax.
        start: first masked block; None takes 8, or two thirds of a shallower tower.
        size: pixels a side of the encoder's square input, whatever the picture's shape; None takes
            480, or the tower's own size if it was pretrained below 224.
        short_edge: pictures are first brought to this short side (Pillow's bilinear, longest side
            2560), which the generator was trained for; 0 leaves them, None takes 640 with a size
            of 480 and 0 with any other.
        pos_resample: see `ops.posembed.CONVENTIONS`.
        tower: "tuned" takes the weights' fine-tuned image tower where they have one; "frozen"
            always CLIP's own.
        ensemble_weight: share of the generator's own class scores, see `maft_scores.ensemble`.
            0 takes CLIP's alone; None the generator's alone.
        seen: names that the generator was trained on, for the ensemble.
        pad_to: parity. The picture is padded with the mean colour to multiples of this many
            pixels, and padding is squeezed into the encoder's input with it; 0 does not pad.
        square_tokens: parity. Masks are resized to √L × √L tokens whatever the grid is.
        min_score, overlap: of panoptic and instance output, see `maft_panoptic`.
    """

    proposals: str = "auto"
    proposal_settings: tuple[tuple[str, Any], ...] = ()
    templates: tuple[str, ...] = templates("vild14")
    background: tuple[str, ...] = ()
    temperature: float = 100.0
    start: int | None = None
    size: int | None = None
    short_edge: int | None = None
    pos_resample: str = POSITIONS
    tower: str = "tuned"
    ensemble_weight: float | None = 0.0
    seen: tuple[str, ...] = ()
    pad_to: int = 0
    square_tokens: bool = False
    min_score: float = 0.5
    overlap: float = 0.8

    def __post_init__(self) -> None:
        check_types(self)
        as_tuples(self, "templates", "background", "seen")
        as_pairs(self, "proposal_settings")
        if self.tower not in ("tuned", "frozen"):
            unknown_name(self.tower, ("tuned", "frozen"), "tower")
        if self.pos_resample not in CONVENTIONS:
            unknown_name(self.pos_resample, CONVENTIONS, "pos_resample")
        if not self.temperature > 0:
            raise expected(
                "temperature", "a number above 0", str(self.temperature), "the published one is 100"
            )
        if self.ensemble_weight is not None and not 0 <= self.ensemble_weight <= 1:
            raise expected(
                "ensemble_weight", "a number in [0, 1] or None", str(self.ensemble_weight),
                "0 takes CLIP's scores alone",
            )  # fmt: skip
        check_templates(self.templates)
        for name in ("size", "short_edge", "pad_to"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise expected(name, "0 or more pixels", str(value), "leave it out")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is left of the settings once the tower is known; static for jit.

    Attributes:
        size: of the encoder's input. grid: its patches. start: first masked block.
        short_edge: see `MaftConfig`, resolved.
    """

    size: int
    grid: tuple[int, int]
    start: int
    short_edge: int


def plan(config: MaftConfig, tower: VisionConfig) -> Plan:
    """Resolves the settings that depend on the tower.

    Raises:
        UserError: for a size below one patch.
    """
    size = config.size or default_size(tower.image_size)
    if size < tower.patch_size:
        raise expected(
            "size", f"at least one patch ({tower.patch_size} pixels)", str(size),
            f"try {default_size(tower.image_size)}",
        )  # fmt: skip
    short_edge = config.short_edge
    if short_edge is None:
        short_edge = PUBLISHED_SHORT_EDGE if size == PUBLISHED_SIZE else 0
    side = size // tower.patch_size
    start = default_start(tower.depth) if config.start is None else config.start
    return Plan(size, (side, side), start, short_edge)


# What `parity="reference"` sets. docs/maft.md says what each changes.
PARITY_FLAGS: dict[str, Any] = {
    "temperature": 100.0, "pos_resample": POSITIONS, "pad_to": 32, "square_tokens": True,
    "background": (), "templates": templates("vild14"),
}  # fmt: skip


def configure(*, parity: str | None = None, **settings: Any) -> MaftConfig:
    """Builds a `MaftConfig` from named settings.

    Args:
        parity: "reference" starts from the published behaviour; None from the repaired one.
            Settings given by name win over either.
        settings: fields of `MaftConfig`.

    Raises:
        UserError: for an unknown name (with the closest one) or a value out of range.
    """
    return from_names(MaftConfig, settings, parity, PARITY_FLAGS)
