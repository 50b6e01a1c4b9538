"""Every setting of dense CLIP in one frozen dataclass, and the published ones by benchmark."""

from __future__ import annotations

import dataclasses
from typing import Any

from openseg_jax.errors import check_types, expected, unknown_name
from openseg_jax.methods.settings import as_tuples, check_templates, from_names, preset
from openseg_jax.methods.windows import MODES, Plan, make_plan
from openseg_jax.models.last_block import LAST_BLOCKS, LastBlock
from openseg_jax.models.variants import VisionConfig
from openseg_jax.ops.posembed import CONVENTIONS
from openseg_jax.text.prompts import templates as template_set

__all__ = ["BACKGROUND", "ClipDenseConfig", "configure", "presets"]

BACKGROUND = (
    "sky", "wall", "tree", "wood", "grass", "road", "sea", "river", "mountain", "sands", "desk",
    "bed", "building", "cloud", "lamp", "door", "window", "wardrobe", "ceiling", "shelf",
    "curtain", "stair", "floor", "hill", "rail", "fence",
)  # fmt: skip
"""What SCLIP and NACLIP call background on VOC and COCO-Object (their lists of class names)."""


@dataclasses.dataclass(frozen=True)
class ClipDenseConfig:
    """What dense CLIP does with an image and texts.

    Attributes:
        variant: what the last block of the image tower does, a key of `LAST_BLOCKS`.
        residual, feed_forward: keep these parts of the last block; None as the variant has them.
        std: of NACLIP's neighbourhood, patches (published: 5).
        templates: prompts; a text's embedding is the mean over them (published: OpenAI's 80).
        logit_scale: of the cosines in the softmax over all texts, 1/temperature. Published: 40
            (NACLIP; SCLIP but for three data sets) or 50 (ClearCLIP).
        background: texts that compete and are not reported: a pixel that one of them wins is
            background.
        keep_shared: a background text that is also asked for stays, and wins its ties, as in the
            published code ("bed" is never found on COCO-Object). False leaves it out.
        bg_threshold: pixels whose most probable text has less are background; None knows no such
            rule.
        min_share: classes that win a smaller share of an image's foreground are given up (SCLIP's
            `area_thd`, 0.1 on VOC-21 alone).
        refine: "pamr" lets each text's cosines follow the colours of the image before they compete
            (NACLIP's main table), "none" leaves them.
        mode: "slide" for overlapping windows, "whole" for the image at once, with positions
            resampled to its shape.
        crop, stride: of the windows, pixels; 0 takes the model's image size, and half the crop.
        short_side: images are resized to this short side, pixels; 0 takes 1.5 crops. With a model
            of 224 pixels these are the published 224, 112 and 336.
        long_side: and to at most this long side.
        pos_resample: convention for positions of another grid; None takes the weights' own.
    """

    variant: str = "naclip"
    residual: bool | None = None
    feed_forward: bool | None = None
    std: float = 5.0
    templates: tuple[str, ...] = template_set("openai80")
    logit_scale: float = 40.0
    background: tuple[str, ...] = BACKGROUND
    keep_shared: bool = False
    bg_threshold: float | None = None
    min_share: float = 0.0
    refine: str = "none"
    mode: str = "slide"
    crop: int = 0
    stride: int = 0
    short_side: int = 0
    long_side: int = 2048
    pos_resample: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        choices = {"variant": LAST_BLOCKS, "mode": MODES, "refine": ("none", "pamr")}
        if self.pos_resample is not None:
            choices["pos_resample"] = CONVENTIONS
        for name, known in choices.items():
            if getattr(self, name) not in known:
                unknown_name(str(getattr(self, name)), known, name)
        as_tuples(self, "templates", "background")
        check_templates(self.templates)
        for name, good in (("std", 5.0), ("logit_scale", 40.0)):
            if not getattr(self, name) > 0:
                raise expected(name, "more than 0", str(getattr(self, name)), f"try {good}")
        for name in ("crop", "stride", "short_side"):
            if getattr(self, name) < 0:
                raise expected(name, "at least 0", str(getattr(self, name)), "0 is the default")
        if self.bg_threshold is not None and not 0 <= self.bg_threshold <= 1:
            raise expected("bg_threshold", "0 to 1, or None", str(self.bg_threshold), "try 0.1")
        if not 0 <= self.min_share < 1:
            raise expected("min_share", "0 to less than 1", str(self.min_share), "try 0")

    @property
    def last(self) -> LastBlock:
        """The last block that the variant and the two switches ask for."""
        block = LAST_BLOCKS[self.variant]
        if self.residual is not None:
            block = dataclasses.replace(block, residual=self.residual)
        if self.feed_forward is not None:
            block = dataclasses.replace(block, feed_forward=self.feed_forward)
        return block

    def plan(self, vision: VisionConfig) -> Plan:
        """Fills the sizes that are left to the model; raises UserError where they cannot be."""
        crop = self.crop or vision.image_size
        return make_plan(
            vision, mode=self.mode, crop=crop, stride=self.stride or max(crop // 2, 1),
            short_side=self.short_side or crop * 3 // 2, long_side=self.long_side,
        )  # fmt: skip


# What the published code does that the default mends.
_REFERENCE = {"keep_shared": True, "pos_resample": "bicubic"}


def configure(*, parity: str | None = None, **settings: Any) -> ClipDenseConfig:
    """Builds a `ClipDenseConfig` from named settings.

    Args:
        parity: "reference" for the published behaviour: background texts that are also classes
            stay, and positions are resampled bicubically without antialias.
        settings: fields; they win over `parity`.

    Raises:
        UserError: for an unknown name (with the closest one) or a value out of range.
    """
    return from_names(ClipDenseConfig, settings, parity, _REFERENCE)


def presets(name: str) -> dict[str, Any]:
    """Returns the published settings of a benchmark, e.g. `configure(**presets("voc21"))`.

    Raises:
        UserError: for an unknown name, with the closest one.
    """
    return preset("clip_dense", name)
