"""SegCLIP's settings."""

from __future__ import annotations

import dataclasses
from typing import Any

from openseg_jax.errors import check_types, expected, unknown_name
from openseg_jax.methods.settings import as_tuples, check_templates, from_names, preset
from openseg_jax.methods.windows import MODES, Plan, make_plan
from openseg_jax.models.variants import VisionConfig
from openseg_jax.text.prompts import templates as template_set

__all__ = ["SegClipConfig", "configure", "presets"]


@dataclasses.dataclass(frozen=True)
class SegClipConfig:
    """What SegCLIP does with an image and texts.

    Attributes:
        templates: prompts; a class is the mean of its prompts' embeddings, not scaled to unit
            length before.
        mode: "slide": windows of the side the model was trained on, or "whole": the image at once,
            with positions resampled to it.
        crop, stride: of the windows, pixels; 0 takes the model's image size, and the crop.
        short_side: images are resized to this short side first, pixels; 0 takes the crop.
        long_side: and to at most this long side.
        top_classes: classes that an image may hold: those it resembles most as a whole.
        bg_threshold: regions whose best score is below it are background, unless no region of the
            window has a better one. None knows no background: every pixel gets a class.
        background: further texts that compete and are not reported.
    """

    templates: tuple[str, ...] = template_set("simple")
    mode: str = "slide"
    crop: int = 0
    stride: int = 0
    short_side: int = 0
    long_side: int = 2048
    top_classes: int = 5
    bg_threshold: float | None = 0.8
    background: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_types(self)
        if self.mode not in MODES:
            unknown_name(str(self.mode), MODES, "mode")
        as_tuples(self, "templates", "background")
        check_templates(self.templates)
        for name, least in (("crop", 0), ("stride", 0), ("short_side", 0), ("top_classes", 1)):
            if getattr(self, name) < least:
                raise expected(name, f"at least {least}", str(getattr(self, name)), "correct it")
        threshold = self.bg_threshold
        if threshold is not None and not 0 <= threshold <= 1:
            raise expected("bg_threshold", "0 to 1, or None", str(threshold), "try 0.8")

    def plan(self, vision: VisionConfig) -> Plan:
        """Fills the sizes that are left to the model; raises UserError where they cannot be."""
        return make_plan(
            vision, mode=self.mode, crop=self.crop, stride=self.stride, short_side=self.short_side,
            long_side=self.long_side,
        )  # fmt: skip


def configure(*, parity: str | None = None, **settings: Any) -> SegClipConfig:
    """Builds a `SegClipConfig` from named settings.

    Args:
        parity: "reference" for the published behaviour, which the default is: inference has no
            repairs.
        settings: fields.

    Raises:
        UserError: for an unknown name (with the closest one) or a value out of range.
    """
    return from_names(SegClipConfig, settings, parity, {})


def presets(name: str) -> dict[str, Any]:
    """Returns the published settings of a data set, e.g. `configure(**presets("voc"))`.

    Raises:
        UserError: for an unknown name, with the closest one.
    """
    return preset("segclip", name)
