"""SegCLIP's settings, and how large an image and its windows are."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import jax.numpy as jnp

from openseg_jax.errors import UserError, expected, unknown_name
from openseg_jax.models.variants import VisionConfig
from openseg_jax.text.prompts import templates as template_set

__all__ = ["Plan", "SegClipConfig", "configure", "make_plan", "presets"]

MODES = ("slide", "whole")


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
        if self.mode not in MODES:
            unknown_name(str(self.mode), MODES, "mode")
        for name in ("templates", "background"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        if not self.templates:
            raise expected("templates", "at least one", "none", "try 'a photo of a {}.'")
        for template in self.templates:
            if template.count("{}") != 1:
                raise UserError(f"template: expected one {{}} for a name in {template!r}; add it")
        for name, least in (("crop", 0), ("stride", 0), ("short_side", 0), ("top_classes", 1)):
            if getattr(self, name) < least:
                raise expected(name, f"at least {least}", str(getattr(self, name)), "correct it")
        threshold = self.bg_threshold
        if threshold is not None and not 0 <= threshold <= 1:
            raise expected("bg_threshold", "0 to 1, or None", str(threshold), "try 0.8")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes of one model and configuration, in pixels; hashable.

    Attributes:
        patch: of the model. crop, stride: of the windows. short, long: of the resized image.
        whole: one window of the whole image instead.
    """

    patch: int
    crop: int
    stride: int
    short: int
    long: int
    whole: bool

    @property
    def most_windows(self) -> int:
        """Windows of the longest image there can be."""
        return max(-(-(self.long - self.crop) // self.stride), 0) + 1

    def work_size(self, height: Any, width: Any) -> tuple[Any, Any]:
        """Returns (h, w) of an image after resizing; for traced numbers too.

        The short side becomes `short` unless the long one would exceed `long`; sides round half
        up. In whole mode they become multiples of the patch, so that no pixel is dropped.

        Source: mmseg's `Resize(img_scale=(long, short), keep_ratio=True)`.
        """
        if isinstance(height, int) and isinstance(width, int):
            low, high = min(height, width), max(height, width)
            up, down = (self.short, low) if self.short * high <= self.long * low else \
                (self.long, high)  # fmt: skip
            size = [(2 * side * up + down) // (2 * down) for side in (height, width)]
            if self.whole:
                size = [max(round(s / self.patch), 1) * self.patch for s in size]
            return max(size[0], 1), max(size[1], 1)
        low, high = jnp.minimum(height, width), jnp.maximum(height, width)
        fits = self.short * high <= self.long * low
        up, down = jnp.where(fits, self.short, self.long), jnp.where(fits, low, high)
        sides = ((2 * side * up + down) // (2 * down) for side in (height, width))
        h, w = (jnp.maximum(side, 1) for side in sides)
        return h, w


def make_plan(config: SegClipConfig, vision: VisionConfig) -> Plan:
    """Fills the sizes that a configuration leaves to the model.

    Raises:
        UserError: for a crop that is not a multiple of the patch, or a stride beyond it.
    """
    crop = config.crop or vision.image_size
    stride, short = config.stride or crop, config.short_side or crop
    if crop % vision.patch_size:
        raise expected(
            "crop", f"a multiple of the patch of {vision.patch_size} pixels", str(crop), "round it"
        )
    if stride > crop:
        raise expected("stride", f"at most the crop of {crop}", str(stride), "leave no gaps")
    if config.long_side < short:
        raise expected("long_side", f"at least {short}", str(config.long_side), "enlarge it")
    return Plan(vision.patch_size, crop, stride, short, config.long_side, config.mode == "whole")


def configure(**settings: Any) -> SegClipConfig:
    """Builds a `SegClipConfig` from named settings.

    Raises:
        UserError: for an unknown name (with the closest one) or a value out of range.
    """
    fields = {f.name for f in dataclasses.fields(SegClipConfig)}
    for name in settings:
        if name not in fields:
            unknown_name(name, fields, "setting")
    return SegClipConfig(**settings)


def presets(name: str) -> dict[str, Any]:
    """Returns the published settings of a data set, e.g. `configure(**presets("voc"))`.

    Raises:
        UserError: for an unknown name, with the closest one.
    """
    config = importlib.import_module("openseg_jax.configs.segclip")
    if name not in config.NAMES:
        unknown_name(name, config.NAMES, "preset")
    return config.get_config(name).to_dict()
