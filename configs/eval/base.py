"""Every key that an evaluation's config may have, with its default. Other keys are errors."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Returns the defaults, locked against keys that are not here.

    Args:
        arg: "tiny" takes four drawn scenes of the miniature world in place of any data set.
    """
    c: Any = ConfigDict()
    c.benchmark = "miniature"  # a name of eval/benchmarks.py, or a folder of your own
    c.methods = ("car",)  # each "method" or "method/variant"
    c.model = "miniature"  # a name or folder, for all methods that `models` does not name
    c.models = ConfigDict()  # method -> model
    c.data_dir = ""  # root of the data sets; the miniature world needs none
    c.names = ""  # texts for the classes: a vocabulary, "plain", or "" for each method's published
    c.limit = 0  # only the first so many pictures; 0 takes all
    c.parity = ""  # "reference": the published behaviour, its bugs included
    c.batch = 8  # pictures that a device is given at once
    c.canvas = 64  # sizes are rounded up to multiples of so many pixels; 0 compiles each size
    c.max_side = 1024  # longer sides are reduced to this first, where the method has no rule
    c.threads = 4  # that read pictures
    c.settings = ConfigDict()  # method -> its settings
    for method in ("car", "clip_dense", "maft", "segclip"):
        c.settings[method] = ConfigDict()
    if arg == "tiny":
        c.limit, c.batch = 4, 2
    c.lock()
    for method in c.settings:
        _open(c.settings[method])
    return c


def _open(settings: Any) -> None:
    """Takes the lock off a method's settings: which there are is the method's to say."""
    settings.unlock()


def published(arg: str, benchmarks: tuple[str, ...], method: str, model: str) -> ConfigDict:
    """Returns the evaluation of one method by its published settings.

    Args:
        arg: one of `benchmarks`, "" for the first, or "tiny" (the miniature world).
        benchmarks: that the method has a published number on.
        method, model: by name.
    """
    known = (*benchmarks, "tiny")
    if arg and arg not in known:
        raise ValueError(f"arg: unknown name {arg!r}; known: {', '.join(known)}")
    c: Any = get_config("tiny" if arg == "tiny" else "")
    c.methods = (method,)
    if arg != "tiny":
        c.benchmark, c.model = arg or benchmarks[0], model
    return c
