"""Every setting of CaR in one frozen dataclass, and what `parity="reference"` switches on."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from openseg_jax.errors import UserError, check_types, expected, unknown_name
from openseg_jax.methods.settings import as_pairs, as_tuples, from_names, preset
from openseg_jax.ops.visual_prompts import KINDS
from openseg_jax.text.prompts import templates as template_set

__all__ = ["BACKGROUND", "PARITY_FLAGS", "TEMPLATES", "CaRConfig", "configure", "presets"]

(CAM_TEMPLATE,) = template_set("car_origami")
TEMPLATES = template_set("car15")
BACKGROUND = (
    "ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea",
    "railway", "railroad", "helmet", "cloud", "house", "mountain", "ocean", "road", "rock",
    "street", "valley", "bridge",
)  # fmt: skip

REFINES = ("crf", "pamr", "none")
PIXEL_RULES = ("joint", "separate")
COMPETITIONS = ("joint", "alone")
SCORE_RULES = ("sum", "scaled", "mean")
FITS = ("model", "squash")


@dataclasses.dataclass(frozen=True)
class CaRConfig:
    """What CaR does with an image and texts. The letters are the paper's.

    Attributes:
        mask_threshold: η, binarises a map for the visual prompt (strictly above counts).
        confidence_threshold: θ, a text with a score of θ or less is dropped.
        clipes_threshold: λ, fraction of a map's maximum that its boxes are drawn around.
        visual_prompts: kinds from `ops.visual_prompts.KINDS`, drawn in that module's order.
        bg_factor: exponent of the background channel 1 − max of maps; above 1 weakens it.
        stuff_visual_prompts, stuff_bg_factor: the same for the second pass over stuff.
        mutual_background: stuff names join the backgrounds of the things pass, as the paper
            says; the published code uses thing names as backgrounds of stuff only.
        competition: "joint" (all alive texts and backgrounds in one softmax) or "alone" (each
            text against the backgrounds only: referring expressions).
        templates: of the classifier; () means the CAM template alone and one plain softmax.
        cam_template: of the CAM texts and the background texts.
        background: texts that compete in the CAM and are never kept.
        refine: what makes masks of the last maps: "crf" (dense CRF), "pamr" (pixel-adaptive mask
            refinement) or "none" (the maps as they are).
        pixels: "joint" (alive texts and background compete for each pixel) or "separate" (each
            text against the background alone: referring expressions).
        pamr_iterations: turns.
        crf_iterations: mean-field updates.
        crf_capacity: room for lattice vertices a pixel when the CRF runs on the device; 0 is the
            worst case of 6, photographs need about 1. Too little gives NaN marginals, no mask.
        cam_layers: last attention maps that the affinity averages.
        score_rule: how K×K probabilities of T templates become scores. "sum": a second softmax of
            their sum over templates (the reference; the best possible score depends on T).
            "scaled": a second softmax of 15 times their mean, equal to "sum" with the 15 published
            templates, whatever T is, so that published thresholds keep their meaning. "mean":
            the mean itself.
        classifier_fit: "model" resizes prompted images by the weights' own rule (CLIP: the short
            side, then the centre square, so that the ends of a long image are never seen) or
            "squash" (whole image, aspect ratio not kept).
        lone_text: what a single text without any rival gets, whose probability is always 1 and
            has no gradient. "zero": an empty map (the reference); "logit": the logit's gradient.
        skip_last_cls_block: parity. The classifier leaves out its last block (see docs/car.md).
        raw_names_first_step: parity. The first step's CAM takes bare names, later ones templates.
            It also forces a second step where the first one dropped nothing.
        shared_background: parity. Backgrounds that are also asked for stay, as their own rivals.
        char_bug: parity. Referring mode compares later steps with single characters.
        fp16_pos_embed: parity. Positions are rounded to float16.
        pos_resample: parity sets "bilinear"; None takes the convention of the weights.
        pad_to_16: parity. The CAM image is padded to multiples of 16 whatever the patch is.
        crf_wrap_u8: parity. The CRF's image is centred and cast so that bytes wrap around.
        crf_truncation: parity. Texts behind the last that won a pixel lose their score; in
            separate mode empty masks vanish and later ones move onto earlier texts.
        box_border_quirk: parity. The last row and column of patches are in no box.
        swapped_gray: parity. Gray weighs red as blue and blue as red.
        text_chunk: texts pulled back at once. image_chunk: prompted images encoded at once.
            They bound memory and change nothing else; 0 chooses by platform.
        canvas: pixels; images are padded to multiples of it, so that a data set of many sizes
            compiles few programs. Padding changes nothing; 0 compiles each size.
        sam: weights of a SAM whose masks replace ours in the end, a name or a folder; "" none.
        sam_settings: of its mask generator, as a dict or as pairs.
        sam_iom, sam_min_pred, sam_iou: how its masks are matched, see `car_refine.rematch`. A
            `sam_iou` below 0 replaces whatever was matched, as the published demo does.
        classes, ignore_background: of the data set's evaluation.
        cam_model, classifier_model: names of the published weights.
    """

    mask_threshold: float = 0.5
    confidence_threshold: float = 0.45
    clipes_threshold: float = 0.4
    visual_prompts: tuple[str, ...] = ("circle", "blur")
    bg_factor: float = 1.0
    stuff_visual_prompts: tuple[str, ...] = ("blur", "gray")
    stuff_bg_factor: float = 1.0
    mutual_background: bool = False
    competition: str = "joint"
    templates: tuple[str, ...] = TEMPLATES
    cam_template: str = CAM_TEMPLATE
    background: tuple[str, ...] = BACKGROUND
    refine: str = "crf"
    pixels: str = "joint"
    pamr_iterations: int = 10
    crf_iterations: int = 10
    crf_capacity: float = 0.0
    cam_layers: int = 8
    score_rule: str = "scaled"
    classifier_fit: str = "model"
    lone_text: str = "logit"
    skip_last_cls_block: bool = False
    raw_names_first_step: bool = False
    shared_background: bool = False
    char_bug: bool = False
    fp16_pos_embed: bool = False
    pos_resample: str | None = None
    pad_to_16: bool = False
    crf_wrap_u8: bool = False
    crf_truncation: bool = False
    box_border_quirk: bool = False
    swapped_gray: bool = False
    text_chunk: int = 0
    image_chunk: int = 0
    canvas: int = 0
    sam: str = ""
    sam_settings: tuple[tuple[str, Any], ...] = ()
    sam_iom: float = 0.7
    sam_min_pred: float = 0.05
    sam_iou: float = 0.7
    classes: int = 0
    ignore_background: bool = False
    cam_model: str = "ViT-B-16"
    classifier_model: str = "ViT-L-14"

    def __post_init__(self) -> None:
        if isinstance(self.sam, os.PathLike):
            object.__setattr__(self, "sam", os.fspath(self.sam))
        check_types(self)
        for name, choices in (
            ("refine", REFINES), ("pixels", PIXEL_RULES), ("competition", COMPETITIONS),
            ("score_rule", SCORE_RULES), ("classifier_fit", FITS), ("lone_text", ("zero", "logit")),
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                unknown_name(str(getattr(self, name)), choices, name)
        as_tuples(self, "visual_prompts", "stuff_visual_prompts", "templates", "background")
        as_pairs(self, "sam_settings")
        for kind in (*self.visual_prompts, *self.stuff_visual_prompts):
            if kind not in KINDS:
                unknown_name(kind, KINDS, "visual prompt")
        for name in ("mask_threshold", "confidence_threshold", "sam_iom", "sam_min_pred"):
            if not 0 <= getattr(self, name) <= 1:
                raise expected(name, "a number in [0, 1]", str(getattr(self, name)), "try 0.4")
        if not self.clipes_threshold > 0:
            raise expected(
                "clipes_threshold", "a number above 0", str(self.clipes_threshold), "try 0.4"
            )
        for name in ("pamr_iterations", "crf_iterations"):
            if getattr(self, name) < 0:
                raise expected(name, "0 or more", str(getattr(self, name)), "try 10")
        for template in (*self.templates, self.cam_template):
            if "{}" not in template:
                raise UserError(f"template: no place for a name in {template!r}; write {{}} there")

    def static(self) -> CaRConfig:
        """Returns these settings with what no compiled step depends on at fixed values."""
        return dataclasses.replace(
            self, mask_threshold=0.5, confidence_threshold=0.5, clipes_threshold=0.5,
            background=(), refine="crf", sam="", sam_settings=(),
        )  # fmt: skip

    def stuff(self, things: tuple[str, ...]) -> CaRConfig:
        """Returns the settings of the pass over stuff, whose backgrounds are the thing names."""
        return dataclasses.replace(
            self,
            visual_prompts=self.stuff_visual_prompts,
            bg_factor=self.stuff_bg_factor,
            background=tuple(things),
        )


# What `parity="reference"` sets. docs/car.md says what each changes.
PARITY_FLAGS: dict[str, Any] = {
    "score_rule": "sum",
    "classifier_fit": "model",
    "lone_text": "zero",
    "skip_last_cls_block": True,
    "raw_names_first_step": True,
    "shared_background": True,
    "char_bug": True,
    "fp16_pos_embed": True,
    "pos_resample": "bilinear",
    "pad_to_16": True,
    "crf_wrap_u8": True,
    "crf_truncation": True,
    "box_border_quirk": True,
    "swapped_gray": True,
}


def configure(*, parity: str | None = None, **settings: Any) -> CaRConfig:
    """Builds a `CaRConfig` from named settings.

    Args:
        parity: "reference" starts from the published behaviour, bugs included; None from the
            repaired one. Settings given by name win over either.
        settings: fields of `CaRConfig`.

    Raises:
        UserError: for an unknown name (with the closest one) or a value out of range.
    """
    if "crf" in settings:
        raise UserError(
            "crf: is two settings, refine ('crf', 'pamr' or 'none') and pixels ('joint' or "
            "'separate'); for none write refine='none'"
        )
    return from_names(CaRConfig, settings, parity, PARITY_FLAGS)


def presets(name: str) -> dict[str, Any]:
    """Returns the published settings of a data set, e.g. `configure(**presets("voc"))`.

    Args:
        name: "voc", "coco", "refcoco", …; see `configs/car.py`.

    Raises:
        UserError: for an unknown name, with the closest one.
    """
    return preset("car", name)
