"""SegCLIP's published settings, one set a data set: `get_config("voc")`.

`openseg segment --method segclip --preset voc` reads them too.
"""

from __future__ import annotations

from ml_collections import ConfigDict

NAMES = ("voc", "context", "coco")


def get_config(arg: str = "voc") -> ConfigDict:
    """Returns the settings of a data set, fields of `SegClipConfig`; locked against other keys.

    Args:
        arg: one of `NAMES`, or "tiny" (voc's settings).
    """
    if arg not in (*NAMES, "tiny"):
        raise ValueError(f"arg: unknown name {arg!r}; known: {', '.join((*NAMES, 'tiny'))}")
    c = ConfigDict()
    # Regions whose best class scores less are background.
    c.bg_threshold = {"context": 0.25, "coco": 0.65}.get(arg, 0.8)
    c.top_classes = 5
    c.mode = "slide"
    return c.lock()
