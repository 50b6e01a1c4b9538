"""Published settings of dense CLIP: `get_config("voc21")`, or of one paper: `"sclip_voc21"`.

A benchmark alone means NACLIP's settings; with `--variant` they serve the other variants too, as in
the tables that compare them. Numbers are those of the published configuration files
(wangf3014/SCLIP `configs/cfg_*.py`, mc-lan/ClearCLIP, sinahmr/NACLIP), which differ from one
another; where a file says nothing the code's default stands. All use ViT-B/16, OpenAI's 80 prompts
and mmseg's `Resize((2048, short side), keep_ratio=True)`.

| | SCLIP | ClearCLIP | NACLIP |
|---|---|---|---|
| windows, stride | 224, 112 | 448, 224; Cityscapes 224, 224 | 224, 112 |
| short side | 336; Cityscapes 560, COCO-Stuff 448 | 448 | as SCLIP |
| logit scale | 40; VOC-21 65, Context-60 and COCO-Object 50 | 50 | 40 |
| threshold of VOC-21, Context-60, COCO-Object | 0.1 | 0.5, 0.15, 0.4 | 0.1 |
| background of VOC-21 and COCO-Object | 26 names | "background" | 26 names |
| background of Context-60 | "background" | "background" | "background" |
| smallest share of the foreground | VOC-21: 0.1 | | |
| refinement, in no preset: add `refine="pamr"` | none | none | PAMR, 10 turns |

ClearCLIP's list of names for COCO-Object was not at hand; "background" is taken as for its VOC-21.
MaskCLIP was published with other sizes (short side 512, the image at once): that is
`mode="whole", short_side=512`; SCLIP, ClearCLIP and NACLIP compare with it at their own.
"""

from __future__ import annotations

from ml_collections import ConfigDict

BENCHMARKS = (
    "voc21", "voc20", "pc60", "pc59", "coco_object", "coco_stuff", "ade150", "cityscapes",
)  # fmt: skip
FAMILIES = ("sclip", "clearclip", "naclip")
NAMES = (*BENCHMARKS, *(f"{family}_{name}" for family in FAMILIES for name in BENCHMARKS))

_THRESHOLDS = {
    "clearclip": {"voc21": 0.5, "pc60": 0.15, "coco_object": 0.4},
    "sclip": {"voc21": 0.1, "pc60": 0.1, "coco_object": 0.1},
    "naclip": {"voc21": 0.1, "pc60": 0.1, "coco_object": 0.1},
}
_SCALES = {"voc21": 65.0, "pc60": 50.0, "coco_object": 50.0}


def get_config(arg: str = "voc21") -> ConfigDict:
    """Returns the settings of a benchmark, fields of `ClipDenseConfig`; locked against other keys.

    Args:
        arg: one of `NAMES`, or "tiny" (voc21's settings with sizes left to the model).
    """
    if arg not in (*NAMES, "tiny"):
        raise ValueError(f"arg: unknown name {arg!r}; known: {', '.join((*NAMES, 'tiny'))}")
    family, _, name = arg.partition("_")
    if family not in FAMILIES:
        family, name = "naclip", "voc21" if arg == "tiny" else arg
    c = ConfigDict()
    c.variant = family
    c.logit_scale = _SCALES.get(name, 40.0) if family == "sclip" else 40.0
    c.crop, c.stride, c.short_side = 224, 112, 336
    if name in ("cityscapes", "coco_stuff"):
        c.short_side = {"cityscapes": 560, "coco_stuff": 448}[name]
    if family == "clearclip":
        c.logit_scale = 50.0
        c.crop, c.stride, c.short_side = 224 if name == "cityscapes" else 448, 224, 448
    c.bg_threshold = _THRESHOLDS[family].get(name)
    # Without an entry it is the method's own list of 26 names, which is SCLIP's and NACLIP's.
    if name not in _THRESHOLDS[family]:
        c.background = ()
    elif name == "pc60" or family == "clearclip":
        c.background = ("background",)
    c.min_share = 0.1 if (family, name) == ("sclip", "voc21") else 0.0
    if arg == "tiny":
        c.crop = c.stride = c.short_side = 0
    return c.lock()
