"""Which settings of a method the page offers, and how they read.

A control whose setting the method's configuration does not have is left out, so the page follows
the methods.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from openseg_jax.errors import expected, unknown_name
from openseg_jax.models.last_block import LAST_BLOCKS
from openseg_jax.ops.visual_prompts import KINDS

__all__ = ["CONTROLS", "METHODS", "Control", "controls_of", "settings_of"]

METHODS: dict[str, str] = {
    "car": "CaR: draws a mask for each label, asks CLIP whether it fits, drops labels, repeats",
    "clip_dense": "Dense CLIP: one pass; CLIP's own patch features, compared with each label",
    "maft": "MAFT: names proposed masks, all in one pass of a mask-aware CLIP",
    "segclip": "SegCLIP: learnt centres gather patches into groups, and the groups get names",
}
"""Method -> one line about it."""

_CONFIGS = {
    "car": ("car_config", "CaRConfig"),
    "clip_dense": ("clip_dense_config", "ClipDenseConfig"),
    "maft": ("maft_config", "MaftConfig"),
    "segclip": ("segclip_config", "SegClipConfig"),
}


@dataclasses.dataclass(frozen=True)
class Control:
    """One setting on the page.

    Attributes:
        method, setting: whose, and its name in the configuration.
        label, info: for people.
        low, high, step: of a slider; it has no choices.
        choices: of a list; the first is what stands for the default if the model has none.
        several: any number of the choices.
        off: the slider's value that stands for None.
    """

    method: str
    setting: str
    label: str
    info: str
    low: float = 0.0
    high: float = 1.0
    step: float = 0.01
    choices: tuple[str, ...] = ()
    several: bool = False
    off: float | None = None

    @property
    def key(self) -> str:
        """Its name among all controls."""
        return f"{self.method}.{self.setting}"

    def shown(self, value: Any) -> Any:
        """Turns a configuration's value into what the page shows."""
        if self.off is not None and value is None:
            return self.off
        if self.setting == "sam" and not value:
            return "none"
        return list(value) if self.several else value

    def value(self, shown: Any) -> Any:
        """Turns what the page sent into the configuration's value.

        Raises:
            UserError: for what no visitor of the page could have chosen.
        """
        if self.several:
            if not isinstance(shown, Sequence) or isinstance(shown, str):
                raise expected(self.setting, "a list", type(shown).__name__, "reload the page")
            for name in shown:
                self._known(name)
            return tuple(shown)
        if self.choices:
            self._known(shown)
            return "" if self.setting == "sam" and shown == "none" else shown
        number = isinstance(shown, int | float) and not isinstance(shown, bool)
        if not number or not self.low <= shown <= self.high:
            raise expected(
                self.setting, f"a number from {self.low:g} to {self.high:g}", repr(shown)[:40],
                "move the slider",
            )  # fmt: skip
        if self.off is not None and shown == self.off:
            return None
        # Weights may recommend what lies between two steps.
        whole = float(self.step).is_integer() and float(shown).is_integer()
        return int(shown) if whole else float(shown)

    def _known(self, name: Any) -> None:
        if name not in self.choices:
            unknown_name(str(name)[:40], self.choices, self.setting)


CONTROLS: tuple[Control, ...] = (
    Control("car", "confidence_threshold", "Keep a label above", "score θ; at or below it a label "
            "is dropped from the next step"),
    Control("car", "mask_threshold", "Mask threshold", "η; where the activation map exceeds it, "
            "the prompt is drawn"),
    Control("car", "clipes_threshold", "Box threshold", "λ; share of a map's maximum that its "
            "boxes enclose", low=0.01),
    Control("car", "bg_factor", "Background exponent", "above 1 weakens the background of the "
            "final masks", high=5.0, low=0.1, step=0.1),
    Control("car", "visual_prompts", "Visual prompts", "how CLIP is pointed at a mask",
            choices=KINDS, several=True),
    Control("car", "refine", "Refine masks by", "dense CRF, pixel-adaptive refinement, or nothing",
            choices=("crf", "pamr", "none")),
    Control("car", "sam", "Replace masks by SAM's", "where they match well enough",
            choices=("none",)),
    Control("clip_dense", "variant", "Last block", "what the last attention block does",
            choices=tuple(LAST_BLOCKS)),
    Control("clip_dense", "bg_threshold", "Background below", "pixels whose best label has less "
            "probability; 0 turns it off", off=0.0),
    Control("clip_dense", "refine", "Refine by", "pixel-adaptive refinement, or nothing",
            choices=("none", "pamr")),
    Control("clip_dense", "logit_scale", "Logit scale", "of the cosines in the softmax",
            low=1, high=200, step=1),
    Control("clip_dense", "min_share", "Drop labels below", "share of the foreground",
            high=0.9),
    Control("maft", "tower", "Image tower", "fine-tuned on masks where the weights have one, or "
            "CLIP's own", choices=("tuned", "frozen")),
    Control("maft", "temperature", "Logit scale", "of the cosines in the softmax", low=1, high=200,
            step=1),
    Control("segclip", "bg_threshold", "Background below", "groups whose best label has less; 0 "
            "turns it off", off=0.0),
    Control("segclip", "top_classes", "Labels a window may hold", "those that it resembles most",
            low=1, high=20, step=1),
)  # fmt: skip
"""Every setting that the page can offer, in the order in which it is shown."""


@functools.cache
def controls_of(method: str, sam: tuple[str, ...] = ()) -> tuple[Control, ...]:
    """Lists the controls of a method.

    Args:
        method: a key of `METHODS`.
        sam: names of SAM weights that the server was started with; without one there is no choice.
    """
    if method not in METHODS:
        unknown_name(str(method)[:40], METHODS, "method")
    module, name = _CONFIGS[method]
    config = getattr(importlib.import_module(f"openseg_jax.methods.{module}"), name)
    fields = {field.name for field in dataclasses.fields(config)}
    found = [c for c in CONTROLS if c.method == method and c.setting in fields]
    found = [
        dataclasses.replace(c, choices=("none", *sam)) if c.setting == "sam" else c
        for c in found
        if c.setting != "sam" or sam
    ]
    return tuple(found)


def settings_of(
    method: str, shown: Mapping[str, Any], sam: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Turns what the page shows into a method's settings.

    Args:
        method: a key of `METHODS`.
        shown: setting -> value on the page; a setting that is missing keeps the model's own.
        sam: shown name -> name or folder of SAM weights.

    Raises:
        UserError: for an unknown method or setting, or an impossible value.
    """
    known = {c.setting: c for c in controls_of(method, tuple(sam or ()))}
    settings = {}
    for name, value in shown.items():
        if name not in known:
            unknown_name(str(name)[:40], known, "setting")
        settings[name] = known[name].value(value)
    if settings.get("sam"):
        settings["sam"] = (sam or {})[settings["sam"]]
    return settings
