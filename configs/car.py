"""CaR's published settings, one set a data set: `get_config("voc")`.

Thresholds are η (mask), θ (confidence) and λ (clipes) of the paper. Where paper and code differ the
code's number stands, with the paper's beside it. `openseg segment --preset voc` reads them too.
"""

from __future__ import annotations

from ml_collections import ConfigDict

NAMES = (
    "voc", "coco", "pascal_context", "pascal_context_459", "ade_150", "ade_847",
    "refcoco", "refcoco+", "refcocog", "gres", "demo",
)  # fmt: skip


def get_config(arg: str = "voc") -> ConfigDict:
    """Returns the settings of a data set, fields of `CaRConfig`; locked against other keys.

    Args:
        arg: one of `NAMES`, or "tiny" (voc's settings on the bundled miniature, without a CRF).
    """
    if arg not in (*NAMES, "tiny"):
        raise ValueError(f"arg: unknown name {arg!r}; known: {', '.join((*NAMES, 'tiny'))}")
    c = ConfigDict()
    c.cam_model = "ViT-B-16"
    c.classifier_model = "ViT-L-14"
    c.mask_threshold = 0.4
    c.confidence_threshold = 0.6
    c.clipes_threshold = 0.4
    c.visual_prompts = ("circle", "blur")
    c.bg_factor = 1.0
    c.sam_iom = 0.6
    c.classes = 21  # with background
    c.ignore_background = False
    if arg in ("voc", "tiny"):
        c.sam_min_pred = 0.05
    elif arg == "coco":
        c.mask_threshold, c.confidence_threshold, c.clipes_threshold = 0.5, 0.3, 0.5
        c.visual_prompts = ("blur", "gray")
        c.sam_iom, c.classes = 0.7, 81
    elif arg in ("pascal_context", "pascal_context_459", "ade_150", "ade_847"):
        c.confidence_threshold = 0.25  # the paper prints 0.2 for Context
        c.visual_prompts = c.stuff_visual_prompts = ("gray", "blur")
        c.stuff_bg_factor = 1.0
        if arg == "pascal_context":
            c.mask_threshold, c.sam_iom, c.classes = 0.6, 0.5, 60
            c.visual_prompts = ("blur", "circle")
        elif arg == "pascal_context_459":
            c.mask_threshold, c.clipes_threshold, c.classes = 0.4, 0.7, 460
            c.ignore_background = True
        else:
            c.mask_threshold, c.clipes_threshold = 0.6, 0.7
            c.ignore_background = True
            c.classes = 151 if arg == "ade_150" else 848  # published as 847: one too few
    elif arg == "demo":
        c.mask_threshold, c.confidence_threshold, c.clipes_threshold = 0.5, 0.0, 0.6
        c.visual_prompts = ("gray", "blur")
        c.sam_min_pred, c.sam_iou = 0.01, -1.0  # it replaces whatever SAM finds
    else:
        # Referring: every sentence alone against the backgrounds, no template ensemble.
        c.competition, c.pixels, c.templates = "alone", "separate", ()
        c.visual_prompts = ("circle",) if arg in ("refcoco", "gres") else ("circle", "blur")
        c.classifier_model = "ViT-L-14" if arg == "gres" else "ViT-B-16"
        c.mask_threshold = 0.2 if arg == "refcoco+" else 0.5
        c.confidence_threshold = {"refcoco": 0.3, "gres": 0.0}.get(arg, 0.1)
        c.clipes_threshold = {"refcocog": 0.6, "gres": 0.3}.get(arg, 0.5)
        c.sam_iom, c.classes = 0.5, 0
    if arg == "tiny":
        c.cam_model = c.classifier_model = "miniature"
        c.refine = "none"
    return c.lock()
